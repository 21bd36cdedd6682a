"""Score: what gateway verdicts and evidence add up to, on the one scale from 0 to 1000.

``rate = corroborated / (corroborated + falsified + timeout + crashed + inconclusive)``; ``inapplicable``
and ``skipped`` are outside the denominator. ``base = min(699, floor(699 * rate))``.

=========================================  =================================================  ===========
case, the first that holds                 score                                              status
=========================================  =================================================  ===========
a gateway failed                           0                                                  BLOCKED
a P0 claim failed                          base; none while a gateway is unproven             BLOCKED
a gateway is unproven or was not judged    none                                               PENDING
a scenario was skipped, or nothing counts  none                                               PENDING
dim-smoke, smoke, ci                       base                                               PENDING
mvp, quick: rate >= 0.90                   800                                                PROVISIONAL
standard, deep: rate >= 0.95               950 + min(50, floor((rate - 0.95) * 1000))         CERTIFIED
standard, deep: 0.90 <= rate < 0.95        800 + min(99, floor((rate - 0.90) / 0.05 * 99))    PROVISIONAL
otherwise                                  base                                               BLOCKED
=========================================  =================================================  ===========

Rates are compared as fractions, so that 19 of 20 is 0.95 on every machine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from apr_qa.tally import Tally, tallied
from apr_qa.vocabulary import Evidence, GateVerdict, Outcome, Record, Severity, Tier

CERTIFIED = "CERTIFIED"
PROVISIONAL = "PROVISIONAL"
BLOCKED = "BLOCKED"
PENDING = "PENDING"

GATEWAYS = ("G0", "G1", "G2", "G3", "G4")
DEV_CHECKS = (Tier.DIM_SMOKE, Tier.SMOKE, Tier.CI)
SURFACE_TIERS = (Tier.MVP, Tier.QUICK)

GRADES = ((950, "A+"), (900, "A"), (850, "B+"), (800, "B"), (700, "C"), (0, "F"))
NO_GRADE = "-"

CATEGORIES = ("quality", "performance", "stability", "compatibility", "edge", "regression")
_CATEGORY_BY_PREFIX = {
    "F-PERF": "performance",
    "F-PROFILE": "performance",
    "G3": "stability",
    "F-STAB": "stability",
    "F-CONV-RT": "regression",
    "F-CONV-IDEM": "regression",
    "F-CONV-COM": "regression",
    "F-REGR": "regression",
    "F-CONV": "compatibility",
    "F-CONTRACT": "compatibility",
    "F-ROSETTA": "compatibility",
    "F-COMP": "compatibility",
    "F-HFP": "compatibility",
    "F-PAR": "compatibility",
    "G0": "compatibility",
    "F-EDGE": "edge",
}

_PASS_RATE = Fraction(90, 100)
_CERTIFY_RATE = Fraction(95, 100)
_CONFIDENCE = 0.95
_NOTHING = 1e-25
"""Share of the largest term below which no term changes a sum."""


class Score(Record, frozen=True, omit_defaults=False):
    """One verdict over one evidence file, with what it does not prove."""

    score: int | None
    grade: str
    status: str
    """``CERTIFIED``, ``PROVISIONAL``, ``BLOCKED`` or ``PENDING``."""
    reason: str
    rate: float | None
    counts: dict[str, int]
    """Entries by outcome, every outcome named."""
    gateways: tuple[GateVerdict, ...]
    categories: dict[str, dict[str, Any]]
    """By category: ``rate`` (None where nothing counts) and ``n``, the entries that count."""
    failure_rate_upper: float | None
    """Upper end of the one-sided 95 % confidence interval of the failure rate."""
    coverage: tuple[int, int]
    """Cells with evidence that counts, cells planned."""

    @property
    def passed(self) -> bool:
        """Say whether the tier's pass rule holds; only a passed dev check is PENDING with a score."""
        return self.status in (CERTIFIED, PROVISIONAL) or (self.status == PENDING and self.score is not None)


