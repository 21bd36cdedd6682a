"""``apr-qa run``: playbooks by path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.arguments import POLICIES, TIERS, each_once, given_variables, tier_of, writable_file
from apr_qa.cli.certify import concluded, remark_on, settings_of
from apr_qa.cli.console import Progress, note, print_json, refused
from apr_qa.cli.resuming import as_begun, resume_option, wanted
from apr_qa.cli.shared_options import print_tickets, shared_options
from apr_qa.cli.verdict import show
from apr_qa.errors import EXIT_FINDING, EnvironmentFault, InferenceFailed, ModelUnavailable, UsageError
from apr_qa.vocabulary import Tier

REACH_TIMEOUT_S = 10.0


@click.command("run")
@click.argument("playbooks", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Value of a ${NAME} in the playbook."
)
@click.option("--tier", type=click.Choice(TIERS), help="Whose pass rule applies; default: the playbook's.")
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="FORMAT=PATH", help="Bring a file of your own."
)
@click.option("--endpoint", help="Ask this OpenAI-compatible server instead of loading files.")
@click.option("-o", "--output", default="output", show_default=True, help="Folder for evidence and reports.")
@click.option("--failure-policy", type=click.Choice(POLICIES), help="When to stop; default: the playbook's.")
@click.option(
    "--junit",
    type=click.Path(dir_okay=False),
    help="Also write one JUnit report of all playbooks to this file.",
)
@click.option(
    "--model-path", type=click.Path(exists=True), help="The model of the one playbook, as file or folder."
)
@click.option(
    "--profile-ci", is_flag=True, help="Measure the speed even if the playbook does not ask for it."
)
@click.option(
    "--hf-corpus-path",
    type=click.Path(exists=True, file_okay=False),
    help="Compare logits with this stored corpus.",
)
@click.option(
    "--skip-conversion-tests", is_flag=True, help="Compare no formats (claims count as inapplicable)."
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure and write a diagnostic bundle.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), help="Seconds a scenario may take; default: playbook."
)
@click.option("--workers", type=click.IntRange(min=1), help="Targets that run at the same time.")
@click.option("--no-gpu", is_flag=True, help="Leave the GPU cells out (they count as inapplicable).")
@click.option("--offline", is_flag=True, help="Do not ask a model hub.")
@resume_option
@click.option("--dry-run", is_flag=True, help="Load and check the playbooks, run nothing.")
@shared_options
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
    from apr_qa.certify import folder_of

    options = as_begun(options, "run", "playbooks")
    if not options["playbooks"]:
        raise UsageError("no playbook was named", fix="apr-qa run PLAYBOOK..., or apr-qa run --resume RUN")
    variables = given_variables(options["variables"], options["playbooks"])
    books = [_as_asked(book, options) for book in playbook.load_all(options["playbooks"], variables)]
    chosen = [(book, _tier(book, options["tier"])) for book in books]
    settings = settings_of(options, "run")
    chosen = [one for one in chosen if wanted(options, folder_of(one[0].subject, one[1], settings))]
    if settings.given and settings.endpoint:
        raise UsageError("--artifact and --endpoint were given together", fix="choose one of them")
    each_once(folder_of(book.subject, tier, settings) for book, tier in chosen)
    remark_on(() if options["no_integrity_check"] else books)
    writable_file(options["junit"])
    if options["dry_run"]:
        _show_plan(chosen, as_json=options["as_json"])
        return
    if settings.endpoint:
        _reach(settings.endpoint)
    sys.exit(_run_all(chosen, settings, options))


def _as_asked(book: Any, options: dict[str, Any]) -> Any:
    """Return the playbook with what the options add to it."""
    from apr_qa.playbooks.suites import HfParity, ProfileCi

    path, more = options["model_path"], {}
    if path:
        if len(options["playbooks"]) != 1:
            raise UsageError("--model-path is the model of one playbook", fix="name exactly one playbook")
        more["model"] = book.model.model_copy(update={"local_path": str(Path(path).absolute())})
    if options["profile_ci"] and not (book.profile_ci and book.profile_ci.enabled):
        more["profile_ci"] = ProfileCi(enabled=True)
    if options["hf_corpus_path"]:
        more["hf_parity"] = HfParity(enabled=True, corpus_path=options["hf_corpus_path"])
    return book.model_copy(update=more) if more else book


def _reach(endpoint: str) -> None:
    """Refuse a server that is not there: nothing would be learned about the model."""
    from apr_qa.serving.endpoint import Endpoint

    try:
        Endpoint(endpoint, timeout_s=REACH_TIMEOUT_S).get("/models")
    except InferenceFailed as refusal:
        raise EnvironmentFault(refusal.what, fix="start the server, or correct --endpoint") from None


def _tier(book: Any, word: str | None) -> Tier:
    tier: Tier = tier_of(word) if word else book.fitting_tier
    return tier


def _run_all(books: list[Any], settings: Any, options: dict[str, Any]) -> int:
    from apr_qa.certify import execute, folder_of
    from apr_qa.playbooks.derivation import is_acceptance
    from apr_qa.rendering import junit_documents
    from apr_qa.rendering.criteria_table import accepted as not_refused
    from apr_qa.reports import REPORTS

    certificates: list[dict[str, Any]] = []
    missing: list[str] = []
    below: list[str] = []
    accepted: list[bool] = []
    documents: list[str] = []
    for book, tier in books:
        with Progress(quiet=options["quiet"]) as progress:
            try:
                run = execute(book.subject, tier, book, settings, progress)
            except ModelUnavailable as refusal:
                missing.append(book.subject.id)
                documents.append(junit_documents.unavailable(book.subject.id, refusal.what))
                note(f"error: {refused(refusal)}")
                continue
            except KeyboardInterrupt:
                note("interrupted; the same command with --resume goes on where this stopped")
                raise
        certificates.append(run.certificate)
        documents.append(REPORTS.get("junit").render(run))
        if not options["as_json"]:
            show(run, folder_of(book.subject, tier, settings))
        print_tickets(run, folder_of(book.subject, tier, settings), options)
        below += _below(book, run.certificate)
        criteria_only = is_acceptance(book.derivation) and run.certificate["status"] == "PENDING"
        accepted.append(criteria_only and not_refused(run.evidence))
    if options["junit"]:
        Path(options["junit"]).write_text(junit_documents.together(documents), encoding="utf-8")
    code = concluded(certificates, missing, as_json=options["as_json"])
    if code == EXIT_FINDING and all(accepted):
        code = 0  # criteria fill no cell, so that their run has no score: they decide by themselves
    for line in below:
        note(line)
    return code or (EXIT_FINDING if below else code)


def _below(book: Any, certificate: dict[str, Any]) -> list[str]:
    """Return a line if the score is lower than the playbook accepts."""
    least, score = book.acceptance.mqs_score_minimum, certificate["score"]
    if least is None or (score is not None and score >= least):
        return []
    return [
        f"{book.name}: the score is {score if score is not None else 'none'}, accepted are {least} and more"
    ]


def _show_plan(books: list[Any], *, as_json: bool) -> None:
    from apr_qa.outline import outline

    rows = [
        {
            "playbook": book.source,
            "name": book.name,
            "model": book.subject.id,
            "tier": str(tier),
            **outline(book, tier),
        }
        for book, tier in books
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['playbook']}: {row['name']}, model {row['model']}, tier {row['tier']}")
        asked = ", ".join(f"{count} {kind}" for kind, count in row["claims"].items()) or "none"
        click.echo(f"  {len(row['cells'])} cells; claims of loaded models: {asked}")
        for note_ in row["notes"]:
            click.echo(f"  note: {note_}")
