"""The main job: the only module that knows the order of the stages.

Collect, then judge, then publish. Nothing but the evidence file crosses from collecting to judging, so what
is published can never differ from what is stored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from apr_qa import __version__, evidence, judge, ledger, plan, resources, runner, workspace
from apr_qa import certificate as certificates
from apr_qa.backends import BACKENDS
from apr_qa.errors import EnvironmentFault
from apr_qa.gates import GATES
from apr_qa.mqs import Score, score
from apr_qa.playbook import Playbook
from apr_qa.reports import REPORTS, GateInfo, Run
from apr_qa.resolve import resolve
from apr_qa.scenarios import claims, for_modality
from apr_qa.vocabulary import (
    Artifact,
    Claim,
    Evidence,
    EvidenceHeader,
    Model,
    Outcome,
    Record,
    Scenario,
    Severity,
    Target,
    Tier,
)

EVIDENCE_FILE = "evidence.jsonl"
PARTIAL_FILE = "evidence.partial.jsonl"
CERTIFICATE_FILE = "certificate.json"
LEDGER_FILE = "models.csv"


class Settings(Record):
    """What the person at the command line decides; everything else is in the playbook."""

    output: str = "certifications"
    given: dict[str, str] = {}
    """Format -> path of artifacts the user brings."""
    policy: str = ""
    """Failure policy; empty takes the playbook's."""
    timeout_s: float = 0.0
    jobs: int = 0
    gpu: bool = True
    download: bool = True
    resume: bool = False
    endpoint: str = ""


class Watcher(Protocol):
    """Who is told how a run goes on."""

    def say(self, text: str) -> None: ...

    def planned(self, scenarios: int) -> None: ...

    def happened(self, entry: Evidence) -> None: ...

    def andon(self, entry: Evidence) -> None: ...


class Prepared(Record):
    """A run that is decided but not begun."""

    header: EvidenceHeader
    batches: tuple[plan.Batch, ...]


def certify(model: Model, tier: Tier, book: Playbook, settings: Settings, watcher: Watcher) -> Run:
    """Return the judged run of one model, published with its row in the model table and the README.

    Raises ModelUnavailable when no artifact can be had, EnvironmentFault, and KeyboardInterrupt when
    interrupted (the partial evidence stays and ``Settings.resume`` goes on from it).
    """
    run = execute(model, tier, book, settings, watcher)
    if "/" in model.id:
        enter(run, Path(settings.output))
    return run


def execute(model: Model, tier: Tier, book: Playbook, settings: Settings, watcher: Watcher) -> Run:
    """Collect, judge and write evidence, certificate and reports, leaving the model table alone."""
    if settings.endpoint:
        prepared = prepare_endpoint(model, tier, book, settings)
    else:
        prepared = prepare(model, tier, book, settings, watcher)
    folder = Path(settings.output) / model.slug
    run = judged(collect(prepared, book, settings, folder, watcher))
    publish(run, folder)
    return run


# ---- collect


def prepare(model: Model, tier: Tier, book: Playbook, settings: Settings, watcher: Watcher) -> Prepared:
    """Resolve the model, look at what was found, and decide everything that will be tried."""
    given = {name: Path(path) for name, path in settings.given.items()}
    found = resolve(model, given, download=settings.download)
    probes = [_probed(artifact) for artifact in found]
    for artifact, _ in probes:
        watcher.say(f"{artifact.format} {artifact.quantization or '?'}: {artifact.source}")
    facts = next((f for _, f in probes if f.get("architecture")), {})
    stock = plan.stock(
        model.id,
        [artifact for artifact, _ in probes],
        _wanted(book, {artifact.format for artifact in found}),
        _derived,
        _obstacle(facts),
    )
    batches = _batches(model, book, tier, stock, settings, has_template=bool(facts.get("chat_template")))
    header = EvidenceHeader(
        apr_qa=__version__,
        model=msgspec.structs.replace(model, path=""),
        tier=tier,
        playbook=book.name,
        playbook_sha256=book.sha256,
        artifacts=tuple(msgspec.structs.replace(a, path="") for a in stock.artifacts),
        ground_truth=stock.ground_truth,
        cells=plan.cells(book.formats, book.backends, book.modalities),
        planned=sum(len(batch.scenarios) for batch in batches),
        environment=_environment(),
        started=runner.now(),
    )
    return Prepared(header=header, batches=tuple(batches))


