"""``apr-qa run``: playbooks by path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from apr_qa.cli.certify import POLICIES, given_artifacts, passed, settings_of
from apr_qa.cli.console import Progress, note, print_json
from apr_qa.cli.verdict import show
from apr_qa.errors import EXIT_ENVIRONMENT, EXIT_FINDING, EXIT_OK, ModelUnavailable


@click.command("run")
@click.argument("playbooks", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Value of a ${NAME} in the playbook."
)
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="FORMAT=PATH", help="Bring a file of your own."
)
@click.option("--endpoint", help="Ask this OpenAI-compatible server instead of loading files.")
@click.option("-o", "--output", default="output", show_default=True, help="Folder for evidence and reports.")
@click.option("--failure-policy", type=click.Choice(POLICIES), help="When to stop; default: the playbook's.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure and write a diagnostic bundle.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), help="Seconds a scenario may take; default: playbook."
)
@click.option("--workers", type=click.IntRange(min=1), help="Targets that run at the same time.")
@click.option("--no-gpu", is_flag=True, help="Leave the GPU cells out (they count as inapplicable).")
@click.option("--offline", is_flag=True, help="Do not ask a model hub.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--dry-run", is_flag=True, help="Load and check the playbooks, run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the certificates as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """Run PLAYBOOKS and write evidence and reports, leaving the model table alone.

    \b
    Examples:
      apr-qa run playbooks/templates/smoke.yaml --var MODEL_ID=HuggingFaceTB/SmolLM2-135M-Instruct
      apr-qa run my.playbook.yaml --endpoint http://127.0.0.1:8080
    """
    from apr_qa import playbook

    variables = dict(text.partition("=")[::2] for text in options["variables"])
    books = [playbook.load(path, variables) for path in options["playbooks"]]
    if options["dry_run"]:
        for book in books:
            click.echo(f"{book.source}: {book.name}, model {book.subject.id}, tier {book.tier}")
        return
    sys.exit(_run_all(books, options))


def _run_all(books: list[Any], options: dict[str, Any]) -> int:
    from apr_qa.certify import execute

    settings = settings_of(given_artifacts(options["artifacts"]), options)
    settings = msgspec.structs.replace(settings, endpoint=options["endpoint"] or "")
    certificates, missing, failed = [], 0, 0
    for book in books:
        with Progress(quiet=options["quiet"]) as progress:
            try:
                run = execute(book.subject, book.tier, book, settings, progress)
            except ModelUnavailable as refusal:
                missing += 1
                note(f"error: {book.subject.id}: {refusal}")
                continue
            except KeyboardInterrupt:
                note("interrupted; the same command with --resume goes on where this stopped")
                raise
        certificates.append(run.certificate)
        failed += not passed(run.certificate)
        if not options["as_json"]:
            show(run, Path(settings.output) / book.subject.slug)
    if options["as_json"]:
        print_json(certificates)
    if missing:
        return EXIT_ENVIRONMENT
    return EXIT_FINDING if failed else EXIT_OK
