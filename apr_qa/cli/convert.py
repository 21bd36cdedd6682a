"""``apr-qa convert``: one format to another, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from apr_qa.cli.console import note, print_json
from apr_qa.errors import MalformedFile, UsageError
from apr_qa.vocabulary import FORMATS

QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k")


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--to", "format_name", type=click.Choice(FORMATS), help="Format; default: by DESTINATION's suffix."
)
@click.option(
    "-q", "--quantization", type=click.Choice(QUANTIZATIONS), help="Storage type; default: the source's."
)
@click.option("--force", is_flag=True, help="Overwrite DESTINATION.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts of the conversion as JSON.")
def command(
    source: Path,
    destination: Path,
    format_name: str | None,
    quantization: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert SOURCE (a file or folder) to DESTINATION and record where it came from.

    \b
    Examples:
      apr-qa convert model.gguf model/ --to safetensors
      apr-qa convert model/ model-q8_0.gguf -q q8_0
    """
    from apr_qa import asking, inspection, workspace
    from apr_qa.vocabulary import Artifact

    chosen = format_name or {".gguf": "gguf", ".apr": "apr", "": "safetensors"}.get(destination.suffix)
    if chosen is None:
        raise UsageError(f"the suffix of {destination} names no format", fix="say it with --to")
    found = inspection.at(source)
    if destination.exists() and not force:
        raise UsageError("exists already", where=str(destination), fix="choose another name, or use --force")
    if destination.resolve() == source.resolve():
        raise UsageError(
            "source and destination are the same", where=str(source), fix="choose another destination"
        )
    origin = msgspec.structs.replace(found, sha256=workspace.content_sha256(Path(found.path)))
    if destination.exists():
        workspace.remove(destination)
    wanted = Artifact(format=chosen, path=str(destination), quantization=quantization or "", origin="derived")
    facts = asking.convert(origin, wanted)
    if "error" in facts:
        raise MalformedFile(facts["error"], where=str(source), fix=str(facts.get("fix", "")))
    if as_json:
        print_json(facts)
    else:
        note(f"{facts['tensors']} tensors in {facts['seconds']:.1f} s")
        click.echo(destination)
