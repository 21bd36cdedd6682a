"""Certificate: what may be published about one model, all of it recomputable from its evidence file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from apr_qa.errors import EvidenceDamaged
from apr_qa.groups import Selection
from apr_qa.tally import Tally, tallied
from apr_qa.vocabulary import DEVICES, FORMATS, Evidence, EvidenceHeader, Outcome

if TYPE_CHECKING:
    from apr_qa.mqs import Score

MAX_FINDINGS = 50


class _Part(BaseModel):
    """Frozen, and closed to keys that nobody declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Gateway(_Part):
    """One of G0…G4; ``outcome`` is None where it is unproven."""

    id: str
    outcome: str | None
    reason: str


class Category(_Part):
    """A slice of the same evidence; ``rate`` is None where nothing counts."""

    rate: float | None
    n: int


class Coverage(_Part):
    """Planned cells and those with evidence that counts."""

    covered: int
    planned: int
    text: str


class CertifiedArtifact(_Part):
    """One file or directory that was examined."""

    format: str
    quantization: str
    origin: str
    sha256: str
    source: str


class Finding(_Part):
    """One entry that counts and does not corroborate."""

    gate_id: str
    severity: str
    outcome: str
    target: str
    reason: str
    evidence: str
    """Id of the entry in the evidence file."""


class PlaybookIdentity(_Part):
    """The playbook that was run."""

    name: str
    sha256: str


class Certificate(_Part):
    """The verdict over one evidence file."""

    model_id: str
    revision: str
    family: str
    tier: str
    status: str
    score: int | None
    grade: str
    reason: str
    rate: float | None
    counts: dict[str, int]
    gateways: tuple[Gateway, ...]
    categories: dict[str, Category]
    coverage: Coverage
    failure_rate_upper_95: float | None
    ground_truth: str
    artifacts: tuple[CertifiedArtifact, ...]
    speeds: dict[str, float | None]
    """Median tokens per second of the ``run`` modality by ``format_backend``; None: not measured."""
    findings: tuple[Finding, ...]
    """P0 first, at most 50."""
    findings_total: int
    """How many there are; more than 50 are in the evidence file only."""
    apr_qa: str
    playbook: PlaybookIdentity
    evidence_sha256: str
    started: str
    finished: str
    """Latest timestamp of the evidence; the issuing itself reads no clock."""


def issue(
    header: EvidenceHeader, evidence: Tally | Iterable[Evidence], score: Score, evidence_sha256: str
) -> Certificate:
    """Return the certificate of one evidence file; the same input gives the same certificate."""
    tally = tallied(evidence)
    doubts = tally.all.where(lambda e: e.outcome.counted and e.outcome is not Outcome.CORROBORATED)
    covered, planned = score.coverage
    return Certificate(
        model_id=header.model.id,
        revision=header.model.revision,
        family=header.model.family,
        tier=header.tier.value,
        status=score.status,
        score=score.score,
        grade=score.grade,
        reason=score.reason,
        rate=score.rate,
        counts=dict(sorted(score.counts.items())),
        gateways=tuple(
            Gateway(id=item.gate_id, outcome=item.outcome and item.outcome.value, reason=item.reason)
            for item in score.gateways
        ),
        categories={name: Category(**share) for name, share in score.categories.items()},
        coverage=Coverage(covered=covered, planned=planned, text=f"{covered}/{planned} cells"),
        failure_rate_upper_95=score.failure_rate_upper,
        ground_truth=header.ground_truth,
        artifacts=_artifacts(header),
        speeds=_speeds(tally),
        findings=_findings(doubts),
        findings_total=len(doubts),
        apr_qa=header.apr_qa,
        playbook=PlaybookIdentity(name=header.playbook, sha256=header.playbook_sha256),
        evidence_sha256=evidence_sha256,
        started=header.started,
        finished=tally.latest,
    )


def to_json(certificate: Certificate) -> str:
    """Return the document that is published: fields in declared order, one line break at the end."""
    return certificate.model_dump_json(indent=2) + "\n"


def from_json(text: str | bytes, *, where: str = "certificate") -> Certificate:
    """Read a published certificate; raises EvidenceDamaged naming ``where`` and the first wrong field."""
    try:
        return Certificate.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(step) for step in fault["loc"])
        raise EvidenceDamaged(
            f"not a certificate: {field}: {fault['msg']}" if field else f"not a certificate: {fault['msg']}",
            where=where,
            fix="issue it again from its evidence.jsonl with `apr-qa score`",
        ) from error


def _artifacts(header: EvidenceHeader) -> tuple[CertifiedArtifact, ...]:
    """Return the examined artifacts without their local paths."""
    return tuple(
        CertifiedArtifact(
            format=item.format,
            quantization=item.quantization,
            origin=item.origin,
            sha256=item.sha256,
            source=item.source,
        )
        for item in header.artifacts
    )


def _findings(doubts: Selection) -> tuple[Finding, ...]:
    """Return counted entries that do not corroborate: P0 first, failures before doubts, then by id.

    A group keeps more of them than are listed, so that the first of all are among those that it keeps.
    """
    found = doubts.entries()
    found.sort(key=lambda entry: (entry.severity, not entry.outcome.failed, entry.gate_id, entry.id))
    return tuple(
        Finding(
            gate_id=entry.gate_id,
            severity=entry.severity.value,
            outcome=entry.outcome.value,
            target=_target(entry),
            reason=entry.reason,
            evidence=entry.id,
        )
        for entry in found[:MAX_FINDINGS]
    )


def _target(entry: Evidence) -> str:
    """Return the cell of an entry, with its quantisation where it has one."""
    target = entry.scenario.target
    return f"{target.cell} {target.quantization}".rstrip()


def _speeds(tally: Tally) -> dict[str, float | None]:
    """Return the median speed of each format and device over the ``run`` entries that hold text."""
    ran = tally.all.where(lambda entry: entry.scenario.target.modality == "run" and _has_text(entry))
    by_place = ran.by(lambda entry: f"{entry.scenario.target.format}_{entry.scenario.target.backend}")
    names = dict.fromkeys(
        [*(f"{form}_{device}" for form in FORMATS for device in DEVICES), *sorted(by_place)]
    )
    # A rate of zero is none that was measured.
    medians = {name: ran.median("rates", zeros=False) for name, ran in by_place.items()}
    return {name: medians.get(name) for name in names}


def _has_text(entry: Evidence) -> bool:
    return entry.response is not None and bool(entry.response.text)
