"""What the divergence of next-token distributions promises: exact, never vacuous, and calibrated limits."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr_qa.comparison import reference_text
from apr_qa.comparison.divergence import divergence
from apr_qa.comparison.divergence_budget import (
    FLOORS,
    UNCALIBRATED,
    budget,
    greedy_facts,
    noise_budget,
    overruns,
    parity_facts,
    wider,
)
from apr_qa.errors import InferenceFailed
from apr_qa.gates import GATES
from apr_qa.vocabulary import Outcome

LOGIT_GATES = (
    *("F-CONTRACT-I1-001", "F-ROSETTA-INF-001", "F-ROSETTA-INF-002", "F-ROSETTA-INF-003", "F-HFP-001"),
    *("F-PAR-001", "F-PAR-003", "F-LAYOUT-CONTRACT-005"),
)
PUBLISHED = {
    "q8_0": 1.4e-3,
    "q6_k": 5.5e-3,
    "q5_k_m": 1.1e-2,
    "q4_k_m": 3.1e-2,
    "q4_0": 7.2e-2,
    "q2_k": 0.445,
}
"""Mean KL of Llama-3-8B in llama.cpp's perplexity README."""


def logits(seed: int = 0, tokens: int = 40, vocabulary: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (tokens, vocabulary)).astype(np.float32)


def noisy(reference: np.ndarray, scale: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, scale, reference.shape)
    return (reference + noise).astype(np.float32)


def outcome(gate_id: str, facts: dict[str, Any]) -> Outcome:
    check = GATES.get(gate_id).check
    assert check is not None
    return check(json.loads(json.dumps(facts, allow_nan=False))).outcome


# ---- the measure


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 3))
def test_it_is_the_divergence_of_the_definition(seed: int, scale: float) -> None:
    reference = logits(seed, 5, 11)
    test = noisy(reference, scale, seed)
    p, q = (np.exp(side.astype(np.float64)) for side in (reference, test))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = (p * np.log(p / q)).sum(1)
    found = divergence(reference, test)
    assert found["kl_mean"] == pytest.approx(expected.mean(), rel=1e-9, abs=1e-12)
    assert found["kl_max"] == pytest.approx(expected.max(), rel=1e-9, abs=1e-12)
    assert found["kl_mean"] >= 0


@given(st.floats(-1e4, 1e4))
def test_a_constant_added_to_all_logits_changes_no_distribution(shift: float) -> None:
    reference = logits().astype(np.float64)
    found = divergence(reference, reference + shift)
    assert found["kl_max"] < 1e-9 and found["top1"] == 1.0


def test_huge_logits_neither_overflow_nor_vanish() -> None:
    reference = np.array([[3e38, -3e38, 0.0], [1000.0, 999.0, -1000.0]], np.float32)
    found = divergence(reference, reference)
    assert found["kl_max"] == 0.0 and math.isfinite(found["logit_difference"])


def test_equal_logits_have_no_divergence_and_the_facts_are_json() -> None:
    found = divergence(logits(), logits(), next_tokens=[3] * 39)
    assert (found["kl_max"], found["top1"], found["perplexity_ratio"]) == (0.0, 1.0, 1.0)
    assert found["first_disagreement"] is None and found["largest_lead_lost"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("reference", "test"),
    [
        (np.zeros((0, 5)), np.zeros((0, 5))),
        (np.zeros((3, 0)), np.zeros((3, 0))),
        (np.zeros(5), np.zeros(5)),
        (logits(tokens=3), logits(tokens=4)),
        (logits(), np.where(np.arange(50) == 7, np.nan, logits())),
        (np.where(np.arange(50) == 7, np.inf, logits()), logits()),
    ],
    ids=["no tokens", "no vocabulary", "one dimension", "lengths", "NaN", "infinity"],
)
def test_what_cannot_be_compared_is_an_error(reference: np.ndarray, test: np.ndarray) -> None:
    with pytest.raises(InferenceFailed):
        divergence(reference, test)


@pytest.mark.parametrize("tokens", [[], [50], [-1]])
def test_next_tokens_outside_the_vocabulary_are_an_error(tokens: list[int]) -> None:
    with pytest.raises(InferenceFailed):
        divergence(logits(), logits(), next_tokens=tokens)


def test_positions_must_fit_the_tokens_and_sort_them_into_buckets() -> None:
    reference, test = logits(), logits()
    test[30:] = noisy(test[30:], 2.0)
    where = [*range(30), *range(600, 610)]
    found = divergence(reference, test, positions=where)
    assert set(found["buckets"]) == {"0-31", "512+"}
    assert found["buckets"]["0-31"]["kl_max"] == 0.0 < found["buckets"]["512+"]["kl_mean"]
    assert found["buckets"]["512+"]["tokens"] == 10
    with pytest.raises(InferenceFailed):
        divergence(reference, test, positions=[0])


