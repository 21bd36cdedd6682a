"""Gateways G0 to G4: each looks at all evidence of a run; one that fails zeroes the score.

A gateway that nothing speaks for is unproven, and an unproven gateway never certifies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from apr_qa.gates import Gate, Verdict, enter
from apr_qa.vocabulary import (
    Artifact,
    Claim,
    Evidence,
    EvidenceHeader,
    GateVerdict,
    Model,
    Outcome,
    Response,
    Scenario,
    Severity,
    Target,
    Tier,
    digest,
)

TRUTH_GARBAGE_SHARE = 0.25
"""More than this share of garbage condemns the ground truth itself. A weak model loops now and then, and
that is its weakness, not a defect of the file; the share is the one the predecessor used (catalogue: G4)."""

DERIVED_GARBAGE_SHARE = 0.05
"""For the other artifacts, outputs that are garbage where the ground truth's are not. Up to 20 texts this
means none at all; beyond, it leaves room for the rare prompt on which a healthy quantisation starts to loop."""

TEXT_KINDS = ("generate", "chat")
LOAD_GATES = ("G1-LOAD", "F-SERVE-001")


def _verdict(
    gate_id: str, outcome: Outcome | None, reason: str, deciding: Iterable[Evidence] = ()
) -> GateVerdict:
    ids = tuple(sorted(entry.id for entry in deciding))
    return GateVerdict(
        gate_id=gate_id, severity=Severity.P0, outcome=outcome, reason=reason, evidence=ids[:20]
    )


def _in_order(entries: Iterable[Evidence]) -> list[Evidence]:
    """Sort by id, so that the verdict does not depend on the order of arrival."""
    return sorted(entries, key=lambda entry: entry.id)


HEADERS_ONLY = "dim-smoke reads headers and infers nothing"


def integrity(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """G0: every artifact was inspected and nothing about its files is falsified."""
    if header.cells and all(cell.startswith("endpoint·") for cell in header.cells):
        return _verdict("G0", Outcome.INAPPLICABLE, "a remote endpoint shows no file")
    entries = _in_order(entry for entry in evidence if entry.gate_id.startswith("G0-"))
    failed = [entry for entry in entries if entry.outcome.failed]
    if failed:
        first = failed[0]
        reason = f"{first.gate_id} on {first.scenario.target.format}: {first.reason}"
        return _verdict("G0", Outcome.FALSIFIED, reason, failed)
    opened = {
        (entry.scenario.target.format, entry.scenario.target.quantization)
        for entry in entries
        # A file that our converter cannot make is not there to be inspected.
        if entry.gate_id == "G0-HEADER-001" and entry.outcome in (Outcome.CORROBORATED, Outcome.INAPPLICABLE)
    }
    wanted = {(artifact.format, artifact.quantization) for artifact in header.artifacts}
    if not wanted or wanted - opened:
        missing = ", ".join(sorted(f"{f} {q}".strip() for f, q in wanted - opened)) or "no artifact"
        return _verdict("G0", None, f"not inspected: {missing}")
    open_ = [e for e in entries if e.gate_id.startswith("G0-KERNEL-") and e.outcome is Outcome.INCONCLUSIVE]
    if open_:
        return _verdict("G0", None, open_[-1].reason, open_)
    passed = [entry for entry in entries if entry.outcome is Outcome.CORROBORATED]
    return _verdict(
        "G0", Outcome.CORROBORATED, f"{len(passed)} claims about {len(wanted)} files hold", passed
    )


def loading(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """G1: each planned format loads in its engine."""
    if header.tier is Tier.DIM_SMOKE:
        return _verdict("G1", Outcome.INAPPLICABLE, HEADERS_ONLY)
    entries = _in_order(entry for entry in evidence if entry.gate_id in LOAD_GATES)
    failed = [entry for entry in entries if entry.outcome.failed]
    if failed:
        return _verdict("G1", Outcome.FALSIFIED, f"{_where(failed[0])}: {failed[0].reason}", failed)
    loaded = {entry.scenario.target.format for entry in entries if entry.outcome is Outcome.CORROBORATED}
    absent = {entry.scenario.target.format for entry in entries if entry.outcome is Outcome.INAPPLICABLE}
    planned = {cell.split("·")[0] for cell in header.cells}
    unproven = planned - loaded - absent
    if unproven or not loaded:
        return _verdict("G1", None, f"never loaded: {', '.join(sorted(unproven or planned)) or 'nothing'}")
    passed = [entry for entry in entries if entry.outcome is Outcome.CORROBORATED]
    return _verdict("G1", Outcome.CORROBORATED, f"{', '.join(sorted(loaded))} load", passed)


def inference(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """G2: each planned cell generates text for a basic prompt."""
    if header.tier is Tier.DIM_SMOKE:
        return _verdict("G2", Outcome.INAPPLICABLE, HEADERS_ONLY)
    basic: dict[str, list[Evidence]] = defaultdict(list)
    for entry in _in_order(evidence):
        if entry.scenario.claim.kind in TEXT_KINDS and entry.scenario.claim.basic:
            basic[entry.scenario.target.cell].append(entry)
    proven: list[Evidence] = []
    unproven: list[str] = []
    for cell in header.cells:
        entries = [entry for entry in basic[cell] if entry.outcome is not Outcome.INAPPLICABLE]
        speaking = [entry for entry in entries if entry.response is not None and _text(entry).strip()]
        ran = [entry for entry in entries if entry.outcome is not Outcome.SKIPPED]
        if speaking:
            proven.append(speaking[0])
        elif ran:
            return _verdict("G2", Outcome.FALSIFIED, f"{cell} gave no text: {ran[0].reason}", ran)
        elif entries or not basic[cell]:
            unproven.append(cell)
    if unproven or not proven:
        return _verdict("G2", None, f"never asked: {', '.join(unproven) or 'no cell'}")
    return _verdict("G2", Outcome.CORROBORATED, f"{len(proven)} cells answer a basic prompt", proven)


def stability(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """G3: nothing crashed and nothing hung."""
    entries = _in_order(evidence)
    failed = [entry for entry in entries if entry.outcome in (Outcome.CRASHED, Outcome.TIMEOUT)]
    if failed:
        return _verdict("G3", failed[0].outcome, f"{_where(failed[0])}: {failed[0].reason}", failed)
    survived = [
        entry for entry in entries if entry.response is not None and entry.scenario.claim.kind in TEXT_KINDS
    ]
    if not survived and header.tier is Tier.DIM_SMOKE:
        return _verdict("G3", Outcome.INAPPLICABLE, HEADERS_ONLY)
    if not survived:
        return _verdict("G3", None, "nothing was generated, so nothing could crash")
    return _verdict("G3", Outcome.CORROBORATED, f"{len(survived)} answers, no crash, no hang", survived)


def sanity(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """G4: generated text is not garbage, unless the ground truth talks the same garbage."""
    if header.tier is Tier.DIM_SMOKE:
        return _verdict("G4", Outcome.INAPPLICABLE, HEADERS_ONLY)
    texts = _in_order(entry for entry in evidence if entry.scenario.claim.kind in TEXT_KINDS and _text(entry))
    if not texts:
        return _verdict("G4", None, "no text was generated")
    truth = {
        digest(entry.scenario.claim, entry.scenario.target.modality): entry
        for entry in texts
        if entry.scenario.target.format == "safetensors" and entry.scenario.target.backend == "cpu"
    }
    by_artifact: dict[str, list[Evidence]] = defaultdict(list)
    for entry in texts:
        target = entry.scenario.target
        by_artifact[f"{target.format} {target.quantization} {target.backend}"].append(entry)
    for artifact, entries in sorted(by_artifact.items()):
        bad = [entry for entry in entries if _garbage(entry) and not _excused(entry, truth)]
        limit = TRUTH_GARBAGE_SHARE if artifact.startswith("safetensors") else DERIVED_GARBAGE_SHARE
        if len(bad) > limit * len(entries):
            reason = f"{artifact}: {len(bad)} of {len(entries)} texts are garbage: {_garbage(bad[0])}"
            return _verdict("G4", Outcome.FALSIFIED, reason, bad)
    return _verdict("G4", Outcome.CORROBORATED, f"{len(texts)} texts are language", texts)


def _excused(entry: Evidence, truth: dict[str, Evidence]) -> bool:
    """Say whether the ground truth's answer to the same claim is garbage too; the truth has no excuse."""
    if entry.scenario.target.format == "safetensors":
        return False
    twin = truth.get(digest(entry.scenario.claim, entry.scenario.target.modality))
    return twin is not None and bool(_garbage(twin))


