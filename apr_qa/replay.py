"""One stored entry, tried again: the same claim on the same target, alone, or something smaller that fails too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import evidence, judge, plan, runner, shrink
from apr_qa.errors import UsageError
from apr_qa.playbook import Playbook
from apr_qa.preparation import Prepared, Settings, Watcher, prepare
from apr_qa.vocabulary import Claim, Evidence, EvidenceHeader, Model, Record, Scenario

SEARCH_S = 60.0
"""Seconds that a property is searched anew for."""


class Replay(Record, frozen=True):
    """What was stored, what happened now, and whether it was the same file."""

    stored: Evidence
    now: Evidence
    same_artifact: bool


def find(evidence_id: str, roots: list[Path]) -> tuple[EvidenceHeader, Evidence]:
    """Return header and entry of an id (or its beginning) from the evidence files under ``roots``."""
    hits: dict[str, tuple[EvidenceHeader, Evidence]] = {}
    found = {path for root in roots for path in root.rglob("evidence*.jsonl")}
    compacted = {path for root in roots for path in root.rglob("evidence*.parquet")}
    files = sorted(found | {path for path in compacted if path.with_suffix(".jsonl") not in found})
    for path in files:
        header, entries = evidence.stream(path)
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


class Bench:
    """One target of a stored entry, derived and loaded again for whatever is asked of it."""

    def __init__(
        self, stored: Evidence, header: EvidenceHeader, book: Playbook, settings: Settings, prepared: Prepared
    ) -> None:
        host = _host(prepared.batches, stored)
        if host is None:
            raise UsageError(
                f"the target of {stored.id} cannot be made here: {stored.scenario.target.cell}",
                fix="bring its file with --artifact FORMAT=PATH",
            )
        self._host = host
        self._needed = [b for b in prepared.batches if b.target.modality == "convert" and b.wave < host.wave]
        self._limits = runner.Limits(scenario_s=settings.timeout_s or book.timeout_s)
        self.same_artifact = _hash(header, stored) == _hash(prepared.header, stored)

    def ask(self, scenarios: Sequence[Scenario]) -> list[Evidence]:
        """Try scenarios and return their entries in order."""
        entries: list[Evidence] = []
        line = runner.Line("collect_all", entries.append)
        wanted = msgspec.structs.replace(self._host, scenarios=tuple(scenarios))
        runner.run([*self._needed, wanted], line, judge.judge, self._limits, jobs=1, threads=1)
        self._needed = []  # what was derived stays derived
        by_id = {entry.id: entry for entry in entries}
        return [by_id[scenario.id] for scenario in scenarios]


def bench(
    stored: Evidence,
    header: EvidenceHeader,
    model: Model,
    book: Playbook,
    settings: Settings,
    watcher: Watcher,
) -> Bench:
    """Derive what the target of a stored entry needs; raises UsageError if it cannot be made here."""
    return Bench(stored, header, book, settings, prepare(model, header.tier, book, settings, watcher))


def again(
    stored: Evidence,
    header: EvidenceHeader,
    model: Model,
    book: Playbook,
    settings: Settings,
    watcher: Watcher,
) -> Replay:
    """Try one entry again: load its target and ask only this; of a broken property, only its counterexample."""
    loaded = bench(stored, header, model, book, settings, watcher)
    now = loaded.ask([msgspec.structs.replace(stored.scenario, claim=narrowed(stored))])[0]
    return Replay(stored=stored, now=now, same_artifact=loaded.same_artifact)


def smaller(stored: Evidence, loaded: Bench, examples: int) -> Evidence:
    """Return the entry of the smallest case found within ``examples`` trials that fails as ``stored`` did.

    A property is first reduced from its counterexample and then searched anew. Raises UsageError for an entry
    that nothing smaller can stand for.
    """
    if counterexample(stored) is None:
        return shrink.prompts(stored, loaded.ask, examples)
    limits = {"max_examples": examples, "budget_s": SEARCH_S, "limit_s": 10 * SEARCH_S}
    claims = [
        narrowed(stored, reduce=True, **limits),
        msgspec.structs.replace(narrowed(stored, examples=[], **limits), seed=stored.scenario.claim.seed + 1),
    ]
    found = loaded.ask([msgspec.structs.replace(stored.scenario, claim=claim) for claim in claims])
    failing = [entry for entry in found if counterexample(entry) is not None]
    return min(failing, key=length, default=found[0])


def counterexample(entry: Evidence) -> dict[str, Any] | None:
    """Return the case that broke a property, None for every other entry."""
    if entry.scenario.claim.kind != "property" or entry.response is None:
        return None
    return entry.response.facts.get("counterexample")


def narrowed(stored: Evidence, **changes: Any) -> Claim:
    """Return the claim of an entry; that of a broken property is about its counterexample alone."""
    claim, case = stored.scenario.claim, counterexample(stored)
    if case is None:
        return claim
    params = {**claim.params, "max_examples": 0, "examples": [case], **changes}
    return msgspec.structs.replace(claim, params=params)


def length(entry: Evidence) -> int:
    """Return the characters of a counterexample's JSON, or of the question."""
    case = counterexample(entry)
    return len(msgspec.json.encode(case).decode()) if case is not None else len(entry.scenario.claim.question)


def require_shrinkable(stored: Evidence) -> None:
    """Raise UsageError, with the reason, for an entry that nothing smaller can stand for."""
    if counterexample(stored) is None:
        shrink.require_free(stored)


def _host(batches: Sequence[plan.Batch], stored: Evidence) -> plan.Batch | None:
    """Return the batch that holds the entry, or failing that one that loads its target."""
    loading = [batch for batch in batches if _hosts(batch, stored)]
    same = [b for b in loading if any(s.claim.gate_id == stored.gate_id for s in b.scenarios)]
    holding = [b for b in loading if any(s.id == stored.id for s in b.scenarios)]
    return next(iter((*holding, *same, *loading)), None)


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
