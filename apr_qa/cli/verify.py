"""``apr-qa verify``: is what was published what follows from the evidence?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from apr_qa.cli.arguments import evidence_file
from apr_qa.cli.console import print_json
from apr_qa.errors import EXIT_FINDING, UsageError


@click.command("verify")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--root",
    default="certifications",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the certifications.",
)
@click.option(
    "--readme",
    default="README.md",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file with the table.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def command(folders: tuple[Path, ...], root: Path, readme: Path, as_json: bool) -> None:
    """Recompute certificates, reports, model table and README table from evidence; fail on a difference.

    Without FOLDERS, every certification under --root, the model table and the README are checked.

    \b
    Examples:
      apr-qa verify
      apr-qa verify certifications/HuggingFaceTB--SmolLM2-135M-Instruct
    """
    from apr_qa import verify

    chosen = [evidence_file(path).parent for path in folders] or sorted(
        {path.parent for kind in ("jsonl", "parquet") for path in root.glob(f"*/evidence.{kind}")}
    )
    if not chosen:
        raise UsageError(
            "there is no certification to verify", where=str(root), fix="run apr-qa certify first"
        )
    differences = [difference for path in chosen for difference in verify.folder(path)]
    if not folders:
        differences += verify.table(root, readme)
    if as_json:
        print_json([{"where": d.where, "stored": d.stored, "recomputed": d.recomputed} for d in differences])
    elif differences:
        for difference in differences[:20]:
            click.echo(str(difference))
        if len(differences) > 20:
            click.echo(f"… {len(differences) - 20} more")
    else:
        noun = "certification" if len(chosen) == 1 else "certifications"
        click.echo(f"{len(chosen)} {noun} verified: everything published follows from the evidence")
    sys.exit(EXIT_FINDING if differences else 0)
