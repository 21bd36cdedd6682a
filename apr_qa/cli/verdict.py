"""A judged run on the terminal: what was decided, why, and where to read on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.console import style
from apr_qa.rendering.criteria_table import table
from apr_qa.rendering.visible import visible
from apr_qa.reports import Run
from apr_qa.vocabulary import Tier

MAX_FINDINGS = 10
COLOUR_OF = {
    "corroborated": "green",
    "inconclusive": "yellow",
    "inapplicable": "bright_black",
    "skipped": "yellow",
}
COLOURS = {"CERTIFIED": "green", "PROVISIONAL": "yellow", "BLOCKED": "red", "PENDING": "bright_black"}


def passed(certificate: dict[str, Any]) -> bool:
    """Say whether a certificate lets a command end with 0: certified, provisional, or a passed dev check."""
    from apr_qa.mqs import DEV_CHECKS

    if certificate["status"] in ("CERTIFIED", "PROVISIONAL"):
        return True
    return (
        Tier(certificate["tier"]) in DEV_CHECKS
        and certificate["score"] is not None
        and certificate["status"] == "PENDING"
    )


def show(run: Run, folder: Path) -> None:
    """Print verdict, gateways and findings on standard output."""
    issued = run.certificate
    score = "no score" if issued["score"] is None else f"{issued['score']}/1000"
    status = style(issued["status"], COLOURS[issued["status"]], bold=True)
    click.echo(f"{issued['model_id']}  {status}  {score}  grade {issued['grade']}  {issued['reason']}")
    upper = issued["failure_rate_upper_95"]
    bound = "" if upper is None else f", failure rate below {upper:.1%} with 95 % confidence"
    click.echo(f"coverage {issued['coverage']['text']}{bound}")
    for gateway in issued["gateways"]:
        outcome = gateway["outcome"] or "unproven"
        colour = {"corroborated": "green", "unproven": "yellow"}.get(outcome, "red")
        click.echo(f"  {gateway['id']} {style(outcome, colour)}: {visible(gateway['reason'])}")
    _show_findings(issued)
    for criterion, outcome, reason in table(run.evidence):
        colour = COLOUR_OF.get(outcome, "red")
        click.echo(f"{criterion}  {style(outcome, colour)}  {reason}")
    if (folder / "report.html").exists():
        click.echo(f"report {folder / 'report.html'}")


def _show_findings(issued: dict[str, Any]) -> None:
    """Print the first findings; the same words about the same target are said once."""
    lines = Counter(
        f"{f['severity']} {f['gate_id']} {f['target']}: {visible(f['reason'])[:200]}"
        for f in issued["findings"]
    )
    for line, times in list(lines.items())[:MAX_FINDINGS]:
        click.echo(f"  {line}{f' ({times} times)' if times > 1 else ''}")
    rest = issued["findings_total"] - sum(list(lines.values())[:MAX_FINDINGS])
    if rest:
        click.echo(f"  … {rest} more in the report")
