"""The outcomes of acceptance criteria, one row each, from the evidence of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable

from apr_qa.rendering.visible import visible
from apr_qa.vocabulary import Evidence, Outcome

_CRITERION = re.compile(r"AC-\d{3}")


def criteria(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Return the entries about criteria, by number."""
    found = [entry for entry in evidence if _CRITERION.fullmatch(entry.gate_id)]
    return sorted(found, key=lambda entry: (entry.gate_id, entry.id))


def accepted(evidence: Iterable[Evidence]) -> bool:
    """Say whether criteria were measured and none of them failed or stayed open; inapplicable ones are left out."""
    counted = [entry for entry in criteria(evidence) if entry.outcome is not Outcome.INAPPLICABLE]
    return bool(counted) and all(entry.outcome is Outcome.CORROBORATED for entry in counted)


def table(evidence: Iterable[Evidence]) -> list[tuple[str, str, str]]:
    """Return (criterion, outcome, reason with its numbers) for printing."""
    return [(entry.gate_id, entry.outcome.value, visible(entry.reason)) for entry in criteria(evidence)]
