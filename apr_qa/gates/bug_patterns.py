"""Ten mistakes that runtimes and converters were seen to make again and again, each looked for in behaviour.

The other two of the twelve, paths that escape and text that becomes a control token, are in `security`.
"""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inconclusive
from apr_qa.gates._across import across, example, example_run, verdict, where
from apr_qa.gates._questions import common, holder, names, reason_of, rows_about, rows_on_several
from apr_qa.tally import Tally
from apr_qa.vocabulary import EvidenceHeader, GateVerdict, Judgement, Outcome, Severity

_OK, _NO, _P0 = Outcome.CORROBORATED, Outcome.FALSIFIED, Severity.P0
_SOURCE = "bug patterns of aprender and realizar, as the predecessor's catalogue lists them"
WEIGHTS_GATES = ("F-CONTRACT-I4-001",)
PREDICTION_GATES = ("F-CONTRACT-I1-001",)


def no_path_lacks_a_feature(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge questions that every target got: none may be unable to answer what another answers."""
    gate = "F-PATH-ALT-001"
    tried = tally.texts.where(lambda entry: entry.outcome.counted)
    answered = tried.where(lambda entry: entry.response is not None and entry.response.text is not None)
    unable = tried.where(lambda entry: entry.response is None)
    missed = common(answered, unable, tally.texts)
    if missed is not None:
        lacking, there = (names(rows_about(one, missed)) for one in (unable, answered))
        here, other = holder(unable, lacking[0]), holder(answered, there[0])
        reason = f"{where(here)} cannot do what {where(other)} does{reason_of(unable, lacking[0])}"
        return verdict(gate, _P0, _NO, reason, lacking)
    rows = rows_on_several(answered, where)
    if not len(rows):
        return verdict(gate, _P0, None, "no question was put to two targets")
    return verdict(gate, _P0, _OK, f"{len(rows)} answers, on every path that was asked", names(rows))


def one_algorithm(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge artifacts whose weights are those of the truth: their predictions have to be, too."""
    gate = "F-PATH-ALGO-001"
    same = tally.of_gate(*WEIGHTS_GATES).where(lambda entry: entry.outcome is _OK).by(where)
    judged = tally.of_gate(*PREDICTION_GATES).where(
        lambda entry: where(entry) in same and entry.outcome.counted
    )
    wrong = judged.where(lambda entry: entry.outcome.failed)
    if wrong:
        first = wrong.first
        reason = f"{where(first)} has the truth's weights and predicts something else: {first.reason}"
        return verdict(gate, _P0, _NO, reason, wrong)
    if not judged:
        return verdict(gate, _P0, None, "no artifact was compared in weights and in predictions")
    return verdict(
        gate, _P0, _OK, f"{len(judged)} artifacts with the truth's weights predict what it does", judged
    )


def nothing_from_elsewhere(facts: Facts) -> Judgement:
    if not facts["tokens"]:
        return inconclusive("the text has no token")
    if facts["removed"]:
        if facts["refused"]:
            return corroborated(f"without its {facts['removed']} it is refused: {facts['said'][:120]}")
        how = "the same" if facts["same"] else "other"
        return falsified(
            f"without its {facts['removed']} it still gives {how} tokens: they come from elsewhere"
        )
    if facts["refused"] or not facts["same"]:
        return falsified(
            f"alone in a folder the file does not give the same tokens: {facts['said'] or 'others'}"
        )
    return corroborated("alone in a folder the file gives the same tokens")


def state_is_in_step(facts: Facts) -> Judgement:
    if not facts.get("tokens"):
        return inconclusive("no position was compared")
    if not facts["kl_max"] <= STEP_KL:
        return falsified(f"a step is {facts['kl_max']:.3g} nats away from where it should be")
    return corroborated(
        f"{facts['tokens']} steps are where they should be, within {facts['kl_max']:.2g} nats"
    )


STEP_KL = 0.5
"""A cache that is one position early or late costs several nats at once; bfloat16 costs 1e-3."""


def earlier_calls_leave_no_trace(facts: Facts) -> Judgement:
    if not facts["tokens"]:
        return inconclusive("nothing was generated")
    if facts["before"] != facts["after"]:
        return falsified(
            f"the same prompt gave {facts['before'][:6]} before other work and {facts['after'][:6]} after it"
        )
    return corroborated(f"{facts['tokens']} tokens are the same before and after other work")


def values_make_sense(facts: Facts) -> Judgement:
    if not facts["scanned"]:
        return inconclusive("no value was looked at")
    if facts["nonfinite"] or facts["extreme"]:
        first = (facts["nonfinite"] or facts["extreme"])[0]["name"]
        return falsified(f"{first} holds values that no weight has")
    return corroborated(f"{facts['scanned']} values are finite and of a size that weights have")


def type_is_what_it_says(facts: Facts) -> Judgement:
    if facts["detected"] != facts["opened_as"]:
        return falsified(
            f"the content is {facts['detected'] or 'unknown'}, it is read as {facts['opened_as']}"
        )
    if not facts["suffix_fits"]:
        return falsified(
            f"{facts['name']!r} holds {facts['detected']}, which is called {' or '.join(facts['expected_suffixes'])}"
        )
    return corroborated(f"{facts['name']!r} holds {facts['detected']}")


def companions_are_there(facts: Facts) -> Judgement:
    if facts["missing"]:
        return falsified(f"missing: {', '.join(facts['missing'])}")
    return corroborated(f"there are {', '.join(facts['needed'])}")


def nonsense_is_refused(facts: Facts) -> Judgement:
    if not facts["calls"]:
        return inconclusive("nothing was tried")
    bad = [call for call in facts["calls"] if not call["refused"]]
    if bad:
        return falsified(f"{bad[0]['call']}: {bad[0].get('raised', 'no error')}: {bad[0]['said'][:120]}")
    return corroborated(f"{len(facts['calls'])} impossible calls are refused with a reason")


def errors_reach_their_request(facts: Facts) -> Judgement:
    if facts.get("whole_batch_refused"):
        return falsified(
            f"one impossible request took the others with it: {facts['whole_batch_refused'][:120]}"
        )
    if not facts["bad"]:
        return falsified("an impossible request in a batch was answered without a word of error")
    if facts["good"] != facts["alone"]:
        return falsified("an impossible request changed the answer of its neighbour")
    return corroborated("the impossible request says so, its neighbour answers as ever")


_KEPT: dict[str, Any] = {"tokens": 15, "kl_mean": 0.0, "kl_max": 1e-3}
_FILE: dict[str, Any] = {
    **{"opened_as": "gguf", "detected": "gguf", "name": "model.gguf"},
    **{"expected_suffixes": [".gguf"], "suffix_fits": True},
}
_CALL = {"call": "no token", "refused": True, "said": "there is no token"}
_ROWS: tuple[tuple[str, Severity, str, str, Check, dict[str, Any], dict[str, Any]], ...] = (
    (
        "F-STATE-FALLBACK-001",
        Severity.P1,
        "A missing resource is missed, and nothing else is used in its place",
        "a folder without its tokenizer is refused; a single file needs nothing beside it",
        nothing_from_elsewhere,
        {"removed": "tokenizer", "tokens": 9, "refused": True, "said": "no tokenizer", "same": None},
        {"refused": False, "same": True},
    ),
    (
        "F-STATE-TIMING-001",
        Severity.P1,
        "State advances with the token that it belongs to",
        f"no step is further than {STEP_KL} nats from one pass over all",
        state_is_in_step,
        _KEPT,
        {"kl_max": 4.0},
    ),
    (
        "F-STATE-CORRUPT-001",
        Severity.P1,
        "Earlier calls do not change later answers",
        "equal greedy tokens before and after other prompts, streams and batches",
        earlier_calls_leave_no_trace,
        {"tokens": 2, "before": [3, 4], "after": [3, 4]},
        {"after": [3, 5]},
    ),
    (
        "F-VALID-POST-001",
        _P0,
        "What came out of a conversion was looked at",
        "every value finite, none of a size that no weight has",
        values_make_sense,
        {"scanned": 9, "nonfinite": [], "extreme": []},
        {"nonfinite": [{"name": "x", "count": 1}]},
    ),
    (
        "F-VALID-TYPE-001",
        Severity.P1,
        "A file is the kind of file that its name says",
        "content and suffix agree",
        type_is_what_it_says,
        _FILE,
        {"name": "model.bin", "suffix_fits": False},
    ),
    (
        "F-VALID-COMPANION-001",
        Severity.P1,
        "What belongs to the weights is there",
        "configuration and tokenizer, beside the file or in it",
        companions_are_there,
        {"needed": ["tokenizer"], "missing": []},
        {"missing": ["tokenizer"]},
    ),
    (
        "F-ERR-UNWRAP-001",
        Severity.P1,
        "Impossible calls are refused and kill nothing",
        "a reason for each",
        nonsense_is_refused,
        {"calls": [_CALL]},
        {"calls": [{**_CALL, "refused": False, "raised": "IndexError", "said": "boom"}]},
    ),
    (
        "F-ERR-PROP-001",
        Severity.P2,
        "An error reaches the request that it belongs to, and no other",
        "one error, one answer",
        errors_reach_their_request,
        {"good": [3], "alone": [3], "bad": "no text"},
        {"bad": ""},
    ),
)

for _id, _severity, _hypothesis, _threshold, _check, _healthy, _change in _ROWS:
    enter(
        Gate(
            id=_id,
            category="bug pattern",
            severity=_severity,
            hypothesis=_hypothesis,
            measure="the loaded model, or its file, is put into the situation",
            threshold=_threshold,
            source=_SOURCE,
            check=_check,
            corroborates=_healthy,
            falsifies={**_healthy, **_change},
        )
    )

_ONE, _OTHER = "safetensors·cpu·run", "gguf·cpu·run"
_THERE = example("F-QUAL-001", _ONE, "generate", _OK, " 4")
across(
    "F-PATH-ALT-001",
    _P0,
    "What works on one path works on all",
    "no question that one target answers and another cannot",
    no_path_lacks_a_feature,
    example_run(_THERE, example("F-QUAL-001", _OTHER, "generate", _OK, " 4")),
    example_run(_THERE, example("F-QUAL-001", _OTHER, "generate", _NO, reason="unknown tensor type")),
    category="bug pattern",
    source=_SOURCE,
)
_SAME = example("F-CONTRACT-I4-001", "gguf·cpu·compare", "inspect", _OK, facts={"x": 1})
across(
    "F-PATH-ALGO-001",
    _P0,
    "Two engines compute the same from the same weights",
    "no artifact with the truth's weights and other predictions",
    one_algorithm,
    example_run(_SAME, example("F-CONTRACT-I1-001", "gguf·cpu·compare", "inspect", _OK, facts={"x": 1})),
    example_run(_SAME, example("F-CONTRACT-I1-001", "gguf·cpu·compare", "inspect", _NO, facts={"x": 1})),
    category="bug pattern",
    source=_SOURCE,
)
