"""``apr-qa convert``: one format to another, in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from apr_qa import extras
from apr_qa.cli.console import note, print_json
from apr_qa.errors import EngineMissing, EnvironmentFault, MalformedFile, UnsupportedArchitecture, UsageError
from apr_qa.vocabulary import FORMATS, Artifact

FLOATS = ("f32", "f16", "bf16")
QUANTIZATIONS = (*FLOATS, "q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k")


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--to", "format_name", type=click.Choice(FORMATS), help="Format; default: by DESTINATION's suffix."
)
@click.option(
    "-q",
    "--quantization",
    type=click.Choice(QUANTIZATIONS),
    help="Storage type; all but f32, f16, bf16 are gguf only. Default: f16 for gguf, else the source's.",
)
@click.option("--force", is_flag=True, help="Replace DESTINATION, once the conversion has succeeded.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts of the conversion as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    source: Path,
    destination: Path,
    format_name: str | None,
    quantization: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert SOURCE (a file or folder) to DESTINATION and record where it came from.

    \b
    Examples:
      apr-qa convert model.gguf model/ --to safetensors
      apr-qa convert model/ model-q8_0.gguf -q q8_0
    """
    from apr_qa import workspace
    from apr_qa.inspecting import inspection

    chosen = format_name or {".gguf": "gguf", ".apr": "apr", "": "safetensors"}.get(destination.suffix)
    if chosen is None:
        raise UsageError(f"the suffix of {destination} names no format", fix="say it with --to")
    if chosen != "gguf" and quantization not in (None, *FLOATS):
        raise UsageError(f"{chosen} is not written as {quantization}", fix=f"use one of {', '.join(FLOATS)}")
    found = inspection.at(source)
    _check_destination(source, destination, chosen, force)
    _check_source(found, source)
    origin = msgspec.structs.replace(found, sha256=workspace.content_sha256(Path(found.path)))
    facts = _converted(origin, destination, chosen, quantization or "")
    if as_json:
        print_json({"destination": str(destination), "format": chosen, **facts})
        return
    if not quiet:
        note(f"{facts['tensors']} tensors as {facts['quantization']} in {facts['seconds']:.1f} s")
    click.echo(destination)


def _check_destination(source: Path, destination: Path, format_name: str, force: bool) -> None:
    """Refuse to touch anything but a model file, or a folder that holds one and no other folder."""
    from apr_qa.formats import sniff

    where = str(destination)
    if destination.resolve() == source.resolve():
        raise UsageError("source and destination are the same", where=where, fix="choose another destination")
    if not destination.exists():
        parent = next(path for path in destination.absolute().parents if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise EnvironmentFault(
                "cannot be written to", where=str(parent), fix="choose another destination"
            )
        return
    if not force:
        raise UsageError("exists already", where=where, fix="choose another name, or use --force")
    if source.resolve().is_relative_to(destination.resolve()):
        raise UsageError("the source lies in it", where=where, fix="choose another destination")
    held = sniff(destination)
    folders = destination.is_dir() and any(path.is_dir() for path in destination.iterdir())
    if held is None or held.name != format_name or folders:
        raise UsageError(
            f"is not a {format_name} model, and --force replaces nothing else",
            where=where,
            fix="choose another destination",
        )


def _check_source(found: Artifact, source: Path) -> None:
    from apr_qa import asking
    from apr_qa.conversion.architectures import ARCHITECTURES

    header = asking.ask(found, "header")
    if "error" in header:
        raise MalformedFile(header["error"], where=str(source), fix="apr-qa inspect says more")
    if header["architecture"] not in ARCHITECTURES:
        raise UnsupportedArchitecture(
            f"the built-in converter does not know architecture {header['architecture']!r}",
            where=str(source),
            fix="convert it with the tool of its authors and bring the file: "
            "apr-qa certify … --artifact FORMAT=PATH",
        )


def _converted(origin: Artifact, destination: Path, format_name: str, quantization: str) -> dict[str, Any]:
    """Convert beside ``destination`` and move the result there, so that a failure leaves what was there."""
    from apr_qa import asking, workspace

    draft = destination.with_name(f".{os.getpid()}.{destination.name}")
    wanted = Artifact(format=format_name, path=str(draft), quantization=quantization, origin="derived")
    try:
        facts = asking.convert(origin, wanted)
        if "error" in facts and extras.lacking(facts["error"]):
            raise EngineMissing(facts["error"], where=origin.path)
        if "error" in facts:
            raise MalformedFile(facts["error"], where=origin.path)
        if destination.exists():
            workspace.remove(destination)
        draft.rename(destination)
    finally:
        workspace.remove(draft)
    return {name: value for name, value in facts.items() if name != "cached"}
