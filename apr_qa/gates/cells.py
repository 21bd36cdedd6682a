"""What a run says about its cells as wholes: do they answer, in time, without garbage, and stop by themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from apr_qa.gates import Verdict
from apr_qa.gates._across import across, example, example_run, texts, verdict, where
from apr_qa.vocabulary import Evidence, EvidenceHeader, GateVerdict, Outcome, Severity

LEAST_SHARE = 0.9
"""Share of the judged answers of a cell that have to hold: the pass rate of the mvp tier."""

SLOW_S = 60.0
"""A short answer that takes longer is no use to anybody, on any machine."""

Test = Callable[[Evidence], bool]
_OK, _NO, _P1 = Outcome.CORROBORATED, Outcome.FALSIFIED, Severity.P1


def accepted(gate_id: str, modality: str, device: str) -> Verdict:
    """Return the judge of all cells of one modality on one device."""

    def judge(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
        place = (modality, device)
        own = [e for e in texts(evidence) if (e.scenario.target.modality, e.scenario.target.backend) == place]
        counted = [entry for entry in own if entry.outcome.counted]
        if own and not counted:
            return verdict(gate_id, _P1, Outcome.INAPPLICABLE, own[0].reason, own)
        if not counted:
            return verdict(gate_id, _P1, None, f"nothing was asked of {modality} on {device}")
        bad = [entry for entry in counted if entry.outcome is not _OK]
        said = f"{len(counted) - len(bad)} of {len(counted)} answers of {modality} on {device} are accepted"
        if len(bad) > (1 - LEAST_SHARE) * len(counted):
            return verdict(gate_id, _P1, _NO, f"{said}; first: {where(bad[0])}: {bad[0].reason}", bad)
        return verdict(gate_id, _P1, _OK, said, counted)

    return judge


def every_answer(gate_id: str, applies: Test, good: Test, words: tuple[str, str]) -> Verdict:
    """Return the judge of every answer that ``applies`` lets through: a single one that is not good falsifies."""

    def judge(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
        own = [entry for entry in texts(evidence) if entry.response is not None and applies(entry)]
        if not own:
            return verdict(gate_id, _P1, None, "there is no answer to look at")
        bad = [entry for entry in own if not good(entry)]
        if bad:
            reason = f"{len(bad)} of {len(own)} answers {words[1]}; first: {where(bad[0])}"
            return verdict(gate_id, _P1, _NO, reason, bad)
        return verdict(gate_id, _P1, _OK, f"{len(own)} answers {words[0]}", own)

    return judge


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


def stops_by_itself(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """Judge the chats of every artifact: where the ground truth ends an answer by itself, so must the others."""
    ended: dict[str, list[Evidence]] = defaultdict(list)
    asked: dict[str, list[Evidence]] = defaultdict(list)
    for entry in texts(evidence):
        target, response = entry.scenario.target, entry.response
        if entry.scenario.claim.kind == "chat" and response is not None and response.finish_reason:
            name = f"{target.format} {target.quantization}".rstrip()
            asked[name].append(entry)
            ended[name] += [entry] if response.finish_reason == "stop" else []
    truth = [name for name in ended if name.startswith("safetensors")]
    if not asked or not truth:
        return verdict("F-CHAT-004", _P1, None, "no chat told how it ended")
    if not any(ended[name] for name in truth):
        return verdict(
            "F-CHAT-004", _P1, Outcome.INCONCLUSIVE, "the ground truth never ends an answer either"
        )
    never = sorted(name for name in asked if not ended[name])
    if never:
        reason = f"{never[0]} ended none of {len(asked[never[0]])} answers by itself, the ground truth does"
        return verdict("F-CHAT-004", _P1, _NO, reason, asked[never[0]])
    entries = [entry for group in ended.values() for entry in group]
    return verdict("F-CHAT-004", _P1, _OK, f"{len(entries)} answers of {len(asked)} artifacts ended", entries)


def every_type_works(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """Judge every artifact that was run: at least one of its answers has to be accepted."""
    held: dict[str, int] = defaultdict(int)
    entries: dict[str, list[Evidence]] = defaultdict(list)
    for entry in texts(evidence):
        if entry.outcome.counted:
            name = f"{entry.scenario.target.format} {entry.scenario.target.quantization}".rstrip()
            held[name] += entry.outcome is _OK
            entries[name].append(entry)
    dead = sorted(name for name in entries if not held[name])
    if not entries:
        return verdict("F-COMP-001", _P1, None, "nothing was run")
    if dead:
        reason = f"no answer of {dead[0]} is accepted: {entries[dead[0]][0].reason}"
        return verdict("F-COMP-001", _P1, _NO, reason, entries[dead[0]])
    names = ", ".join(sorted(entries))
    return verdict("F-COMP-001", _P1, _OK, f"{names} work", [e for group in entries.values() for e in group])


def nothing_dies(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """Judge how processes ended: none by a signal, none unasked."""
    died = sorted((e for e in evidence if e.outcome is Outcome.CRASHED), key=lambda entry: entry.id)
    if died:
        reason = f"{len(died)} crashes; first: {where(died[0])}: {died[0].reason}"
        return verdict("F-INT-001", Severity.P0, Outcome.CRASHED, reason, died)
    lived = [entry for entry in evidence if entry.response is not None]
    if not lived:
        return verdict("F-INT-001", Severity.P0, None, "no process was asked anything")
    return verdict("F-INT-001", Severity.P0, _OK, f"{len(lived)} questions, no crash", lived)


def nothing_hangs(header: EvidenceHeader, evidence: Sequence[Evidence]) -> GateVerdict:
    """Judge whether every question was answered in its time."""
    hung = sorted((e for e in evidence if e.outcome is Outcome.TIMEOUT), key=lambda entry: entry.id)
    if hung:
        reason = f"{len(hung)} questions were not answered in time; first: {where(hung[0])}"
        return verdict("F-INT-002", Severity.P0, Outcome.TIMEOUT, reason, hung)
    answered = [entry for entry in evidence if entry.response is not None]
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
