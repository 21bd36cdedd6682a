"""Our own folder under the XDG cache: everything derived, keyed by the content it was derived from.

Sources are never written to; whatever is made from them lives here and can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from apr_qa import __version__
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
    from platformdirs import user_cache_path

    return user_cache_path("apr-qa")


def derived_path(source_sha256: str, format_name: str, quantization: str) -> Path:
    """Return where a derived artifact lives: the name says all that its content depends on."""
    key = digest(source_sha256, format_name, quantization, __version__)
    return root() / "artifacts" / key / f"model{SUFFIXES[format_name]}"


def artifact_files(path: Path) -> list[Path]:
    """Return the files that make up an artifact: one container file, or weights and companions of a folder."""
    if path.is_file() and path.suffix != ".safetensors":
        return [path]
    folder = path if path.is_dir() else path.parent
    names = (".safetensors", *COMPANIONS)
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in names)


def content_sha256(path: Path) -> str:
    """Return SHA-256 of a single file, or over names and hashes of the files of a folder."""
    files = artifact_files(path)
    if not files:
        raise ModelUnavailable("holds no model file", where=str(path))
    if len(files) == 1 and path.is_file():
        return _file_sha256(files[0])
    return hashlib.sha256(_manifest(files).encode()).hexdigest()


def _manifest(files: Iterable[Path]) -> str:
    return "".join(f"{_file_sha256(file)}  {file.name}\n" for file in files)


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Delete a derived file or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
