"""Readings and limits on disk, under the workspace: named by everything that they depend on.

A name holds the hash of the artifact's content, the token ids, the engine with its version and build and the type
that it computes in, so nothing stored is ever out of date; it can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import platform
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from apr_qa import __version__, cache, file_hash, workspace
from apr_qa.errors import EnvironmentFault
from apr_qa.logits import readings
from apr_qa.logits.feed import Feed
from apr_qa.logits.readings import Readings
from apr_qa.vocabulary import digest

_PACKAGES = {"transformers_torch": ("torch", "transformers"), "llama_cpp": ("llama-cpp-python",)}
_LIBRARIES = {"transformers_torch": ("torch", "lib/*torch_c*"), "llama_cpp": ("llama_cpp", "lib/*")}
"""Engine -> its package, and the libraries in it that compute."""


def engine_version(engine: str) -> str:
    """Return name, versions and build of an engine and the kind of machine, without importing it."""
    found = [engine, platform.machine()]
    for package in _PACKAGES[engine]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return " ".join([*found, _build(engine)])


def _build(engine: str) -> str:
    """Return the hash of the engine's native libraries: two builds of one version may compute differently."""
    package, pattern = _LIBRARIES[engine]
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    files = {file.resolve() for folder in folders for file in folder.glob(pattern) if file.is_file()}
    hashes = sorted(file_hash.sha256(file, workspace.root() / "hashes") for file in files)
    return digest(hashes)


def name_of(content_sha256: str, feed: Feed, engine: str, dtype: str) -> str:
    """Return the name that readings are stored under."""
    return digest(content_sha256, feed.key, engine_version(engine), dtype, __version__)


def stored(name: str) -> Readings | None:
    """Return stored readings, or None; what cannot be read is as good as absent."""
    path = _folder() / f"{name}.npz"
    cache.touch(path)
    try:
        return readings.load(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def keep(name: str, taken: Readings) -> None:
    """Store readings completely or not at all."""
    _write(_folder() / f"{name}.npz", taken.save)


def remembered(name: str) -> dict[str, Any] | None:
    """Return a stored record of plain JSON values, or None."""
    path = _folder() / f"{name}.json"
    cache.touch(path)
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def remember(name: str, record: dict[str, Any]) -> None:
    """Store a record of plain JSON values."""
    _write(_folder() / f"{name}.json", lambda path: path.write_text(json.dumps(record), "utf-8"))


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait until no other process works on ``name``: what it made can then be read instead of made again."""
    path = _folder() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folder() -> Path:
    return workspace.root() / "logits"


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
