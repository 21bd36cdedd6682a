"""``apr-qa readme-sync``: the model table of a README."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from apr_qa.cli.console import print_json
from apr_qa.errors import EXIT_FINDING, UsageError


@click.command("readme-sync")
@click.option(
    "--readme",
    default="README.md",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file with the table.",
)
@click.option(
    "--root",
    default="certifications",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the certifications.",
)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if the table is not up to date.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(readme: Path, root: Path, check: bool, as_json: bool) -> None:
    """Regenerate the table between the markers of a README from models.csv and the certificates.

    \b
    Example:
      apr-qa readme-sync --check
    """
    from apr_qa import certify, ledger

    table = root / certify.LEDGER_FILE
    text = _text(readme)
    if not table.is_file():
        raise UsageError(
            "there is no model table",
            where=str(table),
            fix="name its folder with --root, or write it with apr-qa export-csv",
        )
    rows, coverage = ledger.read(table), ledger.coverage_of(root)
    try:
        updated = ledger.splice(text, rows, coverage)
    except UsageError as refusal:
        raise UsageError(refusal.what, where=str(readme), fix=refusal.fix) from None
    state = "up to date" if updated == text else "not up to date" if check else "updated"
    if state == "updated":
        certify.write_atomically(readme, updated)
    if as_json:
        print_json({"readme": str(readme), "state": state})
    else:
        cure = "; run apr-qa readme-sync" if state == "not up to date" else ""
        click.echo(f"{readme}: {state}{cure}")
    sys.exit(EXIT_FINDING if state == "not up to date" else 0)


def _text(readme: Path) -> str:
    """Return the text with the line ends it has."""
    if not readme.is_file():
        raise UsageError("there is no such file", where=str(readme), fix="name it with --readme")
    try:
        return readme.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"byte {error.start} is not UTF-8", where=str(readme), fix="store it as UTF-8"
        ) from None
