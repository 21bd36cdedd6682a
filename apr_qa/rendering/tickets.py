"""Findings of one run as tickets: one for each root cause, not one for each symptom.

Three rules join findings, the first that applies: claims that could not be tried because something did not
load belong to what did not load; claims about one file that were judged from the same measurement belong
together; claims of one gate with the same reason, numbers aside, belong together.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apr_qa.rendering.report_entry import conversation, replay, target_words
from apr_qa.rendering.visible import excerpt, one_line, visible
from apr_qa.reports import Run
from apr_qa.vocabulary import Evidence, Outcome, Severity, digest

MAX_SHOWN = 10
MAX_TEXT = 800
_NOT_LOADED = ("the target did not load: ", "the file could not be opened: ")


@dataclass(frozen=True)
class Ticket:
    """One root cause."""

    fingerprint: str
    """The same for the same cause in a later run, so that a ticket is found again."""
    title: str
    severity: str
    black_swan: bool
    """A crash or a hang, or a P0 failure of a gate that held wherever else it was asked."""
    gates: tuple[str, ...]
    targets: tuple[str, ...]
    evidence: tuple[str, ...]
    body: str

    @property
    def occurrences(self) -> int:
        return len(self.evidence)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels to file it under."""
        return ("apr-qa", self.severity, *(("black-swan",) if self.black_swan else ()))

    @property
    def filename(self) -> str:
        """Return a file name that any system takes."""
        words = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:60].rstrip("-")
        return f"{self.fingerprint}-{words}.md"


def tickets(run: Run) -> list[Ticket]:
    """Return one ticket for each root cause of what failed: gravest first, then the most frequent."""
    grouped: defaultdict[tuple[str, ...], list[Evidence]] = defaultdict(list)
    for entry in run.evidence:
        if entry.outcome.failed or _unopened(entry):
            grouped[_cause(entry)].append(entry)
    found = [_ticket(run, cause, entries) for cause, entries in grouped.items() if _any_failed(entries)]
    return sorted(found, key=lambda item: (item.severity, not item.black_swan, -item.occurrences, item.title))


def create_command(ticket: Ticket, repository: str, body_file: str) -> str:
    """Return the command of GitHub's client that would open the ticket; nothing is sent by this program."""
    words = ["gh", "issue", "create", "--repo", repository, "--title", ticket.title, "--body-file", body_file]
    for label in ticket.labels:
        words += ["--label", label]
    return shlex.join(words)


def _any_failed(entries: Iterable[Evidence]) -> bool:
    return any(entry.outcome.failed for entry in entries)


def _unopened(entry: Evidence) -> bool:
    return entry.outcome is Outcome.INCONCLUSIVE and entry.reason.startswith(_NOT_LOADED)


def _cause(entry: Evidence) -> tuple[str, ...]:
    target = entry.scenario.target
    artifact = f"{target.format} {target.quantization}".rstrip()
    for opening in _NOT_LOADED:
        if entry.reason.startswith(opening):
            return artifact, "load", _without_numbers(entry.reason.removeprefix(opening))
    if entry.scenario.claim.kind == "load" or entry.gate_id == "G0-HEADER-001":
        return artifact, "load", _without_numbers(entry.reason)
    if entry.outcome in (Outcome.CRASHED, Outcome.TIMEOUT):
        return artifact, target.backend, entry.outcome.value, _without_numbers(entry.reason)
    if entry.response is not None and entry.response.facts and entry.response.text is None:
        return artifact, "measured", digest(entry.scenario.claim.params.get("check"), entry.response.facts)
    return artifact, entry.gate_id, _without_numbers(entry.reason)


def _without_numbers(reason: str) -> str:
    """Return what stays the same when a reason is given for another prompt: no quotation, no number."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.,]*(?:e[-+]?\d+)?", "…", reason)[:160]


def _ticket(run: Run, cause: tuple[str, ...], entries: Sequence[Evidence]) -> Ticket:
    ordered = sorted(entries, key=lambda entry: (not entry.outcome.failed, entry.severity, entry.id))
    first = ordered[0]
    gates = tuple(sorted({entry.gate_id for entry in ordered}))
    targets = tuple(sorted({target_words(entry) for entry in ordered}))
    model = run.header.model.name
    swan = _is_black_swan(run, ordered)
    title = one_line(f"{model} {cause[0]}: {first.gate_id}: {first.reason}", 120)
    ids = tuple(entry.id for entry in ordered)
    return Ticket(
        fingerprint=digest(run.header.model.id, gates, *cause)[:12],
        title=title,
        severity=first.severity.value,
        black_swan=swan,
        gates=gates,
        targets=targets,
        evidence=ids,
        body="\n".join(_body(run, ordered, gates, targets)) + "\n",
    )


def _is_black_swan(run: Run, entries: Sequence[Evidence]) -> bool:
    if any(entry.outcome in (Outcome.CRASHED, Outcome.TIMEOUT) for entry in entries):
        return True
    grave = {entry.gate_id for entry in entries if entry.severity is Severity.P0 and entry.outcome.failed}
    own = {entry.id for entry in entries}
    elsewhere = [
        entry
        for entry in run.evidence
        if entry.gate_id in grave and entry.id not in own and entry.outcome.counted
    ]
    held = {entry.gate_id for entry in elsewhere if entry.outcome is Outcome.CORROBORATED}
    return bool(held - {entry.gate_id for entry in elsewhere if entry.outcome is not Outcome.CORROBORATED})


def _body(run: Run, entries: Sequence[Evidence], gates: Sequence[str], targets: Sequence[str]) -> list[str]:
    header, first = run.header, entries[0]
    lines = [f"**{_inert(header.model.id)}** fails {len(gates)} gate{'s' * (len(gates) != 1)}:", ""]
    for gate in gates:
        info = run.gates.get(gate)
        lines.append(
            f"- `{gate}` ({info.severity if info else first.severity}): {info.hypothesis if info else ''}"
        )
    lines += ["", "## What happened", ""]
    for entry in entries[:MAX_SHOWN]:
        lines.append(
            f"- {entry.outcome} on `{_inert(target_words(entry))}`: {_inert(entry.reason)} (`{entry.id}`)"
        )
    if len(entries) > MAX_SHOWN:
        lines.append(f"- … and {len(entries) - MAX_SHOWN} more")
    if not run.tally.complete:
        lines.append(
            f"- of {run.tally.total:,} entries only the first of each gate, target and outcome are looked at here"
        )
    for role, text in conversation(first):
        lines += ["", f"{role}:", "", *(f"    {line}" for line in excerpt(text, MAX_TEXT).splitlines())]
    lines += ["", "## Try it again", "", f"    {replay(first)}", "", "## Where", ""]
    lines += [f"- targets: {', '.join(f'`{_inert(target)}`' for target in targets)}"]
    for artifact in header.artifacts:
        sha = f", sha256 `{artifact.sha256[:16]}`" if artifact.sha256 else ""
        lines.append(f"- {artifact.format} {artifact.quantization} ({artifact.origin}){sha}")
    lines.append(
        f"- apr-qa {header.apr_qa}, tier {header.tier}, playbook {_inert(header.playbook)}, {header.started}"
    )
    lines += [f"- {name}: {_inert(value)}" for name, value in sorted(header.environment.items())]
    return lines


def _inert(text: str) -> str:
    """Return text on one line that closes no code span, opens no tag and calls nobody."""
    return one_line(visible(text).replace("`", "'").replace("<", "‹").replace("@", "(at)"), 400)
