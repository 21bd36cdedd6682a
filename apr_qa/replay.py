"""One stored entry, tried again: the same claim on the same target, alone."""

from __future__ import annotations

from pathlib import Path

import msgspec

from apr_qa import evidence, judge, plan, runner
from apr_qa.errors import UsageError
from apr_qa.playbook import Playbook
from apr_qa.preparation import Settings, Watcher, prepare
from apr_qa.vocabulary import Evidence, EvidenceHeader, Model, Record


class Replay(Record, frozen=True):
    """What was stored, what happened now, and whether it was the same file."""

    stored: Evidence
    now: Evidence
    same_artifact: bool


def find(evidence_id: str, roots: list[Path]) -> tuple[EvidenceHeader, Evidence]:
    """Return header and entry of an id (or its beginning) from the evidence files under ``roots``."""
    hits: dict[str, tuple[EvidenceHeader, Evidence]] = {}
    files = sorted(path for root in roots for path in root.rglob("evidence*.jsonl"))
    for path in files:
        header, entries = evidence.read(path)
        hits.update({entry.id: (header, entry) for entry in entries if entry.id.startswith(evidence_id)})
    if len(hits) == 1:
        return next(iter(hits.values()))
    looked = ", ".join(map(str, files)) or ", ".join(map(str, roots))
    if hits:
        raise UsageError(f"{evidence_id!r} begins {len(hits)} ids", where=looked, fix="give more of the id")
    raise UsageError(
        f"no entry has the id {evidence_id!r}",
        where=looked,
        fix="name the folder of the evidence with --root",
    )


def again(
    stored: Evidence,
    header: EvidenceHeader,
    model: Model,
    book: Playbook,
    settings: Settings,
    watcher: Watcher,
) -> Replay:
    """Try one entry again: derive what it needs, load its target, ask only this."""
    prepared = prepare(model, header.tier, book, settings, watcher)
    scenario = stored.scenario
    host = next((b for b in prepared.batches if _hosts(b, stored)), None)
    if host is None:
        raise UsageError(
            f"the target of {stored.id} cannot be made here: {scenario.target.cell}",
            fix="bring its file with --artifact FORMAT=PATH",
        )
    single = msgspec.structs.replace(host, scenarios=(scenario,))
    needed = [b for b in prepared.batches if b.target.modality == "convert" and b.wave < host.wave]
    entries: list[Evidence] = []
    line = runner.Line("collect_all", entries.append)
    limits = runner.Limits(scenario_s=settings.timeout_s or book.timeout_s)
    runner.run([*needed, single], line, judge.judge, limits, jobs=1, threads=1)
    now = next(entry for entry in entries if entry.id == stored.id)
    return Replay(
        stored=stored, now=now, same_artifact=_hash(header, stored) == _hash(prepared.header, stored)
    )


def _hosts(batch: plan.Batch, stored: Evidence) -> bool:
    wanted, target = stored.scenario.target, batch.target
    alike = target.modality == wanted.modality or {target.modality, wanted.modality} <= {"run", "chat"}
    return (
        alike
        and (target.format, target.backend, target.engine) == (wanted.format, wanted.backend, wanted.engine)
        and batch.artifact.quantization == wanted.quantization
    )


def _hash(header: EvidenceHeader, stored: Evidence) -> str:
    """Return the hash of the source artifact that the entry is about, directly or by derivation."""
    target = stored.scenario.target
    direct = [
        a.sha256
        for a in header.artifacts
        if (a.format, a.quantization) == (target.format, target.quantization)
    ]
    sources = [a.sha256 for a in header.artifacts if a.origin != "derived"]
    return next((sha256 for sha256 in (*direct, *sources) if sha256), "")
