"""The chat template renders every conversation of alternating turns, and each user's words are in the prompt.

A template may refuse a system message or trim a text; it may not fail on an ordinary conversation, execute what
a user writes, or lose it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.properties import SESSION, TEMPLATES, Case, Finding, OutOfPromise, Property, Subject, enter
from apr_qa.properties._conversations import conversations, require_template
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a conversation without a system message."""
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"messages": conversations(system=False)})


def check(subject: Subject, case: Case) -> Finding | None:
    """Render and look for the texts of the user in their order."""
    require_template(subject)
    messages = [dict(message) for message in case["messages"]]
    roles = [message["role"] for message in messages]
    if not roles or roles != [("user", "assistant")[turn % 2] for turn in range(len(roles))]:
        raise OutOfPromise
    prompt = str(subject.session.render_chat(messages))
    position = 0
    for message in messages:
        if message["role"] == "user":
            words = message["content"].strip()
            found = prompt.find(words, position)
            if found < 0:
                return Finding(prompt, f"holds {words!r}")
            position = found + len(words)
    return None


enter(
    Property(
        name="template_total",
        gate_id="F-PROP-TEMPLATE-002",
        severity=Severity.P1,
        title="The chat template renders every ordinary conversation and keeps what the user wrote",
        needs=SESSION,
        modality="chat",
        strategy=strategy,
        check=check,
        max_examples=TEMPLATES,
        shrinks="the number of turns, then their texts",
    )
)