def grade(score: int | None) -> str:
    """Return the grade of a score; ``-`` where there is none.

    >>> grade(950), grade(800), grade(799), grade(0), grade(None)
    ('A+', 'B', 'C', 'F', '-')
    """
    if score is None:
        return NO_GRADE
    return next(letter for least, letter in GRADES if score >= least)


def category(gate_id: str) -> str:
    """Return the category of a gate id: that of its longest known prefix, else ``quality``."""
    known = [prefix for prefix in _CATEGORY_BY_PREFIX if gate_id.startswith(prefix)]
    return _CATEGORY_BY_PREFIX[max(known, key=len)] if known else "quality"


def failure_rate_upper(failures: int, trials: int, confidence: float = _CONFIDENCE) -> float | None:
    """Return the one-sided Clopper-Pearson upper bound of a failure rate; None without a trial.

    It is the rate at which so few failures would be seen with probability ``1 - confidence``: the root
    of ``P(X <= failures) = 1 - confidence`` for binomial X, found by bisection on the exact sum. About
    3/n for n trials without a failure. Source: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934) 404-413.

    >>> round(failure_rate_upper(0, 100), 4), round(failure_rate_upper(1, 100), 4)
    (0.0295, 0.0466)
    >>> failure_rate_upper(0, 0) is None
    True
    """
    if trials <= 0:
        return None
    if failures >= trials:
        return 1.0
    terms = _TailTerms(failures, trials)
    low, high = failures / trials, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        tail = math.fsum(terms.at(middle))
        low, high = (middle, high) if tail > 1 - confidence else (low, middle)
    return high


class _TailTerms:
    """The terms of ``P(X <= failures)``, the largest first, as far as they count."""

    def __init__(self, failures: int, trials: int) -> None:
        self._failures, self._trials = failures, trials
        self._whole = math.lgamma(trials + 1)
        self._ways: list[float] = []

    def at(self, rate: float) -> Iterator[float]:
        """Iterate over the terms at a rate above ``failures / trials``: each is smaller than the one before."""
        hit, miss = math.log(rate), math.log1p(-rate)
        first = 0.0
        for place, seen in enumerate(range(self._failures, -1, -1)):
            if place == len(self._ways):
                missed = self._trials - seen
                self._ways.append(self._whole - math.lgamma(seen + 1) - math.lgamma(missed + 1))
            term = math.exp(self._ways[place] + seen * hit + (self._trials - seen) * miss)
            first = first or term
            if term <= first * _NOTHING:
                return
            yield term


def score(
    tier: Tier,
    gateways: Sequence[GateVerdict],
    evidence: Tally | Iterable[Evidence],
    planned_cells: Sequence[str],
    covered_cells: int,
    planned: int = 0,
) -> Score:
    """Return the score of one model's evidence; fewer entries than ``planned`` leave the run incomplete.

    A gateway of G0…G4 that is not among ``gateways`` counts as unproven, an inapplicable one is left out
    unless all are. Other gates that look across targets may be among them: a failed P0 blocks as a claim does.
    The order of ``gateways`` and ``evidence`` does not matter.
    """
    across = [verdict for verdict in gateways if verdict.gate_id.partition("-")[0] not in GATEWAYS]
    gateways = [verdict for verdict in gateways if verdict not in across]
    tally = tallied(evidence)
    counts = tally.outcomes()
    held, counted = counts[Outcome.CORROBORATED], sum(counts[item] for item in Outcome if item.counted)
    blocking = _blocking((*across, *(group.first for group in tally.all.groups)))
    points, status, reason = _verdict(tier, gateways, counts, (held, counted), planned, blocking)
    return Score(
        score=points,
        grade=NO_GRADE if status == PENDING else grade(points),
        status=status,
        reason=reason,
        rate=held / counted if counted else None,
        counts={item.value: counts[item] for item in Outcome},
        gateways=tuple(sorted(gateways, key=lambda verdict: verdict.gate_id)),
        categories=_categories(tally),
        failure_rate_upper=failure_rate_upper(counted - held, counted),
        coverage=(covered_cells, len(planned_cells)),
    )


