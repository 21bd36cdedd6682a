"""The score rules, each by an example, and what holds for every body of evidence."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa.mqs import CATEGORIES, GATEWAYS, Score, category, failure_rate_upper, grade, score
from apr_qa.vocabulary import Claim, Evidence, GateVerdict, Outcome, Scenario, Severity, Target, Tier

PROPERTY = settings(max_examples=50, deadline=None)
TARGET = Target(
    model="org/name", format="gguf", quantization="q8_0", backend="cpu", modality="run", engine="llama_cpp"
)
CELLS = ("gguf·cpu·run", "apr·cpu·run")
STATUS_RANK = {"BLOCKED": 0, "PENDING": 1, "PROVISIONAL": 2, "CERTIFIED": 3}


def entry(
    outcome: Outcome, *, gate_id: str = "F-QUAL-001", severity: Severity = Severity.P1, n: int = 0
) -> Evidence:
    claim = Claim(gate_id=gate_id, kind="generate", prompt=f"question {n}")
    return Evidence(
        id=f"{n:016x}",
        gate_id=gate_id,
        severity=severity,
        scenario=Scenario(target=TARGET, claim=claim),
        outcome=outcome,
        reason="because",
    )


def entries(**counts: int) -> list[Evidence]:
    outcomes = [Outcome(name) for name, times in counts.items() for _ in range(times)]
    return [entry(outcome, n=n) for n, outcome in enumerate(outcomes)]


def gateways(**changed: Outcome | None) -> list[GateVerdict]:
    outcomes = {name: changed.get(name, Outcome.CORROBORATED) for name in GATEWAYS}
    return [
        GateVerdict(gate_id=name, severity=Severity.P0, outcome=outcome, reason="because")
        for name, outcome in outcomes.items()
    ]


def scored(tier: Tier, evidence: Sequence[Evidence], verdicts: Sequence[GateVerdict] | None = None) -> Score:
    return score(tier, gateways() if verdicts is None else verdicts, evidence, CELLS, 1)


outcomes = st.sampled_from(list(Outcome))
severities = st.sampled_from(list(Severity))
bodies = st.lists(st.tuples(outcomes, severities), max_size=60).map(
    lambda drawn: [entry(outcome, severity=severity, n=n) for n, (outcome, severity) in enumerate(drawn)]
)
clean_bodies = st.tuples(st.integers(0, 400), st.integers(0, 40)).map(
    lambda drawn: entries(corroborated=drawn[0], falsified=drawn[1])
)
verdicts = st.fixed_dictionaries({name: st.none() | outcomes for name in GATEWAYS}).map(
    lambda drawn: gateways(**drawn)
)
tiers = st.sampled_from(list(Tier))


@pytest.mark.parametrize(
    ("tier", "held", "failed", "expected", "status", "letter"),
    [
        (Tier.MVP, 18, 0, 800, "PROVISIONAL", "B"),
        (Tier.MVP, 9, 1, 800, "PROVISIONAL", "B"),
        (Tier.QUICK, 90, 10, 800, "PROVISIONAL", "B"),
        (Tier.MVP, 89, 11, 622, "BLOCKED", "F"),
        (Tier.MVP, 0, 5, 0, "BLOCKED", "F"),
        (Tier.STANDARD, 100, 0, 1000, "CERTIFIED", "A+"),
        (Tier.STANDARD, 19, 1, 950, "CERTIFIED", "A+"),
        (Tier.DEEP, 953, 47, 953, "CERTIFIED", "A+"),
        (Tier.DEEP, 99, 1, 990, "CERTIFIED", "A+"),
        (Tier.STANDARD, 9, 1, 800, "PROVISIONAL", "B"),
        (Tier.STANDARD, 92, 8, 839, "PROVISIONAL", "B"),
        (Tier.STANDARD, 94, 6, 879, "PROVISIONAL", "B+"),
        (Tier.STANDARD, 9499, 501, 898, "PROVISIONAL", "B+"),
        (Tier.STANDARD, 899, 101, 628, "BLOCKED", "F"),
        (Tier.DEEP, 1, 1, 349, "BLOCKED", "F"),
    ],
)
def test_the_tier_rules(tier: Tier, held: int, failed: int, expected: int, status: str, letter: str) -> None:
    result = scored(tier, entries(corroborated=held, falsified=failed))
    assert (result.score, result.status, result.grade) == (expected, status, letter)
    assert result.passed is (status in ("CERTIFIED", "PROVISIONAL"))


@pytest.mark.parametrize("tier", [Tier.SMOKE, Tier.DIM_SMOKE, Tier.CI])
def test_a_dev_check_certifies_nothing_and_passes_without_a_p0_failure(tier: Tier) -> None:
    result = scored(tier, entries(corroborated=1, falsified=2))
    assert (result.score, result.status, result.grade, result.passed) == (233, "PENDING", "-", True)
    assert "dev check passed" in result.reason
    blocked = scored(tier, [*entries(corroborated=9), entry(Outcome.CRASHED, severity=Severity.P0, n=99)])
    assert (blocked.score, blocked.status, blocked.passed) == (629, "BLOCKED", False)


@pytest.mark.parametrize("outcome", [Outcome.FALSIFIED, Outcome.TIMEOUT, Outcome.CRASHED])
@pytest.mark.parametrize("name", GATEWAYS)
def test_a_failed_gateway_zeroes_the_score(name: str, outcome: Outcome) -> None:
    result = scored(Tier.DEEP, entries(corroborated=500), gateways(**{name: outcome}))
    assert (result.score, result.grade, result.status) == (0, "F", "BLOCKED")
    assert name in result.reason and not result.passed


@pytest.mark.parametrize("outcome", [None, Outcome.INCONCLUSIVE, Outcome.SKIPPED])
@pytest.mark.parametrize("name", GATEWAYS)
def test_an_unproven_gateway_leaves_the_model_pending(name: str, outcome: Outcome | None) -> None:
    result = scored(Tier.DEEP, entries(corroborated=500), gateways(**{name: outcome}))
    assert (result.score, result.grade, result.status, result.passed) == (None, "-", "PENDING", False)
    assert name in result.reason


def test_a_gateway_that_nobody_judged_is_unproven() -> None:
    assert scored(Tier.DEEP, entries(corroborated=500), gateways()[:-1]).status == "PENDING"
    assert scored(Tier.DEEP, entries(corroborated=500), []).status == "PENDING"


def test_an_inapplicable_gateway_is_ignored_unless_all_are() -> None:
    some = gateways(G1=Outcome.INAPPLICABLE, G2=Outcome.INAPPLICABLE)
    assert scored(Tier.DEEP, entries(corroborated=500), some).status == "CERTIFIED"
    none = gateways(**dict.fromkeys(GATEWAYS, Outcome.INAPPLICABLE))
    assert scored(Tier.DEEP, entries(corroborated=500), none).status == "PENDING"


@pytest.mark.parametrize("outcome", [Outcome.FALSIFIED, Outcome.TIMEOUT, Outcome.CRASHED])
def test_a_p0_failure_blocks_with_the_base_score(outcome: Outcome) -> None:
    evidence = [*entries(corroborated=99), entry(outcome, gate_id="F-CONV-001", severity=Severity.P0, n=99)]
    result = scored(Tier.DEEP, evidence)
    assert (result.score, result.status, result.grade) == (692, "BLOCKED", "F")
    assert "F-CONV-001" in result.reason
    unproven = scored(Tier.DEEP, evidence, gateways(G3=None))
    assert (unproven.score, unproven.status, unproven.grade) == (None, "BLOCKED", "-")


def test_a_p0_claim_that_holds_or_cannot_be_judged_blocks_nothing() -> None:
    for outcome in (Outcome.CORROBORATED, Outcome.INCONCLUSIVE, Outcome.INAPPLICABLE):
        evidence = [*entries(corroborated=99), entry(outcome, severity=Severity.P0, n=99)]
        assert scored(Tier.DEEP, evidence).status == "CERTIFIED"


def test_a_skipped_scenario_makes_the_run_incomplete() -> None:
    result = scored(Tier.DEEP, entries(corroborated=99, skipped=1))
    assert (result.score, result.status) == (None, "PENDING")
    assert "1 of 100" in result.reason


def test_no_evidence_is_no_score() -> None:
    for evidence in ([], entries(inapplicable=3)):
        result = scored(Tier.DEEP, evidence)
        assert (result.score, result.grade, result.status, result.rate) == (None, "-", "PENDING", None)
        assert result.failure_rate_upper is None


def test_inapplicable_leaves_the_denominator_and_inconclusive_does_not() -> None:
    assert scored(Tier.MVP, entries(corroborated=9, inapplicable=9)).rate == 1.0
    assert scored(Tier.MVP, entries(corroborated=9, inconclusive=1)).rate == 0.9
    assert scored(Tier.MVP, entries(corroborated=9, inconclusive=2)).status == "BLOCKED"


def test_what_is_shown_beside_the_score() -> None:
    evidence = [
        entry(Outcome.CORROBORATED, n=1),
        entry(Outcome.FALSIFIED, gate_id="F-PERF-001", severity=Severity.P2, n=2),
        entry(Outcome.INAPPLICABLE, gate_id="F-EDGE-001", n=3),
    ]
    result = scored(Tier.MVP, evidence)
    assert result.coverage == (1, 2)
    assert result.counts == {item.value: 0 for item in Outcome} | {
        "corroborated": 1,
        "falsified": 1,
        "inapplicable": 1,
    }
    assert set(result.categories) == set(CATEGORIES)
    assert result.categories["quality"] == {"rate": 1.0, "n": 1}
    assert result.categories["performance"] == {"rate": 0.0, "n": 1}
    assert result.categories["edge"] == {"rate": None, "n": 0}


@pytest.mark.parametrize(
    ("points", "letter"),
    [
        (1000, "A+"),
        (950, "A+"),
        (949, "A"),
        (900, "A"),
        (899, "B+"),
        (850, "B+"),
        (849, "B"),
        (800, "B"),
        (799, "C"),
        (700, "C"),
        (699, "F"),
        (0, "F"),
        (None, "-"),
    ],
)
def test_the_grade_table(points: int | None, letter: str) -> None:
    assert grade(points) == letter


@pytest.mark.parametrize(
    ("gate_id", "name"),
    [
        ("F-PERF-001", "performance"),
        ("F-PROFILE-CI-003", "performance"),
        ("G3", "stability"),
        ("F-STAB-001", "stability"),
        ("F-CONV-G-A", "compatibility"),
        ("F-CONTRACT-I1", "compatibility"),
        ("F-ROSETTA-INF-001", "compatibility"),
        ("G0-VALIDATE-001", "compatibility"),
        ("F-HFP-001", "compatibility"),
        ("F-PAR-002", "compatibility"),
        ("F-PARITY-001", "compatibility"),
        ("F-EDGE-004", "edge"),
        ("F-CONV-RT-001", "regression"),
        ("F-CONV-IDEM-001", "regression"),
        ("F-CONV-COM-001", "regression"),
        ("F-QUAL-ARITHMETIC", "quality"),
        ("G2", "quality"),
        ("anything", "quality"),
    ],
)
def test_the_category_of_a_gate(gate_id: str, name: str) -> None:
    assert category(gate_id) == name


def test_the_upper_bound_is_that_of_clopper_and_pearson() -> None:
    """Expected values: the 0.95 quantile of the beta distribution with k + 1 and n - k."""
    for failures, trials, expected in [
        (0, 1, 0.95),
        (0, 10, 0.25886555),
        (1, 10, 0.39416330),
        (5, 10, 0.77755848),
        (3, 100, 0.07571043),
        (10, 10, 1.0),
    ]:
        assert failure_rate_upper(failures, trials) == pytest.approx(expected, abs=1e-6)
    assert failure_rate_upper(0, 0) is None


@PROPERTY
@given(st.integers(1, 3000))
def test_without_a_failure_the_bound_is_about_three_in_n(trials: int) -> None:
    bound = failure_rate_upper(0, trials)
    assert bound == pytest.approx(1 - 0.05 ** (1 / trials), rel=1e-9)
    assert bound is not None and bound <= 3 / trials


@PROPERTY
@given(st.integers(1, 120), st.data())
def test_the_bound_solves_the_binomial_equation_and_is_monotone(trials: int, data: st.DataObject) -> None:
    failures = data.draw(st.integers(0, trials - 1))
    bound = failure_rate_upper(failures, trials)
    assert bound is not None and failures / trials < bound < 1
    p = Fraction(bound)
    tail = sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(failures + 1))
    assert float(tail) == pytest.approx(0.05, rel=1e-6)
    more, longer = failure_rate_upper(failures + 1, trials), failure_rate_upper(failures, trials + 1)
    assert more is not None and longer is not None and longer < bound < more


@PROPERTY
@given(tiers, verdicts, bodies, st.randoms(use_true_random=False))
def test_the_order_of_arrival_is_irrelevant(
    tier: Tier, judged: list[GateVerdict], evidence: list[Evidence], shuffler: random.Random
) -> None:
    before = scored(tier, evidence, judged)
    shuffled, others = list(evidence), list(judged)
    shuffler.shuffle(shuffled)
    shuffler.shuffle(others)
    assert scored(tier, shuffled, others) == before


@PROPERTY
@given(
    tiers,
    verdicts,
    bodies | clean_bodies,
    st.sampled_from([Outcome.FALSIFIED, Outcome.TIMEOUT, Outcome.CRASHED]),
    severities,
)
def test_adding_a_falsification_never_raises_the_verdict(
    tier: Tier, judged: list[GateVerdict], evidence: list[Evidence], outcome: Outcome, severity: Severity
) -> None:
    before = scored(tier, evidence, judged)
    after = scored(tier, [*evidence, entry(outcome, severity=severity, n=10_000)], judged)
    assert STATUS_RANK[after.status] <= STATUS_RANK[before.status] or (
        before.rate is None and not after.passed
    )
    if before.score is not None:
        assert (-1 if after.score is None else after.score) <= before.score
    if after.score is not None and before.score is None:
        assert after.status == "BLOCKED" or before.rate is None
    assert not after.passed or before.passed or before.rate is None


@PROPERTY
@given(tiers, verdicts, bodies | clean_bodies, st.data())
def test_missing_evidence_never_certifies(
    tier: Tier, judged: list[GateVerdict], evidence: list[Evidence], data: st.DataObject
) -> None:
    fewer = data.draw(st.lists(st.sampled_from(judged), unique_by=lambda item: item.gate_id, max_size=4))
    assert not scored(tier, evidence, fewer).passed
    assert not scored(tier, [], judged).passed
    if any(item.outcome is None for item in judged):
        assert not scored(tier, evidence, judged).passed


@PROPERTY
@given(tiers, verdicts, bodies | clean_bodies)
def test_score_rate_grade_and_status_agree(
    tier: Tier, judged: list[GateVerdict], evidence: list[Evidence]
) -> None:
    result = scored(tier, evidence, judged)
    assert result.rate is None or 0 <= result.rate <= 1
    assert result.score is None or 0 <= result.score <= 1000
    assert sum(result.counts.values()) == len(evidence)
    assert result.grade == ("-" if result.status == "PENDING" else grade(result.score))
    assert (result.status == "CERTIFIED") == (result.score is not None and result.score >= 950)
    assert (result.status == "PROVISIONAL") == (result.score is not None and 800 <= result.score < 950)
    assert sum(part["n"] for part in result.categories.values()) == sum(
        item.outcome.counted for item in evidence
    )
    assert result.reason and "\n" not in result.reason


@pytest.mark.parametrize("failures", [18_000, 900_000, 1_799_000])
def test_the_upper_bound_of_a_huge_run_is_near_that_of_the_normal_distribution(failures: int) -> None:
    trials = 1_800_000
    rate = failures / trials
    bound = failure_rate_upper(failures, trials)
    assert bound == pytest.approx(rate + 1.645 * math.sqrt(rate * (1 - rate) / trials), abs=3e-6)


@given(trials=st.integers(1, 400), share=st.floats(0, 1, exclude_max=True))
@PROPERTY
def test_terms_that_are_left_out_change_no_bound(trials: int, share: float) -> None:
    failures = int(trials * share)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apr_qa.mqs._NOTHING", 0.0)
        whole = failure_rate_upper(failures, trials)
    assert failure_rate_upper(failures, trials) == whole