def prepare_endpoint(model: Model, tier: Tier, book: Playbook, settings: Settings) -> Prepared:
    """Decide what will be asked of a running server; there is no file to inspect."""
    drawn = [fitted for claim in claims(book, tier) for fitted in for_modality(claim, "serve")]
    batch = plan.endpoint_batch(model.id, settings.endpoint, drawn)
    header = EvidenceHeader(
        apr_qa=__version__,
        model=msgspec.structs.replace(model, path=""),
        tier=tier,
        playbook=book.name,
        playbook_sha256=book.sha256,
        artifacts=(),
        ground_truth="none: a remote endpoint",
        cells=(batch.target.cell,),
        planned=len(batch.scenarios),
        environment=_environment(),
        started=runner.now(),
    )
    return Prepared(header=header, batches=(batch,))


def _probed(artifact: Artifact) -> tuple[Artifact, Mapping[str, Any]]:
    """Hash an artifact and let a worker read its header; a header that is refused leaves facts empty."""
    facts = runner.ask(artifact, "header")
    known = msgspec.structs.replace(
        artifact,
        sha256=workspace.content_sha256(Path(artifact.path)),
        quantization=str(facts.get("quantization", "")),
    )
    return known, facts


def _wanted(book: Playbook, found: set[str]) -> list[tuple[str, str]]:
    """Return (format, quantization): what was found stands for the first GGUF type of the playbook."""
    wanted = [(name, "") for name in book.formats if name != "gguf"]
    if "gguf" in book.formats:
        first, *others = book.quantizations or ["f16"]
        wanted.append(("gguf", "" if "gguf" in found else first))
        wanted += [("gguf", quantization) for quantization in others]
    return wanted


def _derived(source: Artifact, format_name: str, quantization: str) -> Artifact:
    """Name the artifact that converting ``source`` makes; float types are kept, quantised ones widened."""
    float_type = source.quantization if source.quantization in ("f32", "f16", "bf16") else "f32"
    kept = quantization or float_type
    return Artifact(
        format=format_name,
        path=str(workspace.derived_path(source.sha256 or source.path, format_name, kept)),
        quantization=kept,
        origin="derived",
        source=f"converted from {source.format} {source.quantization}".strip(),
    )


def _obstacle(facts: Mapping[str, Any]) -> str:
    """Say why the built-in converter cannot help with this architecture, or nothing."""
    if not facts.get("architecture") or facts["convertible"]:
        return ""
    return (
        f"the built-in converter does not know architecture {facts['architecture']!r}; "
        "bring the file with --artifact FORMAT=PATH"
    )


def _batches(
    model: Model, book: Playbook, tier: Tier, stock: plan.Stock, settings: Settings, *, has_template: bool
) -> list[plan.Batch]:
    batches = [plan.file_batch(model.id, a, stock.wave(a) if a.origin == "derived" else 0) for a in stock.artifacts]
    batches += stock.conversions
    drawn = claims(book, tier)
    for artifact in stock.artifacts:
        if artifact.format not in book.formats:
            continue
        for device in book.backends:
            batches += _cell_batches(model, book, stock, artifact, device, drawn, settings, has_template)
    for format_name, reason in stock.refusals.items():
        missing = Artifact(format=format_name, path="", origin="absent")
        for device in book.backends:
            scenarios = _scenarios(model, book, missing, device, drawn)
            batches += plan.inference_batches(missing, scenarios, wave=0, inapplicable=reason)
    return batches


