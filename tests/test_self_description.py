"""What files tell about themselves, whether damage would be noticed, and that a run leaves them alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from apr_qa.backends import BACKENDS
from apr_qa.conversion.convert import convert
from apr_qa.formats import FORMATS
from apr_qa.gates import GATES
from apr_qa.inspecting.self_description import neighbours
from apr_qa.isolation import with_last_looks
from apr_qa.plan import Stock, file_batch
from apr_qa.vocabulary import Artifact, Outcome, Target, Tier
from apr_qa.workspace import content_sha256

MODELS = Path(__file__).parent / "fixtures" / "models"
FIXTURES = sorted(path for path in MODELS.iterdir() if (path / "config.json").exists())
ASKED = {
    "F-INSPECT-002": "header",
    "F-INSPECT-META-001": "metadata",
    "F-VALIDATE-003": "corruption",
}


def facts(path: Path, format_name: str, check: str, **params: Any) -> dict[str, Any]:
    target = Target(
        model="m", format=format_name, quantization="", backend="cpu", modality="inspect", engine="inspect"
    )
    return BACKENDS.get("inspect").load(target, path).facts(check, params)


def outcome(gate: str, found: dict[str, Any]) -> Outcome:
    check = GATES.get(gate).check
    assert check is not None
    return check(found).outcome


@pytest.mark.parametrize("model", FIXTURES, ids=lambda path: path.name)
@pytest.mark.parametrize("gate", ASKED)
def test_every_healthy_model_describes_itself(model: Path, gate: str) -> None:
    assert outcome(gate, facts(model, "safetensors", ASKED[gate])) is Outcome.CORROBORATED


@pytest.mark.parametrize("format_name", ["gguf", "apr"])
@pytest.mark.parametrize("gate", ASKED)
def test_every_format_describes_itself(tiny_llama: Path, tmp_path: Path, gate: str, format_name: str) -> None:
    path = tmp_path / f"model.{format_name}"
    convert(FORMATS.get("safetensors").open(tiny_llama), format_name, path, quantization="f16")
    assert outcome(gate, facts(path, format_name, ASKED[gate])) is Outcome.CORROBORATED


def test_a_configuration_without_heads_is_noticed(tiny_llama: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_llama, tmp_path / "model")
    config = (
        (copy / "config.json").read_text().replace('"num_attention_heads": 4', '"num_attention_heads": 0')
    )
    (copy / "config.json").write_text(config)
    assert outcome("F-INSPECT-META-001", facts(copy, "safetensors", "metadata")) is Outcome.FALSIFIED


def test_the_bytes_of_an_apr_file_are_read(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    source = FORMATS.get("safetensors").open(tiny_llama)
    convert(source, "apr", path, quantization="f32")
    found = facts(path, "apr", "apr_layout")
    assert found["tensors"] == len(source.tensors) and found["magic"] == "APR\0"
    for number in (1, 2, 3):
        assert outcome(f"F-APR-FORMAT-{number:03}", found) is Outcome.CORROBORATED


def test_only_apr_files_are_asked_about_their_bytes() -> None:
    asked = {
        name: {s.claim.gate_id for s in file_batch("m", Artifact(format=name, path=""), 0).scenarios}
        for name in ("apr", "gguf")
    }
    assert asked["apr"] - asked["gguf"] == {f"F-APR-FORMAT-{n:03}" for n in (1, 2, 3)}


def stock_of(artifact: Artifact) -> Stock:
    return Stock(
        artifacts=(artifact,), ready={}, conversions=(), refusals={}, ground_truth="", truth=artifact
    )


@pytest.mark.parametrize(
    ("deed", "isolated", "unchanged"),
    [
        ("nothing", Outcome.CORROBORATED, Outcome.CORROBORATED),
        ("a file beside it", Outcome.FALSIFIED, Outcome.CORROBORATED),
        ("a byte of it", Outcome.CORROBORATED, Outcome.FALSIFIED),
    ],
)
def test_what_a_run_does_to_a_source_is_noticed(
    tiny_llama: Path, tmp_path: Path, deed: str, isolated: Outcome, unchanged: Outcome
) -> None:
    copy = shutil.copytree(tiny_llama, tmp_path / "model")
    artifact = Artifact(format="safetensors", path=str(copy), sha256=content_sha256(copy))
    (batch,) = with_last_looks([], stock_of(artifact), "m", Tier.STANDARD)
    params = {**batch.scenarios[0].claim.params, "origin": "found"}
    if deed == "a file beside it":
        (copy / "model.converted.bin").write_bytes(b"x")
    elif deed == "a byte of it":
        (copy / "tokenizer_config.json").write_text("{}")
    found = facts(copy, "safetensors", **params)
    assert outcome("ISO-OUT-001", found) is isolated
    assert outcome("ISO-OUT-002", found) is unchanged


def test_what_is_derived_has_to_lie_in_our_folder(tiny_llama: Path) -> None:
    found = facts(tiny_llama, "safetensors", "isolation", origin="derived")
    assert outcome("ISO-OUT-001", found) is Outcome.FALSIFIED
    assert outcome("ISO-OUT-002", found) is Outcome.INAPPLICABLE


def test_the_last_looks_come_last_and_only_in_larger_tiers(tiny_llama: Path) -> None:
    artifact = Artifact(format="safetensors", path=str(tiny_llama), sha256="ab")
    first = file_batch("m", artifact, 7)
    assert with_last_looks([first], stock_of(artifact), "m", Tier.MVP) == [first]
    *_, last = with_last_looks([first], stock_of(artifact), "m", Tier.DEEP)
    assert last.wave == 8


def test_a_file_of_another_model_beside_a_single_file_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "model-a.gguf"
    file.write_bytes(b"")
    before = neighbours(file)
    (tmp_path / "other.gguf").write_bytes(b"")
    assert neighbours(file) == before
    (tmp_path / "model-a.apr").write_bytes(b"")
    assert neighbours(file) != before
