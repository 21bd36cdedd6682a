"""Every conversation is rendered as the ground truth's template renders it, refusals included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.errors import InferenceFailed
from apr_qa.properties import PAIR, TEMPLATES, Case, Finding, Property, Subject, enter
from apr_qa.properties._conversations import conversations, render_truth
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_REFUSED = "(the template refuses)"


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a conversation; control tokens written by a user are among its texts."""
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"messages": conversations(subject.controls)})


def check(subject: Subject, case: Case) -> Finding | None:
    """Render with both."""
    messages = [dict(message) for message in case["messages"]]
    expected = render_truth(subject, messages)
    try:
        observed: str | None = str(subject.session.render_chat(messages))
    except InferenceFailed:
        observed = None
    if observed == expected:
        return None
    return Finding(*(_REFUSED if text is None else text for text in (observed, expected)))


enter(
    Property(
        name="template_equality",
        gate_id="F-PROP-TEMPLATE-001",
        severity=Severity.P0,
        title="Every conversation is rendered as the ground truth's chat template renders it",
        needs=PAIR,
        modality="chat",
        strategy=strategy,
        check=check,
        max_examples=TEMPLATES,
        shrinks="the number of turns, then their texts",
    )
)
