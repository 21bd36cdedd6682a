"""Odd prompts are answered: blank, NUL, emoji, right-to-left, combining and unknown characters.

A prompt without a single token has to be refused instead; a refusal says why and leaves the session usable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.backends import Request
from apr_qa.errors import InferenceFailed
from apr_qa.properties import ANSWERS, SESSION, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone
from apr_qa.properties._texts import odd
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a prompt."""
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"prompt": odd()})


def check(subject: Subject, case: Case) -> Finding | None:
    """Ask for two tokens, or expect a refusal where there is nothing to continue."""
    prompt = str(case["prompt"])
    if subject.session.tokenize(prompt):
        answer = alone(subject, prompt, 2)
        return None if answer.text is not None and answer.finish_reason else Finding(None, "an answer")
    try:
        answers = subject.session.generate([Request(prompt, 2)])
    except InferenceFailed as refusal:
        return None if refusal.what else Finding("a refusal without a reason", "a reason")
    return None if answers[0].finish_reason == "error" else Finding(answers[0].text, "a refusal: no tokens")


enter(
    Property(
        name="odd_prompts",
        gate_id="F-EDGE-003",
        severity=Severity.P1,
        title="Any text is answered, or refused where it has no tokens",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="the prompt, to the fewest and simplest characters",
    )
)
