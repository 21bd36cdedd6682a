"""An answer ends before its stop string, and says that it stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.properties import ANSWERS, SESSION, Case, Finding, OutOfPromise, Property, Subject, enter
from apr_qa.properties._answers import alone, cases
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_BROKEN = "\ufffd"


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a request and the part of its answer that becomes the stop string."""
    from hypothesis import strategies as st

    return cases(start=st.integers(0, 20), length=st.integers(1, 4))


def check(subject: Subject, case: Case) -> Finding | None:
    """Answer freely, then again with a part of that answer as stop string."""
    prompt, count = str(case["prompt"]), int(case["max_tokens"])
    free = alone(subject, prompt, count).text or ""
    if not free:
        raise OutOfPromise
    start = int(case["start"]) % len(free)
    stop = free[start : start + int(case["length"])]
    if _BROKEN in stop:
        raise OutOfPromise  # half a letter, which more tokens would complete
    stopped = alone(subject, prompt, count, stop=(stop,))
    wanted = free[: free.index(stop)]
    if (stopped.text, stopped.finish_reason) == (wanted, "stop"):
        return None
    return Finding(
        {"text": stopped.text, "finish_reason": stopped.finish_reason},
        {"text": wanted, "finish_reason": "stop", "stop": stop},
    )


enter(
    Property(
        name="stop_strings",
        gate_id="F-PROP-STOP-001",
        severity=Severity.P1,
        title="An answer ends before its stop string",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="the prompt, the number of tokens and the stop string",
    )
)
