"""What commands share when they talk to a person: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Any

import click

from apr_qa.errors import AprQaError, ModelUnavailable
from apr_qa.rendering.visible import visible
from apr_qa.vocabulary import Evidence, Outcome

MARKS = {
    Outcome.CORROBORATED: ("✓", "green"),
    Outcome.FALSIFIED: ("✗", "red"),
    Outcome.TIMEOUT: ("⏱", "red"),
    Outcome.CRASHED: ("✗", "red"),
    Outcome.INCONCLUSIVE: ("?", "yellow"),
    Outcome.INAPPLICABLE: ("–", "bright_black"),
    Outcome.SKIPPED: ("»", "bright_black"),
}


def print_json(value: Any) -> None:
    """Print a value for machines."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def style(text: str, colour: str, *, bold: bool = False) -> str:
    """Colour text unless NO_COLOR is set; click drops the codes when the stream is no terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour, bold=bold)


def refused(refusal: AprQaError) -> str:
    """Return a refusal as a person reads it: the places that were searched go one a line."""
    if not isinstance(refusal, ModelUnavailable) or "; " not in refusal.where:
        return str(refusal)
    places = [f"  tried {place}" for place in refusal.where.split("; ")]
    return "\n".join([refusal.what, *places, *([f"  fix: {refusal.fix}"] if refusal.fix else [])])


def text_width() -> int:
    """Return the columns that running text may take; ``COLUMNS`` and the terminal say, up to 100."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 100))


def note(text: str) -> None:
    """Print a line on standard error."""
    click.echo(text, err=True)


class Progress:
    """Watches a run: a live bar on a terminal, a plain line now and then elsewhere, nothing when quiet."""

    PLAIN_EVERY_S = 5.0

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.counts: Counter[Outcome] = Counter()
        self.total = 0
        self._live = None if quiet or not sys.stderr.isatty() else _live_progress()
        self._task: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Show one line."""
        if self.quiet:
            return
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text.from_ansi(text))
        else:
            note(text)

    def planned(self, scenarios: int) -> None:
        """Begin counting towards ``scenarios``."""
        self.total, self.counts = scenarios, Counter()
        if self._live is not None:
            if self._task is not None:
                self._live.remove_task(self._task)
            self._task = self._live.add_task("", total=scenarios)

    def happened(self, entry: Evidence) -> None:
        """Count one entry and show it if it failed."""
        self.counts[entry.outcome] += 1
        done = sum(self.counts.values())
        if entry.outcome.failed:
            mark, colour = MARKS[entry.outcome]
            where = entry.scenario.target.cell
            self.say(f"{style(mark, colour)} {entry.gate_id} {where}: {visible(entry.reason)[:300]}")
        if self._live is not None:
            self._live.update(self._task, completed=done, description=entry.scenario.target.cell)
        elif done == self.total or time.monotonic() - self._said > self.PLAIN_EVERY_S:
            self._said = time.monotonic()
            self.say(f"{done}/{self.total} {summary(self.counts)}")

    def andon(self, entry: Evidence) -> None:
        """Say why the line stopped and how to see it again."""
        target = entry.scenario.target
        words = (target.model, target.format, target.quantization, target.backend, target.modality)
        self.say(
            "\n".join(
                (
                    style("▲ the line is stopped", "red", bold=True),
                    f"  gate    {entry.gate_id} ({entry.severity})",
                    f"  target  {' '.join(filter(None, words))}",
                    f"  reason  {visible(entry.reason)[:500]}",
                    f"  replay  apr-qa replay {entry.id}",
                )
            )
        )


def summary(counts: Counter[Outcome]) -> str:
    """Return counts in words, failures first."""
    order = (
        Outcome.FALSIFIED,
        Outcome.CRASHED,
        Outcome.TIMEOUT,
        Outcome.INCONCLUSIVE,
        Outcome.CORROBORATED,
        Outcome.INAPPLICABLE,
        Outcome.SKIPPED,
    )
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in order if counts[outcome])


def _live_progress() -> Any:
    """Return a bar, None where the extra ``display`` is not installed: plain lines say the same."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )
    except ImportError:
        return None

    return Progress(
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
    )
