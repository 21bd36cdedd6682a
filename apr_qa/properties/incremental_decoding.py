"""Token after token through the cache gives the logits of one forward pass over the whole text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.errors import Inapplicable
from apr_qa.properties import ANSWERS, SESSION, Case, Finding, OutOfPromise, Property, Subject, enter
from apr_qa.properties._answers import noise, prompt_ids
from apr_qa.properties._texts import prompts
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_STEPS = 6


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a text and how much of it is read before the first step."""
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"text": prompts(), "steps": st.integers(1, _STEPS)})


def check(subject: Subject, case: Case) -> Finding | None:
    """Compare the logits of every step with those of the whole."""
    import numpy as np

    session = subject.session
    if not (hasattr(session, "prefill") and hasattr(session, "step")):
        raise Inapplicable("the engine does not decode step by step here")
    ids = prompt_ids(subject, str(case["text"]))
    steps = min(int(case["steps"]), len(ids) - 1)
    if steps < 1:
        raise OutOfPromise
    read = len(ids) - steps
    whole = session.logits(ids)[read - 1 :]
    rows = [session.prefill([ids[:read]], len(ids))[0]]
    rows += [session.step([0], [token])[0] for token in ids[read:]]
    for at, (row, expected) in enumerate(zip(rows, whole, strict=True)):
        apart = float(np.abs(row - expected).max())
        allowed = noise(subject.target) * float(expected.std())
        if not apart <= allowed:
            position = read - 1 + at
            return Finding(
                {"position": position, "logit_difference": apart, "top": int(row.argmax())},
                {"logit_difference": f"at most {allowed:.3g}", "top": int(expected.argmax())},
            )
    return None


enter(
    Property(
        name="incremental_decoding",
        gate_id="F-PROP-CACHE-001",
        severity=Severity.P1,
        title="Decoding step by step gives the logits of one forward pass",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=ANSWERS,
        shrinks="the text and the number of steps",
    )
)
