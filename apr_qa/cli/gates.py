"""``apr-qa gates``: what is checked, and how each check can fail."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from apr_qa.cli.console import print_json, text_width
from apr_qa.rendering.visible import visible

LABEL = 17


class GatesGroup(click.Group):
    """A group whose refusal knows that the unknown command may be the id of a gate."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and args[0][:1].isupper():
            raise click.UsageError(f"To explain a gate: apr-qa gates explain {args[0]}", ctx)
        return super().resolve_command(ctx, args)


@click.group("gates", cls=GatesGroup, invoke_without_command=True)
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
    """Explain one gate: hypothesis, measure, threshold, severity, source, and what it accepts and refuses.

    \b
    Example:
      apr-qa gates explain F-QUAL-001
      apr-qa gates explain G2-BASIC
    """
    from apr_qa.gates import GATES
    from apr_qa.gates.replaced import REPLACED

    name = next((known for known in REPLACED if known.upper() == gate_id.upper()), "")
    if name:
        _explain_replaced(name, as_json=as_json)
        return
    gate = GATES.get(_spelled(gate_id))
    if as_json:
        print_json(_described(gate))
        return
    for name in ("id", "hypothesis", "severity", "category", "measure", "threshold", "source", "kind"):
        if value := str(getattr(gate, name)):
            _labelled(name, [value])
    _labelled("corroborated by", list(_example(gate, gate.corroborates)))
    _labelled("falsified by", list(_example(gate, gate.falsifies)))


def _spelled(gate_id: str) -> str:
    """Return an id as it is registered, whatever the case it was typed in."""
    from apr_qa.gates import GATES

    return next((name for name in GATES.names() if name.upper() == gate_id.upper()), gate_id.upper())


def _explain_replaced(gate_id: str, *, as_json: bool) -> None:
    """Print what stands for an id that has no gate of its own."""
    from apr_qa.gates import GATES
    from apr_qa.gates.replaced import REPLACED

    replaced = REPLACED[gate_id]
    if as_json:
        print_json({"id": gate_id, "replaced_by": list(replaced.by), "why": replaced.why})
        return
    _labelled("id", [f"{gate_id} has no gate of its own"])
    _labelled("why", [replaced.why])
    answers = [f"{name}: {GATES.get(name).hypothesis}" for name in replaced.by]
    _labelled("answered by", answers or ["nothing: it asks nothing about an artifact"])


def _labelled(label: str, lines: list[str]) -> None:
    """Print lines beside a label, wrapped."""
    for line in lines:
        click.echo(
            textwrap.fill(
                visible(line),
                width=text_width(),
                initial_indent=f"{label:{LABEL}}",
                subsequent_indent=" " * LABEL,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
        label = ""


def _example(gate: Any, example: Any) -> Iterator[str]:
    """Yield what a reader needs of an example: the rest is in the JSON."""
    if gate.kind == "facts":
        yield from (f"{name}: {_short(value)}" for name, value in example.items())
    elif gate.kind == "text":
        claim, response = example
        yield f"asked: {claim.question!r}"
        yield f"answer: {response.text!r}"
    else:
        _, entries = example
        for entry in entries:
            answer = entry.response.text if entry.response is not None else None
            said = "" if answer is None else f", answer {answer!r}"
            yield f"{entry.gate_id} {entry.scenario.target.cell} {entry.outcome}{said}"


def _short(value: Any) -> str:
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)


def _described(gate: Any) -> dict[str, Any]:
    fields = ("id", "category", "severity", "hypothesis", "measure", "threshold", "source", "kind")
    described = {name: str(getattr(gate, name)) for name in fields}
    examples = {name: msgspec.to_builtins(getattr(gate, name)) for name in ("corroborates", "falsifies")}
    return {**described, **examples}