def test_a_padded_vocabulary_is_cut_to_the_narrower_one() -> None:
    wide = np.concatenate((logits(), np.zeros((40, 6), np.float32)), axis=1)
    found = divergence(logits(), wide)
    assert found["vocabulary"] == 50 and found["kl_max"] == 0.0


# ---- the limits


def test_a_healthy_twin_is_inside_its_own_budget_with_room_to_spare() -> None:
    for scale in (1e-4, 1e-2, 0.1, 0.5):
        reference = logits(tokens=120)
        twin = divergence(reference, noisy(reference, scale), next_tokens=[1] * 119)
        other = divergence(reference, noisy(reference, scale, seed=2), next_tokens=[1] * 119)
        limits = budget("q4_k_m", twin)
        for facts in (parity_facts(twin, limits), parity_facts(other, limits)):
            assert facts["overruns"] == []
        assert {gate: outcome(gate, parity_facts(twin, limits)) for gate in LOGIT_GATES} == dict.fromkeys(
            LOGIT_GATES, Outcome.CORROBORATED
        )


def test_ten_times_the_noise_of_the_twin_is_too_much() -> None:
    reference = logits(tokens=120)
    twin = divergence(reference, noisy(reference, 0.1), next_tokens=[1] * 119)
    broken = divergence(reference, noisy(reference, 4.0), next_tokens=[1] * 119)
    facts = parity_facts(broken, budget("q8_0", twin))
    assert {o["what"] for o in facts["overruns"]} >= {"kl_mean", "kl_p99", "kl_max", "top1"}
    for gate in ("F-CONTRACT-I1-001", "F-ROSETTA-INF-002", "F-PAR-001"):
        assert outcome(gate, facts) is Outcome.FALSIFIED


def test_damage_at_late_positions_only_is_seen() -> None:
    reference = logits(tokens=700)
    twin = divergence(reference, noisy(reference, 0.1))
    test = noisy(reference, 0.1)
    test[512:544] = noisy(reference[512:544], 1.0)
    found = overruns(divergence(reference, test), budget("q8_0", twin))
    assert any("512+" in o["what"] for o in found)


def test_a_near_miss_is_reported_by_the_weaker_gate_alone() -> None:
    reference = logits(tokens=400)
    twin = divergence(reference, noisy(reference, 0.2))
    near = divergence(reference, noisy(reference, 0.31, seed=5))
    facts = parity_facts(near, budget("q8_0", twin, same_engine=True))
    assert outcome("F-CONTRACT-I1-001", facts) is Outcome.CORROBORATED
    assert outcome("F-ROSETTA-INF-002", facts) is Outcome.FALSIFIED


def test_beside_a_twin_without_the_engine_s_own_rounding_nothing_is_a_near_miss() -> None:
    reference = logits(tokens=400)
    twin = divergence(reference, noisy(reference, 0.2))
    near = divergence(reference, noisy(reference, 0.31, seed=5))
    facts = parity_facts(near, budget("q8_0", twin))
    assert outcome("F-ROSETTA-INF-002", facts) is Outcome.CORROBORATED


def test_nan_is_outside_every_limit() -> None:
    measured = {"kl_mean": math.nan, "kl_p99": math.nan, "kl_max": math.nan, "top1": math.nan, "buckets": {}}
    assert len(overruns(measured, budget("f32", None))) == 4


def test_limits_without_a_twin_let_published_healthy_conversions_pass() -> None:
    for quantization, kl in PUBLISHED.items():
        limits = budget(quantization, None)
        assert not limits["calibrated"] and kl < limits["kl_mean"]
    assert budget("f32", None)["kl_mean"] < budget("f16", None)["kl_mean"] < budget("bf16", None)["kl_mean"]


def test_limits_of_coarser_types_are_never_tighter() -> None:
    order = ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "q2_k"]
    values = [UNCALIBRATED[name] for name in order]
    assert values == sorted(values)
    assert budget("nobody-knows", None)["kl_mean"] == max(UNCALIBRATED.values())


def test_a_perfect_twin_still_leaves_the_engines_their_noise() -> None:
    same = divergence(logits(), logits())
    for name, (mean, _) in FLOORS.items():
        assert budget(name, same)["kl_mean"] == mean
    assert budget("q4_k_m", same)["kl_mean"] > 1.8e-3


