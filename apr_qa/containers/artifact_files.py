"""Which files of a folder are a model: chosen by name, so that a damaged file still gets its verdict."""

from __future__ import annotations

import re
from pathlib import Path

from apr_qa.containers.file_access import first_bytes
from apr_qa.vocabulary import Artifact

SUFFIXES = {".safetensors": "safetensors", ".gguf": "gguf", ".apr": "apr"}
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 * 2**20

_PROMISED = re.compile(rb':\s*"([ -!#-\[\]-~]{1,255}\.safetensors)"')
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.(?:gguf|safetensors)$", re.IGNORECASE)


def artifacts_at(path: Path, *, origin: str, place: str) -> list[Artifact]:
    """Return the artifacts of a file or folder, at most one a format; none if nothing looks like a model.

    ``place`` says in words where this is; the name of a chosen file is put before it. The suffix
    decides the format, the content only where no suffix tells: a broken .gguf is a finding, not an absence.
    """
    if path.is_file():
        format_name = SUFFIXES.get(path.suffix.lower()) or _sniffed(path)
        if format_name is None:
            return []
        return [Artifact(format=format_name, path=str(path), origin=origin, source=f"{path.name}, {place}")]
    if not path.is_dir():
        return []
    artifacts = []
    if weight_files(path) or (path / INDEX).is_file():
        artifacts.append(Artifact(format="safetensors", path=str(path), origin=origin, source=place))
    for format_name in ("apr", "gguf"):
        names = sorted(entry.name for entry in path.glob("*") if entry.suffix.lower() == f".{format_name}")
        candidates = [name for name in names if (path / name).is_file()]
        if candidates:
            name = _preferred(candidates)
            others = (
                f"; {len(candidates) - 1} other {format_name} files left aside" if len(candidates) > 1 else ""
            )
            artifacts.append(
                Artifact(
                    format=format_name,
                    path=str(path / name),
                    origin=origin,
                    source=f"{name}, {place}{others}",
                )
            )
    return artifacts


def expanded(path: Path) -> Path:
    """Return ``path`` with a leading ``~`` replaced; that of an unknown user stays as it is."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def weight_files(folder: Path) -> list[Path]:
    """Return the SafeTensors files of a folder that hold model weights; adapters do not."""
    return sorted(
        path
        for path in folder.glob("*.safetensors")
        if path.is_file() and not path.name.startswith((".", "adapter_"))
    )


def missing_shards(folder: Path) -> str:
    """Say which SafeTensors shards the folder promises but lacks; empty if none is promised and missing.

    The index promises, or without one the shard names (``…-00001-of-00003…``).
    """
    index = folder / INDEX
    present = {path.name for path in weight_files(folder)}
    if index.is_file():
        promised = _indexed(index)
        if promised is None:
            return f"{INDEX} cannot be read"
    else:
        promised = set()
        for name in present:
            part = _PART.search(name)
            if part:
                stem = name[: part.start()]
                promised |= {f"{stem}-{n:05d}-of-{part[2]}.safetensors" for n in range(1, int(part[2]) + 1)}
    missing = sorted(promised - present)
    if not missing:
        return ""
    return f"{len(missing)} of {len(promised)} shards are missing, {missing[0]} the first"


def _indexed(index: Path) -> set[str] | None:
    """Return the file names an index promises, or None if it promises none.

    Looked for in the text: parsing what nobody vouches for is left to a worker.
    """
    text = first_bytes(index, MAX_INDEX_BYTES)
    names = {match[1].decode() for match in _PROMISED.finditer(text)}
    return names if names and b'"weight_map"' in text else None


def _preferred(names: list[str]) -> str:
    """Return the model among several files: no projector, the first part of a split one, then by name."""

    def rank(name: str) -> tuple[bool, bool, str]:
        part = _PART.search(name)
        return "mmproj" in name.lower(), part is not None and int(part[1]) != 1, name

    return min(names, key=rank)


def _sniffed(path: Path) -> str | None:
    from apr_qa.formats import sniff

    found = sniff(path)
    return None if found is None else found.name
