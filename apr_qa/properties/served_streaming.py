"""A server streams the text that it gives without streaming."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.backends import Request
from apr_qa.properties import SERVED, SERVER, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone, cases
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a prompt and a number of tokens."""
    return cases()


def check(subject: Subject, case: Case) -> Finding | None:
    """Ask both ways; only one request is under way at a time, so even reduced precision gives equal text."""
    prompt, count = str(case["prompt"]), int(case["max_tokens"])
    plain = alone(subject, prompt, count)
    pieces = "".join(subject.session.stream(Request(prompt, count)))
    return None if pieces == plain.text else Finding({"pieces": pieces}, {"text": plain.text})


enter(
    Property(
        name="served_streaming",
        gate_id="F-PROP-STREAM-002",
        severity=Severity.P1,
        title="A server streams the text that it gives without streaming",
        needs=SERVER,
        modality="serve",
        strategy=strategy,
        check=check,
        max_examples=SERVED,
        shrinks="the prompt and the number of tokens",
    )
)
