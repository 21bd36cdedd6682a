"""Gates over what a playbook lets measure: speed, repeatability, edges, states, refusals."""

from __future__ import annotations

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inconclusive, text_example
from apr_qa.gates._measured import measured_gate
from apr_qa.vocabulary import Judgement, Severity

_FEWEST_ITERATIONS = 20
"""Fewer generations say nothing about a leak."""


def at_least(key: str, what: str, unit: str) -> Check:
    """Return a check that a measured number reaches the limit that the playbook states."""

    def check(facts: Facts) -> Judgement:
        number, limit = facts.get(key), facts.get("limit")
        if number is None:
            return inconclusive(f"{what} was not measured")
        if limit is not None and number < limit:
            return falsified(f"{what} {number:g} {unit}, asked for {limit:g}; {_repeated(facts)}")
        return corroborated(f"{what} {number:g} {unit}; {_repeated(facts)}")

    return check


def at_most(key: str, what: str, unit: str) -> Check:
    """Return a check that a measured number stays within the limit that the playbook states."""

    def check(facts: Facts) -> Judgement:
        number, limit = facts.get(key), facts.get("limit")
        if number is None:
            return inconclusive(f"{what} was not measured")
        if limit is not None and number > limit:
            return falsified(f"{what} {number:g} {unit}, allowed are {limit:g}; {_repeated(facts)}")
        return corroborated(f"{what} {number:g} {unit}; {_repeated(facts)}")

    return check


def _repeated(facts: Facts) -> str:
    return f"{facts['repetitions']} of {facts['asked']} repetitions after {facts['warmup']} for warm-up"


def speed_is_kept(facts: Facts) -> Judgement:
    if facts["tokens_per_s"] is None:
        return inconclusive("the speed was not measured")
    share = facts["tokens_per_s"] / facts["baseline"]
    said = f"{facts['tokens_per_s']:g} tokens per second, {share:.0%} of the earlier {facts['baseline']:g}"
    return corroborated(said) if share >= facts["limit"] else falsified(said)


def gpu_is_faster(facts: Facts) -> Judgement:
    here, there = facts["here"]["tokens_per_s"], facts["cpu"]["tokens_per_s"]
    if not here or not there:
        return inconclusive("the speed was not measured on both devices")
    said = f"{here / there:.2f} times the speed of the CPU, asked for {facts['limit']:g}"
    return corroborated(said) if here / there >= facts["limit"] else falsified(said)


def memory_is_given_back(facts: Facts) -> Judgement:
    if facts["iterations"] < _FEWEST_ITERATIONS or facts["before_mb"] <= 0:
        return inconclusive(f"only {facts['iterations']} generations were made in time")
    growth = facts["after_mb"] / facts["before_mb"] - 1
    said = f"memory grew by {growth:.2%} over {facts['iterations']} generations"
    return falsified(said) if growth >= 0.01 else corroborated(said)


def all_are_answered(facts: Facts) -> Judgement:
    said = f"{facts['answered']} of {facts['requests']} simultaneous requests were answered"
    if not facts["requests"]:
        return inconclusive("nothing was asked")
    return corroborated(said) if facts["answered"] >= 0.99 * facts["requests"] else falsified(said)


def edge_is_survived(facts: Facts) -> Judgement:
    if not facts["answers"]:
        return inconclusive("nothing was asked")
    for answer in facts["answers"]:
        if answer.get("tokens") is not None and answer["tokens"] > answer["most"]:
            return falsified(f"{answer['tokens']} tokens although at most {answer['most']} were asked for")
        if "\ufffd" in (answer.get("text") or "") and answer.get("finish_reason") == "stop":
            return falsified("the text holds characters that are no Unicode")
    refused = sum("refused" in answer for answer in facts["answers"])
    return corroborated(
        f"{len(facts['answers'])} requests answered or, {refused} of them, refused in good order"
    )


def states_were_walked(facts: Facts) -> Judgement:
    if facts["failed"]:
        return falsified(f"after {len(facts['steps'])} steps: {facts['failed'][0]}")
    if not facts["steps"]:
        return inconclusive("no transition could be walked")
    if facts["left"]:
        return falsified(f"{len(facts['left'])} transitions were never reached, first {facts['left'][0]}")
    said = f"{len(facts['steps'])} steps, loaded {facts['loads']} times"
    return corroborated(f"{said}; {len(facts['not_provoked'])} transitions on failures were not provoked")


def damage_is_refused(facts: Facts) -> Judgement:
    if facts["refused"]:
        return corroborated(f"a {facts['damage']} file is refused: {facts['said']}")
    return falsified(f"a {facts['damage']} file was loaded as if nothing were wrong")


