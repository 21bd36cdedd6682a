"""``apr-qa certify``: the main job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.console import Progress, note, print_json, style
from apr_qa.cli.verdict import show
from apr_qa.errors import EXIT_ENVIRONMENT, EXIT_FINDING, EXIT_OK, ModelUnavailable, UsageError
from apr_qa.vocabulary import FORMATS, Tier

POLICIES = ("stop_on_first", "stop_on_p0", "collect_all", "fail_fast")


@click.command("certify")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--family", help="All models of a family of the registry, e.g. qwen-coder.")
@click.option("--all", "every", is_flag=True, help="Every model of the registry.")
@click.option("--tier", type=click.Choice([*map(str, Tier), "full"]), default="mvp", show_default=True)
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="FORMAT=PATH", help="Bring a file of your own."
)
@click.option(
    "-o", "--output", default="certifications", show_default=True, help="Folder for evidence and reports."
)
@click.option("--failure-policy", type=click.Choice(POLICIES), help="When to stop; default: the playbook's.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure and write a diagnostic bundle.")
@click.option("--junit", type=click.Path(dir_okay=False), help="Also write the JUnit report to this file.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), help="Seconds a scenario may take; default: playbook."
)
@click.option("--workers", type=click.IntRange(min=1), help="Targets that run at the same time.")
@click.option("--no-gpu", is_flag=True, help="Leave the GPU cells out (they count as inapplicable).")
@click.option("--offline", is_flag=True, help="Do not ask a model hub.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
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
    """
    from apr_qa import registry

    models = registry.select(list(options["models"]), options["family"], options["every"])
    tier = Tier.DEEP if options["tier"] == "full" else Tier(options["tier"])
    given = given_artifacts(options["artifacts"])
    if given and len(models) != 1:
        raise UsageError("--artifact brings a file for one model", fix="name exactly one model")
    if options["dry_run"]:
        _show_plan(models, tier, as_json=options["as_json"])
        return
    sys.exit(_certify_all(models, tier, given, options))


def given_artifacts(texts: tuple[str, ...]) -> dict[str, str]:
    """Return format -> path from FORMAT=PATH options."""
    given: dict[str, str] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or name not in FORMATS:
            raise UsageError(
                f"--artifact {text!r} is not FORMAT=PATH",
                fix=f"FORMAT is one of {', '.join(FORMATS)}, e.g. --artifact gguf=model.gguf",
            )
        if not Path(path).exists():
            raise UsageError(f"--artifact {text!r}: there is no such file", where=path, fix="check the path")
        given[name] = path
    return given


def settings_of(given: dict[str, str], options: dict[str, Any]) -> Any:
    """Return the settings that the options of certify and run have in common."""
    from apr_qa.preparation import Settings

    return Settings(
        output=options["output"],
        given=given,
        policy="fail_fast" if options["fail_fast"] else options["failure_policy"] or "",
        timeout_s=options["timeout"] or 0.0,
        jobs=options["workers"] or 0,
        gpu=not options["no_gpu"],
        download=not options["offline"],
        resume=options["resume"],
    )


def _certify_all(models: list[Any], tier: Tier, given: dict[str, str], options: dict[str, Any]) -> int:
    from apr_qa import playbook
    from apr_qa.certify import certify

    settings = settings_of(given, options)
    certificates, missing, failed = [], [], 0
    for model in models:
        with Progress(quiet=options["quiet"]) as progress:
            try:
                run = certify(model, tier, playbook.for_model(model, tier), settings, progress)
            except ModelUnavailable as refusal:
                missing.append(model.id)
                note(f"error: {model.id}: {refusal}")
                continue
            except KeyboardInterrupt:
                note("interrupted; the same command with --resume goes on where this stopped")
                raise
        certificates.append(run.certificate)
        failed += not passed(run.certificate)
        folder = Path(settings.output) / model.slug
        if options["junit"]:
            Path(options["junit"]).write_text(
                (folder / "report.xml").read_text(encoding="utf-8"), encoding="utf-8"
            )
        if not options["as_json"]:
            show(run, folder)
    if options["as_json"]:
        print_json(certificates)
    if missing:
        note(
            style(
                f"{len(missing)} of {len(models)} models could not be obtained: {', '.join(missing)}", "red"
            )
        )
        return EXIT_ENVIRONMENT
    return EXIT_FINDING if failed else EXIT_OK


def passed(certificate: dict[str, Any]) -> bool:
    """Say whether a certificate lets the command end with 0: certified, provisional, or a passed dev check."""
    from apr_qa.mqs import DEV_CHECKS

    if certificate["status"] in ("CERTIFIED", "PROVISIONAL"):
        return True
    return (
        Tier(certificate["tier"]) in DEV_CHECKS
        and certificate["score"] is not None
        and certificate["status"] == "PENDING"
    )


def _show_plan(models: list[Any], tier: Tier, *, as_json: bool) -> None:
    from apr_qa import playbook

    rows = []
    for model in models:
        book = playbook.for_model(model, tier)
        rows.append({"model": model.id, "tier": str(tier), "playbook": book.name})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['model']}  tier {row['tier']}  playbook {row['playbook']}")
