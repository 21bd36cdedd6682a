"""``apr-qa certify``: the main job."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.arguments import (
    POLICIES,
    TIERS,
    complete_family,
    complete_model,
    each_once,
    given_artifacts,
    policy_of,
    tier_of,
    writable_file,
)
from apr_qa.cli.console import Progress, note, print_json, refused, style
from apr_qa.cli.resuming import as_begun, how, resume_option, wanted
from apr_qa.cli.shared_options import dispatch, prepare_machine, print_tickets, shared_options
from apr_qa.cli.verdict import passed, show
from apr_qa.errors import EXIT_ENVIRONMENT, EXIT_FINDING, EXIT_OK, ModelUnavailable, UsageError
from apr_qa.vocabulary import Tier


@click.command("certify")
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_model)
@click.option(
    "--family",
    help="All models of a family of the registry, e.g. qwen-coder.",
    shell_complete=complete_family,
)
@click.option("--all", "every", is_flag=True, help="Every model of the registry.")
@click.option("--kernel-class", help="All models of a kernel class of the registry, e.g. A.")
@click.option(
    "--tier",
    type=click.Choice(TIERS),
    default="mvp",
    show_default=True,
    help="How much is tried; full: deep.",
)
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="FORMAT=PATH", help="Bring a file of your own."
)
@click.option(
    "-o", "--output", default="certifications", show_default=True, help="Folder for evidence and reports."
)
@click.option("--failure-policy", type=click.Choice(POLICIES), help="When to stop; default: the playbook's.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure and write a diagnostic bundle.")
@click.option(
    "--junit", type=click.Path(dir_okay=False), help="Also write one JUnit report of all models to this file."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), help="Seconds a scenario may take; default: playbook."
)
@click.option("--workers", type=click.IntRange(min=1), help="Targets that run at the same time.")
@click.option("--no-gpu", is_flag=True, help="Leave the GPU cells out (they count as inapplicable).")
@click.option("--offline", is_flag=True, help="Do not ask a model hub.")
@resume_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@shared_options
@click.option("--json", "as_json", is_flag=True, help="Print the certificates as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """Certify models: resolve them to files, run a tier, judge, publish.

    MODEL is an id (org/name, org/name@revision) or a path to a folder or file.

    \b
    Examples:
      apr-qa certify HuggingFaceTB/SmolLM2-135M-Instruct --tier mvp
      apr-qa certify --family qwen-coder --tier mvp --junit report.xml
      apr-qa certify org/name --artifact gguf=my-q4_k_m.gguf
      apr-qa certify --resume certifications/org--name
    """
    from apr_qa import playbook, registry
    from apr_qa.certify import folder_of

    options = as_begun(options, "certify", "models")
    _only_one_way(options)
    if options["kernel_class"]:
        models = registry.of_kernel_class(options["kernel_class"])
    else:
        models = registry.select(list(options["models"]), options["family"], options["every"])
    tier = tier_of(options["tier"])
    settings = settings_of(options, "certify")
    models = [model for model in models if wanted(options, folder_of(model, tier, settings))]
    if settings.given and len(models) != 1:
        raise UsageError("--artifact brings a file for one model", fix="name exactly one model")
    each_once(folder_of(model, tier, settings) for model in models)
    writable_file(options["junit"])
    books = [(model, playbook.for_model(model, tier)) for model in models]
    remark_on(book for _, book in books if not options["no_integrity_check"])
    if options["dry_run"]:
        _show_plan(books, tier, settings, as_json=options["as_json"])
        return
    sys.exit(_certify_all(books, tier, settings, options))


def remark_on(books: Iterable[Any]) -> None:
    """Say which playbooks are not as their lock has them, and what a reader of them should know."""
    from apr_qa.playbooks import lock

    for book in books:
        remark = lock.remark(Path(book.source), book.sha256) if book.source else ""
        if remark:
            note(style(f"{remark}; apr-qa lock-playbooks --check tells all", "yellow"))


def _only_one_way(options: dict[str, Any]) -> None:
    ways = {
        "MODEL": options["models"],
        "--family": options["family"],
        "--all": options["every"],
        "--kernel-class": options["kernel_class"],
    }
    named = [name for name, value in ways.items() if value]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} were given together", fix="choose one of them")


def settings_of(options: dict[str, Any], command: str) -> Any:
    """Return the settings that the options of certify and run have in common."""
    from apr_qa.chosen_engine import known_engine
    from apr_qa.preparation import Settings

    prepare_machine(options)
    cluster, engine = dispatch(options["engine"], options["scheduler"])
    return Settings(
        output=options["output"],
        given=given_artifacts(options["artifacts"]),
        policy=policy_of(options["failure_policy"], options["fail_fast"]),
        timeout_s=options["timeout"] or 0.0,
        jobs=options["workers"] or 0,
        gpu=not options["no_gpu"],
        download=not options["offline"],
        resume=options["resume"],
        endpoint=options.get("endpoint") or "",
        compare=not options.get("skip_conversion_tests"),
        engine=known_engine(engine),
        cluster=cluster,
        scheduler=options["scheduler"] or "",
        command=how(options, command),
        converter=options["converter"] or "",
    )


def _certify_all(books: list[Any], tier: Tier, settings: Any, options: dict[str, Any]) -> int:
    from apr_qa.certify import certify, folder_of
    from apr_qa.rendering import junit_documents
    from apr_qa.reports import REPORTS

    certificates, missing, documents = [], [], []
    for model, book in books:
        with Progress(quiet=options["quiet"]) as progress:
            try:
                run = certify(model, tier, book, settings, progress)
            except ModelUnavailable as refusal:
                missing.append(model.id)
                documents.append(junit_documents.unavailable(model.id, refusal.what))
                note(f"error: {refused(refusal)}")
                continue
            except KeyboardInterrupt:
                note("interrupted; the same command with --resume goes on where this stopped")
                raise
        certificates.append(run.certificate)
        documents.append(REPORTS.get("junit").render(run))
        if not options["as_json"]:
            show(run, folder_of(model, tier, settings))
        print_tickets(run, folder_of(model, tier, settings), options)
    if options["junit"]:
        Path(options["junit"]).write_text(junit_documents.together(documents), encoding="utf-8")
    return concluded(certificates, missing, as_json=options["as_json"])


def concluded(certificates: list[dict[str, Any]], missing: list[str], *, as_json: bool) -> int:
    """Print what is said about all models together and return the exit code."""
    if as_json:
        print_json(certificates)
    if missing:
        total = len(certificates) + len(missing)
        said = f"{len(missing)} of {total} models could not be obtained: {', '.join(missing)}"
        note(style(said, "red"))
        return EXIT_ENVIRONMENT
    return EXIT_OK if all(map(passed, certificates)) else EXIT_FINDING


def _show_plan(books: list[Any], tier: Tier, settings: Any, *, as_json: bool) -> None:
    from apr_qa import plan
    from apr_qa.certify import folder_of

    rows = [
        {
            "model": model.id,
            "tier": str(tier),
            "playbook": book.name,
            "cells": list(plan.cells(book.formats, book.backends, book.modalities)),
            "prompts_per_cell": 0 if tier is Tier.DIM_SMOKE else book.scenario_count,
            "budget_s": book.budget_s,
            "output": str(folder_of(model, tier, settings)),
        }
        for model, book in books
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(
            f"{row['model']}  tier {row['tier']}  playbook {row['playbook']}  {len(row['cells'])} cells"
            f" × {row['prompts_per_cell']} prompts  within {row['budget_s']:g} s  → {row['output']}"
        )
