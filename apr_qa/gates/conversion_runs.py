"""What a conversion did to behaviour, judged over the answers of several artifacts to the same questions.

These gates look at all evidence of a run, as the gateways do, because one answer alone says nothing: a weak
model may be wrong, but a copy of it may not be wrong where it is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from apr_qa.gates import Gate, Verdict, enter
from apr_qa.gates._across import TEXT_KINDS, example, texts, verdict
from apr_qa.vocabulary import (
    Artifact,
    Evidence,
    EvidenceHeader,
    GateVerdict,
    Model,
    Outcome,
    Severity,
    Tier,
    digest,
)

LOST_SHARE = {"f32": 0.25, "f16": 0.25, "bf16": 0.25, "q8_0": 0.25}
COARSE_SHARE = 0.5
"""Share of the truth's right answers that a conversion may turn wrong. One healthy 4-bit file of a small model
loses some of them (its first choices agree with the truth's on 73 % of tokens for Q4_0 of SmolLM2-135M), a broken
one all; what lies between is for the divergence gates."""
LEAST_LOST = 2


def _verdict(
    gate_id: str, outcome: Outcome | None, reason: str, deciding: Iterable[Evidence] = ()
) -> GateVerdict:
    return verdict(gate_id, Severity.P0, outcome, reason, deciding)


def _answers(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Return what was generated, in an order that does not depend on that of arrival."""
    found = [entry for entry in texts(evidence) if entry.response is not None]
    return [entry for entry in found if entry.scenario.claim.temperature == 0]


def _by_question(answers: Iterable[Evidence]) -> dict[str, Evidence]:
    """Return the ground truth's answer to every question."""
    return {
        digest(entry.scenario.claim, entry.scenario.target.modality): entry
        for entry in answers
        if entry.scenario.target.format == "safetensors" and entry.scenario.target.backend == "cpu"
    }


def _pairs(answers: Sequence[Evidence]) -> dict[str, list[tuple[Evidence, Evidence]]]:
    """Return (truth's answer, artifact's answer) to the same question, by artifact."""
    truth = _by_question(answers)
    found: dict[str, list[tuple[Evidence, Evidence]]] = defaultdict(list)
    for entry in answers:
        target = entry.scenario.target
        twin = truth.get(digest(entry.scenario.claim, target.modality))
        if twin is not None and twin is not entry and target.format != "safetensors":
            found[f"{target.format} {target.quantization} {target.backend}"].append((twin, entry))
    return found


def meaning_is_kept(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """Judge the basic questions that the truth answers rightly: artifacts must not get most of them wrong."""
    answers = [entry for entry in _answers(evidence) if entry.scenario.claim.basic]
    compared: list[Evidence] = []
    for artifact, pairs in sorted(_pairs(answers).items()):
        right = [(one, other) for one, other in pairs if one.outcome is Outcome.CORROBORATED]
        lost = [other for _, other in right if other.outcome is Outcome.FALSIFIED]
        share = LOST_SHARE.get(artifact.split(" ")[1], COARSE_SHARE)
        if len(lost) >= LEAST_LOST and len(lost) > share * len(right):
            count = f"wrong on {len(lost)} of {len(right)} questions that the truth answers"
            reason = f"{artifact}: {count}: {lost[0].reason}"
            return _verdict("F-CONV-SEMANTIC-001", Outcome.FALSIFIED, reason, lost)
        compared += [other for _, other in right]
    if not compared:
        return _verdict("F-CONV-SEMANTIC-001", None, "no answer of a conversion was compared")
    reason = f"{len(compared)} answers of conversions to questions that the truth answers rightly"
    return _verdict("F-CONV-SEMANTIC-001", Outcome.CORROBORATED, reason, compared)


def conversions_infer(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """Judge every artifact that a conversion made: it loads, and gives text."""
    entries = sorted(evidence, key=lambda entry: entry.id)
    made = sorted({(a.format, a.quantization) for a in header.artifacts if a.origin == "derived"})
    proven: list[Evidence] = []
    for artifact in made:
        own = [e for e in entries if (e.scenario.target.format, e.scenario.target.quantization) == artifact]
        loads = [e for e in own if e.scenario.claim.kind == "load"]
        failed = [e for e in loads if e.outcome.failed]
        texts = [e for e in own if e.scenario.claim.kind in TEXT_KINDS and e.outcome.counted]
        spoken = [e for e in texts if e.response is not None and (e.response.text or "").strip()]
        if failed or (texts and not spoken):
            reason = f"{' '.join(artifact)}: {failed[0].reason if failed else 'gave no text at all'}"
            return _verdict("F-CONV-INFER-001", Outcome.FALSIFIED, reason, failed or texts)
        if spoken and any(e.outcome is Outcome.CORROBORATED for e in loads):
            proven += spoken[:1]
    if not proven:
        return _verdict("F-CONV-INFER-001", None, "no converted file was run")
    reason = f"{len(proven)} of {len(made)} converted files load and generate"
    return _verdict("F-CONV-INFER-001", Outcome.CORROBORATED, reason, proven)


# ---- examples


_HEADER = EvidenceHeader(
    apr_qa="0",
    model=Model(id="example"),
    tier=Tier.MVP,
    playbook="example",
    playbook_sha256="",
    artifacts=(
        Artifact(format="safetensors", path="", quantization="f32"),
        Artifact(format="apr", path="", quantization="f32", origin="derived"),
    ),
    ground_truth="safetensors",
    cells=("safetensors·cpu·run", "apr·cpu·run"),
    planned=1,
)
_QUESTIONS = ("What is 2 + 2?", "The opposite of hot is")


def _run(outcome: Outcome, text: str) -> tuple[Evidence, ...]:
    """Return both artifacts' answers to two questions; the truth's are right."""
    own, made = "safetensors·cpu·run", "apr·cpu·run"
    right = Outcome.CORROBORATED
    truth = [example("F-QUAL-001", own, "generate", right, "right", prompt=asked) for asked in _QUESTIONS]
    load = example("G1-LOAD", made, "load", right, "")
    answers = [example("F-QUAL-001", made, "generate", outcome, text, prompt=asked) for asked in _QUESTIONS]
    return (*truth, load, *answers)


def _gate(
    gate_id: str,
    hypothesis: str,
    measure: str,
    threshold: str,
    judge: Verdict,
    fails: object,
) -> None:
    enter(
        Gate(
            id=gate_id,
            category="conversion",
            severity=Severity.P0,
            hypothesis=hypothesis,
            measure=measure,
            threshold=threshold,
            verdict=judge,
            corroborates=(_HEADER, _run(Outcome.CORROBORATED, "right")),
            falsifies=fails,
        )
    )


_gate(
    "F-CONV-SEMANTIC-001",
    "What the ground truth answers rightly, its conversions answer rightly too",
    "basic questions that the truth answers rightly, put to every other artifact in the same way",
    "wrong on at most a quarter (half for types below 8 bits), or on a single one",
    meaning_is_kept,
    (_HEADER, _run(Outcome.FALSIFIED, "wrong")),
)
_gate(
    "F-CONV-INFER-001",
    "Every converted file loads in its engine and generates text",
    "load and text evidence of every artifact that a conversion of this run made",
    "loaded, and at least one text that is not blank",
    conversions_infer,
    (_HEADER, _run(Outcome.FALSIFIED, " ")),
)
