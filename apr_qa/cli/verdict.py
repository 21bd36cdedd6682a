"""A judged run on the terminal: what was decided, why, and where to read on."""

from __future__ import annotations

from pathlib import Path

import click

from apr_qa.cli.console import style
from apr_qa.reports import Run
from apr_qa.visible import visible

COLOURS = {"CERTIFIED": "green", "PROVISIONAL": "yellow", "BLOCKED": "red", "PENDING": "bright_black"}


def show(run: Run, folder: Path) -> None:
    """Print verdict, gateways and findings on standard output."""
    issued = run.certificate
    score = "no score" if issued["score"] is None else f"{issued['score']}/1000"
    status = style(issued["status"], COLOURS[issued["status"]], bold=True)
    click.echo(f"\n{issued['model_id']}  {status}  {score}  grade {issued['grade']}  {issued['reason']}")
    upper = issued["failure_rate_upper_95"]
    bound = "" if upper is None else f", failure rate below {upper:.1%} with 95 % confidence"
    click.echo(f"coverage {issued['coverage']['text']}{bound}")
    for gateway in issued["gateways"]:
        outcome = gateway["outcome"] or "unproven"
        colour = {"corroborated": "green", "unproven": "yellow"}.get(outcome, "red")
        click.echo(f"  {gateway['id']} {style(outcome, colour)}: {visible(gateway['reason'])}")
    for finding in issued["findings"][:10]:
        click.echo(
            f"  {finding['severity']} {finding['gate_id']} {finding['target']}: {visible(finding['reason'])[:200]}"
        )
    if len(issued["findings"]) > 10:
        click.echo(f"  … {len(issued['findings']) - 10} more findings")
    click.echo(f"report {folder / 'report.html'}")
