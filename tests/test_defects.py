"""Every planted defect is noticed by a gate about files, and no healthy control is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from apr_qa.backends.inspect import Inspection
from apr_qa.comparison.claims import file_claims
from apr_qa.comparison.session import Comparison, open_model
from apr_qa.conversion.convert import convert
from apr_qa.defects import DEFECTS, Defect, Inexpressible, Specimen
from apr_qa.defects._editing import editing, opened, pick
from apr_qa.defects._editing_apr import AprImage
from apr_qa.errors import AprQaError, Inapplicable, UnsupportedArchitecture
from apr_qa.formats import FORMATS
from apr_qa.gates import GATES
from apr_qa.plan import FILE_CLAIMS
from apr_qa.vocabulary import Artifact, Severity, Tier

MODELS = Path(__file__).parent / "fixtures" / "models"
CONVERTIBLE = ("llama-untied-gqa8x2", "qwen2-tied-bias", "qwen3-qknorm")
NAMES = (*CONVERTIBLE, "mistral-sliding", "gemma-norms", "moe-4experts", "phi-partial-rotary")
FILES = {"safetensors": "model", "apr": "model.apr", "gguf": "model.gguf"}
MINE = ("config", "tensor_values", "tensor_layout", "tensor_names", "controls", "conversions")
CATALOGUE = [
    (defect, container)
    for _, defect in DEFECTS.items()
    if defect.plant.__module__.rpartition(".")[2] in MINE
    for container in defect.formats
]
DEFECTIVE = [(d, c) for d, c in CATALOGUE if d.expected != "pass"]
HEALTHY = [(d, c) for d, c in CATALOGUE if d.expected == "pass"]

SEEN_ALONE = (
    *("nan-in-common-weight", "nan-rare-embedding-row", "extreme-finite-magnitude", "all-zero-tensor"),
    *("dead-lm-head-row-rare", "dead-embed-row", "untrained-special-tokens", "norm-plus-one-missing"),
    *("single-bias-dropped", "random-init-missing-param", "kv-head-count-wrong", "head-dim-derived"),
    *("attn-softcap-missing", "tie-flag-true-beside-own-head", "vocab-size-vs-embedding"),
    *("architecture-tag-missing-or-wrong", "architecture-tag-foreign", "dtype-float16-for-bf16-range-model"),
    *("name-prefix-mismatch", "duplicate-tensor-key-st", "gguf-style-names-in-safetensors"),
)
"""What shows in SafeTensors without anything to compare with."""

Finding = tuple[str, Severity, str]


@pytest.fixture(scope="module")
def healthy() -> Iterator[Callable[[str], Iterator[tuple[Path, Path]]]]:
    """Return (ground truth, artifact) pairs of a format, those that convert first, made once."""
    folder = Path(mkdtemp())

    @cache
    def made(name: str, format_name: str, quantization: str) -> Path:
        source = FORMATS.get("safetensors").open(MODELS / name)
        place = folder / f"{name}-{quantization}-{FILES[format_name]}"
        return convert(source, format_name, place, quantization=quantization)

    def artifacts(format_name: str) -> Iterator[tuple[Path, Path]]:
        if format_name == "safetensors":
            yield from ((MODELS / name, MODELS / name) for name in NAMES)
            return
        for quantization in ("bf16", "q8_0") if format_name == "gguf" else ("bf16",):
            yield from ((MODELS / name, made(name, format_name, quantization)) for name in CONVERTIBLE)

    yield artifacts
    shutil.rmtree(folder)


def copied(source: Path, folder: Path, format_name: str) -> Path:
    place = folder / FILES[format_name]
    if place.is_dir():
        shutil.rmtree(place)
    return Path((shutil.copytree if source.is_dir() else shutil.copyfile)(source, place))


def failing(claims: Iterator[tuple[str, str, Severity]], session: Inspection | Comparison) -> list[Finding]:
    found: list[Finding] = []
    for gate, check, severity in claims:
        rule = GATES.get(gate).check
        assert rule is not None
        try:
            judgement = rule(session.facts(check, {"check": check, "origin": "given"}))
        except (Inapplicable, UnsupportedArchitecture):
            continue
        except AprQaError as refusal:
            found.append((gate, severity, refusal.what))
            continue
        if judgement.outcome.failed:
            found.append((gate, severity, judgement.reason))
    return found


def alone(path: Path, format_name: str) -> list[Finding]:
    """Return what the gates about one file say against it."""
    try:
        session = Inspection(FORMATS.get(format_name).open(path))
    except AprQaError as refusal:
        return [("G0-HEADER-001", Severity.P0, refusal.what)]
    return failing(iter(FILE_CLAIMS), session)


def compared(truth: Path, path: Path, format_name: str) -> list[Finding]:
    """Return what the comparison with the ground truth says against a file."""
    artifact = Artifact(format=format_name, path=str(path), origin="given")
    source = Artifact(format="safetensors", path=str(truth))
    asked = file_claims(source, artifact, Tier.MVP)
    try:
        session = Comparison(open_model(truth, "safetensors"), open_model(path, format_name))
    except AprQaError:
        return []
    claims = (
        (c.gate_id, str(c.params["check"]), c.severity) for c in asked if c.params["check"] != "lineage"
    )
    return failing(claims, session)


def planted(
    defect: Defect, container: str, artifacts: Callable[[str], Iterator[tuple[Path, Path]]], folder: Path
) -> tuple[Path, Path] | None:
    """Return (truth, spoiled copy) on the first model that expresses a defect."""
    for truth, artifact in artifacts(container):
        place = copied(artifact, folder, container)
        try:
            defect.plant(Specimen(place, container))
        except Inexpressible as refusal:
            assert str(refusal).startswith("needs ")
            continue
        assert content(place) != content(artifact) or defect.expected == "pass", "nothing was changed"
        return truth, place
    return None


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files if file.is_file()}


def ids(pairs: list[tuple[Defect, str]]) -> list[str]:
    return [f"{defect.id}-{container}" for defect, container in pairs]


@pytest.mark.parametrize(("defect", "container"), DEFECTIVE, ids=ids(DEFECTIVE))
def test_a_planted_defect_is_caught_before_anything_is_loaded(
    defect: Defect, container: str, healthy: Callable[[str], Iterator[tuple[Path, Path]]], tmp_path: Path
) -> None:
    spoiled = planted(defect, container, healthy, tmp_path)
    if spoiled is None:
        assert container == "gguf"  # mixtures, windows and caps, which the converter does not write
        return
    truth, place = spoiled
    found = alone(place, container) or compared(truth, place, container)
    heavy = [gate for gate, severity, _ in found if severity is not Severity.P2 or defect.expected == "warn"]
    assert heavy, f"nothing notices {defect.description}"


@pytest.mark.parametrize(("defect", "container"), HEALTHY, ids=ids(HEALTHY))
def test_a_healthy_control_raises_no_alarm(
    defect: Defect, container: str, healthy: Callable[[str], Iterator[tuple[Path, Path]]], tmp_path: Path
) -> None:
    prepared = planted(defect, container, healthy, tmp_path)
    assert prepared is not None
    truth, place = prepared
    found = alone(place, container) + ([] if defect.alone else compared(truth, place, container))
    assert not found


@pytest.mark.parametrize("name", SEEN_ALONE)
def test_a_spoiled_ground_truth_is_caught_without_anything_to_compare_with(
    name: str, healthy: Callable[[str], Iterator[tuple[Path, Path]]], tmp_path: Path
) -> None:
    spoiled = planted(DEFECTS.get(name), "safetensors", healthy, tmp_path)
    assert spoiled is not None
    assert alone(spoiled[1], "safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_the_unspoiled_models_pass(name: str) -> None:
    assert not alone(MODELS / name, "safetensors")


@pytest.mark.parametrize("container", ["safetensors", "apr", "gguf"])
def test_an_image_that_is_saved_anew_holds_the_same_model(
    container: str, healthy: Callable[[str], Iterator[tuple[Path, Path]]], tmp_path: Path
) -> None:
    truth, artifact = next(healthy(container))
    place = copied(artifact, tmp_path, container)
    with editing(Specimen(place, container)) as image:
        image.restructured = True
    assert not alone(place, container) + compared(truth, place, container)


@pytest.mark.parametrize("container", ["safetensors", "apr", "gguf"])
def test_values_written_through_an_image_are_read_back_in_the_same_order(
    container: str, healthy: Callable[[str], Iterator[tuple[Path, Path]]], tmp_path: Path
) -> None:
    place = copied(next(healthy(container))[1], tmp_path, container)
    size = sum(map(len, content(place).values()))
    with editing(Specimen(place, container)) as image:
        name = pick(image, "self_attn.q_proj.weight")
        values = image.read(name)
        values[3] *= 2
        image.write(name, values)
    assert np.array_equal(FORMATS.get(container).open(place).read(name), values)
    assert sum(map(len, content(place).values())) == size


def test_documented_keys_of_apr_that_contradict_the_embedded_configuration_are_caught(
    healthy: Callable[[str], Iterator[tuple[Path, Path]]], tmp_path: Path
) -> None:
    place = copied(next(healthy("apr"))[1], tmp_path, "apr")
    with editing(Specimen(place, "apr")) as image:
        assert isinstance(image, AprImage)
        image.metadata["rope_theta"] = 12345.0
    assert [gate for gate, _, _ in alone(place, "apr")] == ["G0-CONFIG-KEYS"]


def test_planting_is_the_same_every_time(tmp_path: Path) -> None:
    twice = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        place = copied(MODELS / CONVERTIBLE[0], folder, "safetensors")
        DEFECTS.get("stale-layer-from-other-revision").plant(Specimen(place, "safetensors"))
        twice.append(content(place))
    assert twice[0] == twice[1]


def test_an_image_that_is_not_saved_leaves_the_copy_alone(tmp_path: Path) -> None:
    place = copied(MODELS / CONVERTIBLE[0], tmp_path, "safetensors")
    before = content(place)
    image = opened(Specimen(place, "safetensors"))
    image.write("model.norm.weight", image.read("model.norm.weight") * 2)
    image.set_config("rms_norm_eps", 0.5)
    assert content(place) == before
