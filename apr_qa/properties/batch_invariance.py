"""A prompt gets the answer in a batch that it gets alone, near ties of the next token apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.backends import Request
from apr_qa.properties import ANSWERS, SESSION, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone, answers, disagreement
from apr_qa.properties._texts import prompts
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw two to four prompts of any lengths."""
    from hypothesis import strategies as st

    several = st.lists(prompts(), min_size=2, max_size=4)
    return st.fixed_dictionaries({"prompts": several, "max_tokens": st.integers(1, 6)})


def check(subject: Subject, case: Case) -> Finding | None:
    """Answer all together, then each alone."""
    asked, count = [str(prompt) for prompt in case["prompts"]], int(case["max_tokens"])
    together = answers(subject, [Request(prompt, count) for prompt in asked])
    for prompt, answer in zip(asked, together, strict=True):
        found = disagreement(subject, prompt, answer, alone(subject, prompt, count))
        if found is not None:
            return found
    return None


enter(
    Property(
        name="batch_invariance",
        gate_id="F-PROP-BATCH-001",
        severity=Severity.P1,
        title="A prompt gets the same answer alone and in a batch",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="the number of prompts, their texts and the number of tokens",
    )
)
