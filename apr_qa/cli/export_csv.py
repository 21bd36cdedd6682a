"""``apr-qa export-csv``: the model table from stored certificates."""

from __future__ import annotations

from pathlib import Path

import click

from apr_qa.errors import UsageError


@click.command("export-csv")
@click.option(
    "--root",
    default="certifications",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the certifications.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: models.csv under --root.")
@click.option("--append", is_flag=True, help="Keep rows of the output that have no certificate.")
def command(root: Path, output: Path | None, append: bool) -> None:
    """Write one row a model from the certificates under --root; models never run stay PENDING.

    \b
    Example:
      apr-qa export-csv --root certifications
    """
    from apr_qa import certify, ledger, registry

    if not root.is_dir():
        raise UsageError(
            "there is no such folder", where=str(root), fix="name it with --root, or run apr-qa certify first"
        )
    path = output or root / certify.LEDGER_FILE
    known = ledger.pending_rows(registry.models())
    rows = ledger.read(path) if append and path.exists() else known
    ledger.write(path, ledger.from_certificates(rows, root))
    click.echo(path)
