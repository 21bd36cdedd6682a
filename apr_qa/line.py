"""The production line: what is recorded as it comes, and when everything stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from apr_qa.vocabulary import Artifact, Evidence, Outcome, Record, Severity


class Limits(Record, frozen=True):
    """Seconds that each thing may take."""

    scenario_s: float = 60.0
    load_s: float = 300.0
    budget_s: float = 0.0
    """For the whole run; 0 means no limit."""


class Line:
    """The production line: records evidence and stops when the failure policy says so (Jidoka)."""

    def __init__(
        self,
        policy: str,
        record: Callable[[Evidence], None],
        *,
        andon: Callable[[Evidence], None] = lambda _: None,
        budget_s: float = 0.0,
    ) -> None:
        self.policy = policy
        self.reason = ""
        self.interrupted = False
        self.fault: Exception | None = None
        """What made it impossible to go on, and is no finding about any artifact."""
        self._record = record
        self._andon = andon
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + budget_s if budget_s else float("inf")
        self.unmade: dict[str, str] = {}
        """Path of a file that our converter cannot make -> why; claims about it are inapplicable."""

    def lacks(self, *artifacts: Artifact | None) -> str:
        """Say why one of the artifacts could not be made, nothing if all are there or were never tried."""
        paths = (one.path for one in artifacts if one is not None)
        return next((self.unmade[path] for path in paths if path in self.unmade), "")

    def observe(self, evidence: Evidence) -> None:
        """Record an entry and stop the line if it is one that the policy stops for."""
        with self._lock:
            if self.abandoned:
                return
            self._record(evidence)
            if self.recall(evidence):
                self._andon(evidence)

    def recall(self, evidence: Evidence) -> bool:
        """Stop for an entry that has been recorded, if the policy stops for it, and say whether it was this one."""
        if self.reason or not self._stops(evidence):
            return False
        self.reason = f"the line was stopped by {evidence.gate_id} ({evidence.id})"
        return True

    def broke(self, fault: Exception) -> None:
        """Stop for something that is no evidence: a full disk, a bug; nothing is recorded any more."""
        with self._lock:
            self.fault = self.fault or fault

    @property
    def abandoned(self) -> bool:
        """True if what is left is not to be recorded, so that a resumed run does it."""
        return self.interrupted or self.fault is not None

    def _stops(self, evidence: Evidence) -> bool:
        if not evidence.outcome.failed or self.policy == "collect_all":
            return False
        if self.policy == "stop_on_p0":
            # A crash or a hang falsifies the stability gateway, whatever the claim was about.
            return evidence.severity is Severity.P0 or evidence.outcome is not Outcome.FALSIFIED
        return True

    def stopped(self) -> bool:
        """Say whether no new work may begin; running work is abandoned too."""
        if not self.reason and time.monotonic() > self._deadline:
            self.reason = "the time budget of the tier was used up"
        return self.abandoned or bool(self.reason)

    def enough(self) -> bool:
        """Say whether to end before the next group, in an orderly way; what is left is left to somebody else."""
        return False
