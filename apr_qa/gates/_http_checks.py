"""What the protocol gates look at in the answers of a server."""

from __future__ import annotations

import re

from apr_qa.gates import Check, Facts, corroborated, falsified, inconclusive
from apr_qa.vocabulary import Judgement

CONTROL = (
    "<|",
    "|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<start_of_turn>",
    "<end_of_turn>",
)
MARKERS = ("Ġ", "Ċ", "▁", "Ċ", "ĉ")
"""How byte-level and SentencePiece vocabularies spell blank, line break and tab; no text contains them by itself."""

SLOW_S = 1.0
"""The list of models is no inference; product documentation of load balancers suggests about a second."""


def accepted(facts: Facts) -> Judgement:
    if facts["status"] != 200:
        return falsified(f"a chat request is answered with {facts['status']}: {facts['body'][:120]}")
    return corroborated("a chat request is answered with 200")


def _of_answer(facts: Facts) -> Judgement | None:
    return inconclusive(f"the server answered {facts['status']}") if facts["status"] != 200 else None


def is_json(facts: Facts) -> Judgement:
    if none := _of_answer(facts):
        return none
    return corroborated("the answer is JSON") if facts["is_json"] else falsified("the answer is no JSON")


def has_content(facts: Facts) -> Judgement:
    if none := _of_answer(facts):
        return none
    if not facts["has_content"]:
        return falsified("the answer has no choices[0].message.content")
    return corroborated("the answer has choices[0].message.content")


def not_empty(facts: Facts) -> Judgement:
    if not facts["has_content"]:
        return inconclusive("there is no text to look at")
    if not facts["text"].strip():
        return falsified("the content is empty")
    return corroborated(f"the content has {len(facts['text'])} characters")


def without(pattern: str, what: str) -> Check:
    def check(facts: Facts) -> Judgement:
        if not facts["has_content"]:
            return inconclusive("there is no text to look at")
        found = re.search(pattern, facts["text"])
        return (
            falsified(f"the content holds {found.group()!r}")
            if found
            else corroborated(f"the content holds {what}")
        )

    return check


def counts_usage(facts: Facts) -> Judgement:
    if none := _of_answer(facts):
        return none
    counts = [facts["prompt_tokens"], facts["completion_tokens"]]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        return falsified(f"usage says {counts[0]} prompt and {counts[1]} completion tokens")
    return corroborated(f"usage says {counts[0]} prompt and {counts[1]} completion tokens")


def is_coherent(facts: Facts) -> Judgement:
    if not facts["has_content"] or not facts["text"].strip():
        return inconclusive("there is no text to look at")
    text = facts["text"]
    if "\ufffd" in text:
        return falsified("the content holds the replacement character, so its bytes were no UTF-8")
    letters = text.replace(" ", "")
    if len(letters) > 8 and max(letters.count(letter) for letter in set(letters)) > 0.6 * len(letters):
        return falsified("one character makes up most of the content")
    return corroborated("the content is text")


def grows(part: str, what: str) -> Check:
    def check(facts: Facts) -> Judgement:
        counts = [facts[name]["prompt_tokens"] for name in ("alone", part)]
        if facts[part]["status"] != 200:
            # Some templates refuse a system turn; a clean refusal is an answer.
            clean = 400 <= (facts[part]["status"] or 0) < 500
            text = f"a conversation with {what} is answered with {facts[part]['status']}"
            return inconclusive(text) if clean else falsified(text)
        if not all(isinstance(count, int) for count in counts):
            return inconclusive("the server does not count prompt tokens")
        if not counts[1] > counts[0]:
            return falsified(
                f"with {what} the prompt has {counts[1]} tokens, without it {counts[0]}: it is dropped"
            )
        return corroborated(f"{what} adds {counts[1] - counts[0]} tokens to the prompt")

    return check


def refuses_empty(facts: Facts) -> Judgement:
    if 400 <= facts["status"] < 500:
        return corroborated(f"a conversation without a turn is answered with {facts['status']}")
    return falsified(f"a conversation without a turn is answered with {facts['status']} instead of 400")


def survives_huge(facts: Facts) -> Judgement:
    if not facts["alive"]:
        return falsified("the server does not answer any more")
    if facts["status"] is None or facts["status"] >= 500:
        return falsified(f"max_tokens of a million is answered with {facts['status']}")
    return corroborated(f"max_tokens of a million is answered with {facts['status']}, and the server lives")


def repeats_itself(facts: Facts) -> Judgement:
    texts = facts["texts"]
    if None in texts or len(texts) < 2:
        return inconclusive("a request was not answered with text")
    if len(set(texts)) > 1:
        return falsified(f"{len(set(texts))} different texts in {len(texts)} greedy answers")
    return corroborated(f"{len(texts)} greedy answers are equal")


def serves_many(facts: Facts) -> Judgement:
    good = facts["statuses"].count(200)
    if good != facts["asked"]:
        return falsified(f"{good} of {facts['asked']} simultaneous requests are answered with 200")
    return corroborated(f"{good} simultaneous requests are answered")


def lines_are_events(facts: Facts) -> Judgement:
    if facts["status"] != 200 or not facts["lines"]:
        return falsified(f"a stream is answered with {facts['status']} and {facts['lines']} lines")
    if facts["foreign"]:
        return falsified(f"a line of the stream is no event: {facts['foreign'][0]!r}")
    return corroborated(f"{facts['lines']} lines of the stream are events")


def ends_with_done(facts: Facts) -> Judgement:
    if facts["last"].replace(" ", "") != "data:[DONE]":
        return falsified(f"the stream ends with {facts['last']!r}")
    return corroborated("the stream ends with data: [DONE]")


def answers_soon(facts: Facts) -> Judgement:
    if facts["status"] != 200:
        return falsified(f"the list of models is answered with {facts['status']}")
    best = min(facts["seconds"])
    if not best <= SLOW_S:
        return falsified(f"the list of models takes {best:.2f} s, limit {SLOW_S:g} s")
    return corroborated(f"the list of models takes {best * 1000:.0f} ms")


def names_bad_input(facts: Facts) -> Judgement:
    if not 400 <= facts["status"] < 500:
        return falsified(f"a request without a prompt is answered with {facts['status']}")
    if not facts["body"].strip():
        return falsified("a request without a prompt is refused without a word")
    return corroborated(f"a request without a prompt is answered with {facts['status']} and a reason")
