"""``apr-qa report``: documents rendered from stored evidence."""

from __future__ import annotations

from pathlib import Path

import click

from apr_qa.errors import UsageError


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
def command(evidence: Path, output: Path | None, formats: str) -> None:
    """Render reports from EVIDENCE, a file or the folder that holds evidence.jsonl.

    \b
    Example:
      apr-qa report certifications/HuggingFaceTB--SmolLM2-135M-Instruct --formats junit,html -o out
    """
    from apr_qa import certify
    from apr_qa.reports import REPORTS

    path = evidence / certify.EVIDENCE_FILE if evidence.is_dir() else evidence
    names = {name: report.filename for name, report in REPORTS.items()} | {
        "certificate": certify.CERTIFICATE_FILE
    }
    chosen = set(names) if formats == "all" else {name.strip() for name in formats.split(",")}
    unknown = chosen - set(names)
    if unknown:
        raise UsageError(
            f"no report is called {', '.join(sorted(unknown))}", fix=f"choose from {', '.join(sorted(names))}"
        )
    folder = output or path.parent
    documents = certify.documents(certify.judged(path))
    for name in sorted(chosen):
        certify.write_atomically(folder / names[name], documents[names[name]])
        click.echo(folder / names[name])
