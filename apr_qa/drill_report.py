"""The kill matrix for machines, for a page and for CI; pure, and harmless whatever a file's text contains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import msgspec

from apr_qa.drill_verdict import ALARM, ERROR, MISSED, NOT, ORDER, Trial
from apr_qa.rendering.visible import one_line
from apr_qa.vocabulary import Record

if TYPE_CHECKING:
    from junit_xml import TestCase

SHOWN_GATES = 3
_COLUMNS = ("verdict", "defect", "container", "model", "gates", "seconds", "why")


class Matrix(Record, frozen=True, omit_defaults=False):
    """Everything that one drill found; trials are in reading order."""

    apr_qa: str
    model: str
    tier: str
    playbook: str
    started: str
    seconds: float
    counts: dict[str, int]
    healthy: tuple[str, ...]
    """What the gates say against the unspoiled models; it is not counted for any defect."""
    trials: tuple[Trial, ...]


def counts(trials: Sequence[Trial]) -> dict[str, int]:
    """Return how many trials ended in each verdict, in reading order."""
    found = Counter(trial.verdict for trial in trials)
    return {verdict: found[verdict] for verdict in ORDER}


def to_json(matrix: Matrix) -> dict[str, Any]:
    """Return the matrix as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins(matrix)
    return plain


def row(trial: Trial) -> tuple[str, ...]:
    """Return the cells of one line of the matrix, in the order of `columns`."""
    gates = ", ".join(dict.fromkeys(catch.gate for catch in trial.gates[:SHOWN_GATES]))
    rest = len({catch.gate for catch in trial.gates}) - SHOWN_GATES
    why = trial.gates[0].reason if trial.gates else trial.reason
    return (
        trial.verdict if trial.expected != "warn" else f"{trial.verdict} (warn)",
        trial.defect,
        f"{trial.container} {trial.quantization}".strip(),
        trial.model,
        gates + (f" and {rest} more" if rest > 0 else ""),
        "–" if trial.seconds is None else f"{trial.seconds:.1f}",
        one_line(why, 160),
    )


def columns() -> tuple[str, ...]:
    """Return the headings of the matrix."""
    return _COLUMNS


def headline(matrix: Matrix) -> str:
    """Return the result in one line."""
    said = [f"{number} {verdict}" for verdict, number in matrix.counts.items() if number]
    return f"{len(matrix.trials)} trials in {matrix.seconds:.0f} s: {', '.join(said) or 'nothing was tried'}"


def markdown(matrix: Matrix) -> str:
    """Return the matrix as a Markdown page."""
    lines = [
        f"# Drill of {_cell(matrix.model)}",
        "",
        f"Tier {matrix.tier}, playbook {_cell(matrix.playbook)}, ",
    ]
    lines[-1] += f"apr-qa {matrix.apr_qa}, {matrix.started}."
    lines += ["", f"**{headline(matrix)}**", ""]
    lines += [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    lines += [f"| {' | '.join(map(_cell, row(trial)))} |" for trial in matrix.trials]
    if matrix.healthy:
        lines += ["", "Said against the healthy models, and counted for nothing:", ""]
        lines += [f"- {_cell(note)}" for note in matrix.healthy]
    return "\n".join([*lines, ""])


def junit(matrix: Matrix) -> str:
    """Return the matrix as JUnit XML: a missed defect or an alarm is a failure, what was not tried is skipped."""
    from junit_xml import TestSuite

    suite = TestSuite(f"apr-qa drill {one_line(matrix.model)}", [_case(trial) for trial in matrix.trials])
    element = suite.build_xml_doc()
    ElementTree.indent(element)
    body = ElementTree.tostring(element, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n<testsuites>\n{body}\n</testsuites>\n'


def _case(trial: Trial) -> TestCase:
    from junit_xml import TestCase

    expected = "passes" if trial.expected == "pass" else "is caught"
    name = one_line(f"{trial.defect} in {trial.container} {expected}")
    case = TestCase(name, classname=f"drill.{trial.layer}", elapsed_sec=trial.seconds)
    why = one_line(trial.gates[0].reason if trial.gates else trial.reason, 500)
    if trial.verdict == MISSED:
        case.add_failure_info(f"no gate noticed: {one_line(trial.description)}", failure_type=MISSED)
    elif trial.verdict == ALARM:
        case.add_failure_info(f"{trial.gates[0].gate}: {why}", failure_type=ALARM)
    elif trial.verdict == ERROR:
        case.add_error_info(why or ERROR, error_type=ERROR)
    elif trial.verdict == NOT:
        case.add_skipped_info(why or NOT)
    return case


def _cell(text: str) -> str:
    return one_line(text, 240).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
