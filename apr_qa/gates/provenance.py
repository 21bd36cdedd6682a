"""What a run says about its artifacts as a set: each is recorded, exists, is one of a kind, and stays as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from apr_qa.gates._across import across, example, example_run, verdict
from apr_qa.tally import Tally
from apr_qa.vocabulary import Artifact, Evidence, EvidenceHeader, GateVerdict, Outcome, Severity

_P0, _P1 = Severity.P0, Severity.P1
_UNTRIED = (Outcome.SKIPPED, Outcome.INAPPLICABLE)
Key = tuple[str, str]


def _key(artifact: Artifact) -> Key:
    return artifact.format, artifact.quantization


def _of(tally: Tally, gate_id: str) -> dict[Key, Evidence]:
    """Return what one gate of files found out: (format, type) -> entry."""
    return {_about(entry): entry for entry in tally.of_gate(gate_id).entries()}


def _about(entry: Evidence) -> Key:
    return entry.scenario.target.format, entry.scenario.target.quantization


def _each(
    gate_id: str, severity: Severity, asked: str, words: tuple[str, str], *, facts: str = ""
) -> Callable[[EvidenceHeader, Tally], GateVerdict]:
    """Return the judge that asks whether every artifact has an answer to one gate (and one fact in it)."""

    def judge(header: EvidenceHeader, tally: Tally) -> GateVerdict:
        found = _of(tally, asked)
        tried = [
            one
            for one in header.artifacts
            if _key(one) not in found or found[_key(one)].outcome not in _UNTRIED
        ]
        if not found or not tried:
            return verdict(gate_id, severity, None, "no artifact was looked at")
        bad = [one for one in tried if not _answered(found.get(_key(one)), facts)]
        deciding = [found[_key(one)].id for one in bad or tried if _key(one) in found]
        if bad:
            named = ", ".join(sorted(" ".join(_key(one)).rstrip() for one in bad))
            return verdict(gate_id, severity, Outcome.FALSIFIED, f"{named}: {words[1]}", deciding)
        said = f"{len(tried)} artifacts: {words[0]}"
        return verdict(gate_id, severity, Outcome.CORROBORATED, said, deciding)

    return judge


def _answered(entry: Evidence | None, fact: str) -> bool:
    return (
        entry is not None and entry.response is not None and bool(not fact or entry.response.facts.get(fact))
    )


def hashes_are_as_recorded(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge the files that were there before: what a worker read has the hash that was recorded at the start."""
    found = _of(tally, "F-PROV-001")
    brought = [one for one in header.artifacts if one.origin != "derived" and one.sha256]
    read = [(one, found[_key(one)]) for one in brought if _key(one) in found]
    read = [(one, entry) for one, entry in read if entry.response is not None]
    if not read:
        return verdict("PROV-006", _P0, None, "no recorded hash was compared")
    bad = [e for one, e in read if e.response and e.response.facts.get("sha256") != one.sha256]
    if bad:
        reason = f"{bad[0].scenario.target.format}: the file is no longer the one that was recorded"
        return verdict("PROV-006", _P0, Outcome.FALSIFIED, reason, [entry.id for entry in bad])
    said = f"{len(read)} files have the recorded hash"
    return verdict("PROV-006", _P0, Outcome.CORROBORATED, said, [entry.id for _, entry in read])


