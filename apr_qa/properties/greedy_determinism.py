"""The same greedy request gets the same answer again, whatever was asked before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.properties import ANSWERS, SESSION, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone, cases, disagreement, told
from apr_qa.properties._texts import prompts
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a request and one to put before it."""
    return cases(before=prompts())


def check(subject: Subject, case: Case) -> Finding | None:
    """Ask after something else and after the same; on a CPU both answers are the same to the last bit."""
    prompt, count = str(case["prompt"]), int(case["max_tokens"])
    alone(subject, str(case["before"]), count)
    first = alone(subject, prompt, count)
    again = alone(subject, prompt, count)
    if (first.text, first.token_ids, first.finish_reason) == (
        again.text,
        again.token_ids,
        again.finish_reason,
    ):
        return None
    if subject.target.backend == "gpu":
        return disagreement(subject, prompt, again, first)
    return told(again, first)


enter(
    Property(
        name="greedy_determinism",
        gate_id="F-PROP-GREEDY-001",
        severity=Severity.P1,
        title="The same greedy request gets the same answer, whatever was asked before",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="both prompts and the number of tokens",
    )
)