def _verdict(
    tier: Tier,
    gateways: Sequence[GateVerdict],
    counts: Counter[Outcome],
    held_of: tuple[int, int],
    planned: int,
    blocking: set[str],
) -> tuple[int | None, str, str]:
    """Return points, status and reason by the first case of the module's table that holds."""
    broken = [f"{item.gate_id} ({item.outcome})" for item in gateways if item.outcome and item.outcome.failed]
    if broken:
        return 0, BLOCKED, f"gateway failed: {', '.join(sorted(broken))}"
    unproven = _unproven(gateways)
    base = min(699, math.floor(699 * Fraction(*held_of))) if held_of[1] and not unproven else None
    if blocking:
        return base, BLOCKED, f"P0 failed: {', '.join(sorted(blocking))}"
    if unproven:
        return None, PENDING, f"unproven: {', '.join(unproven)}"
    total, skipped = counts.total(), counts[Outcome.SKIPPED]
    if total < planned:
        return None, PENDING, f"run incomplete: {planned - total} of {planned} scenarios left no evidence"
    if skipped:
        return None, PENDING, f"run incomplete: {skipped} of {total} scenarios were skipped"
    if base is None:
        return None, PENDING, "nothing was tried that counts"
    return _by_tier(tier, held_of, base)


def _blocking(judged: Iterable[GateVerdict | Evidence]) -> set[str]:
    """Return the P0 gates that failed, on one target or across targets."""
    return {
        entry.gate_id
        for entry in judged
        if entry.severity is Severity.P0 and entry.outcome is not None and entry.outcome.failed
    }


def _unproven(gateways: Sequence[GateVerdict]) -> list[str]:
    """Return the gateways that nothing speaks for, those that were never judged included."""
    if gateways and all(verdict.outcome is Outcome.INAPPLICABLE for verdict in gateways):
        return sorted(verdict.gate_id for verdict in gateways)
    settled = (Outcome.CORROBORATED, Outcome.INAPPLICABLE)
    open_ids = {verdict.gate_id for verdict in gateways if verdict.outcome not in settled}
    judged = {verdict.gate_id.partition("-")[0] for verdict in gateways}
    return sorted(open_ids | (set(GATEWAYS) - judged))


def _by_tier(tier: Tier, held_of: tuple[int, int], base: int) -> tuple[int, str, str]:
    """Return points, status and reason of a complete run with intact gateways and no P0 failure."""
    rate, share = Fraction(*held_of), f"{held_of[0]} of {held_of[1]} claims held"
    if tier in DEV_CHECKS:
        return base, PENDING, f"dev check passed, {tier.value} certifies nothing: {share}"
    if rate < _PASS_RATE:
        return base, BLOCKED, f"{share}, {tier.value} asks for 90 %"
    if tier in SURFACE_TIERS:
        return 800, PROVISIONAL, f"{share}, {tier.value} looks at the surface only"
    if rate < _CERTIFY_RATE:
        bonus = math.floor((rate - _PASS_RATE) / (_CERTIFY_RATE - _PASS_RATE) * 99)
        return 800 + min(99, bonus), PROVISIONAL, f"{share}, a certificate asks for 95 %"
    return 950 + min(50, math.floor((rate - _CERTIFY_RATE) * 1000)), CERTIFIED, share


def _categories(tally: Tally) -> dict[str, dict[str, Any]]:
    """Return rate and number of counted entries for each category."""
    seen, good = Counter[str](), Counter[str]()
    for group in tally.all.groups:
        entry = group.first
        if entry.outcome.counted:
            seen[category(entry.gate_id)] += group.count
            good[category(entry.gate_id)] += group.count if entry.outcome is Outcome.CORROBORATED else 0
    return {
        name: {"rate": good[name] / seen[name] if seen[name] else None, "n": seen[name]}
        for name in CATEGORIES
    }
