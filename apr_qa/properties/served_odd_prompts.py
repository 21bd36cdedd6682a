"""A server answers any prompt, or says that the request is wrong; it goes on in both cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.backends import Request
from apr_qa.errors import InferenceFailed
from apr_qa.properties import SERVED, SERVER, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone
from apr_qa.properties._texts import odd
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_ORDINARY = "The capital of France is"
_REPEATS = 3000
"""Words of a prompt that no served context holds."""


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a prompt, and how often it is repeated."""
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"prompt": odd(), "repeats": st.sampled_from((1, 1, 1, _REPEATS))})


def check(subject: Subject, case: Case) -> Finding | None:
    """Ask for two tokens, then ask something ordinary."""
    prompt = str(case["prompt"]) * int(case["repeats"])
    status = _status(subject, Request(prompt, 2))
    if status is not None and not 400 <= status < 500:
        return Finding(f"status {status}", "an answer, or a status from 400 to 499")
    return (
        None
        if alone(subject, _ORDINARY, 2).text is not None
        else Finding(None, "an answer to the next request")
    )


def _status(subject: Subject, request: Request) -> int | None:
    """Return the status of a refusal, None for an answer."""
    harmless = Request(_ORDINARY, 1)
    try:
        # Two requests, because one that is refused alone is an error without its status.
        answer = subject.session.generate([request, harmless])[0]
    except InferenceFailed:
        return 500
    return int(answer.facts.get("status", 500)) if answer.finish_reason == "error" else None


enter(
    Property(
        name="served_odd_prompts",
        gate_id="F-PROP-HTTP-EDGE-001",
        severity=Severity.P2,
        title="A server answers any prompt, or says that the request is wrong",
        needs=SERVER,
        modality="serve",
        strategy=strategy,
        check=check,
        max_examples=SERVED,
        shrinks="the prompt, to the fewest and simplest characters",
    )
)
