"""GitHub-flavoured Markdown with the same numbers as the page, short enough for a job summary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from apr_qa.rendering.report_entry import conversation, measurements, numbers, replay, target_words
from apr_qa.rendering.report_outline import (
    UNMEASURED,
    Cell,
    categories,
    facts,
    findings,
    findings_by_gate,
    gate_blocks,
    gate_info,
    limits,
    matrix,
    speeds,
    word,
)
from apr_qa.rendering.visible import excerpt, one_line, visible
from apr_qa.reports import REPORTS, Run
from apr_qa.vocabulary import Evidence

MAX_FINDINGS = 50
MAX_TEXT = 1_500


class Markdown:
    """Markdown; text of unknown origin stands in code spans and fences that it cannot close."""

    name = "markdown"
    filename = "report.md"

    def render(self, run: Run) -> str:
        """Return the document."""
        parts = (_verdict, _gateways, _matrix, _findings, _gates, _speeds, _artifacts)
        return "\n\n".join("\n".join(part(run)) for part in parts) + "\n"


def _verdict(run: Run) -> Iterator[str]:
    values = facts(run)
    yield f"# {_plain(run.header.model.id)}: {_plain(values['status'])}\n"
    yield f"{_plain(str(run.certificate.get('reason') or ''))}\n"
    yield from _table(["verdict", "value"], [[name, _plain(value)] for name, value in values.items()])
    yield "\n## What this does not prove\n"
    yield from (f"- {_plain(sentence)}" for sentence in limits(run))
    yield "\n## Categories\n"
    yield from _table(["category", "rate", "entries"], [list(row) for row in categories(run)])


def _gateways(run: Run) -> Iterator[str]:
    rows = [
        [
            item["id"],
            _plain(gate_info(run, item["id"]).hypothesis),
            word(item["outcome"]),
            _plain(item["reason"]),
        ]
        for item in run.certificate.get("gateways") or ()
    ]
    yield "## Gateways\n"
    yield from _table(["gateway", "hypothesis", "verdict", "reason"], rows)


def _matrix(run: Run) -> Iterator[str]:
    grid = matrix(run)
    yield "## Matrix\n"
    yield "Corroborated / counted claims of each cell.\n"
    rows = [
        [f"{_plain(form)} · {_plain(device)}", *(_cell(cell, grid.notes) for cell in cells)]
        for form, device, cells in grid.rows
    ]
    yield from _table(["", *map(_plain, grid.modalities)], rows)
    yield ""
    yield from (f"{number}. {_plain(note)}" for number, note in enumerate(grid.notes, start=1))


def _cell(cell: Cell | None, notes: Sequence[str]) -> str:
    if cell is None:
        return ""
    if cell.counted:
        return f"{cell.held}/{cell.counted} {cell.state}"
    return f"{cell.state}, note {notes.index(cell.reason) + 1}"


def _findings(run: Run) -> Iterator[str]:
    found, total = findings(run), findings_by_gate(run).total()
    yield f"## Findings ({total})\n"
    if not found:
        yield "None: no counted claim was falsified, and none was left in doubt."
    for entry in found[:MAX_FINDINGS]:
        yield from _finding(run, entry)
    if total > MAX_FINDINGS:
        yield f"… and {total - MAX_FINDINGS} more in `evidence.jsonl`."


def _finding(run: Run, entry: Evidence) -> Iterator[str]:
    yield f"### {entry.severity} {_plain(entry.gate_id)} {entry.outcome} on {_plain(target_words(entry))}\n"
    yield f"{_plain(gate_info(run, entry.gate_id).hypothesis)}\n"
    yield f"- reason: {_plain(entry.reason)}"
    measured = ", ".join(f"{name} {value}" for name, value in measurements(entry).items())
    if measured:
        yield f"- measured: {_plain(measured)}"
    yield f"- again: `{replay(entry)}`\n"
    shown = [*conversation(entry), *numbers(entry)]
    if shown:
        yield "<details><summary>prompt, output and numbers</summary>\n"
        for role, text in shown:
            yield f"{role}:\n\n{fenced(excerpt(text, MAX_TEXT))}\n"
        yield "</details>\n"


def _gates(run: Run) -> Iterator[str]:
    rows = []
    for block in gate_blocks(run):
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(block.counts.items()))
        info = block.info
        rows.append(
            [*map(_plain, (info.id, info.severity, info.hypothesis, info.threshold)), block.outcome, counts]
        )
    yield "## Gates\n"
    yield from _table(["gate", "severity", "hypothesis", "threshold", "verdict", "entries"], rows)


def _speeds(run: Run) -> Iterator[str]:
    rows = [
        [
            _plain(f"{item.format}·{item.device}·{item.modality}"),
            UNMEASURED if item.tokens_per_s is None else f"{item.tokens_per_s:.1f}",
            UNMEASURED if item.first_token_s is None else f"{item.first_token_s * 1000:.0f}",
            str(item.entries),
        ]
        for item in speeds(run)
    ]
    yield "## Speed (medians)\n"
    yield from _table(["cell", "tokens/s", "first token, ms", "entries"], rows)


def _artifacts(run: Run) -> Iterator[str]:
    header = run.header
    rows = [
        [*map(_plain, (item.format, item.quantization, item.origin, item.source)), _code(item.sha256)]
        for item in header.artifacts
    ]
    yield "## Artifacts\n"
    yield from _table(["format", "quantization", "origin", "source", "sha256"], rows)
    yield "\n## Environment\n"
    origin = {
        "apr-qa": header.apr_qa,
        "playbook": f"{header.playbook} (sha256 {header.playbook_sha256})",
        "revision": header.model.revision,
        "started": header.started,
        "finished": str(run.certificate.get("finished") or ""),
    }
    values = {**origin, **header.environment}
    yield from _table(
        ["", ""], [[_plain(name), _plain(value) or UNMEASURED] for name, value in values.items()]
    )


def _code(text: str) -> str:
    return f"`{one_line(text.replace('`', ''), 128)}`" if text else UNMEASURED


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table, or a line that says that there is nothing to put into it."""
    if not rows:
        yield "Nothing was recorded."
        return
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _plain(text: str) -> str:
    """Return ``text`` on one line with everything escaped that Markdown or HTML would act on."""
    return re.sub(r"([\\`*_\[\]<>#|~&$@])", r"\\\1", one_line(text, 400))


def fenced(text: str) -> str:
    """Return ``text`` in a code fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{visible(text)}\n{fence}"


REPORTS.register("markdown")(Markdown())
