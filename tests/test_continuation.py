"""Which token is picked, and what text a sequence of tokens is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr_qa.inference.continuation import REPLACEMENT, Continuation, Sampler

END = 256


def decode(ids: Sequence[int]) -> str:
    """A byte-level tokenizer: one token is one byte."""
    return bytes(ids).decode("utf-8", errors="replace")


def run(
    tokens: Sequence[int], *, stop: Sequence[str] = (), max_tokens: int = 1000
) -> tuple[Continuation, list[str]]:
    continuation = Continuation(decode, {END}, max_tokens, stop)
    pieces = []
    for token in tokens:
        pieces.append(continuation.accept(token))
        if continuation.finish_reason is not None:
            break
    return continuation, pieces


@given(st.lists(st.integers(0, 255), max_size=40))
def test_pieces_add_up_to_the_decoded_tokens_even_where_bytes_are_no_text(tokens: list[int]) -> None:
    continuation, pieces = run([*tokens, END])
    assert "".join(pieces) == continuation.text == decode(tokens)
    assert continuation.token_ids == tokens
    assert continuation.finish_reason == "stop"
    assert continuation.end_id == END


@given(st.text("abÄ🙂", max_size=30), st.lists(st.text("abÄ🙂", min_size=1, max_size=3), max_size=3))
def test_text_ends_before_the_first_stop_string_and_nothing_of_it_was_shown(
    text: str, stop: list[str]
) -> None:
    continuation, pieces = run([*text.encode(), END], stop=stop)
    shown = ""
    for piece in pieces:
        shown += piece
        assert continuation.text.startswith(shown)
    assert shown == continuation.text
    assert not any(string in continuation.text for string in stop)
    assert text.startswith(continuation.text)
    ends = [text.find(string) + len(string) for string in stop if string in text]
    if ends:
        # The sequence ends with the token that completes a stop string.
        assert len(continuation.token_ids) == len(text[: min(ends)].encode())
        assert continuation.finish_reason == "stop"
    else:
        assert continuation.text == text


def test_a_character_is_not_shown_before_all_its_bytes_are_there() -> None:
    _, pieces = run([*"a🙂".encode(), END])
    assert pieces == ["a", "", "", "", "🙂", ""]


def test_a_character_cut_off_by_the_limit_is_shown_as_such() -> None:
    continuation, _ = run("🙂".encode(), max_tokens=2)
    assert continuation.text == REPLACEMENT
    assert continuation.finish_reason == "length"


def test_the_end_token_is_no_part_of_the_tokens() -> None:
    continuation, _ = run([97, END, 98])
    assert continuation.token_ids == [97]
    assert continuation.text == "a"


def test_an_empty_stop_string_stops_nothing() -> None:
    assert run(b"abc", stop=[""], max_tokens=3)[0].text == "abc"


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=50).map(
    lambda v: np.array(v, np.float32)
)


@given(LOGITS)
def test_temperature_zero_takes_the_best_token_and_the_lowest_of_equals(logits: np.ndarray) -> None:
    picked = Sampler(0.0, 0, 1.0, 0).pick(logits)
    assert picked == min(np.flatnonzero(logits == logits.max()))


@given(LOGITS, st.integers(-(2**63), 2**63))
def test_one_candidate_leaves_no_choice(logits: np.ndarray, seed: int) -> None:
    best = logits.max()
    assert logits[Sampler(1.0, 1, 1.0, seed).pick(logits)] == best
    assert logits[Sampler(1.0, 0, 1e-9, seed).pick(logits)] == best
    assert logits[Sampler(1e-6, 0, 1.0, seed).pick(logits)] >= best - 1e-3


@given(LOGITS, st.integers(1, 10), st.floats(0.01, 1.0), st.integers(0, 1000))
def test_the_draw_is_a_candidate_and_the_seed_decides_it(
    logits: np.ndarray, top_k: int, top_p: float, seed: int
) -> None:
    first, second = (Sampler(0.7, top_k, top_p, seed) for _ in range(2))
    draws = [first.pick(logits) for _ in range(5)]
    assert draws == [second.pick(logits) for _ in range(5)]
    floor = np.sort(logits)[::-1][min(top_k, len(logits)) - 1]
    assert all(logits[draw] >= floor for draw in draws)


def test_draws_follow_the_probabilities() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    sampler = Sampler(1.0, 0, 1.0, 1)
    logits = np.log(probabilities).astype(np.float32)
    counts = np.bincount([sampler.pick(logits) for _ in range(4000)], minlength=4)
    # Five standard deviations of a binomial count.
    assert np.all(
        np.abs(counts - 4000 * probabilities) < 5 * np.sqrt(4000 * probabilities * (1 - probabilities))
    )


@pytest.mark.parametrize(
    ("top_p", "allowed"), [(0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, allowed: set[int]) -> None:
    sampler = Sampler(1.0, 0, top_p, 2)
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    assert {sampler.pick(logits) for _ in range(400)} == allowed
