"""``apr-qa report``: documents rendered from stored evidence."""

from __future__ import annotations

from pathlib import Path

import click

from apr_qa.cli.arguments import evidence_file, one_of
from apr_qa.cli.console import print_json


@click.command("report")
@click.argument("evidence", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to; default: beside the evidence.",
)
@click.option(
    "--formats", default="all", show_default=True, help="Comma-separated: junit, html, markdown, certificate."
)
@click.option("--json", "as_json", is_flag=True, help="Print the paths as JSON.")
def command(evidence: Path, output: Path | None, formats: str, as_json: bool) -> None:
    """Render reports from EVIDENCE, a file or the folder that holds evidence.jsonl.

    \b
    Example:
      apr-qa report certifications/HuggingFaceTB--SmolLM2-135M-Instruct --formats junit,html -o out
    """
    from apr_qa import certify
    from apr_qa.reports import REPORTS

    path = evidence_file(evidence)
    names = {name: report.filename for name, report in REPORTS.items()} | {
        "certificate": certify.CERTIFICATE_FILE
    }
    asked = names if formats == "all" else (name.strip() for name in formats.split(","))
    chosen = sorted({one_of(name, sorted(names), "report") for name in asked})
    folder = output or path.parent
    run = certify.judged(path)
    for name in chosen:
        for file, text in certify.document(name, run).items():
            certify.write_atomically(folder / file, text)
    if as_json:
        print_json({name: str(folder / names[name]) for name in chosen})
        return
    for name in chosen:
        click.echo(folder / names[name])
