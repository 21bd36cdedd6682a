"""``apr-qa generate``: the scenarios of a tier, without running them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from apr_qa.cli.arguments import TIERS, complete_model, tier_of
from apr_qa.cli.console import Progress, note
from apr_qa.errors import ModelUnavailable
from apr_qa.vocabulary import DEVICES, MODALITIES, Model, Target, Tier


@click.command("generate")
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--tier",
    type=click.Choice(TIERS),
    default="mvp",
    show_default=True,
    help="How much is tried; full: deep.",
)
@click.option(
    "-c", "--count", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many."
)
@click.option(
    "-f",
    "--format",
    "style",
    type=click.Choice(["yaml", "json", "jsonl"]),
    default="yaml",
    show_default=True,
    help="How they are printed.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on standard error.")
def command(model: str, tier: str, count: int, style: str, quiet: bool) -> None:
    """Print the scenarios that a tier runs for MODEL, with the ids that evidence will carry.

    An id depends on the quantisation of the file. Where MODEL is not on this machine, its prompts are
    printed without ids.

    \b
    Example:
      apr-qa generate HuggingFaceTB/SmolLM2-135M-Instruct --count 5 --format jsonl
    """
    from apr_qa import registry

    chosen = registry.select([model], None, False)[0]
    try:
        found, said = _planned(chosen, tier_of(tier)), ""
    except ModelUnavailable:
        found, said = _imagined(chosen, tier_of(tier)), " without ids: the model is not on this machine"
    rows = list(itertools.islice(found, count))
    _print(rows, style)
    if not quiet:
        note(f"{len(rows)} scenario{'' if len(rows) == 1 else 's'}{said}")


def _planned(model: Model, tier: Tier) -> Iterator[dict[str, Any]]:
    from apr_qa import playbook
    from apr_qa.preparation import Settings, prepare

    settings = Settings(download=False)
    prepared = prepare(model, tier, playbook.for_model(model, tier), settings, Progress(quiet=True))
    return (
        {"id": scenario.id, **msgspec.to_builtins(scenario)}
        for batch in prepared.batches
        for scenario in batch.scenarios
    )


def _imagined(model: Model, tier: Tier) -> Iterator[dict[str, Any]]:
    """Return what is asked in every planned cell, whatever file will be found."""
    from apr_qa import plan, playbook, scenarios

    book = playbook.for_model(model, tier)
    targets = [
        Target(model=model.id, format=f, quantization="", backend=b, modality=m, engine=plan.ENGINES[f])
        for f in book.formats
        for b in DEVICES
        if b in book.backends
        for m in MODALITIES
        if m in book.modalities
    ]
    drawn = scenarios.claims(book, tier)
    return (msgspec.to_builtins(scenario) for scenario in scenarios.scenarios(drawn, targets))


def _print(rows: list[dict[str, Any]], style: str) -> None:
    if style == "yaml":
        import yaml

        click.echo(yaml.safe_dump_all(rows, sort_keys=False, allow_unicode=True), nl=False)
    elif style == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