def each_is_one_of_a_kind(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge the list of artifacts: no format and type twice, or claims about them could not be told apart."""
    if not tally.total or not header.artifacts:
        return verdict("PROV-008", _P1, None, "no artifact was looked at")
    twice = sorted(key for key, times in Counter(map(_key, header.artifacts)).items() if times > 1)
    deciding = [entry.id for entry in _of(tally, "F-PROV-001").values()]
    if twice:
        reason = f"{' '.join(twice[0])} is listed more than once"
        return verdict("PROV-008", _P1, Outcome.FALSIFIED, reason, deciding)
    said = f"{len(header.artifacts)} artifacts, each of its own format and type"
    return verdict("PROV-008", _P1, Outcome.CORROBORATED, said, deciding)


def what_is_compared_is_listed(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge comparisons: both sides are artifacts of this run."""
    compared = tally.all.where(
        lambda entry: entry.scenario.target.modality == "compare" and entry.response is not None
    )
    if not compared:
        return verdict("PROV-009", _P1, None, "nothing was compared")
    listed = set(map(_key, header.artifacts))
    bad = compared.where(lambda entry: _about(entry) not in listed)
    if bad:
        target = bad.first.scenario.target
        reason = f"{target.format} {target.quantization} was compared and is no artifact of this run"
        return verdict("PROV-009", _P1, Outcome.FALSIFIED, reason, bad)
    said = f"{len(compared)} comparisons, all of artifacts of this run"
    return verdict("PROV-009", _P1, Outcome.CORROBORATED, said, compared)


_OK = Outcome.CORROBORATED
_SHA = "ab" * 32
_KNOWN = {"sha256": _SHA, "origin": "found", "lineage": {}}


def _file(gate_id: str, cell: str, facts: object) -> Evidence:
    return example(gate_id, cell, "inspect", _OK, facts=facts)


def _run(*entries: Evidence, sha256: str = _SHA) -> tuple[EvidenceHeader, tuple[Evidence, ...]]:
    """Return an example run whose SafeTensors have a recorded hash."""
    header, found = example_run(*entries)
    first, *others = header.artifacts
    artifacts = (msgspec.structs.replace(first, sha256=sha256), *others)
    return msgspec.structs.replace(header, artifacts=artifacts), found


_ST, _GG = "safetensors·cpu·inspect", "gguf·cpu·inspect"
_RECORDED = (_file("F-PROV-001", _ST, _KNOWN), _file("F-PROV-001", _GG, _KNOWN))
_OPENED = (_file("G0-HEADER-001", _ST, {"tensors": 2}), _file("G0-HEADER-001", _GG, {"tensors": 2}))
across(
    "PROV-004",
    _P1,
    "No artifact of the run is without provenance",
    "a hash for each",
    _each(
        "PROV-004", _P1, "F-PROV-001", ("their hashes are recorded", "no hash is recorded"), facts="sha256"
    ),
    _run(*_RECORDED),
    _run(_RECORDED[0]),
    category="provenance",
)
across(
    "PROV-007",
    _P1,
    "Every artifact that the run lists is there",
    "each was opened",
    _each("PROV-007", _P1, "G0-HEADER-001", ("all could be opened", "it could not be opened")),
    _run(*_OPENED),
    _run(_OPENED[0], example("G0-HEADER-001", _GG, "inspect", Outcome.FALSIFIED, reason="no such file")),
    category="provenance",
)
across(
    "PROV-006",
    _P0,
    "A file is what was recorded of it",
    "SHA-256 read by a worker equals the one recorded before the run",
    hashes_are_as_recorded,
    _run(*_RECORDED),
    _run(*_RECORDED, sha256="cd" * 32),
    category="provenance",
)
_TWICE = _run(*_RECORDED)
across(
    "PROV-008",
    _P1,
    "No two artifacts have the same format and type",
    "0 duplicates",
    each_is_one_of_a_kind,
    _run(*_RECORDED),
    (msgspec.structs.replace(_TWICE[0], artifacts=_TWICE[0].artifacts[:1] * 2), _TWICE[1]),
    category="provenance",
)
_COMPARED = example("F-CONTRACT-I4-001", "gguf·cpu·compare", "inspect", _OK, facts={"x": 1})
_STRANGER = example("F-CONTRACT-I4-001", "apr·cpu·compare", "inspect", _OK, facts={"x": 1})
across(
    "PROV-009",
    _P1,
    "Only artifacts of the run are compared",
    "every comparison is of a listed format and type",
    what_is_compared_is_listed,
    _run(_COMPARED),
    _run(_STRANGER),
    category="provenance",
)
