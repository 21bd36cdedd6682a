"""What a user writes never becomes a control token, neither in a raw prompt nor through the chat template.

Servers that hand the rendered text to a tokenizer which parses special tokens do turn a user's ``<|im_end|>`` into
the end of the turn. Here the promise is about ids that are given to the model: a raw prompt has no control token in
it, and a conversation has exactly those that its template writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.inference.protected_prompt import tokens
from apr_qa.properties import SESSION, TEMPLATES, Case, Finding, OutOfPromise, Property, Subject, enter
from apr_qa.properties._texts import texts
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_HARMLESS = "Hello"


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a text with control tokens written in it."""
    from hypothesis import strategies as st

    controls = sorted(subject.controls)
    if not controls:
        raise Inapplicable("the vocabulary has no control tokens")
    around = st.one_of(st.just(""), st.sampled_from(("a", "\n", " ", "user")), texts(controls))
    written = st.tuples(around, st.sampled_from(controls), around).map("".join)
    return st.fixed_dictionaries({"text": written, "chat": st.booleans()})


def check(subject: Subject, case: Case) -> Finding | None:
    """Tokenise the text as the session would for generating."""
    text = str(case["text"])
    ids = set(subject.controls.values())
    if not case["chat"]:
        given = subject.session.tokenize(text, add_special=False, parse_special=False)
        found = [token for token in given if token in ids]
        return Finding(found, []) if found else None
    if not subject.own.chat_template:
        raise OutOfPromise
    observed, expected = (
        [token for token in _chat_ids(subject, words) if token in ids] for words in (text, _HARMLESS)
    )
    return Finding(observed, expected) if observed != expected else None


def _chat_ids(subject: Subject, text: str) -> list[int]:
    try:
        prompt = subject.session.render_chat([{"role": "user", "content": text}])
    except InferenceFailed as refusal:  # a template that refuses such a text lets nothing through
        raise OutOfPromise from refusal
    return tokens(subject.session.tokenize, prompt, templated=True)


enter(
    Property(
        name="control_tokens",
        gate_id="F-PROP-INJECT-001",
        severity=Severity.P0,
        title="No text of a user becomes a control token",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=TEMPLATES,
        shrinks="the text, to one control token",
    )
)
