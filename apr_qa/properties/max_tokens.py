"""No answer has more tokens than were asked for, and one that was cut off says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.properties import ANSWERS, SESSION, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone, cases
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a prompt and a limit."""
    return cases(1, 8)


def check(subject: Subject, case: Case) -> Finding | None:
    """Count tokens; ``length`` means that the limit was reached, ``stop`` that it was not needed."""
    limit = int(case["max_tokens"])
    answer = alone(subject, str(case["prompt"]), limit)
    count = len(answer.token_ids or ())
    if (answer.finish_reason == "length" and count == limit) or (
        answer.finish_reason == "stop" and count <= limit
    ):
        return None
    return Finding({"tokens": count, "finish_reason": answer.finish_reason}, {"tokens": f"at most {limit}"})


enter(
    Property(
        name="max_tokens",
        gate_id="F-EDGE-004",
        severity=Severity.P1,
        title="No answer has more tokens than were asked for",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="the prompt and the limit",
    )
)
