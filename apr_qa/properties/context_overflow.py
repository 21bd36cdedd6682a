"""What does not fit into the context is refused with a reason, and the next request is answered as before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.backends import Request
from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.properties import ANSWERS, SESSION, Case, Finding, OutOfPromise, Property, Subject, enter
from apr_qa.properties._answers import alone, told
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_PROMPT = "The capital of France is"
_LONGEST = 40_000
"""Positions up to which a prompt of that length is written; beyond it only the new tokens overflow."""


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw by how much the context is exceeded, and whether by the prompt or by the new tokens."""
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"over": st.integers(1, 64), "long_prompt": st.booleans()})


def check(subject: Subject, case: Case) -> Finding | None:
    """Overflow, then ask something ordinary."""
    session = subject.session
    if session.context_size <= 0:
        raise Inapplicable("nothing says how large the context is")
    request = _request(subject, int(case["over"]), bool(case["long_prompt"]))
    before = alone(subject, _PROMPT, 1)
    try:
        answer = session.generate([request])[0]
    except InferenceFailed as refusal:
        if not refusal.what:
            return Finding("a refusal without a reason", "a reason")
    else:
        if answer.finish_reason != "error":
            return Finding(f"answered with {len(answer.token_ids or ())} tokens", "a refusal")
    after = alone(subject, _PROMPT, 1)
    return None if after.token_ids == before.token_ids else told(after, before)


def _request(subject: Subject, over: int, long_prompt: bool) -> Request:
    size = int(subject.session.context_size)
    if not long_prompt:
        tokens = len(subject.session.tokenize(_PROMPT))
        return Request(_PROMPT, size - tokens + over)
    if size > _LONGEST:
        raise OutOfPromise
    prompt = "a b c " * (size + over)  # every letter is at least one token
    return Request(prompt, 1)


enter(
    Property(
        name="context_overflow",
        gate_id="F-EDGE-002",
        severity=Severity.P1,
        title="What exceeds the context is refused, and the session goes on",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="by how much the context is exceeded",
    )
)
