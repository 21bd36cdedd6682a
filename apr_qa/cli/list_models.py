"""``apr-qa list-models``: what the registry knows."""

from __future__ import annotations

import click

from apr_qa.cli.arguments import complete_family
from apr_qa.cli.console import print_json


@click.command("list-models")
@click.option("--family", help="Only this family.", shell_complete=complete_family)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(family: str | None, as_json: bool) -> None:
    """List the models of the registry with family and size.

    \b
    Example:
      apr-qa list-models --family qwen-coder
    """
    from apr_qa import registry

    models = registry.family(family) if family else registry.models()
    if as_json:
        print_json([{"id": m.id, "family": m.family, "parameters": m.parameters} for m in models])
        return
    width = max((len(model.id) for model in models), default=0)
    for model in models:
        click.echo(f"{model.id:{width}}  {model.parameters:>6}  {model.family}")
