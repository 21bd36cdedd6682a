"""A run of many entries in rows: one gate on one target, counted, with the first of what speaks against it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from apr_qa.groups import Selection
from apr_qa.rendering.report_outline import is_doubt
from apr_qa.reports import Run
from apr_qa.vocabulary import Evidence, Outcome, Target

_WORST = (
    Outcome.CRASHED,
    Outcome.TIMEOUT,
    Outcome.FALSIFIED,
    Outcome.INCONCLUSIVE,
    Outcome.SKIPPED,
    Outcome.CORROBORATED,
    Outcome.INAPPLICABLE,
)
"""What a row is called after: the first of these that any entry has."""


@dataclass(frozen=True)
class Row:
    """Everything about one gate and one target."""

    first: Evidence
    counts: Counter[Outcome]
    doubts: Selection
    others: Selection

    @property
    def gate_id(self) -> str:
        return self.first.gate_id

    @property
    def target(self) -> Target:
        return self.first.scenario.target

    @property
    def outcome(self) -> Outcome:
        """Return the worst outcome that any entry has."""
        return next(outcome for outcome in _WORST if self.counts[outcome])

    @property
    def reason(self) -> str:
        """Return what the first entry says that has the worst outcome."""
        chosen = self.doubts if self.doubts else self.others
        return chosen.where(lambda entry: entry.outcome is self.outcome).first.reason

    @property
    def numbers(self) -> str:
        """Return how many entries have which outcome, worst first."""
        return ", ".join(f"{self.counts[one]:,} {one.value}" for one in _WORST if self.counts[one])


def rows(run: Run) -> list[Row]:
    """Return a row for each gate and target: failures first, then doubts, then by target and gate."""
    by_place = run.tally.all.by(lambda entry: (entry.scenario.target, entry.gate_id))
    found = [_row(selection) for selection in by_place.values()]
    return sorted(found, key=lambda row: (_WORST.index(row.outcome), _place(row.target), row.gate_id))


def _row(selection: Selection) -> Row:
    counts: Counter[Outcome] = Counter()
    for group in selection.groups:
        counts[group.first.outcome] += group.count
    doubts = selection.where(is_doubt)
    return Row(selection.first, counts, doubts, selection.where(lambda entry: not is_doubt(entry)))


def _place(target: Target) -> tuple[str, ...]:
    return (target.format, target.quantization, target.backend, target.modality)
