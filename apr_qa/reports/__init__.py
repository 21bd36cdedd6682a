"""Reports: pure renderings of one judged run; no clock, no files, hostile text made harmless."""

from __future__ import annotations

from typing import Any, Protocol

from apr_qa.plugins import Registry
from apr_qa.tally import Tally, tallied
from apr_qa.vocabulary import Evidence, EvidenceHeader, GateVerdict, Record

REPORTS: Registry[Report] = Registry("reports")


class GateInfo(Record, frozen=True):
    """What a reader wants to know about a gate id."""

    id: str
    hypothesis: str
    severity: str
    category: str = ""
    measure: str = ""
    threshold: str = ""
    source: str = ""


class Run(Record, frozen=True):
    """Everything a report may show, all of it recomputable from the evidence file."""

    header: EvidenceHeader
    evidence: tuple[Evidence, ...]
    """All entries; of more than `tally.WHOLE` the first of each group of alike ones."""
    verdicts: tuple[GateVerdict, ...]
    """One per gate id seen in the evidence; the gateways G0…G4 come first."""
    certificate: dict[str, Any]
    """The certificate as JSON-ready values."""
    gates: dict[str, GateInfo]
    counts: Tally | None = None
    """All entries counted; None where ``evidence`` holds them all."""

    @property
    def tally(self) -> Tally:
        """Return all entries, counted."""
        return tallied(self.evidence) if self.counts is None else self.counts


class Report(Protocol):
    """One rendering.

    One whose page loads details on demand has ``details(run)`` besides: file name -> content.
    """

    name: str
    filename: str

    def render(self, run: Run) -> str:
        """Return the whole document."""
        ...
