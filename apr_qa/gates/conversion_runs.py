"""What a conversion did to behaviour, judged over the answers of several artifacts to the same questions.

These gates look at all evidence of a run, as the gateways do, because one answer alone says nothing: a weak
model may be wrong, but a copy of it may not be wrong where it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from apr_qa.gates import Gate, enter, over_all
from apr_qa.gates._across import example, verdict
from apr_qa.gates._questions import by_modality, names, reason_of, rows_with
from apr_qa.groups import Selection
from apr_qa.tally import TEXT_KINDS, Tally
from apr_qa.vocabulary import (
    Artifact,
    Evidence,
    EvidenceHeader,
    GateVerdict,
    Model,
    Outcome,
    Severity,
    Tier,
)

LOST_SHARE = {"f32": 0.25, "f16": 0.25, "bf16": 0.25, "q8_0": 0.25}
COARSE_SHARE = 0.5
"""Share of the truth's right answers that a conversion may turn wrong. One healthy 4-bit file of a small model
loses some of them (its first choices agree with the truth's on 73 % of tokens for Q4_0 of SmolLM2-135M), a broken
one all; what lies between is for the divergence gates."""
LEAST_LOST = 2


def _verdict(
    gate_id: str, outcome: Outcome | None, reason: str, deciding: Selection | Iterable[str] = ()
) -> GateVerdict:
    return verdict(gate_id, Severity.P0, outcome, reason, deciding)


def _is_basic_answer(entry: Evidence) -> bool:
    claim = entry.scenario.claim
    return entry.response is not None and claim.temperature == 0 and claim.basic


def _is_truth(entry: Evidence) -> bool:
    return entry.scenario.target.format == "safetensors" and entry.scenario.target.backend == "cpu"


def _artifact(entry: Evidence) -> str:
    target = entry.scenario.target
    return f"{target.format} {target.quantization} {target.backend}"


def _held(entry: Evidence) -> bool:
    return entry.outcome is Outcome.CORROBORATED


def meaning_is_kept(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge the basic questions that the truth answers rightly: artifacts must not get most of them wrong."""
    answers = tally.texts.where(_is_basic_answer)
    known = answers.where(_is_truth).where(_held)
    made = answers.where(lambda entry: entry.scenario.target.format != "safetensors")
    if not known or not made:
        return _verdict("F-CONV-SEMANTIC-001", None, "no answer of a conversion was compared")
    truth, compared, deciding = by_modality(known), 0, list[str]()
    for artifact, own in sorted(made.by(_artifact).items()):
        right = rows_with(own, truth)
        wrong = own.where(lambda entry: entry.outcome is Outcome.FALSIFIED)
        lost = names(rows := rows_with(wrong, truth))
        share = LOST_SHARE.get(artifact.split(" ")[1], COARSE_SHARE)
        if len(rows) >= LEAST_LOST and len(rows) > share * len(right):
            count = f"wrong on {len(rows)} of {len(right)} questions that the truth answers"
            reason = f"{artifact}: {count}{reason_of(wrong, lost[0])}"
            return _verdict("F-CONV-SEMANTIC-001", Outcome.FALSIFIED, reason, lost)
        compared += len(right)
        deciding += names(right)
    if not compared:
        return _verdict("F-CONV-SEMANTIC-001", None, "no answer of a conversion was compared")
    reason = f"{compared} answers of conversions to questions that the truth answers rightly"
    return _verdict("F-CONV-SEMANTIC-001", Outcome.CORROBORATED, reason, deciding)


def conversions_infer(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge every artifact that a conversion made: it loads, and gives text."""
    made = sorted({(a.format, a.quantization) for a in header.artifacts if a.origin == "derived"})
    by_file = tally.all.by(lambda e: (e.scenario.target.format, e.scenario.target.quantization))
    proven: list[str] = []
    for artifact in made:
        own = by_file.get(artifact, Selection(()))
        loads = own.where(lambda entry: entry.scenario.claim.kind == "load")
        failed = loads.where(lambda entry: entry.outcome.failed)
        texts = own.where(lambda entry: entry.scenario.claim.kind in TEXT_KINDS and entry.outcome.counted)
        spoken = texts.where(lambda e: e.response is not None and bool((e.response.text or "").strip()))
        if failed or (texts and not spoken):
            reason = f"{' '.join(artifact)}: {failed.first.reason if failed else 'gave no text at all'}"
            return _verdict("F-CONV-INFER-001", Outcome.FALSIFIED, reason, failed or texts)
        if spoken and loads.where(_held):
            proven.append(spoken.first.id)
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
    judge: Callable[[EvidenceHeader, Tally], GateVerdict],
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
            verdict=over_all(judge),
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
