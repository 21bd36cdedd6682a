"""The ledger of all models: ``models.csv``, and the table in the README that follows from it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from apr_qa.errors import EnvironmentFault, EvidenceDamaged, UsageError
from apr_qa.ledger_row import (
    COLUMNS,
    GATEWAYS,
    SPEEDS,
    Row,
    faults_of,
    parameter_count,
    size_category,
)
from apr_qa.ledger_table import END, START, splice, table
from apr_qa.vocabulary import Model, Outcome

__all__ = [
    "COLUMNS",
    "END",
    "START",
    "Row",
    "coverage_of",
    "from_certificates",
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

_REISSUE = "issue it again from its evidence.jsonl with `apr-qa score`"


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
    """Read a ledger in exactly the form of ``write``; raises UsageError with each fault, line and column."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"byte {error.start} is not UTF-8", where=str(path), fix="store it as UTF-8"
        ) from error
    rows: list[Row] = []
    seen: set[str] = set()
    faults: list[str] = []
    for line, values in _records(text, faults):
        if len(values) != len(COLUMNS):
            faults.append(f"line {line}: {len(values)} columns instead of {len(COLUMNS)}")
            continue
        row = Row(**dict(zip(COLUMNS, values, strict=True)))
        if row.model_id in seen:
            faults.append(f"line {line}, model_id: {row.model_id!r} is there twice")
        faults.extend(f"line {line}, {fault}" for fault in faults_of(row))
        rows.append(row)
        seen.add(row.model_id)
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
    """Write a ledger completely or not at all; raises UsageError for what ``read`` would refuse."""
    rows, path = list(rows), path.resolve()
    if faults := [f"{row.model_id}: {fault}" for row in rows for fault in faults_of(row)]:
        raise UsageError("\n".join(faults), where=str(path), fix="correct these rows")
    content = serialise(rows).encode("utf-8")
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(content)
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
        faults = list(faults_of(row))
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        raise EvidenceDamaged(f"the certificate lacks or garbles {error}", fix=_REISSUE) from error
    if faults:
        raise EvidenceDamaged("\n".join(faults), where=f"certificate of {row.model_id}", fix=_REISSUE)
    return [row if other is known else other for other in rows] if known else [*rows, row]


def from_certificates(rows: Iterable[Row], certifications_dir: Path) -> list[Row]:
    """Return ``rows`` with every certificate that is stored under ``certifications_dir`` entered."""
    rows = list(rows)
    for _, certificate in _stored(certifications_dir):
        rows = record(rows, certificate)
    return rows


def coverage_of(certifications_dir: Path) -> dict[str, str]:
    """Return ``covered/planned`` cells by model id from the stored certificates; raises EvidenceDamaged."""
    found: dict[str, str] = {}
    for path, certificate in _stored(certifications_dir):
        try:
            share = certificate["coverage"]
            found[str(certificate["model_id"])] = f"{int(share['covered'])}/{int(share['planned'])}"
        except (ValueError, KeyError, TypeError) as error:
            raise EvidenceDamaged(f"no coverage: {error!r}", where=str(path), fix=_REISSUE) from error
    return found


def _stored(certifications_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(certifications_dir.glob("*/certificate.json")):
        try:
            certificate = json.loads(path.read_bytes())
        except (ValueError, OSError) as error:
            raise EvidenceDamaged(f"not a certificate: {error}", where=str(path), fix=_REISSUE) from error
        if not isinstance(certificate, dict):
            raise EvidenceDamaged("not a certificate: no JSON object", where=str(path), fix=_REISSUE)
        yield path, certificate


def _records(text: str, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, values) of every record below the head line; what is no CSV goes to ``faults``."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(reader, [])
        if tuple(head) != COLUMNS:
            faults.append(f"line 1: the columns have to be {','.join(COLUMNS)}")
            return
        for values in reader:
            yield reader.line_num, values
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: {error}")


def _unusual_writing(text: str, usual: str) -> list[str]:
    """Return the first line that would be written in another way than it was read."""
    if text == usual:
        return []
    pairs = zip(text.split("\n"), usual.split("\n"), strict=False)
    line = next((n for n, (own, other) in enumerate(pairs, start=1) if own != other), text.count("\n") + 1)
    return [f"line {line}: quotes without need, a carriage return, or an end that is not a single line feed"]


def _row(certificate: Mapping[str, Any], known: Row | None) -> Row:
    """Return the row of a certificate; family and size of a known model stay those of the registry."""
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
