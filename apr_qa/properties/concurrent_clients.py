"""Several clients at once get what each of them gets alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.backends import Request
from apr_qa.properties import SERVED, SERVER, Case, Finding, Property, Subject, enter
from apr_qa.properties._answers import alone, answers
from apr_qa.properties._texts import WORDS
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_EXACT = ("f32", "f16")
"""Types whose batches are computed in full precision on a CPU; others may part at a near tie."""


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw the prompts of two to six clients."""
    from hypothesis import strategies as st

    several = st.lists(st.sampled_from(WORDS), min_size=2, max_size=6, unique=True)
    return st.fixed_dictionaries({"prompts": several, "max_tokens": st.integers(2, 6)})


def check(subject: Subject, case: Case) -> Finding | None:
    """Ask one after the other, then all at once."""
    asked, count = [str(prompt) for prompt in case["prompts"]], int(case["max_tokens"])
    expected = [alone(subject, prompt, count).text or "" for prompt in asked]
    together = answers(subject, [Request(prompt, count) for prompt in asked])
    for number, answer in enumerate(together):
        text = answer.text or ""
        others = expected[:number] + expected[number + 1 :]
        if text != expected[number] and not _tolerable(subject, text, expected[number], others):
            return Finding({"prompt": asked[number], "text": text}, {"text": expected[number]})
    return None


def _tolerable(subject: Subject, text: str, expected: str, others: list[str]) -> bool:
    """Say whether rounding may be the reason: a common beginning, and no other client's answer."""
    target = subject.target
    if target.backend == "cpu" and target.quantization in _EXACT:
        return False
    return text not in others and bool(text) and text[:1] == expected[:1]


enter(
    Property(
        name="concurrent_clients",
        gate_id="F-PROP-CLIENTS-001",
        severity=Severity.P1,
        title="Several clients at once get what each of them gets alone",
        needs=SERVER,
        modality="serve",
        strategy=strategy,
        check=check,
        max_examples=SERVED,
        shrinks="the number of clients, their prompts and the number of tokens",
    )
)