def _garbage(entry: Evidence) -> str:
    return str(entry.metrics.get("garbage") or "")


def _text(entry: Evidence) -> str:
    return (entry.response.text or "") if entry.response is not None else ""


def _where(entry: Evidence) -> str:
    return f"{entry.gate_id} on {entry.scenario.target.cell}"


# ---- examples: the smallest run that corroborates each gateway, and one that falsifies it

_TARGET = Target(
    model="example",
    format="safetensors",
    quantization="",
    backend="cpu",
    modality="run",
    engine="transformers_torch",
)
_HEADER = EvidenceHeader(
    apr_qa="0",
    model=Model(id="example"),
    tier=Tier.MVP,
    playbook="example",
    playbook_sha256="",
    artifacts=(Artifact(format="safetensors", path=""),),
    ground_truth="safetensors",
    cells=(_TARGET.cell,),
    planned=1,
)


def _entry(gate_id: str, kind: str, outcome: Outcome, text: str | None = None, garbage: str = "") -> Evidence:
    claim = Claim(gate_id=gate_id, kind=kind, severity=Severity.P0, prompt="What is 2 + 2?", basic=True)
    scenario = Scenario(target=_TARGET, claim=claim)
    return Evidence(
        id=scenario.id,
        gate_id=gate_id,
        severity=Severity.P0,
        scenario=scenario,
        outcome=outcome,
        reason="example",
        response=None if text is None else Response(text=text),
        metrics={"garbage": garbage} if garbage else {},
    )


