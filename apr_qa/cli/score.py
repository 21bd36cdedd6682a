"""``apr-qa score``: the score that follows from an evidence file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from apr_qa.cli.arguments import evidence_file
from apr_qa.cli.console import print_json
from apr_qa.cli.verdict import passed, show
from apr_qa.errors import EXIT_FINDING


@click.command("score")
@click.argument("evidence", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
def command(evidence: Path, as_json: bool) -> None:
    """Recompute gateways, score and status from EVIDENCE, a file or the folder that holds evidence.jsonl.

    \b
    Example:
      apr-qa score certifications/HuggingFaceTB--SmolLM2-135M-Instruct
    """
    from apr_qa import certify

    path = evidence_file(evidence)
    run = certify.judged(path)
    if as_json:
        print_json(run.certificate)
    else:
        show(run, path.parent)
    sys.exit(0 if passed(run.certificate) else EXIT_FINDING)
