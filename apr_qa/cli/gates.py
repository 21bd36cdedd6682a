"""``apr-qa gates``: what is checked, and how each check can fail."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from apr_qa.cli.console import print_json


@click.group("gates", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print all gates with their examples as JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List all gates, or explain one.

    \b
    Examples:
      apr-qa gates
      apr-qa gates explain G0-VALIDATE-001
      apr-qa gates --json
    """
    if ctx.invoked_subcommand is not None:
        return
    from apr_qa.gates import GATES

    gates = [gate for _, gate in GATES.items()]
    if as_json:
        print_json([_described(gate) for gate in gates])
        return
    width = max(len(gate.id) for gate in gates)
    for gate in gates:
        click.echo(f"{gate.id:{width}}  {gate.severity}  {gate.hypothesis}")


@command.command("explain")
@click.argument("gate_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(gate_id: str, as_json: bool) -> None:
    """Explain one gate: hypothesis, measure, threshold, severity, source, and an example that falsifies it.

    \b
    Example:
      apr-qa gates explain F-QUAL-001
    """
    from apr_qa.gates import GATES

    described = _described(GATES.get(gate_id))
    if as_json:
        print_json(described)
        return
    for name in ("id", "hypothesis", "severity", "category", "measure", "threshold", "source", "kind"):
        if described[name]:
            click.echo(f"{name:12} {described[name]}")
    for name in ("corroborates", "falsifies"):
        click.echo(f"{name:12} {msgspec.json.encode(described[name]).decode()}")


def _described(gate: Any) -> dict[str, Any]:
    fields = ("id", "category", "severity", "hypothesis", "measure", "threshold", "source", "kind")
    described = {name: str(getattr(gate, name)) for name in fields}
    examples = {name: msgspec.to_builtins(getattr(gate, name)) for name in ("corroborates", "falsifies")}
    return {**described, **examples}
