"""What the user types becomes the model that was meant, or a refusal that helps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr_qa import registry
from apr_qa.errors import UsageError
from apr_qa.vocabulary import Model

TABLE = """model_id,family,parameters,notes
openai-community/gpt2,gpt2,124M,
Qwen/Qwen2.5-Coder-0.5B-Instruct,qwen-coder,0.5B,"a, note"
Qwen/Qwen2.5-Coder-1.5B-Instruct,qwen-coder,1.5B,
Qwen/Qwen3-0.6B,qwen3,0.6B,
"""


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "certifications" / "models.csv"
    path.parent.mkdir()
    path.write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return path


def ids(found: list[Model]) -> list[str]:
    return [model.id for model in found]


def test_the_table_is_read_in_its_order_and_other_columns_are_left_alone() -> None:
    found = registry.models()
    assert ids(found)[:2] == ["openai-community/gpt2", "Qwen/Qwen2.5-Coder-0.5B-Instruct"]
    assert (found[0].family, found[0].parameters, found[0].revision) == ("gpt2", "124M", "main")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,family\na/b,c\n", "no column model_id, parameters"),
        ("", "no column"),
        ("model_id,family,parameters\nnot an id,x,1B\n", "is no model id"),
        ("model_id,family,parameters\na/b,x,1B\na/b,x,1B\n", "listed twice"),
    ],
)
def test_a_broken_table_is_refused_with_file_and_line(table: Path, text: str, said: str) -> None:
    table.write_text(text)
    with pytest.raises(UsageError, match=said) as refusal:
        registry.models()
    assert str(table) + ":" in refusal.value.where


def test_a_family_is_the_rows_of_that_name_exactly() -> None:
    assert len(registry.family("qwen-coder")) == 2
    assert ids(registry.family("qwen3")) == ["Qwen/Qwen3-0.6B"]


def test_an_unknown_family_gives_a_suggestion_and_the_list() -> None:
    with pytest.raises(UsageError) as refusal:
        registry.family("qwen-codr")
    assert "did you mean 'qwen-coder'?" in refusal.value.fix
    assert "gpt2, qwen-coder, qwen3" in refusal.value.fix


def test_all_goes_before_family_and_family_before_ids() -> None:
    assert len(registry.select(["a/b"], "qwen3", True)) == 4
    assert ids(registry.select(["a/b"], "qwen3", False)) == ["Qwen/Qwen3-0.6B"]
    assert ids(registry.select(["a/b"], "", False)) == ["a/b"]
    with pytest.raises(UsageError, match="no model was named"):
        registry.select([], "", False)


def test_ids_are_found_whatever_their_case_and_keep_what_the_table_says() -> None:
    (model,) = registry.select(["qwen/qwen3-0.6b"])
    assert (model.id, model.family) == ("Qwen/Qwen3-0.6B", "qwen3")


def test_ids_that_the_table_lacks_are_allowed_and_have_no_family() -> None:
    (model,) = registry.select(["Someone/New.Model-7B"])
    assert (model.id, model.family, model.path) == ("Someone/New.Model-7B", "", "")


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3", "0123456789abcdef"])
def test_a_revision_follows_the_at_sign(revision: str) -> None:
    (model,) = registry.select([f"Qwen/Qwen3-0.6B@{revision}"])
    assert (model.id, model.revision, model.family) == ("Qwen/Qwen3-0.6B", revision, "qwen3")


def test_one_model_named_twice_is_one_model() -> None:
    assert len(registry.select(["Qwen/Qwen3-0.6B", "qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@v1"])) == 2


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("Qwen2.5-Coder-0.5B-Instrct", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
        ("zzz", "write org/name"),
        ("a/../b", "write org/name"),
        ("a/b/c", "write org/name"),
        ("a--x/b", "write org/name"),
        ("-a/b", "write org/name"),
        ("", "write org/name"),
        ("a/b@", "@branch"),
        ("a/b@../x", "@branch"),
    ],
)
def test_what_is_neither_id_nor_path_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as refusal:
        registry.select([text])
    assert hint in refusal.value.fix


@pytest.mark.parametrize("text", ["./gone", "/gone/model.gguf", "~/gone-too", "../gone"])
def test_what_looks_like_a_path_must_exist(text: str) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        registry.select([text])


@pytest.mark.parametrize(
    ("relative", "is_file", "expected"),
    [
        ("Qwen2.5-Coder-0.5B", False, "Qwen2.5-Coder-0.5B"),
        ("my models/tiny v1.0", False, "tiny-v1.0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", True, "SmolLM2-135M-Instruct.Q4_1"),
        ("some/merge-1.5/model.safetensors", True, "merge-1.5"),
        ("blob.bin", True, "blob.bin"),
        ("...", False, "model"),
        (f"hub/models--Org--A--B/snapshots/{'a' * 40}", False, "Org/A--B"),
    ],
)
def test_a_path_is_named_after_its_folder_or_file_and_dots_stay(
    tmp_path: Path, relative: str, is_file: bool, expected: str
) -> None:
    path = tmp_path / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_file:
        path.write_bytes(b"")
    else:
        path.mkdir()
    for text in (str(path), f"./{relative}", relative):
        (model,) = registry.select([text])
        assert (model.id, model.path) == (expected, text)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
def test_any_text_is_a_model_with_a_safe_slug_or_a_refusal(text: str) -> None:
    try:
        (model,) = registry.select([text])
    except UsageError:
        return
    assert model.path or "/" not in model.slug
    assert ".." not in model.slug.split("/")
