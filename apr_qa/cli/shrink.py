"""``apr-qa shrink``: a stored failure, made smaller."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from apr_qa.cli import stored_entry
from apr_qa.cli.console import Progress, print_json
from apr_qa.errors import EXIT_FINDING
from apr_qa.rendering.visible import visible


@click.command("shrink")
@click.argument("evidence_id")
@click.option(
    "--examples", default=200, show_default=True, type=click.IntRange(1, 100_000), help="Trials at most."
)
@click.option(
    "--root", "roots", multiple=True, type=click.Path(path_type=Path), help="Where evidence is searched."
)
@click.option("--model", "named", help="Id or path of the model; default: the one in the evidence.")
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="FORMAT=PATH", help="Bring a file of your own."
)
@click.option("--json", "as_json", is_flag=True, help="Print stored and smallest entry as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    evidence_id: str,
    examples: int,
    roots: tuple[Path, ...],
    named: str | None,
    artifacts: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Look for a smaller case that fails as EVIDENCE_ID did. Exit 1 if it still fails.

    The counterexample of a property gets smaller, or the prompt of a question whose oracle can judge any prompt.

    \b
    Examples:
      apr-qa shrink c9e9df888ac8e19a
      apr-qa shrink c9e9df --examples 1000 --model ./my-model
    """
    from apr_qa import replay

    found = stored_entry.find(evidence_id, roots, named, artifacts)
    replay.require_shrinkable(found.stored)
    with Progress(quiet=quiet) as progress, stored_entry.model_named(found, named):
        loaded = replay.bench(found.stored, found.header, found.model, found.book, found.settings, progress)
        now = replay.smaller(found.stored, loaded, examples)
    if as_json:
        print_json({"stored": msgspec.to_builtins(found.stored), "now": msgspec.to_builtins(now)})
    else:
        stored_entry.show_question(found.stored)
        stored_entry.show("stored", found.stored)
        stored_entry.show("now", now)
        if now.scenario.claim.question:
            click.echo(f"prompt  {visible(now.scenario.claim.question)}")
        if now.outcome.failed:
            click.echo(f"length  {replay.length(found.stored)} before, {replay.length(now)} now")
    sys.exit(EXIT_FINDING if now.outcome.failed else 0)
