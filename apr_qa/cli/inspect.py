"""``apr-qa inspect``: what a file holds, and whether its parts agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.console import MARKS, print_json, style
from apr_qa.errors import EXIT_FINDING
from apr_qa.rendering.visible import visible
from apr_qa.vocabulary import Evidence, Outcome


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor with type and shape.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(path: Path, tensors: bool, as_json: bool) -> None:
    """Inspect a model file or folder: header, configuration, tokenizer, values. Exit 1 on a finding.

    \b
    Examples:
      apr-qa inspect model.gguf
      apr-qa inspect model/ --tensors --json
    """
    from apr_qa.inspecting import inspection

    found = inspection.inspect(path, list_tensors=tensors)
    if as_json:
        print_json(found.to_json())
    else:
        _show_header(found.header)
        show_checks(found.evidence)
        _show_tensors(found.tensors)
    sys.exit(EXIT_FINDING if any(entry.outcome.failed for entry in found.evidence) else 0)


def _show_header(header: dict[str, Any]) -> None:
    shown = {
        name.replace("_", " "): value for name, value in header.items() if name not in ("error", "obstacle")
    }
    if "obstacle" in header:
        shown["convertible"] = f"no: {header['obstacle']}" if header["obstacle"] else True
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name:{width}}  {_word(value)}")


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else visible(str(value))


def show_checks(evidence: Sequence[Evidence]) -> None:
    """Print a line a check; checks that could not be made for one and the same reason share a line."""
    unjudged = [entry for entry in evidence if entry.outcome is Outcome.INCONCLUSIVE]
    shared = len(unjudged) > 1 and len({entry.reason for entry in unjudged}) == 1
    shown = [entry for entry in evidence if not (shared and entry.outcome is Outcome.INCONCLUSIVE)]
    width = max((len(entry.gate_id) for entry in shown), default=0)
    for entry in shown:
        mark, colour = MARKS[entry.outcome]
        click.echo(f"{style(mark, colour)} {entry.gate_id:{width}}  {visible(entry.reason)[:300]}")
    if shared:
        mark, colour = MARKS[Outcome.INCONCLUSIVE]
        click.echo(f"{style(mark, colour)} {len(unjudged)} other checks could not be made")


def _show_tensors(tensors: Sequence[dict[str, Any]]) -> None:
    names = max((len(visible(row["name"])) for row in tensors), default=0)
    types = max((len(row["dtype"]) for row in tensors), default=0)
    for row in tensors:
        shape = " × ".join(map(str, row["shape"]))
        click.echo(f"  {visible(row['name']):{names}}  {row['dtype']:{types}}  {shape}")
