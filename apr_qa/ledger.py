"""The ledger of all models: ``models.csv``, and the table in the README that follows from it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from apr_qa.errors import EnvironmentFault, EvidenceDamaged, UsageError
from apr_qa.ledger_row import (
    COLUMNS,
    GATEWAYS,
    SPEEDS,
    STATUSES,
    Row,
    faults_of,
    parameter_count,
    size_category,
)
from apr_qa.visible import one_line
from apr_qa.vocabulary import Model, Outcome

__all__ = [
    "COLUMNS",
    "TABLE_END",
    "TABLE_START",
    "Row",
    "coverage_of",
    "parameter_count",
    "pending_rows",
    "read",
    "record",
    "serialise",
    "size_category",
    "splice",
    "table",
    "write",
]

TABLE_START = "<!-- CERTIFICATION_TABLE_START -->"
TABLE_END = "<!-- CERTIFICATION_TABLE_END -->"
_BADGE_COLOURS = {
    "CERTIFIED": "brightgreen",
    "PROVISIONAL": "yellow",
    "BLOCKED": "red",
    "PENDING": "lightgray",
}
_NOTHING = "–"
_MARKERS = f"put {TABLE_START} and {TABLE_END}, each once and in this order, where the table belongs"
_HEAD = (
    *("Model", "Family", "Size", "Status", "MQS", "Grade", "Coverage", "G1-4", "Prov"),
    *("GGUF CPU", "GGUF GPU", "APR CPU", "APR GPU", "ST CPU", "ST GPU"),
)
_ALIGN = ("---",) * 4 + ("--:", "---", "--:", ":-:", ":-:") + ("--:",) * 6


def pending_rows(models: Iterable[Model]) -> list[Row]:
    """Return the rows of models that were never run."""
    return [
        Row(
            model_id=model.id,
            family=model.family,
            parameters=model.parameters,
            size_category=size_category(model.parameters),
        )
        for model in models
    ]


def read(path: Path) -> list[Row]:
    """Read a ledger, which ``write`` would write as it is; raises UsageError with each fault, its line and column."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"byte {error.start} is not UTF-8", where=str(path), fix="store it as UTF-8"
        ) from error
    rows: list[Row] = []
    faults: list[str] = []
    for line, values in _records(text, faults):
        if len(values) != len(COLUMNS):
            faults.append(f"line {line}: {len(values)} columns instead of {len(COLUMNS)}")
            continue
        row = Row(**dict(zip(COLUMNS, values, strict=True)))
        if any(row.model_id == other.model_id for other in rows):
            faults.append(f"line {line}, model_id: {row.model_id!r} is there twice")
        faults.extend(f"line {line}, {fault}" for fault in faults_of(row))
        rows.append(row)
    if not faults:
        faults = _unusual_writing(text, serialise(rows))
    if faults:
        fix = (
            "correct these lines, or take the file from version control and let `apr-qa export-csv` write it"
        )
        raise UsageError("\n".join(faults), where=str(path), fix=fix)
    return rows


def serialise(rows: Iterable[Row]) -> str:
    """Return the text of a ledger: a head line, then a line a model, each ended by a line feed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(msgspec.structs.astuple(row) for row in rows)
    return text.getvalue()


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write a ledger completely or not at all; raises EnvironmentFault and then leaves the old one alone."""
    path = path.resolve()
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(serialise(rows).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path)) from error


def record(rows: Iterable[Row], certificate: Mapping[str, Any]) -> list[Row]:
    """Return ``rows`` with the row of the certified model replaced, or appended; raises EvidenceDamaged."""
    rows = list(rows)
    try:
        known = next((row for row in rows if row.model_id == certificate["model_id"]), None)
        row = _row(certificate, known)
    except (KeyError, TypeError, AttributeError) as error:
        raise EvidenceDamaged(f"the certificate lacks or garbles {error}", fix="issue it again") from error
    if faults := list(faults_of(row)):
        raise EvidenceDamaged("\n".join(faults), where=f"certificate of {row.model_id}", fix="issue it again")
    return [row if other is known else other for other in rows] if known else [*rows, row]


def table(rows: Iterable[Row], coverage: Mapping[str, str] | None = None) -> str:
    """Return the summary and the table of all models as Markdown; ``coverage`` is ``9/18`` by model id.

    "Updated" is the newest run in the rows, so that the same ledger always gives the same text.
    """
    rows = sorted(rows, key=_by_family_and_size)
    moments = [
        datetime.fromisoformat(row.last_certified).astimezone(UTC) for row in rows if row.last_certified
    ]
    updated = f"{max(moments):%Y-%m-%d %H:%M} UTC" if moments else _NOTHING
    counts = Counter(row.status for row in rows)
    lines = [
        f"**Certification summary** (updated: {updated})",
        "",
        "| Status | Count |",
        "| --- | --: |",
        *(f"| {status.capitalize()} | {counts[status]}/{len(rows)} |" for status in STATUSES),
        "",
        f"| {' | '.join(_HEAD)} |",
        f"| {' | '.join(_ALIGN)} |",
        *(f"| {' | '.join(_cells(row, (coverage or {}).get(row.model_id, _NOTHING)))} |" for row in rows),
    ]
    return "\n".join(lines)