def _example(gate_id: str, kind: str, outcome: Outcome, text: str | None = None, garbage: str = "") -> object:
    return _HEADER, (_entry(gate_id, kind, outcome, text, garbage),)


def _gateway(
    number: int, verdict: Verdict, hypothesis: str, threshold: str, holds: object, fails: object
) -> None:
    enter(
        Gate(
            id=f"G{number}",
            category="gateway",
            severity=Severity.P0,
            hypothesis=hypothesis,
            measure="all evidence of the run",
            threshold=threshold,
            verdict=verdict,
            corroborates=holds,
            falsifies=fails,
        )
    )


_gateway(
    0,
    integrity,
    "Configuration, tokenizer and tensor metadata agree; the file is what it says; all values are finite",
    "every artifact inspected, no G0 claim falsified",
    _example("G0-HEADER-001", "inspect", Outcome.CORROBORATED),
    _example("G0-HEADER-001", "inspect", Outcome.FALSIFIED),
)
_gateway(
    1,
    loading,
    "Each planned format loads in its engine",
    "every planned format loaded at least once, no load failed",
    _example("G1-LOAD", "load", Outcome.CORROBORATED),
    _example("G1-LOAD", "load", Outcome.FALSIFIED),
)
_gateway(
    2,
    inference,
    "Each planned cell generates text for a basic prompt",
    "a non-blank answer in every cell that can run here",
    _example("F-QUAL-001", "generate", Outcome.CORROBORATED, " 4"),
    _example("F-QUAL-001", "generate", Outcome.FALSIFIED, " "),
)
_gateway(
    3,
    stability,
    "Nothing crashes and nothing hangs",
    "0 crashed, 0 timeout, at least one answer",
    _example("F-QUAL-001", "generate", Outcome.CORROBORATED, " 4"),
    _example("F-QUAL-001", "generate", Outcome.CRASHED),
)
_gateway(
    4,
    sanity,
    "Generated text is not garbage; what the ground truth also gives is not the artifact's fault",
    f"ground truth: at most {TRUTH_GARBAGE_SHARE:.0%} garbage; others: at most {DERIVED_GARBAGE_SHARE:.0%} beyond it",
    _example("F-QUAL-001", "generate", Outcome.CORROBORATED, " 4"),
    _example("F-QUAL-001", "generate", Outcome.FALSIFIED, "the the the", "loop"),
)
