"""Gates over what a playbook lets measure: speed, repeatability, edges, states, refusals, other runtimes."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inconclusive, text_example
from apr_qa.vocabulary import Judgement, Severity

_SOURCE = "apr_qa/measuring"
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


def both_answer(facts: Facts) -> Judgement:
    if not facts["answers"]:
        return inconclusive("nothing was asked")
    for row in facts["answers"]:
        silent = [who for who in ("ours", "theirs") if not (row[who] or "").strip()]
        if silent:
            return falsified(f"no answer to {row['prompt']!r} from {' and '.join(silent)}")
    return corroborated(f"{len(facts['answers'])} prompts answered by both")


def as_fast_as_the_other(facts: Facts) -> Judgement:
    rates = [(r["our_rate"], r["their_rate"]) for r in facts["answers"] if r["our_rate"] and r["their_rate"]]
    if not rates:
        return inconclusive("the speeds were not measured")
    ratio = sum(ours / theirs for ours, theirs in rates) / len(rates)
    said = f"{ratio:.2f} times the other runtime's speed, asked for {facts['least_ratio']:g}"
    return corroborated(said) if ratio >= facts["least_ratio"] else falsified(said)


def first_token_in_time(facts: Facts) -> Judgement:
    pairs = [(r["our_first_s"], r["their_first_s"]) for r in facts["answers"]]
    measured = [(ours, theirs) for ours, theirs in pairs if ours and theirs]
    if not measured:
        return inconclusive("the times to the first token were not measured")
    ratio = sum(ours / theirs for ours, theirs in measured) / len(measured)
    said = f"the first token takes {ratio:.2f} times as long as there"
    return corroborated(said) if ratio <= 3 else falsified(said)


def serves_a_model(facts: Facts) -> Judgement:
    return corroborated(f"it serves {facts['model']}") if facts["served"] else falsified("it serves no model")


def file_is_accepted(facts: Facts) -> Judgement:
    if facts["create"] != 200 or facts["generate"] != 200:
        return falsified(f"it answers {facts['create']} to the file: {facts['said']}")
    if not facts["text"].strip():
        return falsified("it loads the file and says nothing")
    return corroborated("it loads the file and answers")


def golden_logits_agree(facts: Facts) -> Judgement:
    if not facts["prompts"]:
        return inconclusive("nothing was compared")
    for row in facts["prompts"]:
        if "shapes" in row:
            return falsified(
                f"{row['prompt']!r}: logits of shape {row['shapes'][0]}, stored {row['shapes'][1]}"
            )
    worst = max(facts["prompts"], key=lambda row: float(row["disagreeing"]))
    said = f"{worst['disagreeing']:.2%} of the logits disagree at worst, allowed are {facts['allowed']:.0%}"
    return falsified(said) if worst["disagreeing"] > facts["allowed"] else corroborated(said)


def _gate(
    gate_id: str, category: str, hypothesis: str, check: Check, good: Facts, bad: Facts, **rest: Any
) -> None:
    severity = rest.pop("severity", Severity.P1)
    enter(
        Gate(
            id=gate_id,
            category=category,
            severity=severity,
            hypothesis=hypothesis,
            check=check,
            corroborates={**good},
            falsifies={**good, **bad},
            source=_SOURCE,
            **rest,
        )
    )


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
    ("F-PROFILE-CI-001", "Decoding is as fast as the playbook asks", at_least("tokens_per_s", "median speed", "tokens per second"), (10.0, 30.0), Severity.P1),
    ("F-PROFILE-CI-002", "Hardly any token takes longer than the playbook allows", at_most("p99_ms", "99 % of tokens within", "ms"), (500.0, 50.0), Severity.P1),
    ("F-PROFILE-CI-003", "A usual token takes no longer than the playbook allows", at_most("p50_ms", "half of the tokens within", "ms"), (500.0, 40.0), Severity.P2),
    ("F-PROFILE-CI-004", "The first token comes in the time that the playbook allows", at_most("slowest_first_ms", "first token within", "ms"), (5000.0, 100.0), Severity.P1),
    ("F-PROFILE-CI-005", "Decoding needs no more memory than the playbook allows", at_most("peak_memory_mb", "peak memory", "MB"), (8192.0, 512.0), Severity.P2),
):  # fmt: skip
    _gate(
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
_gate(
    "F-PERF-003",
    "performance",
    "The GPU is at least as fast as the CPU",
    gpu_is_faster,
    {"here": {"tokens_per_s": 90.0}, "cpu": {"tokens_per_s": 20.0}, "limit": 1.0},
    {"here": {"tokens_per_s": 10.0}},
    measure=f"{_DECODED}, on both devices of the same machine",
    threshold="1.0, or what the playbook asks for",
)
_gate(
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
_gate(
    "F-STAB-002",
    "stability",
    "Generating again and again holds no more memory",
    memory_is_given_back,
    {"iterations": 100, "before_mb": 500.0, "after_mb": 501.0},
    {"after_mb": 520.0},
    measure="resident memory before and after 100 generations, ten for warm-up aside",
    threshold="below 1 %",
)
_gate(
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
_gate(
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
_gate(
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
    _gate(
        f"F-LOAD-REFUSAL-{_index:03}",
        "loading",
        f"A {_damage} file is refused in good order",
        damage_is_refused,
        {"damage": _damage, "refused": True, "said": "the file ends too early", "kind": "MalformedFile"},
        {"refused": False, "said": ""},
        measure="the engine is asked to load a damaged copy, in a process of its own",
        threshold="an error that says what is wrong; no crash, no success",
    )
_ROW = {"prompt": "2+2", "ours": "4", "theirs": "4", "our_rate": 20.0, "their_rate": 22.0, "our_first_s": 0.1, "their_first_s": 0.1}  # fmt: skip
_OTHER = {"model": "a:7b", "served": ["a:7b"], "answers": [_ROW], "least_ratio": 0.8}
for _id, _what, _check, _bad, _threshold in (
    ("F-OLLAMA-001", "Both runtimes answer", both_answer, {"answers": [{**_ROW, "ours": ""}]}, "a text from each"),
    ("F-OLLAMA-002", "The artifact decodes about as fast as in the other runtime", as_fast_as_the_other, {"answers": [{**_ROW, "our_rate": 2.0}]}, "0.8 of its speed, or what the playbook asks for"),
    ("F-OLLAMA-003", "The first token comes about as soon as in the other runtime", first_token_in_time, {"answers": [{**_ROW, "our_first_s": 1.0}]}, "three times its time"),
    ("F-OLLAMA-004", "The other runtime serves a model", serves_a_model, {"served": []}, "at least one"),
):  # fmt: skip
    _gate(
        _id, "parity", _what, _check, _OTHER, _bad, measure="the same prompts over HTTP", threshold=_threshold
    )
_gate(
    "F-OLLAMA-005",
    "parity",
    "The other runtime loads the file",
    file_is_accepted,
    {"upload": 201, "create": 200, "generate": 200, "text": "4", "said": ""},
    {"create": 400, "said": "invalid file magic"},
    measure="upload, create, generate and delete over Ollama's API",
    threshold="200 each and a text",
)
_gate(
    "F-HF-PARITY-001",
    "parity",
    "Logits agree with those of the stored corpus",
    golden_logits_agree,
    {
        "prompts": [{"prompt": "x", "disagreeing": 0.001, "largest": 0.01}],
        "atol": 1e-3,
        "rtol": 1e-2,
        "allowed": 0.01,
    },
    {"prompts": [{"prompt": "x", "disagreeing": 0.5, "largest": 9.0}]},
    measure="one forward pass for every stored prompt; |difference| <= atol + rtol * |stored|",
    threshold="by storage type: 1 % of elements for floats, 5 % for int8, 10 % for int4",
    severity=Severity.P0,
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
