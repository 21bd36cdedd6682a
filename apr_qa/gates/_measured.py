"""How the gates over measurements of a playbook are entered."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, enter
from apr_qa.vocabulary import Severity

_SOURCE = "apr_qa/measuring"


def measured_gate(
    gate_id: str, category: str, hypothesis: str, check: Check, good: Facts, bad: Facts, **rest: Any
) -> None:
    """Register a gate; ``bad`` is what has to change in the ``good`` facts for it to be falsified."""
    severity = rest.pop("severity", Severity.P1)
    enter(
        Gate(
            id=gate_id,
            category=category,
            severity=severity,
            hypothesis=hypothesis,
            check=check,
            corroborates={**good},
            falsifies={**good, **bad},
            source=_SOURCE,
            **rest,
        )
    )
