"""Gates over the same questions to another runtime, and over logits that were stored before."""

from __future__ import annotations

from apr_qa.gates import Facts, corroborated, falsified, inconclusive
from apr_qa.gates._measured import measured_gate
from apr_qa.vocabulary import Judgement, Severity


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


_ROW = {
    "prompt": "2+2",
    "ours": "4",
    "theirs": "4",
    "our_rate": 20.0,
    "their_rate": 22.0,
    "our_first_s": 0.1,
    "their_first_s": 0.1,
}
_OTHER = {"model": "a:7b", "served": ["a:7b"], "answers": [_ROW], "least_ratio": 0.8}
for _id, _what, _check, _bad, _threshold in (
    (
        "F-OLLAMA-001",
        "Both runtimes answer",
        both_answer,
        {"answers": [{**_ROW, "ours": ""}]},
        "a text from each",
    ),
    (
        "F-OLLAMA-002",
        "The artifact decodes about as fast as in the other runtime",
        as_fast_as_the_other,
        {"answers": [{**_ROW, "our_rate": 2.0}]},
        "0.8 of its speed, or what the playbook asks for",
    ),
    (
        "F-OLLAMA-003",
        "The first token comes about as soon as in the other runtime",
        first_token_in_time,
        {"answers": [{**_ROW, "our_first_s": 1.0}]},
        "three times its time",
    ),
    ("F-OLLAMA-004", "The other runtime serves a model", serves_a_model, {"served": []}, "at least one"),
):
    measured_gate(
        _id, "parity", _what, _check, _OTHER, _bad, measure="the same prompts over HTTP", threshold=_threshold
    )
measured_gate(
    "F-OLLAMA-005",
    "parity",
    "The other runtime loads the file",
    file_is_accepted,
    {"upload": 201, "create": 200, "generate": 200, "text": "4", "said": ""},
    {"create": 400, "said": "invalid file magic"},
    measure="upload, create, generate and delete over Ollama's API",
    threshold="200 each and a text",
)
measured_gate(
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
    threshold="by storage type: 1 or 2 % of elements for floats, 5 % for int8, 10 % for int4",
    severity=Severity.P0,
)
