"""Findings of a run too large for one page, in files that the page loads when somebody asks for them.

A file is a script that hands its entries to the page: that works from a disk too, where a page may read no file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from apr_qa.rendering.report_entry import conversation, measurements, numbers, replay, target_words
from apr_qa.rendering.report_outline import is_doubt, slug
from apr_qa.rendering.visible import excerpt
from apr_qa.reports import Run
from apr_qa.vocabulary import Evidence

FOLDER = "report-details"
ENTRIES_PER_FILE = 200
MAX_TEXT = 4_000


def files(run: Run) -> dict[str, list[str]]:
    """Return gate id -> names of the files that hold its findings."""
    return {gate_id: list(_named(gate_id, entries)) for gate_id, entries in _findings(run).items()}


def details(run: Run) -> dict[str, str]:
    """Return file name -> script, of all gates that have findings."""
    return {
        name: f"aprQa({json.dumps(gate_id)}, {_inert([_shown(entry) for entry in part])});\n"
        for gate_id, entries in _findings(run).items()
        for name, part in _named(gate_id, entries).items()
    }


def _findings(run: Run) -> dict[str, list[Evidence]]:
    by_gate = run.tally.all.where(is_doubt).by(lambda entry: entry.gate_id)
    return {gate_id: by_gate[gate_id].entries() for gate_id in sorted(by_gate)}


def _named(gate_id: str, entries: Sequence[Evidence]) -> dict[str, Sequence[Evidence]]:
    """Cut entries into files, named after the gate."""
    begins = range(0, len(entries), ENTRIES_PER_FILE)
    return {
        f"{FOLDER}/{slug(gate_id)}-{number}.js": entries[begin : begin + ENTRIES_PER_FILE]
        for number, begin in enumerate(begins, start=1)
    }


def _shown(entry: Evidence) -> dict[str, Any]:
    """Return what the page shows of an entry, every text made visible."""
    texts = [("reason", entry.reason), *conversation(entry), *numbers(entry)]
    return {
        "id": excerpt(entry.id, 100),
        "outcome": entry.outcome.value,
        "severity": entry.severity.value,
        "target": excerpt(target_words(entry), 200),
        "question": excerpt(entry.scenario.claim.question, 200),
        "texts": [[role, excerpt(text, MAX_TEXT)] for role, text in texts],
        "measured": {name: excerpt(value, 200) for name, value in measurements(entry).items()},
        "replay": excerpt(replay(entry), 200),
    }


def _inert(value: Any) -> str:
    """Return JSON that ends no element, whoever puts it into a page."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
