"""What a run says about its cells as wholes: do they answer, in time, without garbage, and stop by themselves."""

from __future__ import annotations

from collections.abc import Callable

from apr_qa.gates._across import across, example, example_run, verdict, where
from apr_qa.tally import SLOW_S, Tally
from apr_qa.vocabulary import Evidence, EvidenceHeader, GateVerdict, Outcome, Severity

LEAST_SHARE = 0.9
"""Share of the judged answers of a cell that have to hold: the pass rate of the mvp tier."""

Test = Callable[[Evidence], bool]
Judge = Callable[[EvidenceHeader, Tally], GateVerdict]
_OK, _NO, _P1 = Outcome.CORROBORATED, Outcome.FALSIFIED, Severity.P1


def accepted(gate_id: str, modality: str, device: str) -> Judge:
    """Return the judge of all cells of one modality on one device."""

    def here(entry: Evidence) -> bool:
        return (entry.scenario.target.modality, entry.scenario.target.backend) == (modality, device)

    def judge(header: EvidenceHeader, tally: Tally) -> GateVerdict:
        own = tally.texts.where(here)
        counted = own.where(_is_counted)
        if own and not counted:
            return verdict(gate_id, _P1, Outcome.INAPPLICABLE, own.first.reason, own)
        if not counted:
            return verdict(gate_id, _P1, None, f"nothing was asked of {modality} on {device}")
        bad = counted.where(lambda entry: entry.outcome is not _OK)
        said = f"{len(counted) - len(bad)} of {len(counted)} answers of {modality} on {device} are accepted"
        if len(bad) > (1 - LEAST_SHARE) * len(counted):
            return verdict(gate_id, _P1, _NO, f"{said}; first: {where(bad.first)}: {bad.first.reason}", bad)
        return verdict(gate_id, _P1, _OK, said, counted)

    return judge


def every_answer(gate_id: str, applies: Test, good: Test, words: tuple[str, str]) -> Judge:
    """Return the judge of every answer that ``applies`` lets through: a single one that is not good falsifies."""

    def judge(header: EvidenceHeader, tally: Tally) -> GateVerdict:
        own = tally.texts.where(lambda entry: entry.response is not None and applies(entry))
        if not own:
            return verdict(gate_id, _P1, None, "there is no answer to look at")
        bad = own.where(lambda entry: not good(entry))
        if bad:
            reason = f"{len(bad)} of {len(own)} answers {words[1]}; first: {where(bad.first)}"
            return verdict(gate_id, _P1, _NO, reason, bad)
        return verdict(gate_id, _P1, _OK, f"{len(own)} answers {words[0]}", own)

    return judge


def _is_counted(entry: Evidence) -> bool:
    return entry.outcome.counted


def _text(entry: Evidence) -> str:
    return (entry.response.text or "") if entry.response is not None else ""


def _is_run(entry: Evidence) -> bool:
    return entry.scenario.target.modality == "run" and entry.scenario.claim.basic


def _is_timed(entry: Evidence) -> bool:
    return entry.response is not None and entry.response.duration_s is not None


def _says_something(entry: Evidence) -> bool:
    return bool(_text(entry).strip())


def _is_language(entry: Evidence) -> bool:
    return not entry.metrics.get("garbage")


def _in_time(entry: Evidence) -> bool:
    return entry.response is not None and (entry.response.duration_s or 0.0) <= SLOW_S


def _artifact(entry: Evidence) -> str:
    return f"{entry.scenario.target.format} {entry.scenario.target.quantization}".rstrip()


def _told_its_end(entry: Evidence) -> bool:
    return (
        entry.scenario.claim.kind == "chat"
        and entry.response is not None
        and bool(entry.response.finish_reason)
    )


def _stopped(entry: Evidence) -> bool:
    return entry.response is not None and entry.response.finish_reason == "stop"


