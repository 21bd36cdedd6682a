"""``apr-qa export-evidence``: stored evidence as one JSON document, for tools that read no JSON Lines."""

from __future__ import annotations

from pathlib import Path

import click

from apr_qa.cli.arguments import evidence_file


@click.command("export-evidence")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File or folder to write; default: standard output.",
)
def command(source: Path, output: Path | None) -> None:
    """Write header, certificate and entries of SOURCE, a file or the folder that holds evidence.jsonl.

    The document has the keys apr_qa, header, certificate and evidence, in this order. In a folder it is
    called ORG--NAME.json after the model.

    \b
    Example:
      apr-qa export-evidence certifications/HuggingFaceTB--SmolLM2-135M-Instruct -o evidence.json
    """
    import msgspec

    from apr_qa import certify

    run = certify.judged(evidence_file(source))
    document = {
        "apr_qa": run.header.apr_qa,
        "header": run.header,
        "certificate": run.certificate,
        "evidence": run.evidence,
    }
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    path = output / f"{run.header.model.slug}.json" if output.is_dir() else output
    certify.write_atomically(path, text)
    click.echo(path)
