"""A sampled answer comes again with the same seed, whatever was asked before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.properties import ANSWERS, SESSION, Case, Finding, OutOfPromise, Property, Subject, enter
from apr_qa.properties._answers import alone, cases, told
from apr_qa.properties._texts import prompts
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a request with a seed and a temperature, and one to put before it."""
    from hypothesis import strategies as st

    return cases(before=prompts(), seed=st.integers(0, 2**31), temperature=st.sampled_from((0.5, 1.0, 2.0)))


def check(subject: Subject, case: Case) -> Finding | None:
    """Sample after something else and after the same."""
    if subject.target.backend == "gpu":
        raise OutOfPromise  # sums in another order move the borders between tokens
    prompt, count = str(case["prompt"]), int(case["max_tokens"])
    how = {"temperature": float(case["temperature"]), "seed": int(case["seed"])}
    alone(subject, str(case["before"]), count, temperature=1.0, seed=how["seed"])
    first = alone(subject, prompt, count, **how)
    again = alone(subject, prompt, count, **how)
    return None if (first.text, first.token_ids) == (again.text, again.token_ids) else told(again, first)


enter(
    Property(
        name="seeded_sampling",
        gate_id="F-STAB-001",
        severity=Severity.P1,
        title="A sampled answer comes again with the same seed",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="both prompts, the seed and the number of tokens",
    )
)
