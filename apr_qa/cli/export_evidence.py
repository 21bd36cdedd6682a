"""``apr-qa export-evidence``: stored evidence in another form, for other tools or in less space."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click

from apr_qa.cli.arguments import evidence_file
from apr_qa.errors import UsageError

FORMATS = ("json", "jsonl", "parquet")


@click.command("export-evidence")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File or folder to write; default: standard output, for Parquet beside the evidence.",
)
@click.option(
    "--format", "style", type=click.Choice(FORMATS), default="json", show_default=True, help="What to write."
)
@click.option(
    "--compact",
    is_flag=True,
    help="Put evidence.parquet in the place of evidence.jsonl, after reading it back.",
)
def command(source: Path, output: Path | None, style: str, compact: bool) -> None:
    """Write the entries of SOURCE, a file or the folder that holds the evidence, in another form.

    json: one document with the keys apr_qa, header, certificate and evidence, in this order. jsonl: a header, then
    a line for each entry. parquet: columns, in a tenth of the space; every command that reads evidence reads this,
    too. In a folder the file is called ORG--NAME after the model.

    \b
    Examples:
      apr-qa export-evidence certifications/HuggingFaceTB--SmolLM2-135M-Instruct -o evidence.json
      apr-qa export-evidence certifications/HuggingFaceTB--SmolLM2-135M-Instruct --compact
    """
    from apr_qa import evidence, evidence_columns
    from apr_qa.atomic import write_pieces

    path = evidence_file(source)
    if compact:
        click.echo(_compacted(path, alone=output is None and style != "jsonl"))
        return
    slug = evidence.stream(path)[0].model.slug
    if style == "parquet":
        target = _place(output or path.parent, "evidence" if output is None else slug, style)
        evidence_columns.write(target, *evidence.stream(path))
    elif output is None:
        for piece in _pieces(path, style):
            click.echo(piece, nl=False)
        return
    else:
        target = _place(output, slug, style)
        write_pieces(target, _pieces(path, style))
    click.echo(target)


def _place(output: Path, name: str, style: str) -> Path:
    return output / f"{name}.{style}" if output.is_dir() else output


def _pieces(path: Path, style: str) -> Iterator[str]:
    """Iterate over the text of a document."""
    from apr_qa import evidence
    from apr_qa.evidence_rows import ENCODER

    if style == "json":
        yield from _document(path)
        return
    header, entries = evidence.stream(path)
    for one in chain([header], entries):
        yield ENCODER.encode(one).decode() + "\n"


def _document(path: Path) -> Iterator[str]:
    """Iterate over one JSON document: the entries as a reader wants them, those of a large run as they came."""
    import msgspec

    from apr_qa import certify, evidence

    run = certify.judged(path)
    begin = {
        "apr_qa": run.header.apr_qa,
        "header": run.header,
        "certificate": run.certificate,
        "evidence": [],
    }
    head = msgspec.json.format(msgspec.json.encode(begin), indent=2).decode()
    entries = run.evidence if run.tally.complete else evidence.stream(path)[1]
    yield head.removesuffix("]\n}")
    separator, end = "\n    ", "]\n}\n"
    for entry in entries:
        text = msgspec.json.format(msgspec.json.encode(entry), indent=2).decode()
        yield separator + text.replace("\n", "\n    ")
        separator, end = ",\n    ", "\n  ]\n}\n"
    yield end


def _compacted(path: Path, *, alone: bool) -> Path:
    """Put Parquet in the place of JSON Lines once it was read back; return where it is."""
    from apr_qa import evidence, evidence_columns

    target = path.with_suffix(evidence_columns.SUFFIX)
    if not alone or path == target:
        what = (
            "is compacted already" if path == target else "--compact takes no --output and no other --format"
        )
        raise UsageError(what, where=str(path))
    if evidence_columns.write(target, *evidence.stream(path)) != evidence.sha256(path):
        target.unlink()
        fix = "rewrite it with --format jsonl, judge that, and compact it then"
        raise UsageError(
            "these are not the bytes that apr-qa writes: their hash would be lost", where=str(path), fix=fix
        )
    for _ in evidence.stream(target)[1]:  # ends with an error unless every entry is the one that was read
        pass
    path.unlink()
    return target
