"""How fast a loaded model answers, measured after a warm-up over several repetitions.

The floors are low on purpose: they tell a working engine from one that fell back to something hopeless, on
any machine. A playbook that has a target of its own states it, and its number replaces the floor.
"""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inconclusive
from apr_qa.vocabulary import Judgement, Severity

LEAST_TOKENS_PER_S = 1.0
MOST_FIRST_TOKEN_S = 10.0
MOST_SPREAD = 0.5
"""Coefficient of variation beyond which a measured speed says nothing about the model."""


def _runs(facts: Facts) -> list[float]:
    return list(facts.get("tokens_per_s") or ())


def speed_is_measured(facts: Facts) -> Judgement:
    runs = _runs(facts)
    if not runs:
        return inconclusive("no token was timed")
    if not all(0 < run < float("inf") for run in runs):
        return falsified(f"{runs} tokens/s is no measurement")
    return corroborated(f"{facts['tokens_per_s_mean']:.1f} tokens/s over {len(runs)} repetitions")


def fast_enough(facts: Facts) -> Judgement:
    if not _runs(facts):
        return inconclusive("no token was timed")
    floor, mean = float(facts.get("floor", LEAST_TOKENS_PER_S)), facts["tokens_per_s_mean"]
    if not mean >= floor:
        return falsified(f"{mean:.2f} tokens/s, floor {floor:g}")
    return corroborated(f"{mean:.1f} tokens/s, floor {floor:g}")


def first_token_soon(facts: Facts) -> Judgement:
    if facts.get("time_to_first_token_s") is None:
        return inconclusive("no token was timed")
    limit, taken = float(facts.get("limit_s", MOST_FIRST_TOKEN_S)), facts["time_to_first_token_s"]
    if not taken <= limit:
        return falsified(f"the first token takes {taken:.2f} s, limit {limit:g} s")
    return corroborated(f"the first token takes {taken:.3f} s, limit {limit:g} s")


def repeatable(facts: Facts) -> Judgement:
    spread = facts.get("coefficient_of_variation")
    if spread is None or len(_runs(facts)) < 2:
        return inconclusive("there are no two runs to compare")
    if not spread <= MOST_SPREAD:
        return falsified(
            f"the speed varies by {spread:.0%}, limit {MOST_SPREAD:.0%}: engine or machine is unsteady"
        )
    return corroborated(f"the speed varies by {spread:.0%} over {len(_runs(facts))} runs")


def tail_is_bounded(facts: Facts) -> Judgement:
    p50, p99 = facts.get("latency_p50_ms"), facts.get("latency_p99_ms")
    if p50 is None or p99 is None:
        return inconclusive("no token was timed")
    limit = facts.get("limit_p99_ms")
    if limit is not None and not p99 <= limit:
        return falsified(f"99 % of the tokens take up to {p99:g} ms, limit {limit:g} ms")
    if not p50 <= p99:
        return falsified(f"the median of {p50:g} ms is above the 99th percentile of {p99:g} ms")
    return corroborated(f"a token takes {p50:g} ms in the median, {p99:g} ms at the 99th percentile")


def floors_can_be_met_and_missed(facts: Facts) -> Judgement:
    """A speed that no floor could fail, or that none could pass, would be no measurement."""
    if not _runs(facts):
        return inconclusive("no token was timed")
    passed = fast_enough({**facts, "floor": 1e-3}).outcome
    failed = fast_enough({**facts, "floor": 1e6}).outcome
    if passed == failed:
        return falsified(f"{facts['tokens_per_s_mean']} tokens/s meets 0.001 and 1,000,000 alike")
    return corroborated(f"{facts['tokens_per_s_mean']:.1f} tokens/s passes 0.001 and misses 1,000,000")


def hot_spots_are_named(facts: Facts) -> Judgement:
    kinds = {stage["stage"] for stage in facts.get("stages", ()) if stage.get("seconds")}
    if not {"attention", "mlp"} <= kinds:
        return falsified(f"time is known for {', '.join(sorted(kinds)) or 'nothing'} only")
    return corroborated(f"time is known for {', '.join(sorted(kinds))}")


