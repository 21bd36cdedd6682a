"""The main job: the only module that knows the order of the stages.

Collect, then judge, then publish. Nothing but the evidence file crosses from collecting to judging, so what
is published can never differ from what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import certificate as certificates
from apr_qa import evidence, judge, ledger, regressions, resources
from apr_qa.atomic import write_atomically as write_atomically
from apr_qa.collect import EVIDENCE_FILE as EVIDENCE_FILE
from apr_qa.collect import PARTIAL_FILE as PARTIAL_FILE
from apr_qa.collect import collect, locked
from apr_qa.gates import GATES
from apr_qa.mqs import DEV_CHECKS, Score, score
from apr_qa.playbook import Playbook
from apr_qa.preparation import Settings, Watcher, prepare, prepare_endpoint
from apr_qa.rendering.report_details import FOLDER as DETAILS_FOLDER
from apr_qa.rendering.report_outline import reading_order
from apr_qa.reports import REPORTS, GateInfo, Run
from apr_qa.tally import Tally, tallied
from apr_qa.vocabulary import (
    Evidence,
    EvidenceHeader,
    Model,
    Tier,
)

CERTIFICATE = "certificate"
CERTIFICATE_FILE = "certificate.json"
LEDGER_FILE = "models.csv"


def certify(model: Model, tier: Tier, book: Playbook, settings: Settings, watcher: Watcher) -> Run:
    """Return the judged run of one model, published with its row in the model table and the README.

    Raises ModelUnavailable when no artifact can be had, EnvironmentFault, and KeyboardInterrupt when
    interrupted (the partial evidence stays and ``Settings.resume`` goes on from it).
    """
    run = execute(model, tier, book, settings, watcher)
    if "/" in model.id and tier not in DEV_CHECKS:
        enter(run, Path(settings.output))
    return run


def folder_of(model: Model, tier: Tier, settings: Settings) -> Path:
    """Return where a run is stored: a development check must not overwrite what certifies the model."""
    folder = Path(settings.output) / model.slug
    return folder / "checks" / tier if tier in DEV_CHECKS else folder


def execute(model: Model, tier: Tier, book: Playbook, settings: Settings, watcher: Watcher) -> Run:
    """Collect, judge and write evidence, certificate and reports, leaving the model table alone."""
    if settings.endpoint:
        prepared = prepare_endpoint(model, tier, book, settings)
    else:
        prepared = prepare(model, tier, book, settings, watcher)
    folder = folder_of(model, tier, settings)
    with locked(folder):
        run = judged(collect(prepared, book, settings, folder, watcher))
        publish(run, folder)
    regressions.keep(Path(settings.output) / model.slug, run.evidence)
    return run


# ---- judge


def judged(path: Path) -> Run:
    """Return everything that follows from one evidence file, and from nothing else."""
    header, tally, evidence_sha256 = evidence.count(path)
    return assessed(header, tally, evidence_sha256)


def assessed(header: EvidenceHeader, entries: Tally | Iterable[Evidence], evidence_sha256: str) -> Run:
    """Return verdicts, score and certificate of evidence in any order."""
    tally = tallied(entries)
    header = _with_hashes(header, tally)
    verdicts = judge.verdicts(header, tally)
    result = scored(header, tally, verdicts)
    issued = certificates.issue(header, tally, result, evidence_sha256)
    return Run(
        header=header,
        evidence=tuple(sorted(tally.entries(), key=reading_order)),
        verdicts=verdicts,
        certificate=msgspec.json.decode(certificates.to_json(issued)),
        gates=gate_infos(verdict.gate_id for verdict in verdicts),
        counts=tally,
    )


def scored(header: EvidenceHeader, tally: Tally, verdicts: Sequence[Any]) -> Score:
    """Return the score of judged evidence."""
    answered = tally.texts.where(lambda entry: entry.response is not None)
    covered = {group.first.scenario.target.cell for group in answered.groups}
    gateways = [verdict for verdict in verdicts if GATES.get(verdict.gate_id).verdict is not None]
    covered_cells = len(covered & set(header.cells))
    return score(header.tier, gateways, tally, header.cells, covered_cells, header.planned)


def _with_hashes(header: EvidenceHeader, tally: Tally) -> EvidenceHeader:
    """Fill in the hashes of derived artifacts, which did not exist when the header was written."""
    hashes = {
        (entry.scenario.target.format, entry.scenario.target.quantization): str(
            entry.response.facts["sha256"]
        )
        for entry in tally.of_gate("F-PROV-001").entries()
        if entry.response is not None
    }
    artifacts = tuple(
        msgspec.structs.replace(a, sha256=a.sha256 or hashes.get((a.format, a.quantization), ""))
        for a in header.artifacts
    )
    return msgspec.structs.replace(header, artifacts=artifacts)


def gate_infos(ids: Iterator[str]) -> dict[str, GateInfo]:
    """Return what is registered about the named gates."""
    infos = {}
    for name in ids:
        gate = GATES.get(name)
        infos[name] = GateInfo(
            id=gate.id,
            hypothesis=gate.hypothesis,
            severity=str(gate.severity),
            category=gate.category,
            measure=gate.measure,
            threshold=gate.threshold,
            source=gate.source,
        )
    return infos


# ---- publish


def documents(run: Run) -> dict[str, str]:
    """Return file name -> content of everything that is published beside the evidence."""
    published: dict[str, str] = {}
    for name in (CERTIFICATE, *REPORTS.names()):
        published |= document(name, run)
    return published


def document(name: str, run: Run) -> dict[str, str]:
    """Return file name -> content of one report, with what it loads on demand, or of the certificate."""
    if name == CERTIFICATE:
        return {
            CERTIFICATE_FILE: certificates.to_json(
                certificates.from_json(msgspec.json.encode(run.certificate))
            )
        }
    report = REPORTS.get(name)
    details: dict[str, str] = report.details(run) if hasattr(report, "details") else {}
    return {report.filename: report.render(run), **details}


def publish(run: Run, folder: Path) -> None:
    """Write certificate and reports beside the evidence."""
    published = documents(run)
    for name, text in published.items():
        write_atomically(folder / name, text)
    for stale in (folder / DETAILS_FOLDER).glob("*.js"):
        if f"{DETAILS_FOLDER}/{stale.name}" not in published:
            stale.unlink()


def enter(run: Run, root: Path) -> None:
    """Bring the model table under ``root`` up to date, and the table of a README that shows it."""
    path = root / LEDGER_FILE
    rows = ledger.read(path if path.exists() else resources.find(f"certifications/{LEDGER_FILE}"))
    rows = ledger.record(rows, run.certificate)
    ledger.write(path, rows)
    # A table that is kept elsewhere is none of the README's in the working directory.
    readme = root.resolve().parent / "README.md"
    if readme.exists() and ledger.START in (text := readme.read_bytes().decode("utf-8", "surrogateescape")):
        write_atomically(readme, ledger.splice(text, rows, ledger.coverage_of(root)))