def stops_by_itself(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge the chats of every artifact: where the ground truth ends an answer by itself, so must the others."""
    chats = tally.texts.where(_told_its_end)
    asked, ended = chats.by(_artifact), chats.where(_stopped).by(_artifact)
    truth = [name for name in asked if name.startswith("safetensors")]
    if not asked or not truth:
        return verdict("F-CHAT-004", _P1, None, "no chat told how it ended")
    if not any(name in ended for name in truth):
        return verdict(
            "F-CHAT-004", _P1, Outcome.INCONCLUSIVE, "the ground truth never ends an answer either"
        )
    never = sorted(name for name in asked if name not in ended)
    if never:
        reason = f"{never[0]} ended none of {len(asked[never[0]])} answers by itself, the ground truth does"
        return verdict("F-CHAT-004", _P1, _NO, reason, asked[never[0]])
    entries = chats.where(_stopped)
    return verdict("F-CHAT-004", _P1, _OK, f"{len(entries)} answers of {len(asked)} artifacts ended", entries)


def every_type_works(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge every artifact that was run: at least one of its answers has to be accepted."""
    counted = tally.texts.where(_is_counted)
    entries = counted.by(_artifact)
    held = counted.where(lambda entry: entry.outcome is _OK).by(_artifact)
    dead = sorted(name for name in entries if name not in held)
    if not entries:
        return verdict("F-COMP-001", _P1, None, "nothing was run")
    if dead:
        reason = f"no answer of {dead[0]} is accepted: {entries[dead[0]].first.reason}"
        return verdict("F-COMP-001", _P1, _NO, reason, entries[dead[0]])
    return verdict("F-COMP-001", _P1, _OK, f"{', '.join(sorted(entries))} work", counted)


def nothing_dies(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge how processes ended: none by a signal, none unasked."""
    died = tally.all.where(lambda entry: entry.outcome is Outcome.CRASHED)
    if died:
        reason = f"{len(died)} crashes; first: {where(died.first)}: {died.first.reason}"
        return verdict("F-INT-001", Severity.P0, Outcome.CRASHED, reason, died)
    lived = tally.all.where(lambda entry: entry.response is not None)
    if not lived:
        return verdict("F-INT-001", Severity.P0, None, "no process was asked anything")
    return verdict("F-INT-001", Severity.P0, _OK, f"{len(lived)} questions, no crash", lived)


def nothing_hangs(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge whether every question was answered in its time."""
    hung = tally.all.where(lambda entry: entry.outcome is Outcome.TIMEOUT)
    if hung:
        reason = f"{len(hung)} questions were not answered in time; first: {where(hung.first)}"
        return verdict("F-INT-002", Severity.P0, Outcome.TIMEOUT, reason, hung)
    answered = tally.all.where(lambda entry: entry.response is not None)
    if not answered:
        return verdict("F-INT-002", Severity.P0, None, "no process was asked anything")
    return verdict("F-INT-002", Severity.P0, _OK, f"{len(answered)} questions answered in time", answered)


_NUMBERS = {("run", "cpu"): 1, ("run", "gpu"): 2, ("chat", "cpu"): 3, ("chat", "gpu"): 4}
_NUMBERS |= {("serve", "cpu"): 5, ("serve", "gpu"): 6}
for (_modality, _device), _number in _NUMBERS.items():
    _place = f"safetensors·{_device}·{_modality}"
    across(
        f"F-A{_number}-001",
        _P1,
        f"`{_modality}` on the {_device} gives answers that the oracles accept",
        f"at least {LEAST_SHARE:.0%} of the counted answers",
        accepted(f"F-A{_number}-001", _modality, _device),
        example_run(example("F-QUAL-001", _place, "generate", _OK, " 4")),
        example_run(example("F-QUAL-001", _place, "generate", _NO, " 5")),
        category="core inference",
    )

_RUN = "gguf·cpu·run"
_ANSWERS: tuple[tuple[str, str, str, Test, Test, tuple[str, str], Evidence], ...] = (
    (
        "F-RUN-001",
        "A basic prompt is continued with something",
        "no blank answer",
        _is_run,
        _says_something,
        ("say something", "are blank"),
        example("F-QUAL-001", _RUN, "generate", _NO, " "),
    ),
    (
        "F-RUN-002",
        "A basic prompt is not continued with garbage",
        "no answer that the garbage oracle rejects",
        _is_run,
        _is_language,
        ("are language", "are garbage"),
        example("F-QUAL-001", _RUN, "generate", _NO, "the the the", metrics={"garbage": "it loops"}),
    ),
    (
        "F-RUN-003",
        "Answers come in time",
        f"each within {SLOW_S:g} s",
        _is_timed,
        _in_time,
        ("came in time", f"took more than {SLOW_S:g} s"),
        example("F-QUAL-001", _RUN, "generate", _OK, " 4", duration_s=61.0),
    ),
)
for _id, _hypothesis, _threshold, _applies, _good, _words, _bad in _ANSWERS:
    across(
        _id,
        _P1,
        _hypothesis,
        _threshold,
        every_answer(_id, _applies, _good, _words),
        example_run(example("F-QUAL-001", _RUN, "generate", _OK, " 4", duration_s=0.4)),
        example_run(_bad),
        category="core inference",
    )

_CHAT = "safetensors·cpu·chat"
_ENDED = example("F-QUAL-001", _CHAT, "chat", _OK, "4", finish_reason="stop")
across(
    "F-CHAT-004",
    _P1,
    "Chats end by themselves wherever the ground truth's do",
    "at least one answer of each artifact ends with an end token",
    stops_by_itself,
    example_run(_ENDED),
    example_run(_ENDED, example("F-QUAL-001", "gguf·cpu·chat", "chat", _OK, "4 4 4", finish_reason="length")),
    category="core inference",
)
across(
    "F-COMP-001",
    _P1,
    "Every format and quantisation works",
    "at least one accepted answer of each",
    every_type_works,
    example_run(example("F-QUAL-001", _RUN, "generate", _OK, " 4")),
    example_run(example("F-QUAL-001", _RUN, "generate", _NO, " 5")),
    category="compatibility",
)
across(
    "F-INT-001",
    Severity.P0,
    "No process dies of the artifact",
    "0 crashes",
    nothing_dies,
    example_run(example("F-QUAL-001", _RUN, "generate", _OK, " 4")),
    example_run(example("F-QUAL-001", _RUN, "generate", Outcome.CRASHED, reason="signal 11")),
    category="stability",
)
across(
    "F-INT-002",
    Severity.P0,
    "No question is left without an answer",
    "0 timeouts",
    nothing_hangs,
    example_run(example("F-QUAL-001", _RUN, "generate", _OK, " 4")),
    example_run(example("F-QUAL-001", _RUN, "generate", Outcome.TIMEOUT, reason="60 s")),
    category="stability",
)
