"""Tables of answers, one file an oracle, and what holds for every question and answer."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa.errors import UsageError
from apr_qa.oracles import ORACLES
from apr_qa.vocabulary import Claim, Judgement, Outcome, Response

CASES = Path(__file__).parent / "cases" / "oracles"
NAMES = ("arithmetic", "code_syntax", "composite", "garbage", "response")
GATES = {
    "arithmetic": "F-QUAL-ARITHMETIC",
    "code_syntax": "F-QUAL-CODE",
    "composite": "F-QUAL-COMPOSITE",
    "garbage": "F-QUAL-GARBAGE",
    "response": "F-QUAL-RESPONSE",
}
PROPERTY = settings(max_examples=50, deadline=None)


def rows(name: str) -> list[Any]:
    text = (CASES / name).read_text(encoding="utf-8")
    return list(json.loads(text) if name.endswith(".json") else yaml.safe_load(text))


def check(
    oracle: str,
    question: str,
    text: str | None,
    *,
    expected: Any = None,
    params: dict[str, Any] | None = None,
    **response: Any,
) -> Judgement:
    claim = Claim(gate_id=GATES[oracle], kind="generate", prompt=question, oracle=oracle, expected=expected)
    return ORACLES.get(oracle).check(claim, Response(text=text, **response), params or {})


@pytest.mark.parametrize(("question", "answer", "outcome"), rows("arithmetic.json"))
def test_arithmetic_judges_the_table(question: str, answer: str, outcome: str) -> None:
    judgement = check("arithmetic", question, answer)
    assert judgement.outcome.value == outcome, judgement.reason


@pytest.mark.parametrize("row", rows("garbage.json"), ids=lambda row: row["why"])
def test_garbage_judges_the_table(row: dict[str, Any]) -> None:
    judgement = check(
        "garbage",
        row["question"],
        row["text"],
        finish_reason=row["finish_reason"],
        token_ids=tuple(row["token_ids"]) if "token_ids" in row else None,
        vocab_size=row.get("vocab_size"),
    )
    assert judgement.outcome.value == row["outcome"], judgement.reason


@pytest.mark.parametrize("row", rows("code_syntax.yaml"), ids=lambda row: row["why"])
def test_code_syntax_judges_the_table(row: dict[str, Any]) -> None:
    judgement = check(
        "code_syntax",
        row["question"],
        row["answer"],
        expected=row.get("language"),
        finish_reason=row.get("finish", "stop"),
    )
    assert judgement.outcome.value == row["outcome"], judgement.reason


@pytest.mark.parametrize("row", rows("response.yaml"), ids=lambda row: row["why"])
def test_response_judges_the_table(row: dict[str, Any]) -> None:
    params = {"min_relevance": row["min_relevance"]} if "min_relevance" in row else {}
    judgement = check("response", row["question"], row["answer"], expected=row.get("expected"), params=params)
    assert judgement.outcome.value == row["outcome"], judgement.reason


@pytest.mark.parametrize("row", rows("composite.yaml"), ids=lambda row: row["why"])
def test_composite_judges_the_table(row: dict[str, Any]) -> None:
    params = {"oracles": row["oracles"]} if "oracles" in row else {}
    judgement = check(
        "composite", row["question"], row["answer"], expected=row.get("expected"), params=params
    )
    assert judgement.outcome.value == row["outcome"], judgement.reason
    assert row["says"] in judgement.reason


def test_every_oracle_of_this_family_is_registered() -> None:
    assert set(NAMES) <= set(ORACLES.names())
    assert all(ORACLES.get(name).name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [None, "", "  \n\t"])
def test_silence_is_falsified_even_where_nothing_can_be_judged(name: str, text: str | None) -> None:
    judgement = check(name, "Who are you?", text, expected="unjudgeable")
    assert judgement == Judgement(outcome=Outcome.FALSIFIED, reason="no text was generated")


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(question=st.text(max_size=60), text=st.text(min_size=1, max_size=200))
def test_any_text_gets_a_judgement_with_a_short_printable_reason(name: str, question: str, text: str) -> None:
    judgement = check(name, question, text)
    assert judgement.outcome in (Outcome.CORROBORATED, Outcome.FALSIFIED, Outcome.INCONCLUSIVE)
    assert judgement.reason and judgement.reason.isprintable()
    assert len(judgement.reason) < 250


@pytest.mark.parametrize("name", NAMES)
@PROPERTY
@given(data=st.data())
def test_an_oracle_can_judge_each_claim_that_it_makes(name: str, data: st.DataObject) -> None:
    oracle = ORACLES.get(name)
    claim = data.draw(oracle.claims(oracle.params))
    assert claim.gate_id == GATES[name] and claim.oracle == name and claim.question.strip()
    judgement = oracle.check(
        claim, Response(text="Nothing to say about that, sorry.", finish_reason="stop"), {}
    )
    assert judgement.outcome is (Outcome.CORROBORATED if name == "garbage" else Outcome.FALSIFIED)


@PROPERTY
@given(st.integers(1, 99), st.sampled_from("+-*"), st.integers(1, 99), st.integers(-9801, 9801))
def test_arithmetic_accepts_the_result_and_no_other_number(a: int, op: str, b: int, said: int) -> None:
    result = {"+": a + b, "-": a - b, "*": a * b}[op]
    question = f"What is {a} {op} {b}?"
    for answer in (f"{result}", f"The answer is {result}.", f"{a} {op} {b} = **{result}**", f"{result:,}"):
        assert check("arithmetic", question, answer).outcome is Outcome.CORROBORATED
    wrong = said if said != result else result + 1
    for answer in (
        f"{wrong}",
        f"{a} {op} {b} = {wrong}. No, {result}",
        f"1{abs(result)}",
        f"{abs(result)}th",
    ):
        assert check("arithmetic", question, answer).outcome is Outcome.FALSIFIED, answer


@PROPERTY
@given(st.integers(1, 99), st.sampled_from("+-*"), st.integers(0, 99))
def test_arithmetic_takes_no_echo_for_an_answer(a: int, op: str, b: int) -> None:
    question = f"What is {a} {op} {b}?"
    for echo in (question, f"{a} {op} {b}", f"{a}{op}{b}?", f"{question} {question}"):
        assert check("arithmetic", question, echo).outcome is Outcome.FALSIFIED


@pytest.mark.parametrize(
    ("expected", "answer", "outcome"),
    [
        (7, "It is 7.", Outcome.CORROBORATED),
        ("1,024", "1024", Outcome.CORROBORATED),
        (0.5, "0.5", Outcome.CORROBORATED),
        (7, "2 + 2 = 4", Outcome.FALSIFIED),
        ("seven", "7", Outcome.INCONCLUSIVE),
    ],
)
def test_an_expected_value_overrides_the_expression(expected: Any, answer: str, outcome: Outcome) -> None:
    assert check("arithmetic", "What is 2 + 2 and 3 + 3?", answer, expected=expected).outcome is outcome


def test_a_number_cut_in_half_is_neither_right_nor_wrong() -> None:
    question = "What is 61 + 62?"
    assert check("arithmetic", question, "It is 12", finish_reason="length").outcome is Outcome.INCONCLUSIVE
    assert check("arithmetic", question, "It is 12", finish_reason="stop").outcome is Outcome.FALSIFIED


def test_the_tolerance_is_a_parameter() -> None:
    assert check("arithmetic", "What is 22 / 7?", "3.1").outcome is Outcome.FALSIFIED
    loose = check("arithmetic", "What is 22 / 7?", "3.1", params={"tolerance": 0.1})
    assert loose.outcome is Outcome.CORROBORATED


def test_garbage_parameters_are_honoured() -> None:
    assert check("garbage", "Hi", "ho ho ho ho ho!").outcome is Outcome.CORROBORATED
    strict = check("garbage", "Hi", "abcabcabdabcabdabc", params={"min_unique_chars": 6})
    assert strict.outcome is Outcome.FALSIFIED
    text = "So he said that it is fine. " + "It is fine. " * 2
    assert check("garbage", "Hi", text).outcome is Outcome.CORROBORATED
    assert check("garbage", "Hi", text, params={"min_entropy": 5.0}).outcome is Outcome.FALSIFIED
    loop = "A few words to begin with, before it starts to loop: " + "over and over " * 5
    assert check("garbage", "Hi", loop).outcome is Outcome.CORROBORATED
    assert check("garbage", "Hi", loop, params={"max_repetition_ratio": 0.4}).outcome is Outcome.FALSIFIED


@PROPERTY
@given(st.text(alphabet="abcdefghij ", min_size=3, max_size=30).map(str.strip), st.integers(8, 40))
def test_whatever_is_said_over_and_over_is_garbage(unit: str, times: int) -> None:
    text = f"{unit} " * max(times, 30 // max(1, len(unit)))
    if unit:
        assert check("garbage", "Hi", text, finish_reason="length").outcome is Outcome.FALSIFIED


def test_token_ids_tell_soup_that_text_alone_does_not() -> None:
    text = "segregation timedelta preservative participatingusc Highlandmit"
    ids = tuple(random.Random(0).randrange(49_152) for _ in range(16))
    assert check("garbage", "Hi", text).outcome is Outcome.CORROBORATED
    assert check("garbage", "Hi", text, token_ids=ids, vocab_size=49_152).outcome is Outcome.FALSIFIED
    assert check("garbage", "Hi", text, token_ids=ids, vocab_size=1_000).outcome is Outcome.CORROBORATED
    low = tuple(range(16))
    assert check("garbage", "Hi", text, token_ids=low, vocab_size=49_152).outcome is Outcome.CORROBORATED


def test_python_warnings_of_judged_code_stay_inside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            check("code_syntax", "Write Python.", "```python\nx = '\\d' is 1\n```").outcome
            is Outcome.CORROBORATED
        )


@PROPERTY
@given(
    st.text(alphabet="(){}[]\"'`/*#\n ab=;:", max_size=120),
    st.sampled_from(["python", "javascript", "rust", "go", "java"]),
)
def test_hostile_code_is_judged_and_not_executed(source: str, language: str) -> None:
    text = f"```{language}\n{source}"
    assert check("code_syntax", "Write code.", text, finish_reason="length").outcome is not Outcome.CRASHED


@pytest.mark.parametrize("depth", [50, 5_000])
def test_deep_nesting_exhausts_no_stack(depth: int) -> None:
    for language in ("python", "javascript", "rust", "go", "java"):
        text = f"```{language}\nx = " + "(" * depth + "1" + ")" * depth + "\n```"
        assert check("code_syntax", "Write code.", text).outcome in (Outcome.CORROBORATED, Outcome.FALSIFIED)


def test_a_composite_refuses_itself_and_unknown_members() -> None:
    with pytest.raises(UsageError):
        check("composite", "Hi", "Hello", expected=["composite"])
    with pytest.raises(UsageError):
        check("composite", "Hi", "Hello", expected=["arithmetik"])


def test_the_last_user_turn_is_the_question() -> None:
    claim = Claim(
        gate_id="F-QUAL-ARITHMETIC",
        kind="chat",
        messages=("What is 1 + 1?", "What is 2 + 3?"),
        oracle="arithmetic",
    )
    oracle = ORACLES.get("arithmetic")
    assert oracle.check(claim, Response(text="5"), {}).outcome is Outcome.CORROBORATED
    assert oracle.check(claim, Response(text="2"), {}).outcome is Outcome.FALSIFIED
