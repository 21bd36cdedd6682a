"""Recompute everything that was published from the stored evidence, and name the first difference.

Law: every number in the certificate, the reports, the model table and the README follows from evidence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apr_qa import certify, evidence, judge, ledger, resources
from apr_qa.vocabulary import Model, Record


class Difference(Record, frozen=True):
    """One place where what is stored is not what follows from the evidence."""

    where: str
    stored: str
    recomputed: str

    def __str__(self) -> str:
        return f"{self.where}: stored {self.stored}, recomputed {self.recomputed}"


def folder(path: Path) -> Iterator[Difference]:
    """Yield the differences of one certification folder."""
    source = evidence.stored(path)
    header, entries = evidence.stream(source)
    number = 1
    for number, entry in enumerate(entries, start=2):
        again = judge.rejudge(entry)
        for field in ("outcome", "reason", "metrics"):
            stored, recomputed = getattr(entry, field), getattr(again, field)
            if stored != recomputed:
                yield Difference(
                    where=f"{source}:{number} {entry.gate_id} {field}",
                    stored=_short(stored),
                    recomputed=_short(recomputed),
                )
        if entry.severity != entry.scenario.claim.severity:
            yield Difference(
                where=f"{source}:{number} {entry.gate_id} severity",
                stored=str(entry.severity),
                recomputed=str(entry.scenario.claim.severity),
            )
    if number - 1 != header.planned:  # that no entry stands twice was seen in reading
        yield Difference(
            where=f"{source}: number of entries", stored=str(number - 1), recomputed=str(header.planned)
        )
    for name, text in certify.documents(certify.judged(source)).items():
        yield from _document(path / name, text)


def _document(path: Path, recomputed: str) -> Iterator[Difference]:
    if not path.exists():
        yield Difference(where=str(path), stored="nothing", recomputed="a document")
        return
    stored = path.read_text(encoding="utf-8", errors="replace")
    if stored == recomputed:
        return
    if path.suffix == ".json":
        yield from _fields(str(path), _parsed(stored), json.loads(recomputed))
        return
    old, new = stored.splitlines(), recomputed.splitlines()
    for number, (one, other) in enumerate(zip(old, new, strict=False), start=1):
        if one != other:
            yield Difference(where=f"{path}:{number}", stored=_short(one), recomputed=_short(other))
            return
    yield Difference(where=f"{path}: number of lines", stored=str(len(old)), recomputed=str(len(new)))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return f"not JSON: {error}"


def _fields(where: str, stored: Any, recomputed: Any) -> Iterator[Difference]:
    """Walk two JSON values side by side down to the values that differ."""
    if isinstance(stored, dict) and isinstance(recomputed, dict):
        for key in sorted(stored.keys() | recomputed.keys()):
            yield from _fields(f"{where} {key}", stored.get(key), recomputed.get(key))
    elif isinstance(stored, list) and isinstance(recomputed, list) and len(stored) == len(recomputed):
        for index, (one, other) in enumerate(zip(stored, recomputed, strict=True)):
            yield from _fields(f"{where}[{index}]", one, other)
    elif stored != recomputed or type(stored) is not type(recomputed):
        yield Difference(where=where, stored=_short(stored), recomputed=_short(recomputed))


def table(root: Path, readme: Path) -> Iterator[Difference]:
    """Yield the differences of the model table and of the README against the certificates under ``root``."""
    path = root / certify.LEDGER_FILE
    rows = ledger.read(path)
    expected = ledger.from_certificates(ledger.pending_rows(_registered(rows)), root)
    for line, (stored, recomputed) in enumerate(zip(rows, expected, strict=False), start=2):
        for column in ledger.COLUMNS:
            one, other = getattr(stored, column), getattr(recomputed, column)
            if one != other:
                yield Difference(
                    where=f"{path}:{line} {column}", stored=_short(one), recomputed=_short(other)
                )
    if len(rows) != len(expected):
        yield Difference(
            where=f"{path}: number of rows", stored=str(len(rows)), recomputed=str(len(expected))
        )
    if readme.exists():
        text = readme.read_text(encoding="utf-8", errors="replace")
        spliced = ledger.splice(text, expected, ledger.coverage_of(root))
        for number, (one, other) in enumerate(
            zip(text.splitlines(), spliced.splitlines(), strict=False), start=1
        ):
            if one != other:
                yield Difference(where=f"{readme}:{number}", stored=_short(one), recomputed=_short(other))
                return
        if text != spliced:
            yield Difference(
                where=f"{readme}: table", stored="another number of lines", recomputed="the table"
            )


def _registered(rows: Sequence[ledger.Row]) -> list[Model]:
    """Return what the registry says about the models of a table: without a certificate, that is all of a row.

    Family and size come from the table that was built into the package, where it knows the model.
    """
    packaged = resources.PACKAGE / "data" / "certifications" / certify.LEDGER_FILE
    known = {row.model_id: row for row in ledger.read(packaged)} if packaged.is_file() else {}
    chosen = [known.get(row.model_id, row) for row in rows]
    return [Model(id=row.model_id, family=row.family, parameters=row.parameters) for row in chosen]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "…"
