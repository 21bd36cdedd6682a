"""``apr-qa inspect``: what a file holds, and whether its parts agree."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from apr_qa.cli.console import MARKS, print_json, style
from apr_qa.errors import EXIT_FINDING
from apr_qa.visible import visible


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
    from apr_qa import inspection

    found = inspection.inspect(path, list_tensors=tensors)
    if as_json:
        print_json(found.to_json())
    else:
        for name, value in found.header.items():
            click.echo(f"{name:14} {visible(str(value))}")
        for entry in found.evidence:
            mark, colour = MARKS[entry.outcome]
            click.echo(f"{style(mark, colour)} {entry.gate_id:20} {visible(entry.reason)[:300]}")
        for row in found.tensors:
            click.echo(f"  {visible(row['name'])}  {row['dtype']}  {row['shape']}")
    sys.exit(EXIT_FINDING if any(entry.outcome.failed for entry in found.evidence) else 0)
