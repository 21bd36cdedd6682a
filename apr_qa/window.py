"""The scenarios of one batch that are being worked on: a bounded part of what may be millions.

Every scenario leaves the window through `Window.settle`, with its evidence; the window is filled up from the
batch, whose scenarios may be made while they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from apr_qa import clock
from apr_qa.line import Line
from apr_qa.plan import Batch
from apr_qa.vocabulary import FILE_MODALITIES, Evidence, Judgement, Outcome, Response, Scenario

SIZE = 1024
"""Scenarios in work at the same time; a multiple of every group that is asked together."""

Judge = Callable[[Scenario, Response], tuple[Judgement, dict[str, Any]]]


PASSED_EVERY = 4096
"""Scenarios after which it is noted how far a batch has come."""


class Progress(Protocol):
    """Something that knows which scenarios have their evidence already, and is told how a batch gets on."""

    def begun(self, batch: Batch) -> int:
        """Return how many leading scenarios of a batch need not be looked at."""
        ...

    def missing(self, scenarios: Sequence[Scenario]) -> list[tuple[str, Scenario]]:
        """Return id and scenario of those that have no evidence."""
        ...

    def passed(self, batch: Batch, count: int) -> None:
        """Note that the first ``count`` scenarios of a batch have their evidence."""
        ...


class FromTheStart:
    """The progress of a run of which nothing is done and nothing is to be remembered."""

    def begun(self, batch: Batch) -> int:
        return 0

    def missing(self, scenarios: Sequence[Scenario]) -> list[tuple[str, Scenario]]:
        return [(scenario.id, scenario) for scenario in scenarios]

    def passed(self, batch: Batch, count: int) -> None:
        """Forget it."""


class Window:
    """What is left of a batch: the part in work by id, and the rest behind it."""

    def __init__(self, batch: Batch, line: Line, judge: Judge, progress: Progress) -> None:
        self.pending: dict[str, Scenario] = {}
        self._batch = batch
        self._line = line
        self._judge = judge
        self._progress = progress
        self._taken = self._passed = progress.begun(batch)
        self._rest = _since(batch.scenarios, self._taken)
        self._since: dict[str, int] = {}
        """Id of a pending scenario -> how many of the batch had been taken before its part of it."""
        self._exhausted = False

    def fill(self) -> dict[str, Scenario]:
        """Take more of the batch in if there is room for half a window, and return what was added."""
        added: dict[str, Scenario] = {}
        while not self._exhausted and len(self.pending) + len(added) <= SIZE // 2:
            room = SIZE // 2 if self.pending else SIZE
            taken = list(islice(self._rest, room))
            self._exhausted = len(taken) < room
            for name, scenario in self._progress.missing(taken):
                added[name] = scenario
                self._since[name] = self._taken
            self._taken += len(taken)
        self.pending.update(added)
        self._tell()
        return added

    def _tell(self) -> None:
        """Note how far the batch has come, unless an entry may have been dropped."""
        oldest = next(iter(self.pending), None)
        passed = self._taken if oldest is None else self._since[oldest]
        finished = self._exhausted and oldest is None
        if passed > self._passed and (finished or passed - self._passed >= PASSED_EVERY):
            self._passed = passed
            if not self._line.abandoned:
                self._progress.passed(self._batch, passed)

    @property
    def exhausted(self) -> bool:
        """True when nothing is left behind the window."""
        return self._exhausted

    def each(self) -> Iterator[tuple[str, Scenario]]:
        """Yield everything that is left, in the window and behind it; the caller settles what it is given."""
        while True:
            yield from list(self.pending.items())
            if not self.fill():
                return

    # ---- settling

    def settle(self, name: str, outcome: Outcome, reason: str, **known: Any) -> None:
        """Record what happened to the scenario with the id ``name``."""
        scenario = self.pending[name]
        claim = scenario.claim
        if outcome is Outcome.INAPPLICABLE and claim.kind == "convert":
            reason = f"{reason}; bring the file with --artifact {self._batch.artifact.format}=PATH"
            self._line.unmade[self._batch.artifact.path] = reason
        self.record(
            Evidence(
                id=name,
                gate_id=claim.gate_id,
                severity=claim.severity,
                scenario=scenario,
                outcome=outcome,
                reason=reason,
                timestamp=clock.now(),
                **known,
            )
        )

    def record(self, entry: Evidence) -> None:
        """Record an entry about a scenario of the window."""
        del self.pending[entry.id], self._since[entry.id]
        self._line.observe(entry)

    def settle_all(self, outcome: Outcome, reason: str) -> None:
        """Record the same of everything that is left; nothing if it is to be done by a resumed run."""
        for name, _ in self.each():
            if self._line.abandoned:
                return
            self.settle(name, outcome, reason)

    def answer(self, name: str, response: Response) -> None:
        """Judge a response and record it."""
        judgement, metrics = self._judge(self.pending[name], response)
        self.settle(name, judgement.outcome, judgement.reason, response=response, metrics=metrics)

    def not_loaded(self, outcome: Outcome, reason: str) -> None:
        """Settle a batch whose target did not load: one cause, and a failure for each claim that needed it."""
        first = self._batch.scenarios[0].id
        for name, scenario in self.each():
            if self._line.abandoned:
                return
            if scenario.claim.kind == "load" or outcome is Outcome.INAPPLICABLE:
                self.settle(name, outcome, reason)
            elif self._batch.target.modality in FILE_MODALITIES:
                self._settle_file_claim(name, outcome, reason, first=name == first)
            else:
                self.settle(name, Outcome.FALSIFIED, f"the target did not load: {reason}")

    def _settle_file_claim(self, name: str, outcome: Outcome, reason: str, *, first: bool) -> None:
        """A file that cannot be opened falsifies the header claim; the others cannot be judged."""
        if first:
            self.settle(name, outcome, reason)
        else:
            self.settle(name, Outcome.INCONCLUSIVE, f"the file could not be opened: {reason}")


def _since(scenarios: Sequence[Scenario], begin: int) -> Iterator[Scenario]:
    """Iterate from a place on, without making what lies before it."""
    return (scenarios[place] for place in range(begin, len(scenarios))) if begin else iter(scenarios)
