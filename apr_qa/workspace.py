"""Our own folder under the XDG cache: everything derived, keyed by the content it was derived from.

Sources are never written to; whatever is made from them lives here and can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from apr_qa import __version__, cache, file_hash
from apr_qa.errors import ModelUnavailable
from apr_qa.vocabulary import digest

COMPANIONS = (".json", ".jinja", ".model", ".txt")
"""Suffixes of the files beside the weights that change what a model does."""

SUFFIXES = {"safetensors": "", "apr": ".apr", "gguf": ".gguf"}


def root() -> Path:
    """Return the cache folder; ``APR_QA_CACHE`` overrides the XDG location."""
    override = os.environ.get("APR_QA_CACHE")
    if override:
        return Path(override)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "apr-qa"
    stated = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    return (Path(stated) if os.path.isabs(stated) else Path.home() / ".cache") / "apr-qa"  # noqa: PTH117 - empty is none


MAKERS = {"gguf": ("gguf", "llama-cpp-python")}
"""Format -> packages whose release decides what a conversion to it looks like."""


def derived_path(source_sha256: str, format_name: str, quantization: str) -> Path:
    """Return where a derived artifact lives: the name says all that its content depends on."""
    makers = [_release(package) for package in MAKERS.get(format_name, ())]
    key = digest(source_sha256, format_name, quantization, __version__, makers)
    cache.announce(root())
    folder = root() / "artifacts" / key
    cache.touch(folder)
    return folder / f"model{SUFFIXES[format_name]}"


def _release(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def artifact_files(path: Path) -> list[Path]:
    """Return the files that make up an artifact: one container file, or weights and companions of a folder."""
    if path.is_file() and path.suffix != ".safetensors":
        return [path]
    folder = path if path.is_dir() else path.parent
    names = (".safetensors", *COMPANIONS)
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in names)


def content_sha256(path: Path) -> str:
    """Return SHA-256 of a single file, or over names and hashes of the files of a folder."""
    cache.announce(root())
    files = artifact_files(path)
    if not files:
        raise ModelUnavailable("holds no model file", where=str(path))
    if len(files) == 1 and path.is_file():
        return _file_sha256(files[0])
    return hashlib.sha256(_manifest(files).encode()).hexdigest()


def _manifest(files: Iterable[Path]) -> str:
    return "".join(f"{_file_sha256(file)}  {file.name}\n" for file in files)


def _file_sha256(file: Path) -> str:
    return file_hash.sha256(file, root() / "hashes")


def remove(path: Path) -> None:
    """Delete a derived file or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