def splice(readme: str, rows: Iterable[Row], coverage: Mapping[str, str] | None = None) -> str:
    """Return ``readme`` with the table between its markers renewed, and every other character as it was.

    The line ends of the table are those after the first marker. Raises UsageError unless there is exactly
    one start marker and one end marker behind it.
    """
    for marker in (TABLE_START, TABLE_END):
        if (count := readme.count(marker)) != 1:
            raise UsageError(f"the marker {marker} is there {count} times instead of once", fix=_MARKERS)
    start, end = readme.index(TABLE_START) + len(TABLE_START), readme.index(TABLE_END)
    if end < start:
        raise UsageError(f"the marker {TABLE_END} stands before {TABLE_START}", fix=_MARKERS)
    newline = "\r\n" if readme.startswith("\r\n", start) else "\n"
    block = f"\n{table(rows, coverage)}\n".replace("\n", newline)
    return readme[:start] + block + readme[end:]


def coverage_of(certifications_dir: Path) -> dict[str, str]:
    """Return ``covered/planned`` cells by model id from the stored certificates; raises EvidenceDamaged."""
    found: dict[str, str] = {}
    for path in sorted(certifications_dir.glob("*/certificate.json")):
        try:
            certificate = json.loads(path.read_bytes())
            share = certificate["coverage"]
            found[str(certificate["model_id"])] = f"{int(share['covered'])}/{int(share['planned'])}"
        except (ValueError, KeyError, TypeError) as error:
            fix = "issue it again from its evidence.jsonl with `apr-qa score`"
            raise EvidenceDamaged(f"not a certificate: {error}", where=str(path), fix=fix) from error
    return found


def _records(text: str, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, values) of every record below the head line; what is no CSV goes to ``faults``."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(reader, [])
        if tuple(head) != COLUMNS:
            wrong = next(
                (n for n, pair in enumerate(zip(COLUMNS, head, strict=False)) if pair[0] != pair[1]), None
            )
            place = min(len(head), len(COLUMNS) - 1) if wrong is None else wrong
            faults.append(
                f"line 1: column {place + 1} has to be {COLUMNS[place]!r}, of {len(COLUMNS)} in all"
            )
            return
        for values in reader:
            yield reader.line_num, values
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: {error}")


def _unusual_writing(text: str, usual: str) -> list[str]:
    """Return the first line that would not be written as it was read: quotes without need, other line ends."""
    if text == usual:
        return []
    pairs = zip(text.split("\n"), usual.split("\n"), strict=False)
    line = next((n for n, (own, other) in enumerate(pairs, start=1) if own != other), text.count("\n") + 1)
    return [f"line {line}: quotes without need, a carriage return, or an end that is not a single line feed"]


def _row(certificate: Mapping[str, Any], known: Row | None) -> Row:
    """Return the row that a certificate gives; family and size of a known model stay those of the registry."""
    gateways = {item["id"].partition("-")[0].lower(): item["outcome"] for item in certificate["gateways"]}
    parameters = known.parameters if known else str(certificate.get("parameters") or "")
    score, speeds = certificate["score"], certificate["speeds"]
    return Row(
        model_id=certificate["model_id"],
        family=known.family if known else certificate["family"],
        parameters=parameters,
        size_category=size_category(parameters),
        status=certificate["status"],
        mqs_score="" if score is None else str(score),
        grade=certificate["grade"] or "-",
        certified_tier=certificate["tier"],
        last_certified=certificate["finished"],
        **{name: _gateway(gateways.get(name)) for name in GATEWAYS},
        **{name: _rate(speeds.get(key)) for name, key in SPEEDS.items()},
        provenance_verified="true" if _provenance(certificate["artifacts"]) else "false",
    )


def _gateway(outcome: str | None) -> str:
    """Return true or false for a gateway that was decided; unproven and inapplicable ones stay empty."""
    if outcome in (None, Outcome.INAPPLICABLE, Outcome.SKIPPED):
        return ""
    return "true" if outcome == Outcome.CORROBORATED else "false"


def _rate(tokens_per_s: float | None) -> str:
    return "" if tokens_per_s is None else f"{tokens_per_s:.1f}"


def _provenance(artifacts: Sequence[Mapping[str, str]]) -> bool:
    """Say whether each artifact has its hash and each derived one says from what; nothing proves nothing."""
    return bool(artifacts) and all(
        re.fullmatch(r"[0-9a-f]{64}", item["sha256"]) and (item["origin"] != "derived" or item["source"])
        for item in artifacts
    )


def _by_family_and_size(row: Row) -> tuple[str, float, str, str]:
    count = parameter_count(row.parameters) if row.parameters else 0.0
    return row.family.casefold(), count, _name(row).casefold(), row.model_id


def _name(row: Row) -> str:
    return row.model_id.rsplit("/", 1)[-1]


def _cells(row: Row, coverage: str) -> list[str]:
    status = (
        f"![{row.status.lower()}](https://img.shields.io/badge/{row.status}-{_BADGE_COLOURS[row.status]})"
    )
    decided = [getattr(row, name) for name in GATEWAYS]
    never_run = row.certified_tier == "none"
    return [
        f"[{_plain(_name(row))}](https://huggingface.co/{quote(row.model_id)})",
        _plain(row.family),
        row.parameters or _NOTHING,
        status,
        row.mqs_score or _NOTHING,
        row.grade if row.grade != "-" else _NOTHING,
        _plain(coverage),
        "✗" if "false" in decided else "✓" if set(decided) == {"true"} else _NOTHING,
        _NOTHING if never_run else "✓" if row.provenance_verified == "true" else "✗",
        *(f"{float(speed):.1f}" if (speed := getattr(row, name)) else _NOTHING for name in SPEEDS),
    ]


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", one_line(text, 200))
