"""Sequences of one llama.cpp batch end one after another, and each goes on as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa.backends import BACKENDS
from apr_qa.conversion.convert import convert
from apr_qa.formats import FORMATS
from apr_qa.vocabulary import Target

MODELS = Path(__file__).parent / "fixtures" / "models"
SYSTEM = list(range(10, 40))
LONGEST = 80

waves = st.lists(
    st.tuples(
        st.builds(
            lambda shared, own: [*SYSTEM[:shared], *own],
            st.sampled_from([0, 0, 12, 30]),
            st.lists(st.integers(3, 60), min_size=1, max_size=24),
        ),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=10,
)
"""Prompts, and after how many steps each of them has ended."""


def load(name: str, quantization: str, folder: Path) -> Any:
    model = FORMATS.get("safetensors").open(MODELS / name)
    file = convert(model, "gguf", folder / f"{quantization}.gguf", quantization=quantization)
    target = Target(
        model=name,
        format="gguf",
        quantization=quantization,
        backend="cpu",
        modality="run",
        engine="llama_cpp",
    )
    return BACKENDS.get("llama_cpp").load(target, file, threads=1)


@pytest.fixture(
    scope="module", params=["llama-untied-gqa8x2", "llama-ropescaled-long", "qwen2-tied-bias", "qwen3-qknorm"]
)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    loaded = load(request.param, "f32", tmp_path_factory.mktemp(request.param))
    yield loaded
    loaded.close()


def decoded(session: Any, wave: list[tuple[list[int], int]]) -> list[list[Any]]:
    """Return the logits of every row, as many as its steps and one; every step appends a fixed token."""
    logits = session.prefill([prompt for prompt, _ in wave], LONGEST)
    found = [[row.copy()] for row in logits]
    for step in range(max(steps for _, steps in wave)):
        rows = [row for row, (_, steps) in enumerate(wave) if steps > step]
        for row, predicted in zip(rows, session.step(rows, [40 + step] * len(rows)), strict=True):
            found[row].append(predicted.copy())
    return found


@given(wave=waves)
@settings(max_examples=25, deadline=None)
def test_what_ends_around_a_sequence_does_not_change_what_it_predicts(
    session: Any, wave: list[tuple[list[int], int]]
) -> None:
    together = decoded(session, wave)
    for (prompt, steps), found in zip(wave, together, strict=True):
        alone = decoded(session, [(prompt, steps)])[0]
        assert len(found) == len(alone) == steps + 1
        assert np.allclose(found, alone, atol=1e-3)


def test_attention_is_exact_only_where_the_weights_are(tmp_path: Path) -> None:
    """With float32 weights a batch predicts what each of its rows does alone; others round anyway."""
    wave = [([*SYSTEM, row, 7 * row + 3], 4) for row in range(3, 12)]
    apart = {}
    for quantization in ("f32", "f16"):
        session = load("llama-untied-gqa8x2", quantization, tmp_path)
        together = decoded(session, wave)
        rows = zip(wave, together, strict=True)
        apart[quantization] = max(
            np.abs(decoded(session, [one])[0] - np.array(many)).max() for one, many in rows
        )
        assert session._native.rounds() == (quantization == "f16")
        session.close()
    assert apart["f32"] < 1e-4
    assert apart["f16"] < 0.1
