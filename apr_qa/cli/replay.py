"""``apr-qa replay``: one stored entry, tried again."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from apr_qa.cli.arguments import given_artifacts
from apr_qa.cli.console import MARKS, Progress, print_json, style
from apr_qa.errors import EXIT_FINDING, ModelUnavailable, UsageError
from apr_qa.rendering.visible import visible
from apr_qa.vocabulary import Evidence


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
    from apr_qa import playbook, registry, replay
    from apr_qa.preparation import Settings

    missing = [str(path) for path in roots if not path.is_dir()]
    if missing or not evidence_id:
        raise UsageError(
            "there is no such folder" if missing else "the id is empty",
            where=", ".join(missing),
            fix="name the folder of the evidence with --root" if missing else "copy it from a report",
        )
    places = list(roots) or [path for path in (Path("certifications"), Path("output")) if path.is_dir()]
    header, stored = replay.find(evidence_id, places)
    model = registry.select([named], None, False)[0] if named else header.model
    book = playbook.for_model(model, header.tier)
    settings = Settings(given=given_artifacts(artifacts))
    with Progress(quiet=quiet) as progress:
        try:
            done = replay.again(stored, header, model, book, settings, progress)
        except ModelUnavailable as refusal:
            if named or "/" in model.id:
                raise
            fix = "the evidence knows no path: say where the model is with --model PATH"
            raise ModelUnavailable(refusal.what, where=refusal.where, fix=fix) from None
    if as_json:
        print_json({"stored": msgspec.to_builtins(stored), "now": msgspec.to_builtins(done.now)})
    else:
        claim, target = stored.scenario.claim, stored.scenario.target
        click.echo(f"{stored.gate_id} on {target.cell} {target.quantization}")
        if claim.question:
            click.echo(f"prompt  {visible(claim.question)}")
        _show("stored", stored)
        _show("now", done.now)
        if not done.same_artifact:
            click.echo("the artifact is not the one that the evidence is about: its hash differs")
    sys.exit(EXIT_FINDING if done.now.outcome.failed else 0)


def _show(word: str, entry: Evidence) -> None:
    mark, colour = MARKS[entry.outcome]
    click.echo(f"{word:7} {style(mark, colour)} {entry.outcome}: {visible(entry.reason)}")
    if entry.response is not None and entry.response.text is not None:
        click.echo(f"        {visible(entry.response.text)!r}")
