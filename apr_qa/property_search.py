"""One property of one loaded model: examples until one breaks it, then the smallest one that does.

Everything happens while the model is loaded. The same claim draws the same examples everywhere; how many of
them fit into the time budget depends on the machine, and the facts say how many were tried.
"""

from __future__ import annotations

import contextlib
import json
import time
import weakref
from pathlib import Path
from typing import Any

from apr_qa import deletion, drawing
from apr_qa.errors import AprQaError, Inapplicable
from apr_qa.properties import PROPERTIES, Case, Finding, OutOfPromise, Property, Subject
from apr_qa.vocabulary import Artifact, Claim, Scenario

SHRINK_S = 12.0
"""Seconds that a counterexample is made smaller for."""

REDUCTIONS = 200
"""Parts that are tried to be left out of a counterexample after Hypothesis shrank it."""

ENGINE_FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError),
)
"""What an engine may raise that is no refusal of ours."""


_SUBJECTS: weakref.WeakKeyDictionary[Any, Subject] = weakref.WeakKeyDictionary()


class _Falsified(Exception):
    """Tells Hypothesis that the example breaks the promise."""


class _Enough(BaseException):
    """Ends the search at once; not an Exception, because Hypothesis would try to shrink that."""


class Search:
    """The search for one claim; `facts` is what it found."""

    def __init__(
        self, subject: Subject, member: Property, budget_s: float, max_shrinks: int | None = None
    ) -> None:
        self.subject = subject
        self.member = member
        self.examples = 0
        self.shrinks = 0
        self.best: tuple[Case, Finding] | None = None
        self.unstable = False
        self.inapplicable = ""
        self._max_shrinks = float("inf") if max_shrinks is None else max_shrinks
        self._attempts = 0
        self._started = time.monotonic()
        self._budget_s = budget_s
        self._deadline = float("inf")

    def try_stored(self, cases: list[Case]) -> None:
        """Try counterexamples that broke the promise before, up to the first that still does."""
        for case in cases:
            if self.best is None:
                with contextlib.suppress(OutOfPromise):  # what was promised may have become less since
                    finding = self._finding(case)
                    self.best = (case, finding) if finding is not None else None

    def draw(self, max_examples: int, seed: int) -> None:
        """Draw up to ``max_examples`` cases and shrink the first that breaks the promise."""
        import hypothesis
        from hypothesis.errors import Flaky, Unsatisfiable

        configured = hypothesis.settings(
            max_examples=max_examples,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
            suppress_health_check=list(hypothesis.HealthCheck),
            verbosity=hypothesis.Verbosity.quiet,
            report_multiple_bugs=False,
            print_blob=False,
            backend=drawing.backend(),
        )

        @hypothesis.seed(seed)
        @configured
        @hypothesis.given(self.member.strategy(self.subject))
        def trial(case: Case) -> None:
            self._try(case)

        try:
            with drawing.storage():
                trial()
        except (_Falsified, _Enough, Unsatisfiable):
            pass
        except Flaky:
            self.unstable = True

    def _try(self, case: Case) -> None:
        import hypothesis

        if self.best is not None:
            self._attempts += 1
        if time.monotonic() > self._deadline or self._attempts > self._max_shrinks:
            raise _Enough
        try:
            finding = self._finding(case)
        except OutOfPromise:
            hypothesis.reject()
        if finding is None:
            return
        if self.best is None:
            self._deadline = time.monotonic() + SHRINK_S
        else:
            self.shrinks += 1
        if self.best is None or size(case) <= size(self.best[0]):
            self.best = case, finding
        raise _Falsified

    def _finding(self, case: Case) -> Finding | None:
        """Check one case; a refusal or an error of the engine where an answer was due breaks the promise."""
        try:
            finding = self.member.check(self.subject, case)
        except Inapplicable as reason:
            self.inapplicable = reason.what
            raise _Enough from reason
        except AprQaError as refusal:
            finding = Finding(f"refused: {refusal.what}", "an answer")
        except ENGINE_FAULTS as error:
            finding = Finding(f"{type(error).__name__}: {error}"[:500], "an answer")
        if self.best is None:
            self.examples += 1
        if self.examples == 1:
            # The first example opens files and starts processes; the budget is for what comes after it.
            self._deadline = time.monotonic() + self._budget_s
        return finding

    def reduce(self, trials: int, seconds: float) -> None:
        """Leave out parts of the counterexample as long as it stays one."""
        if self.best is None:
            return
        ends = time.monotonic() + seconds

        def fails(case: Case) -> bool:
            self._attempts += 1
            if time.monotonic() > ends or self._attempts > self._max_shrinks:
                return False
            with contextlib.suppress(OutOfPromise):
                finding = self._finding(case)
                if finding is not None:
                    self.best = case, finding
                    self.shrinks += 1
                    return True
            return False

        if self.member.simplest is not None:
            any(fails(case) for case in self.member.simplest(self.best[0]))
        deletion.smallest(self.best[0], fails, deletion.Trials(trials))

    def facts(self) -> dict[str, Any]:
        """Return what was found as plain JSON values; raises Inapplicable if nothing could be tried."""
        if self.inapplicable and self.best is None:
            raise Inapplicable(self.inapplicable)
        found: dict[str, Any] = {
            "property": self.member.name,
            "examples": self.examples,
            "seconds": round(time.monotonic() - self._started, 3),
        }
        if self.best is not None:
            case, finding = self.best
            found |= {
                "counterexample": case,
                "observed": finding.observed,
                "expected": finding.expected,
                "shrunk": self.shrinks > 0,
                "unstable": self.unstable,
            }
        return found


def size(case: Case) -> int:
    """Return how large a case is: the length of its JSON."""
    return len(json.dumps(case, ensure_ascii=False))


def answered(session: Any, scenario: Scenario, artifact: Artifact, truth: Artifact | None) -> dict[str, Any]:
    """Return the facts of one scenario in a worker; files are opened once for all properties of a session."""
    files = {}
    if scenario.target.format != "endpoint":
        files = {"artifact": Path(artifact.path), "truth": Path(truth.path) if truth is not None else None}
    subject = _SUBJECTS.setdefault(session, Subject(session, scenario.target, **files))
    return answer(subject, scenario.claim)


def answer(subject: Subject, claim: Claim) -> dict[str, Any]:
    """Return the facts of a claim of kind ``property``; raises Inapplicable.

    ``claim.params``: ``property``, ``max_examples``, ``budget_s``, ``max_shrinks`` (cases that are tried to make a
    counterexample smaller), and ``examples``, which are tried first, and
    ``reduce``: make the first of them that fails smaller, in at most ``max_examples`` trials.
    """
    member = PROPERTIES.get(str(claim.params["property"]))
    limits = float(claim.params.get("budget_s", 10.0)), claim.params.get("max_shrinks")
    search = Search(subject, member, *limits)
    try:
        search.try_stored(list(claim.params.get("examples", ())))
    except _Enough:
        return search.facts()
    wanted = int(claim.params.get("max_examples", 0))
    if claim.params.get("reduce"):
        search.reduce(wanted, float(claim.params.get("limit_s", SHRINK_S)) / 2)
    elif search.best is None and wanted:
        search.draw(wanted, claim.seed)
        # Choices out of a list do not get smaller by drawing; parts of them can be left out.
        search.reduce(REDUCTIONS, SHRINK_S / 2)
    return search.facts()
