"""What a traced pass says about feed-forward parts and about profiles of one part, on real models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from apr_qa.backends import BACKENDS
from apr_qa.gates import GATES
from apr_qa.vocabulary import Outcome, Target

MODELS = Path(__file__).parent / "fixtures" / "models"


def facts(path: Path, format_name: str, engine: str, check: str) -> dict[str, Any]:
    target = Target(
        model="m", format=format_name, quantization="", backend="cpu", modality="run", engine=engine
    )
    session = BACKENDS.get(engine).load(target, path, threads=1)
    try:
        return session.facts(check, {})
    finally:
        session.close()


def outcome(gate: str, found: dict[str, Any]) -> Outcome:
    check = GATES.get(gate).check
    assert check is not None
    return check(found).outcome


@pytest.mark.parametrize("name", ["llama-untied-gqa8x2", "moe-4experts", "gemma-norms", "phi-partial-rotary"])
def test_feed_forward_parts_of_healthy_models_are_alive_and_bounded(name: str) -> None:
    found = facts(MODELS / name, "safetensors", "transformers_torch", "trace")
    assert outcome("F-CHECK-004", found) is Outcome.CORROBORATED


def test_feed_forward_parts_that_give_nothing_are_noticed(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    copy = shutil.copytree(tiny_llama, tmp_path / "model")
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= 0
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    found = facts(copy, "safetensors", "transformers_torch", "trace")
    assert outcome("F-CHECK-004", found) is Outcome.FALSIFIED


@pytest.mark.parametrize("gate", ["F-PROFILE-003", "F-PROFILE-004"])
def test_a_profile_of_one_part_shows_that_part_in_every_engine(
    tiny_llama: Path, tiny_gguf: Path, gate: str
) -> None:
    for path, form, engine in (
        (tiny_llama, "safetensors", "transformers_torch"),
        (tiny_gguf, "gguf", "llama_cpp"),
    ):
        assert outcome(gate, facts(path, form, engine, "trace_focus")) is Outcome.CORROBORATED