def _cell_batches(
    model: Model,
    book: Playbook,
    stock: plan.Stock,
    artifact: Artifact,
    device: str,
    drawn: Sequence[Claim],
    settings: Settings,
    has_template: bool,
) -> list[plan.Batch]:
    scenarios = list(_scenarios(model, book, artifact, device, drawn))
    reason = "" if settings.gpu or device == "cpu" else "--no-gpu was given"
    if not reason and scenarios:
        target = scenarios[0].target
        reason = BACKENDS.get(target.engine).unavailable(target) or ""
    wave = stock.wave(artifact)
    if reason or has_template:
        return plan.inference_batches(artifact, scenarios, wave=wave, inapplicable=reason)
    chat = [scenario for scenario in scenarios if scenario.claim.kind == "chat"]
    rest = [scenario for scenario in scenarios if scenario.claim.kind != "chat"]
    batches = plan.inference_batches(artifact, rest, wave=wave)
    if chat:
        without = "the model has no chat template"
        target = chat[0].target
        batches.append(
            plan.Batch(
                target=target, artifact=artifact, scenarios=tuple(chat), wave=wave, inapplicable=without
            )
        )
    return batches


def _scenarios(
    model: Model, book: Playbook, artifact: Artifact, device: str, drawn: Sequence[Claim]
) -> Iterator[Scenario]:
    for modality in book.modalities:
        target = Target(
            model=model.id,
            format=artifact.format,
            quantization=artifact.quantization,
            backend=device,
            modality=modality,
            engine=plan.ENGINES[artifact.format],
        )
        for claim in drawn:
            for fitted in for_modality(claim, modality):
                yield Scenario(target=target, claim=fitted)


def collect(prepared: Prepared, book: Playbook, settings: Settings, folder: Path, watcher: Watcher) -> Path:
    """Run the plan, writing evidence as it comes; return the path of the complete evidence file."""
    partial = folder / PARTIAL_FILE
    header, done = prepared.header, set[str]()
    if settings.resume and partial.exists():
        header, done = _resumable(partial, header)
        watcher.say(f"resuming: {len(done)} of {header.planned} scenarios are done")
    cores = len(os.sched_getaffinity(0))
    jobs = settings.jobs or min(cores, 4)
    watcher.planned(header.planned)
    limits = runner.Limits(
        scenario_s=settings.timeout_s or book.timeout_s,
        budget_s=book.budget_s,
    )
    with evidence.Writer(partial, header, resume=bool(done)) as writer:

        def record(entry: Evidence) -> None:
            writer.append(entry)
            watcher.happened(entry)

        line = runner.Line(
            settings.policy or book.failure_policy, record, andon=watcher.andon, budget_s=limits.budget_s
        )
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


def _environment() -> dict[str, str]:
    from apr_qa.devices import describe_environment

    return describe_environment()


# ---- judge


def judged(path: Path) -> Run:
    """Return everything that follows from one evidence file, and from nothing else."""
    header, entries = evidence.read(path)
    entries = tuple(sorted(entries, key=_reading_order))
    header = _with_hashes(header, entries)
    verdicts = judge.verdicts(header, entries)
    result = scored(header, entries, verdicts)
    issued = certificates.issue(header, entries, result, evidence.sha256(path))
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
    gateways = [verdict for verdict in verdicts if verdict.gate_id in judge.GATEWAYS]
    return score(header.tier, gateways, entries, header.cells, len(covered & set(header.cells)))


def _reading_order(entry: Evidence) -> tuple[str, ...]:
    target = entry.scenario.target
    return (target.format, target.quantization, target.backend, target.modality, entry.gate_id, entry.id)


def _with_hashes(header: EvidenceHeader, entries: Sequence[Evidence]) -> EvidenceHeader:
    """Fill in the hashes of derived artifacts, which did not exist when the header was written."""
    hashes = {
        (entry.scenario.target.format, entry.scenario.target.quantization): str(entry.response.facts["sha256"])
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
    readme = Path("README.md")
    if readme.exists() and ledger.START in (text := readme.read_bytes().decode("utf-8")):
        write_atomically(readme, ledger.splice(text, rows, ledger.coverage_of(root)))


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(text.encode("utf-8"))
    temporary.replace(path)