def layers_are_timed(facts: Facts) -> Judgement:
    timed = {s["layer"] for s in facts.get("stages", ()) if s["layer"] >= 0 and s.get("seconds")}
    if not facts.get("layers") or len(timed) != facts["layers"]:
        return falsified(f"{len(timed)} of {facts.get('layers')} layers were timed")
    return corroborated(f"all {facts['layers']} layers were timed")


_SPEED: dict[str, Any] = {
    **{"repetitions": 3, "tokens": 16, "tokens_per_s": [40.0, 42.0, 41.0], "tokens_per_s_mean": 41.0},
    **{"coefficient_of_variation": 0.02, "time_to_first_token_s": 0.3},
    **{"latency_p50_ms": 24.0, "latency_p99_ms": 40.0},
}
_STAGES: dict[str, Any] = {
    "layers": 1,
    "stages": [
        {"stage": "attention", "layer": 0, "seconds": 0.01},
        {"stage": "mlp", "layer": 0, "seconds": 0.02},
    ],
}
_DECODES = "greedy decoding of a fixed prompt after a warm-up, time between tokens"
_TIMED = "one forward pass, time of each stage"

_ROWS: tuple[tuple[str, str, str, str, Check, dict[str, Any], dict[str, Any]], ...] = (
    (
        "F-BENCH-001",
        "The speed of decoding can be measured",
        _DECODES,
        "a positive number of tokens/s in every run",
        speed_is_measured,
        _SPEED,
        {"tokens_per_s": [0.0]},
    ),
    (
        "F-BENCH-003",
        "The measured speed is repeatable",
        _DECODES,
        f"coefficient of variation ≤ {MOST_SPREAD:.0%}",
        repeatable,
        _SPEED,
        {"coefficient_of_variation": 0.9},
    ),
    (
        "F-PERF-001",
        "Decoding is not hopelessly slow",
        _DECODES,
        f"≥ {LEAST_TOKENS_PER_S:g} tokens/s, or the playbook's floor",
        fast_enough,
        _SPEED,
        {"tokens_per_s_mean": 0.2},
    ),
    (
        "F-PERF-002",
        "The first token comes soon",
        _DECODES,
        f"≤ {MOST_FIRST_TOKEN_S:g} s, or the playbook's limit",
        first_token_soon,
        _SPEED,
        {"time_to_first_token_s": 99.0},
    ),
    (
        "F-PROFILE-008",
        "The tail of the latencies is bounded",
        _DECODES,
        "median ≤ 99th percentile ≤ the playbook's limit, where it states one",
        tail_is_bounded,
        _SPEED,
        {"latency_p99_ms": 1.0},
    ),
    (
        "F-PROFILE-007",
        "An impossible floor is missed and a trivial one is met",
        _DECODES,
        "0.001 tokens/s is met, 1,000,000 is not",
        floors_can_be_met_and_missed,
        _SPEED,
        {"tokens_per_s_mean": 0.0},
    ),
    (
        "F-PROFILE-001",
        "A profile names where the time goes",
        _TIMED,
        "seconds for attention and for the feed-forward part",
        hot_spots_are_named,
        _STAGES,
        {"stages": []},
    ),
    (
        "F-PROFILE-002",
        "Every layer is timed",
        _TIMED,
        "as many layers with seconds as the model has",
        layers_are_timed,
        _STAGES,
        {"layers": 2},
    ),
)

for _id, _hypothesis, _measure, _threshold, _check, _healthy, _change in _ROWS:
    enter(
        Gate(
            id=_id,
            category="performance",
            severity=Severity.P2,
            hypothesis=_hypothesis,
            measure=_measure,
            threshold=_threshold,
            check=_check,
            corroborates=_healthy,
            falsifies={**_healthy, **_change},
        )
    )
