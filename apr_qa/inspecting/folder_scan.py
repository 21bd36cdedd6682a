"""What lies in the folder of a model besides its weights: pickles, code, and ways out of the folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from apr_qa.containers.file_access import require_inside
from apr_qa.errors import MalformedFile
from apr_qa.formats import OpenModel
from apr_qa.inspecting import pickle_scan

MAX_FILES = 2000
MAX_DEPTH = 2
SHOWN = 20
_NAMED_FILE = re.compile(r"_file$|^name_or_path$")


def pickles(model: OpenModel) -> dict[str, Any]:
    """Look through every pickle beside the weights; ``unreadable`` ones hide what they would do."""
    scanned, suspicious, unreadable = 0, [], []
    for file in _beside(model, pickle_scan.SUFFIXES):
        found = pickle_scan.scan(file)
        scanned += not found.other
        if found.suspicious:
            suspicious.append({"file": file.name, "names": found.suspicious[:SHOWN]})
        if found.unreadable:
            unreadable.append({"file": file.name, "why": found.unreadable})
    return {"files": scanned, "suspicious": suspicious[:SHOWN], "unreadable": unreadable[:SHOWN]}


def remote_code(model: OpenModel) -> dict[str, Any]:
    """Return what asks for code of the model's own; none of it is imported."""
    wanted = []
    for name, settings in _settings(model):
        mapped = settings.get("auto_map")
        if mapped:
            wanted.append(f"{name}: auto_map {_short(mapped)}")
        if settings.get("trust_remote_code"):
            wanted.append(f"{name}: trust_remote_code")
        if settings.get("custom_pipelines"):
            wanted.append(f"{name}: custom_pipelines {_short(settings['custom_pipelines'])}")
    # A file that is not in a folder of its own may lie beside anything.
    python = [file.name for file in _beside(model, {".py"})] if model.path.is_dir() else []
    return {"wanted": wanted[:SHOWN], "python": sorted(python)[:SHOWN]}


def paths(model: OpenModel) -> dict[str, Any]:
    """Return the links and the file names in settings that lead out of the model's folder."""
    folder = model.path if model.path.is_dir() else model.path.parent
    files = [*model.files, *_beside(model, None)] if model.path.is_dir() else []
    escaping = []
    for file in files:
        try:
            require_inside(file, folder)
        except MalformedFile as refusal:
            escaping.append(f"{file.name} {refusal.what}")
    named = [
        (f"{place}: {key}", value)
        for place, settings in _settings(model)
        for key, value in settings.items()
        if isinstance(value, str) and _NAMED_FILE.search(key)
    ]
    escaping += [
        f"{key} = {_short(value)}" for key, value in named if key.endswith("_file") and leads_out(value)
    ]
    return {"checked": len(files) + len(named), "escaping": sorted(set(escaping))[:SHOWN]}


def leads_out(name: str) -> bool:
    """Say whether a file name is absolute, climbs up, or holds NUL, by the rules of any system."""
    path = PureWindowsPath(name)
    return bool(path.drive or path.root or ".." in path.parts or "\0" in name)


def _beside(model: OpenModel, suffixes: frozenset[str] | set[str] | None) -> Iterator[Path]:
    """Yield files of a model's folder, two levels deep where the folder is the model's own."""
    own = model.path.is_dir()
    top = model.path if own else model.path.parent
    left = MAX_FILES
    for folder, folders, names in os.walk(top):
        depth = len(Path(folder).relative_to(top).parts)
        folders[:] = sorted(f for f in folders if own and depth < MAX_DEPTH and not f.startswith("."))
        for name in sorted(names):
            if suffixes is None or Path(name).suffix.lower() in suffixes:
                yield Path(folder, name)
                left -= 1
                if not left:
                    return


def _settings(model: OpenModel) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        ("config", model.config),
        ("tokenizer_config", model.tokenizer_config),
        ("generation_config", model.generation_config),
    ]


def _short(value: Any) -> str:
    return str(value)[:120]
