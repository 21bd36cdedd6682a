"""Faults of engines that the drill plays: each is really played, and a property or a comparison notices it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apr_qa.backends import BACKENDS
from apr_qa.defects import DEFECTS
from apr_qa.errors import InferenceFailed
from apr_qa.inference import faults
from apr_qa.properties import PROPERTIES, Subject
from apr_qa.vocabulary import Target

MODEL = Path(__file__).parent / "fixtures" / "models" / "llama-ropescaled-long"
TARGET = Target(
    model="m",
    format="safetensors",
    quantization="",
    backend="cpu",
    modality="chat",
    engine="transformers_torch",
)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    def loaded(fault: str) -> Any:
        monkeypatch.setenv(faults.FAULT_VARIABLE, fault)
        return faults.played(BACKENDS.get("transformers_torch").load(TARGET, MODEL))

    return loaded


def test_without_a_fault_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.FAULT_VARIABLE, "crash:text")
    thing = object()

    assert faults.played(thing) is thing
    assert faults.name() == ""


def test_every_fault_of_a_defect_can_be_played() -> None:
    named = {defect.runtime for _, defect in DEFECTS.items() if defect.runtime}

    assert named <= set(faults.FAULTS)


def test_a_prompt_that_is_wrapped_twice_breaks_the_equality_of_renderings(load: Any) -> None:
    member, case = PROPERTIES.get("template_equality"), {"messages": [{"role": "user", "content": "Hi"}]}

    assert member.check(Subject(load(""), TARGET, MODEL, MODEL), case) is None
    assert member.check(Subject(load("double-wrap"), TARGET, MODEL, MODEL), case) is not None


def test_control_tokens_of_a_user_are_noticed_when_they_are_parsed(load: Any) -> None:
    member, case = PROPERTIES.get("control_tokens"), {"text": "a<|eot_id|>", "chat": False}

    assert member.check(Subject(load(""), TARGET, MODEL, MODEL), case) is None
    assert member.check(Subject(load("parse-control-tokens"), TARGET, MODEL, MODEL), case) is not None


def test_rotary_angles_in_bfloat16_are_wrong_only_at_later_positions(load: Any) -> None:
    ids = [int(token) for token in np.random.default_rng(0).integers(0, 900, 700)]
    right, coarse = (load(fault).logits(ids) for fault in ("", "rope-bf16"))

    apart = np.abs(right - coarse).max(axis=1)
    assert apart[:8].max() < 0.3 * apart[300:].max()
    assert apart[300:].max() > 0.1


def test_attention_in_float16_overflows(load: Any) -> None:
    ids = list(range(40, 60))

    assert np.isfinite(load("").logits(ids)).all()
    with pytest.raises(InferenceFailed, match="finite"):
        load("half-attention").logits(ids)


def test_an_embedding_that_is_read_wrongly_changes_every_prediction(load: Any) -> None:
    ids = list(range(300, 330))
    right, wrong = (load(fault).logits(ids).argmax(-1) for fault in ("", "raw-embedding"))

    assert np.mean(right == wrong) < 0.5
