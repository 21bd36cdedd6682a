"""``apr-qa generate``: the scenarios of a tier, without running them."""

from __future__ import annotations

import itertools
import json

import click
import msgspec

from apr_qa.vocabulary import DEVICES, MODALITIES, Target, Tier


@click.command("generate")
@click.argument("model")
@click.option("--tier", type=click.Choice([*map(str, Tier)]), default="mvp", show_default=True)
@click.option(
    "-c", "--count", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many."
)
@click.option(
    "-f", "--format", "style", type=click.Choice(["yaml", "json", "jsonl"]), default="yaml", show_default=True
)
def command(model: str, tier: str, count: int, style: str) -> None:
    """Print the scenarios that a tier runs for MODEL; the same ids that evidence will carry.

    \b
    Example:
      apr-qa generate HuggingFaceTB/SmolLM2-135M-Instruct --count 5 --format jsonl
    """
    from apr_qa import plan, playbook, registry, scenarios

    chosen = registry.select([model], None, False)[0]
    book = playbook.for_model(chosen, Tier(tier))
    targets = [
        Target(model=chosen.id, format=f, quantization="", backend=b, modality=m, engine=plan.ENGINES[f])
        for f in book.formats
        for b in DEVICES
        if b in book.backends
        for m in MODALITIES
        if m in book.modalities
    ]
    drawn = scenarios.claims(book, Tier(tier))
    rows = [
        {"id": scenario.id, **msgspec.to_builtins(scenario)}
        for scenario in itertools.islice(scenarios.scenarios(drawn, targets), count)
    ]
    if style == "yaml":
        import yaml

        click.echo(yaml.safe_dump_all(rows, sort_keys=False, allow_unicode=True), nl=False)
    elif style == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    click.echo(f"{len(rows)} scenarios", err=True)
