"""The table of all models in a README, between two markers and a function of the ledger alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from apr_qa.errors import UsageError
from apr_qa.ledger_row import GATEWAYS, SPEEDS, STATUSES, Row, parameter_count
from apr_qa.rendering.visible import one_line

START = "<!-- CERTIFICATION_TABLE_START -->"
END = "<!-- CERTIFICATION_TABLE_END -->"
_BADGE_COLOURS = {
    "CERTIFIED": "brightgreen",
    "PROVISIONAL": "yellow",
    "BLOCKED": "red",
    "PENDING": "lightgray",
}
_NOTHING = "–"
_MARKERS = f"put {START} and {END}, each once and in this order, where the table belongs"
_HEAD = (
    *("Model", "Family", "Size", "Status", "MQS", "Grade", "Coverage", "G1-4", "Prov"),
    *("GGUF CPU", "GGUF GPU", "APR CPU", "APR GPU", "ST CPU", "ST GPU"),
)
_ALIGN = ("---",) * 4 + ("--:", "---", "--:", ":-:", ":-:") + ("--:",) * 6


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
    for marker in (START, END):
        if (count := readme.count(marker)) != 1:
            raise UsageError(f"the marker {marker} is there {count} times instead of once", fix=_MARKERS)
    start, end = readme.index(START) + len(START), readme.index(END)
    if end < start:
        raise UsageError(f"the marker {END} stands before {START}", fix=_MARKERS)
    newline = "\r\n" if readme.startswith("\r\n", start) else "\n"
    block = f"\n{table(rows, coverage)}\n".replace("\n", newline)
    return readme[:start] + block + readme[end:]


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