def test_a_flood_of_one_token_is_found() -> None:
    reference, test = logits(), logits()
    test[:, 0] = 100
    facts = parity_facts(divergence(reference, test), budget("q4_0", None))
    assert outcome("F-ROSETTA-INF-003", facts) is Outcome.FALSIFIED


def test_nothing_measured_is_not_a_pass() -> None:
    facts = {
        "measured": {"tokens": 0},
        "limits": {"logit_difference": 1.0, "tie": 2.0},
        "overruns": [],
        "near": [],
    }
    gates = ("F-CONTRACT-I1-001", "F-ROSETTA-INF-001", "F-ROSETTA-INF-003", "F-HFP-001")
    assert {outcome(gate, facts) for gate in gates} == {Outcome.INCONCLUSIVE}
    unmeasured = parity_facts(divergence(logits(), logits()), budget("f32", None))
    assert outcome("F-PAR-003", unmeasured) is Outcome.INCONCLUSIVE


def test_logits_of_another_reference_engine_say_nothing_about_transformers() -> None:
    facts = parity_facts(divergence(logits(), logits()), budget("f32", None), reference="llama_cpp")
    assert outcome("F-HFP-001", facts) is Outcome.INAPPLICABLE


# ---- greedy continuations


def test_greedy_continuations_may_part_at_near_ties_only() -> None:
    limits = {"tie": 0.1}
    leads = [[1.0, 0.02, 1.0]]
    tie = greedy_facts([[1, 2, 3]], [[1, 5, 6]], leads, limits)
    clear = greedy_facts([[1, 2, 3]], [[4, 2, 3]], leads, limits)
    equal = greedy_facts([[1, 2, 3]], [[1, 2, 3]], leads, limits)
    assert (tie["ties"], tie["differences"], equal["equal"]) == (1, [], 1)
    assert clear["differences"] == [
        {"prompt": 0, "at": 0, "truth": [1, 2, 3], "artifact": [4, 2, 3], "lead": 1.0}
    ]
    for gate in ("F-GOLDEN-RULE-001", "F-HFP-002", "F-PAR-002"):
        assert [outcome(gate, facts) for facts in (tie, equal, clear)] == [
            Outcome.CORROBORATED,
            Outcome.CORROBORATED,
            Outcome.FALSIFIED,
        ]


def test_a_continuation_that_ends_early_is_a_difference() -> None:
    facts = greedy_facts([[1, 2, 3]], [[1]], [[9.0, 9.0, 9.0]], {"tie": 0.1})
    assert facts["differences"][0]["at"] == 1
    silent = greedy_facts([[1, 2, 3]], [[]], [[9.0, 9.0, 9.0]], {"tie": 0.1})
    assert silent["differences"][0]["at"] == 0


@pytest.mark.parametrize(("reference", "test"), [([], []), ([[1]], []), ([[]], [[]])])
def test_empty_continuations_are_an_error(reference: list[list[int]], test: list[list[int]]) -> None:
    with pytest.raises(InferenceFailed):
        greedy_facts(reference, test, [[] for _ in reference], {"tie": 1.0})


# ---- the texts


def test_the_reference_texts_are_mixed_and_reach_late_positions() -> None:
    text = reference_text.SHORT + reference_text.long_text()
    assert "def " in text and any(ord(c) > 0x3000 for c in text) and any(c.isdigit() for c in text)
    assert len(reference_text.long_text().split()) > 400


def test_equal_quantised_weights_in_two_engines_are_no_finding() -> None:
    """What the same Q4_1 weights of SmolLM2-135M gave in llama.cpp against torch, while rounding costs nothing."""
    perfect = divergence(logits(), logits(), next_tokens=[3] * 39)
    parts = {"kl_mean": 3.6e-3, "kl_p99": 1.5e-2, "kl_max": 2.9e-2, "top1": 0.964}
    seen = {**perfect, **parts, "buckets": {"0-31": {**parts, "kl_mean": 5e-3}}}
    facts = parity_facts(seen, budget("q4_1", perfect))
    assert facts["overruns"] == facts["near"] == []


def test_the_wider_of_two_limits_grants_what_either_grants() -> None:
    reference = logits(tokens=400)
    noise = noise_budget("f16")
    rounding = budget("f16", divergence(reference, noisy(reference, 0.05)))
    both = wider(noise, rounding)
    near = divergence(reference, noisy(reference, 0.05, seed=5))
    assert overruns(near, noise) and not overruns(near, both)
    assert overruns(divergence(reference, noisy(reference, 0.5)), both)
