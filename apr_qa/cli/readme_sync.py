"""``apr-qa readme-sync``: the model table of a README."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from apr_qa.errors import EXIT_FINDING, UsageError


@click.command("readme-sync")
@click.option("--readme", default="README.md", show_default=True, type=click.Path(path_type=Path))
@click.option("--root", default="certifications", show_default=True, type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if the table is not up to date.")
def command(readme: Path, root: Path, check: bool) -> None:
    """Regenerate the table between the markers of a README from models.csv and the certificates.

    \b
    Example:
      apr-qa readme-sync --check
    """
    from apr_qa import certify, ledger

    if not readme.exists():
        raise UsageError("there is no such file", where=str(readme), fix="name it with --readme")
    text = readme.read_bytes().decode("utf-8")
    rows = ledger.read(root / certify.LEDGER_FILE)
    updated = ledger.splice(text, rows, ledger.coverage_of(root))
    if updated == text:
        click.echo(f"{readme} is up to date")
        return
    if check:
        click.echo(f"{readme} is not up to date; run apr-qa readme-sync")
        sys.exit(EXIT_FINDING)
    certify.write_atomically(readme, updated)
    click.echo(f"{readme} updated")
