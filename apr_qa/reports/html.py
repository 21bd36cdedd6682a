"""One page that needs nothing but itself: no request leaves it, and it reads well without scripts."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from apr_qa.rendering.report_details import details, files
from apr_qa.rendering.report_entry import conversation, measurements, numbers, replay
from apr_qa.rendering.report_outline import (
    UNMEASURED,
    Speed,
    categories,
    facts,
    findings,
    findings_by_gate,
    gate_blocks,
    gate_info,
    limits,
    matrix,
    outcome_counts,
    slug,
    speeds,
    word,
)
from apr_qa.rendering.report_rows import rows
from apr_qa.rendering.visible import STEERING, one_line, visible
from apr_qa.reports import REPORTS, GateInfo, Run
from apr_qa.vocabulary import Evidence, Outcome, Severity

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

MAX_ENTRIES = 2_000
"""With more entries only those that are not corroborated are listed, and of these as many at most."""
MAX_OF_MANY = 200
"""Findings listed on the page of a run whose entries are not all kept; the others are loaded on demand."""
MAX_TEXT = 20_000
MAX_PER_FINDING = 8
FOLD_CHARACTERS, FOLD_LINES = 900, 14
_STEERING_RUN = re.compile(f"({STEERING.pattern}+)")


@dataclass(frozen=True)
class _Gate:
    """A gate as the page shows it: ``entries`` are listed, ``omitted`` are only counted."""

    info: GateInfo
    outcome: str
    reason: str
    counts: tuple[tuple[str, int], ...]
    entries: tuple[Evidence, ...]
    omitted: int


@dataclass(frozen=True)
class _Finding:
    """What speaks against one gate."""

    info: GateInfo
    outcomes: tuple[str, ...]
    entries: tuple[Evidence, ...]
    more: int


class Html:
    """The page; every text of the run is escaped, and what could steer its reader is shown as an escape."""

    name = "html"
    filename = "report.html"

    def render(self, run: Run) -> str:
        """Return the document."""
        listed = _listed(run)
        counts = outcome_counts(run)
        complete = run.tally.complete
        return _template().render(
            run=run,
            total=run.tally.total,
            rows=() if complete else rows(run),
            more={} if complete else files(run),
            certificate=run.certificate,
            facts=facts(run),
            limits=limits(run),
            counts=[(outcome.value, counts[outcome]) for outcome in Outcome if counts[outcome]],
            gateways=_gateways(run, {entry.id for entry in listed}),
            matrix=matrix(run),
            findings=_findings(run, {entry.id for entry in listed}),
            gates=_gates(run, {id(entry) for entry in listed}),
            listed=len(listed),
            choices=_choices(listed),
            categories=categories(run),
            speeds=_bars(speeds(run)),
            files=_files(),
            hashes={name: _csp_hash(text) for name, text in _files().items()},
        )

    def details(self, run: Run) -> dict[str, str]:
        """Return file name -> content of what the page of a large run loads on demand."""
        return {} if run.tally.complete else details(run)


def _listed(run: Run) -> Sequence[Evidence]:
    """Return the entries that the page shows one by one."""
    if not run.tally.complete:
        return _some_of_each(findings(run))
    return run.evidence if len(run.evidence) <= MAX_ENTRIES else findings(run)[:MAX_ENTRIES]


def _some_of_each(found: list[Evidence]) -> list[Evidence]:
    """Return the first findings of every gate, in all about `MAX_OF_MANY`."""
    gates = Counter(entry.gate_id for entry in found)
    share = max(MAX_PER_FINDING, MAX_OF_MANY // max(1, len(gates)))
    taken: Counter[str] = Counter()
    chosen = []
    for entry in found:
        taken[entry.gate_id] += 1
        chosen += [entry] if taken[entry.gate_id] <= share else []
    return chosen[:MAX_ENTRIES]


def _gates(run: Run, listed: set[int]) -> list[_Gate]:
    gates = []
    for block in gate_blocks(run):
        entries = tuple(sorted((item for item in block.entries if id(item) in listed), key=_worst_first))
        counts = tuple((outcome.value, block.counts[outcome]) for outcome in Outcome if block.counts[outcome])
        omitted = block.counts.total() - len(entries)
        gates.append(_Gate(block.info, block.outcome, block.reason, counts, entries, omitted))
    return gates


def _worst_first(entry: Evidence) -> tuple[bool, bool, bool]:
    corroborated = entry.outcome is Outcome.CORROBORATED
    return not entry.outcome.failed, entry.outcome is not Outcome.INCONCLUSIVE, not corroborated


def _findings(run: Run, linked: set[str]) -> list[_Finding]:
    """Return the findings by gate, P0 first; of each gate a few entries that the page also lists."""
    grouped: dict[str, list[Evidence]] = {}
    for entry in findings(run):
        grouped.setdefault(entry.gate_id, []).append(entry)
    totals, found = findings_by_gate(run), []
    for gate_id, entries in grouped.items():
        shown = tuple(entry for entry in entries if entry.id in linked)[:MAX_PER_FINDING]
        outcomes = tuple(sorted({entry.outcome.value for entry in entries}))
        found.append(_Finding(gate_info(run, gate_id), outcomes, shown, totals[gate_id] - len(shown)))
    return found


def _gateways(run: Run, linked: set[str]) -> list[dict[str, Any]]:
    """Return the gateways with the listed entries that decided them, a few of each."""
    deciding = {verdict.gate_id: verdict.evidence for verdict in run.verdicts}
    return [
        {
            "info": gate_info(run, item["id"]),
            "outcome": word(item["outcome"]),
            "reason": item["reason"],
            "links": [entry for entry in deciding.get(item["id"], ()) if entry in linked][:MAX_PER_FINDING],
        }
        for item in run.certificate.get("gateways") or ()
    ]


def _choices(listed: Sequence[Evidence]) -> dict[str, list[str]]:
    """Return the values by which the list can be filtered."""
    targets = [entry.scenario.target for entry in listed]
    outcomes = {entry.outcome for entry in listed}
    return {
        "outcome": [outcome.value for outcome in Outcome if outcome in outcomes],
        "severity": [item.value for item in Severity],
        "format": sorted({target.format for target in targets}),
        "device": sorted({target.backend for target in targets}),
        "modality": sorted({target.modality for target in targets}),
    }


def _bars(found: list[Speed]) -> list[tuple[Speed, float, float]]:
    """Return each speed with its two bar lengths, in per cent of the longest."""
    rates = [item.tokens_per_s or 0.0 for item in found]
    firsts = [item.first_token_s or 0.0 for item in found]
    rate_100, first_100 = max(rates, default=0.0) or 1.0, max(firsts, default=0.0) or 1.0
    return [
        (item, round(100 * rate / rate_100, 1), round(100 * first / first_100, 1))
        for item, rate, first in zip(found, rates, firsts, strict=True)
    ]


def _marked(text: object, limit: int = MAX_TEXT) -> Markup:
    """Return escaped text in which steering characters stand as marked escapes, cut after ``limit``."""
    from markupsafe import Markup, escape

    words = str(text)
    pieces = _STEERING_RUN.split(words[:limit])
    marked = Markup("").join(
        Markup('<span class="esc">{}</span>').format(visible(piece)) if place % 2 else escape(piece)
        for place, piece in enumerate(pieces)
    )
    rest = len(words) - limit
    note = Markup('<span class="cut"> [… {:,} more characters in evidence.jsonl]</span>')
    return marked + note.format(rest) if rest > 0 else marked


def _is_long(text: str) -> bool:
    return len(text) > FOLD_CHARACTERS or text.count("\n") >= FOLD_LINES


@cache
def _files() -> dict[str, Markup]:
    """Return style and script; they are ours and go into the page as they are."""
    from markupsafe import Markup

    folder = resources.files("apr_qa.reports")
    names = {"style": "report.css", "script": "report.js", "pages": "report_pages.js"}
    return {key: Markup(folder.joinpath(name).read_text(encoding="utf-8")) for key, name in names.items()}  # noqa: S704


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_made_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        marked=_marked,
        line=one_line,
        slug=slug,
        said=conversation,
        measured=measurements,
        numbers=numbers,
        replay=replay,
    )
    environment.tests["long"] = _is_long
    environment.globals["unmeasured"] = UNMEASURED
    source = resources.files("apr_qa.reports").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _made_visible(value: Any) -> Any:
    """Make every plain string that the template prints visible, wherever it came from."""
    return visible(value) if type(value) is str else value


REPORTS.register("html")(Html())
