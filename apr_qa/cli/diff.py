"""``apr-qa diff``: whether two files hold the same model, whatever their formats."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from apr_qa.cli.console import print_json
from apr_qa.cli.inspect import show_checks
from apr_qa.errors import EXIT_FINDING


@click.command("diff")
@click.argument("truth", type=click.Path(path_type=Path))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--logits", is_flag=True, help="Compare the next-token distributions too; loads both models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(truth: Path, path: Path, logits: bool, as_json: bool) -> None:
    """Compare PATH with TRUTH: configuration, tokenizer, template, names, shapes, values. Exit 1 on a finding.

    A quantised file may differ from its source by what a healthy rounding to the same type costs.

    \b
    Example:
      apr-qa diff model/ model-q4_k_m.gguf
    """
    from apr_qa.inspecting import inspection

    found = inspection.difference(truth, path, logits=logits)
    if as_json:
        print_json(found.to_json()["gates"])
    else:
        show_checks(found.evidence)
    sys.exit(EXIT_FINDING if any(entry.outcome.failed for entry in found.evidence) else 0)
