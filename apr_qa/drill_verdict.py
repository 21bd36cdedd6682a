"""What the entries about a spoiled copy mean: a catch, a miss, a false alarm."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from apr_qa.defects import Defect
from apr_qa.vocabulary import FILE_MODALITIES, Artifact, Evidence, Outcome, Record, Severity

CAUGHT, MISSED, ALARM, PASSED, ERROR, NOT = (
    *("caught", "missed", "false alarm", "passed", "error", "not expressible"),
)
ORDER = (MISSED, ALARM, ERROR, CAUGHT, PASSED, NOT)
"""What a reader wants to see first."""
TEXT_KINDS = ("generate", "chat")
PASS_RATE = Fraction(9, 10)
"""Share of all claims that must hold where answers to prompts are compared: the rule of the tiers."""


class Catch(Record, frozen=True, omit_defaults=False):
    """A gate that noticed."""

    gate: str
    severity: Severity
    outcome: Outcome
    stage: str
    """``inspect``, ``compare`` (with the engine), or the cell."""
    reason: str


class Trial(Record, frozen=True, omit_defaults=False):
    """One defect in one container."""

    defect: str
    layer: str
    container: str
    expected: str
    verdict: str
    """One of `ORDER`."""
    model: str = ""
    quantization: str = ""
    gates: tuple[Catch, ...] = ()
    seconds: float | None = None
    reason: str = ""
    description: str = ""
    source: str = ""


def catches(defect: Defect, entry: Evidence, excused: frozenset[str]) -> bool:
    """Say whether an entry notices a defect: it failed, the healthy copy's did not, and it weighs enough.

    A single answer says nothing against a control: a healthy rounding changes a word here and there.
    """
    if defect.expected == "pass" and entry.outcome is Outcome.FALSIFIED and _is_answer(entry):
        return False
    heavy = entry.severity is not Severity.P2 or defect.expected != "reject"
    return entry.outcome.failed and heavy and entry.gate_id not in excused


def _is_answer(entry: Evidence) -> bool:
    return entry.scenario.claim.kind in TEXT_KINDS


def _answers_lost(entries: Sequence[Evidence]) -> list[Evidence]:
    """Return the answers that failed if there are too many for the tiers' pass rule, else nothing."""
    counted = [entry for entry in entries if entry.outcome.counted]
    lost = [entry for entry in counted if _is_answer(entry) and entry.outcome.failed]
    return lost if len(lost) > (1 - PASS_RATE) * len(counted) else []


def exit_code(trials: Sequence[Trial]) -> int:
    """Return 1 for a defect that was missed or a control that alarmed, 3 for a trial that could not be made."""
    verdicts = {trial.verdict for trial in trials}
    return 1 if verdicts & {MISSED, ALARM} else 3 if ERROR in verdicts else 0


def judged(
    defect: Defect,
    container: str,
    model: str,
    artifact: Artifact,
    entries: Sequence[Evidence],
    excused: frozenset[str],
) -> Trial:
    caught = [entry for entry in entries if catches(defect, entry, excused)]
    if defect.expected == "pass":
        caught += _answers_lost(entries)
    gates = tuple(
        Catch(gate=e.gate_id, severity=e.severity, outcome=e.outcome, stage=_stage(e), reason=e.reason)
        for e in caught
    )
    reason = ""
    if defect.expected == "pass":
        proven = any(entry.outcome is Outcome.CORROBORATED for entry in entries)
        verdict = ALARM if caught else PASSED if proven else ERROR
        reason = "" if caught or proven else "no gate could judge the copy"
    else:
        verdict = CAUGHT if caught else MISSED
    known = {"model": model, "quantization": artifact.quantization}
    return trial(defect, container, verdict, gates=gates, reason=reason, **known)


def trial(
    defect: Defect,
    container: str,
    verdict: str,
    *,
    gates: tuple[Catch, ...] = (),
    model: str = "",
    quantization: str = "",
    reason: str = "",
) -> Trial:
    return Trial(
        defect=defect.id,
        layer=defect.layer,
        container=container,
        expected=defect.expected,
        verdict=verdict,
        model=model,
        quantization=quantization,
        gates=gates,
        reason=reason,
        description=defect.description,
        source=defect.source,
    )


def about_files(entry: Evidence) -> bool:
    return entry.scenario.target.modality in FILE_MODALITIES


def _stage(entry: Evidence) -> str:
    target = entry.scenario.target
    if target.modality == "compare":
        return f"compare {target.engine}"
    return target.modality if target.modality in FILE_MODALITIES else target.cell
