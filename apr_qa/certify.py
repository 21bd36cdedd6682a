"""The main job: the only module that knows the order of the stages.

Collect, then judge, then publish. Nothing but the evidence file crosses from collecting to judging, so what
is published can never differ from what is stored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import bundle, evidence, judge, ledger, plan, regressions, resources, runner
from apr_qa import certificate as certificates
from apr_qa.errors import EnvironmentFault
from apr_qa.gates import GATES
from apr_qa.mqs import DEV_CHECKS, Score, score
from apr_qa.playbook import Playbook
from apr_qa.preparation import Prepared, Settings, Watcher, prepare, prepare_endpoint
from apr_qa.reports import REPORTS, GateInfo, Run
from apr_qa.vocabulary import (
    Evidence,
    EvidenceHeader,
    Model,
    Outcome,
    Tier,
)

EVIDENCE_FILE = "evidence.jsonl"
PARTIAL_FILE = "evidence.partial.jsonl"
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
    run = judged(collect(prepared, book, settings, folder, watcher))
    publish(run, folder)
    regressions.keep(Path(settings.output) / model.slug, run.evidence)
    return run


# ---- collect


def collect(prepared: Prepared, book: Playbook, settings: Settings, folder: Path, watcher: Watcher) -> Path:
    """Run the plan, writing evidence as it comes; return the path of the complete evidence file."""
    partial = folder / PARTIAL_FILE
    header, done = prepared.header, set[str]()
    if settings.resume and partial.exists():
        header, done = _resumable(partial, header)
        watcher.say(f"resuming: {len(done)} of {header.planned} scenarios are done")
    cores = len(os.sched_getaffinity(0))
    jobs = settings.jobs or min(cores, 4, book.model.workers or 4)
    watcher.planned(header.planned)
    limits = runner.Limits(
        scenario_s=settings.timeout_s or book.timeout_s,
        budget_s=book.budget_s,
    )
    with evidence.Writer(partial, header, resume=bool(done)) as writer:

        def record(entry: Evidence) -> None:
            writer.append(entry)
            watcher.happened(entry)

        policy = settings.policy or book.failure_policy

        def andon(entry: Evidence) -> None:
            watcher.andon(entry)
            if policy == "fail_fast":
                for name, text in bundle.documents(header, entry).items():
                    write_atomically(bundle.folder_of(folder) / name, text)
                watcher.say(f"diagnostic bundle: {bundle.folder_of(folder)}")

        line = runner.Line(policy, record, andon=andon, budget_s=limits.budget_s)
        batches = [b for b in (_remaining(batch, done) for batch in prepared.batches) if b.scenarios]
        with _interruptible(line):
            runner.run(batches, line, judge.judge, limits, jobs=jobs, threads=max(1, cores // jobs))
    if line.interrupted:
        raise KeyboardInterrupt
    final = folder / EVIDENCE_FILE
    partial.replace(final)
    return final


def _resumable(partial: Path, header: EvidenceHeader) -> tuple[EvidenceHeader, set[str]]:
    """Return the stored header and the ids already done; a run of something else cannot be resumed."""
    evidence.repair(partial)
    stored, entries = evidence.read(partial)
    for field in ("apr_qa", "model", "tier", "playbook_sha256", "planned"):
        if getattr(stored, field) != getattr(header, field):
            raise EnvironmentFault(
                f"the interrupted run differs in {field}",
                where=str(partial),
                fix="run without --resume to start anew",
            )
    hashes = [[(a.format, a.quantization, a.sha256) for a in h.artifacts] for h in (stored, header)]
    if hashes[0] != hashes[1]:
        raise EnvironmentFault(
            "the artifacts changed since the run was interrupted",
            where=str(partial),
            fix="run without --resume to start anew",
        )
    return stored, {entry.id for entry in entries if entry.outcome is not Outcome.SKIPPED}


def _remaining(batch: plan.Batch, done: set[str]) -> plan.Batch:
    """Leave out what is done; a conversion is repeated because its result may have been cleared away."""
    left = tuple(scenario for scenario in batch.scenarios if scenario.id not in done)
    return msgspec.structs.replace(batch, scenarios=left)


@contextmanager
def _interruptible(line: runner.Line) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a stop of the line, so that children are reaped and evidence is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        line.interrupted = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# ---- judge


def judged(path: Path) -> Run:
    """Return everything that follows from one evidence file, and from nothing else."""
    header, entries = evidence.read(path)
    return assessed(header, entries, evidence.sha256(path))


def assessed(header: EvidenceHeader, entries: Sequence[Evidence], evidence_sha256: str) -> Run:
    """Return verdicts, score and certificate of evidence in any order."""
    entries = tuple(sorted(entries, key=_reading_order))
    header = _with_hashes(header, entries)
    verdicts = judge.verdicts(header, entries)
    result = scored(header, entries, verdicts)
    issued = certificates.issue(header, entries, result, evidence_sha256)
    return Run(
        header=header,
        evidence=entries,
        verdicts=verdicts,
        certificate=msgspec.json.decode(certificates.to_json(issued)),
        gates=gate_infos(verdict.gate_id for verdict in verdicts),
    )


def scored(header: EvidenceHeader, entries: Sequence[Evidence], verdicts: Sequence[Any]) -> Score:
    """Return the score of judged evidence."""
    covered = {
        entry.scenario.target.cell
        for entry in entries
        if entry.response is not None and entry.scenario.claim.kind in ("generate", "chat")
    }
    gateways = [verdict for verdict in verdicts if GATES.get(verdict.gate_id).verdict is not None]
    covered_cells = len(covered & set(header.cells))
    return score(header.tier, gateways, entries, header.cells, covered_cells, header.planned)


def _reading_order(entry: Evidence) -> tuple[str, ...]:
    target = entry.scenario.target
    return (target.format, target.quantization, target.backend, target.modality, entry.gate_id, entry.id)


def _with_hashes(header: EvidenceHeader, entries: Sequence[Evidence]) -> EvidenceHeader:
    """Fill in the hashes of derived artifacts, which did not exist when the header was written."""
    hashes = {
        (entry.scenario.target.format, entry.scenario.target.quantization): str(
            entry.response.facts["sha256"]
        )
        for entry in entries
        if entry.gate_id == "F-PROV-001" and entry.response is not None
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
    issued = certificates.from_json(msgspec.json.encode(run.certificate))
    published = {CERTIFICATE_FILE: certificates.to_json(issued)}
    for _, report in REPORTS.items():
        published[report.filename] = report.render(run)
    return published


def publish(run: Run, folder: Path) -> None:
    """Write certificate and reports beside the evidence."""
    for name, text in documents(run).items():
        write_atomically(folder / name, text)


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


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
    temporary.replace(path)
