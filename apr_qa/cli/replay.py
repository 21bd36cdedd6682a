"""``apr-qa replay``: one stored entry, tried again."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from apr_qa.cli import stored_entry
from apr_qa.cli.console import Progress, print_json
from apr_qa.errors import EXIT_FINDING


@click.command("replay")
@click.argument("evidence_id")
@click.option(
    "--root", "roots", multiple=True, type=click.Path(path_type=Path), help="Where evidence is searched."
)
@click.option("--model", "named", help="Id or path of the model; default: the one in the evidence.")
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="FORMAT=PATH", help="Bring a file of your own."
)
@click.option("--json", "as_json", is_flag=True, help="Print stored and new entry as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    evidence_id: str,
    roots: tuple[Path, ...],
    named: str | None,
    artifacts: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Try the claim of EVIDENCE_ID again on its target. Exit 1 if it fails now.

    \b
    Examples:
      apr-qa replay c9e9df888ac8e19a
      apr-qa replay c9e9df --root output --model ./my-model
    """
    from apr_qa import replay

    found = stored_entry.find(evidence_id, roots, named, artifacts)
    with Progress(quiet=quiet) as progress, stored_entry.model_named(found, named):
        done = replay.again(found.stored, found.header, found.model, found.book, found.settings, progress)
    if as_json:
        print_json({"stored": msgspec.to_builtins(found.stored), "now": msgspec.to_builtins(done.now)})
    else:
        stored_entry.show_question(found.stored)
        stored_entry.show("stored", found.stored)
        stored_entry.show("now", done.now)
        if not done.same_artifact:
            click.echo("the artifact is not the one that the evidence is about: its hash differs")
    sys.exit(EXIT_FINDING if done.now.outcome.failed else 0)
