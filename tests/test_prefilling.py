"""Prompts that begin alike are read once, and the model answers as if each had been read alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa.backends import BACKENDS
from apr_qa.inference import prefilling
from apr_qa.inference.prefilling import groups
from apr_qa.vocabulary import Target

MODELS = Path(__file__).parent / "fixtures" / "models"
SYSTEM = list(range(10, 40))

prompts = st.lists(
    st.builds(
        lambda shared, own: [*SYSTEM[:shared], *own],
        st.sampled_from([0, 0, 12, 30]),
        st.lists(st.integers(1, 60), min_size=1, max_size=24),
    ),
    min_size=1,
    max_size=12,
)


@given(prompts)
@settings(max_examples=100, deadline=None)
def test_every_prompt_is_in_one_pass_and_shares_only_what_all_of_its_group_begin_with(
    several: list[list[int]],
) -> None:
    found = groups(several)
    numbers = [number for group in found for members in group.passes for number in members]
    assert sorted(numbers) == list(range(len(several)))
    for group in found:
        members = [number for some in group.passes for number in some]
        assert len({tuple(several[number][: group.shared]) for number in members}) == 1
        assert all(len(several[number]) > group.shared for number in members)


def test_a_system_prompt_is_read_once_and_short_prompts_are_not_padded_to_long_ones() -> None:
    chats = [[*SYSTEM, number, number + 1] for number in range(8)]
    plain = [[number] * 5 for number in range(8)]
    found = groups(chats + plain)
    assert sorted((group.shared, len(group.passes)) for group in found) == [(0, 1), (30, 1)]
    computed = sum(
        group.shared
        + sum(len(members) * (32 - group.shared if group.shared else 5) for members in group.passes)
        for group in found
    )
    assert computed == 30 + 8 * 2 + 8 * 5


def test_many_prompts_of_similar_lengths_take_few_passes() -> None:
    """Every pass reads all weights: forty small ones took twice the time of five."""
    begun = [[1, 2, 3, *[50 + number % 8] * 8] for number in range(96)]
    chats = [[*begun[number], number, *range(200, 203 + number // 3)] for number in range(96)]
    found = groups(chats)
    assert sum(len(group.passes) + bool(group.shared) for group in found) <= 8


def test_prompts_that_gain_nothing_are_read_in_one_pass() -> None:
    assert groups([[1, 2, 3], [4, 5, 6], [7, 8]]) == [prefilling.Group(0, ((0, 1, 2),))]
    assert groups([[1] * 40]) == [prefilling.Group(0, ((0,),))]


@pytest.fixture(
    scope="module", params=["llama-untied-gqa8x2", "qwen2-tied-bias", "mistral-sliding", "moe-4experts"]
)
def session(request: pytest.FixtureRequest) -> Iterator[Any]:
    name = str(request.param)
    target = Target(
        model=name,
        format="safetensors",
        quantization="f32",
        backend="cpu",
        modality="run",
        engine="transformers_torch",
    )
    loaded: Any = BACKENDS.get("transformers_torch").load(target, MODELS / name, threads=1)
    loaded._model.float()  # the trained models are stored in bfloat16, whose rounding hides small mistakes
    yield loaded
    loaded.close()


def test_prompts_read_together_predict_what_each_predicts_alone(session: Any) -> None:
    several = [[*SYSTEM, 3, 4, 5], [*SYSTEM, 9], [7, 8], [*SYSTEM, 3, 4, 5, 6, 7, 8, 9, 10], [5] * 50, [6]]
    steps = [[11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26]]
    together = [session.prefill(several, 400)]
    together += [session.step(list(range(6)), step) for step in steps]
    together.append(session.step([1, 3, 4], [31, 32, 33]))
    for row, prompt in enumerate(several):
        alone = [session.prefill([prompt], 100)]
        alone += [session.step([0], [step[row]]) for step in steps]
        for some, one in zip(together, alone, strict=False):
            assert np.allclose(some[row], one[0], atol=2e-4)
        if row in (1, 3, 4):
            place = [1, 3, 4].index(row)
            last = session.step([0], [31 + place])
            assert np.allclose(together[3][place], last[0], atol=2e-4)


def test_llama_cpp_goes_on_from_a_beginning_that_was_read_once(tiny_gguf: Path) -> None:
    target = Target(
        model="tiny", format="gguf", quantization="f32", backend="cpu", modality="run", engine="llama_cpp"
    )
    session: Any = BACKENDS.get("llama_cpp").load(target, tiny_gguf, threads=1)
    several = [[*SYSTEM, 3, 4, 5], [7, 8], [*SYSTEM, 9], [*SYSTEM, 3, 4, 5]]
    assert prefilling.alike(several) == [(30, (0, 3, 2))]
    together = [session.prefill(several, 200), session.step([0, 2, 3], [11, 12, 13])]
    for row, prompt in enumerate(several):
        alone = session.prefill([prompt], 60)[0]
        assert np.allclose(together[0][row], alone, atol=1e-4)
        if row != 1:
            place = [0, 2, 3].index(row)
            assert np.allclose(together[1][place], session.step([0], [11 + place])[0], atol=1e-4)
    session.close()
