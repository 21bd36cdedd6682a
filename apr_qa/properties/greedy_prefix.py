"""The first n greedy tokens are the same whether n or more are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from apr_qa.properties import ANSWERS, SESSION, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone, cases, disagreement
from apr_qa.vocabulary import Response, Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a prompt, n, and how many more."""
    from hypothesis import strategies as st

    return cases(1, 4, more=st.integers(1, 3))


def check(subject: Subject, case: Case) -> Finding | None:
    """Ask for n and for more; where the shorter one ended by itself, so must the longer."""
    prompt, count = str(case["prompt"]), int(case["max_tokens"])
    short = alone(subject, prompt, count)
    long = alone(subject, prompt, count + int(case["more"]))
    return disagreement(subject, prompt, _first(long, short), short)


def _first(long: Response, short: Response) -> Response:
    """Return the beginning of ``long`` that ``short`` must equal; text is compared as far as both have it."""
    if short.finish_reason != "length":
        return long
    ids = tuple((long.token_ids or ())[: len(short.token_ids or ())])
    text = short.text if ids == short.token_ids else long.text
    return msgspec.structs.replace(long, token_ids=ids, text=text)


enter(
    Property(
        name="greedy_prefix",
        gate_id="F-PROP-PREFIX-001",
        severity=Severity.P1,
        title="Asking for more tokens changes none of the earlier ones",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="the prompt and both numbers of tokens",
    )
)