_PROFILE = {
    "warmup": 3,
    "asked": 10,
    "repetitions": 10,
    "tokens": 320,
    "tokens_per_s": 24.0,
    "p50_ms": 41.0,
    "p99_ms": 55.0,
    "slowest_first_ms": 120.0,
    "peak_memory_mb": 900.0,
}
_DECODED = "repeated greedy decoding of 32 tokens after warm-up, end tokens ignored"
for _id, _what, _check, _limit, _severity in (
    (
        "F-PROFILE-CI-001",
        "Decoding is as fast as the playbook asks",
        at_least("tokens_per_s", "median speed", "tokens per second"),
        (10.0, 30.0),
        Severity.P1,
    ),
    (
        "F-PROFILE-CI-002",
        "Hardly any token takes longer than the playbook allows",
        at_most("p99_ms", "99 % of tokens within", "ms"),
        (500.0, 50.0),
        Severity.P1,
    ),
    (
        "F-PROFILE-CI-003",
        "A usual token takes no longer than the playbook allows",
        at_most("p50_ms", "half of the tokens within", "ms"),
        (500.0, 40.0),
        Severity.P2,
    ),
    (
        "F-PROFILE-CI-004",
        "The first token comes in the time that the playbook allows",
        at_most("slowest_first_ms", "first token within", "ms"),
        (5000.0, 100.0),
        Severity.P1,
    ),
    (
        "F-PROFILE-CI-005",
        "Decoding needs no more memory than the playbook allows",
        at_most("peak_memory_mb", "peak memory", "MB"),
        (8192.0, 512.0),
        Severity.P2,
    ),
):
    measured_gate(
        _id,
        "performance",
        _what,
        _check,
        {**_PROFILE, "limit": _limit[0]},
        {"limit": _limit[1]},
        measure=_DECODED,
        threshold="the limit of the playbook; none: what is measured is recorded",
        severity=_severity,
    )
measured_gate(
    "F-PERF-003",
    "performance",
    "The GPU is at least as fast as the CPU",
    gpu_is_faster,
    {"here": {"tokens_per_s": 90.0}, "cpu": {"tokens_per_s": 20.0}, "limit": 1.0},
    {"here": {"tokens_per_s": 10.0}},
    measure=f"{_DECODED}, on both devices of the same machine",
    threshold="1.0, or what the playbook asks for",
)
measured_gate(
    "F-REGR-002",
    "performance",
    "Decoding is as fast as in the stored run of this model",
    speed_is_kept,
    {**_PROFILE, "baseline": 25.0, "limit": 0.9},
    {"baseline": 40.0},
    measure=f"{_DECODED}, against the profile in the stored evidence",
    threshold="0.9 of the earlier speed",
    severity=Severity.P2,
)
measured_gate(
    "F-STAB-002",
    "stability",
    "Generating again and again holds no more memory",
    memory_is_given_back,
    {"iterations": 100, "before_mb": 500.0, "after_mb": 501.0},
    {"after_mb": 520.0},
    measure="resident memory before and after 100 generations, ten for warm-up aside",
    threshold="below 1 %",
)
measured_gate(
    "F-STAB-003",
    "stability",
    "Requests that come at the same time are all answered",
    all_are_answered,
    {"requests": 8, "answered": 8},
    {"answered": 7},
    measure="eight requests in one batch",
    threshold="99 %",
    severity=Severity.P2,
)
measured_gate(
    "F-EDGE-001",
    "edge",
    "An empty prompt is answered or refused in good order",
    edge_is_survived,
    {"which": "empty", "answers": [{"most": 8, "tokens": 8, "text": " a", "finish_reason": "length"}]},
    {"answers": [{"most": 8, "tokens": 9, "text": " a", "finish_reason": "length"}]},
    measure="an empty prompt and one of blanks, in the model that is loaded",
    threshold="no crash, no token too many, no broken character",
    severity=Severity.P2,
)
_WALK = {"steps": ["idle --start--> ready"], "failed": [], "left": [], "not_provoked": [], "loads": 1}
measured_gate(
    "F-STATE-MACHINE-001",
    "stability",
    "The model can be taken through the states of the playbook",
    states_were_walked,
    _WALK,
    {"failed": ["load in state idle: the file is cut off"]},
    measure="every action done for real: load, generate, chat, serve, stop; all transitions that are no failures",
    threshold="each one walked",
)
for _index, _damage in enumerate(("truncated", "missing", "foreign"), start=1):
    measured_gate(
        f"F-LOAD-REFUSAL-{_index:03}",
        "loading",
        f"A {_damage} file is refused in good order",
        damage_is_refused,
        {"damage": _damage, "refused": True, "said": "the file ends too early", "kind": "MalformedFile"},
        {"refused": False, "said": ""},
        measure="the engine is asked to load a damaged copy, in a process of its own",
        threshold="an error that says what is wrong; no crash, no success",
    )
enter(
    Gate(
        id="F-TRACE-PAYLOAD-002",
        category="quality",
        severity=Severity.P1,
        hypothesis="The text that a traced pass leads to is language, not garbage",
        measure="oracle garbage on the continuation of the traced prompt",
        threshold="no loop, no control characters, no token soup",
        corroborates=text_example(
            "F-TRACE-PAYLOAD-002", "garbage", "2+2=", " 4, because two and two are four."
        ),
        falsifies=text_example("F-TRACE-PAYLOAD-002", "garbage", "2+2=", "the " * 30),
    )
)
