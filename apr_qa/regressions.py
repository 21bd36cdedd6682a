"""Counterexamples that were found once and are tried first from then on.

One file a model, beside its evidence: JSON Lines of ``{"property": name, "case": …}``, the newest last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from apr_qa.errors import EvidenceDamaged
from apr_qa.vocabulary import Evidence, Outcome, Record

FILE = "regressions.jsonl"

MOST = 10
"""Cases kept of one property; the oldest are forgotten."""


class Regression(Record, frozen=True):
    """One case that broke a property."""

    property: str
    case: dict[str, Any]


_LINE = msgspec.json.Decoder(Regression)
_ENCODER = msgspec.json.Encoder(order="deterministic")


def stored(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return property -> cases of a model's folder; raises EvidenceDamaged."""
    path = folder / FILE
    found: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            one = _LINE.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            fix = "remove the line, or the file"
            raise EvidenceDamaged(
                f"no regression example: {error}", where=f"{path}:{number}", fix=fix
            ) from error
        found.setdefault(one.property, []).append(one.case)
    return found


def broken(entries: Sequence[Evidence]) -> dict[str, list[dict[str, Any]]]:
    """Return property -> counterexamples of the falsified entries."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        facts = entry.response.facts if entry.response is not None else {}
        case = facts.get("counterexample")
        if entry.outcome is Outcome.FALSIFIED and entry.scenario.claim.kind == "property" and case:
            found.setdefault(str(facts["property"]), []).append(case)
    return found


def merged(
    old: Mapping[str, list[dict[str, Any]]], new: Mapping[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return all cases once, those of ``new`` last, at most `MOST` of a property."""
    result = {}
    for name in sorted({*old, *new}):
        cases: list[dict[str, Any]] = []
        for case in [*old.get(name, ()), *new.get(name, ())]:
            cases = [*(other for other in cases if other != case), case]
        result[name] = cases[-MOST:]
    return result


def keep(folder: Path, entries: Sequence[Evidence]) -> None:
    """Add the counterexamples of a run to the model's file; a run without any leaves it alone."""
    new = broken(entries)
    if not new:
        return
    lines = [
        _ENCODER.encode(Regression(property=name, case=case))
        for name, cases in merged(stored(folder), new).items()
        for case in cases
    ]
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{FILE}"
    temporary.write_bytes(b"\n".join(lines) + b"\n")
    temporary.replace(folder / FILE)
