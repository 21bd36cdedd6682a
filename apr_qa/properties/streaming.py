"""The pieces of a streamed answer add up to the answer without streaming."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.backends import Request
from apr_qa.properties import ANSWERS, SESSION, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone, cases, disagreement
from apr_qa.vocabulary import Response, Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a prompt and a number of tokens."""
    return cases()


def check(subject: Subject, case: Case) -> Finding | None:
    """Answer at once and in pieces."""
    prompt, count = str(case["prompt"]), int(case["max_tokens"])
    plain = alone(subject, prompt, count)
    pieces, whole = streamed(subject, Request(prompt, count))
    if pieces != whole.text:
        return Finding({"pieces": pieces}, {"text": whole.text})
    return disagreement(subject, prompt, whole, plain)


def streamed(subject: Subject, request: Request) -> tuple[str, Response]:
    """Return the pieces of a stream put together, and the response that it ends with."""
    stream = subject.session.stream(request)
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return "".join(pieces), end.value


enter(
    Property(
        name="streaming",
        gate_id="F-PROP-STREAM-001",
        severity=Severity.P1,
        title="The pieces of a streamed answer add up to the plain answer",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="the prompt and the number of tokens",
    )
)
