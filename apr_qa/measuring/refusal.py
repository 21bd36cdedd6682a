"""Damaged files are refused in good order: by an error that says what is wrong, not by a crash."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr_qa.backends import BACKENDS
from apr_qa.errors import AprQaError, EngineMissing, Inapplicable
from apr_qa.vocabulary import Target

KEPT_BYTES = 1 << 20
SUFFIX = {"gguf": ".gguf", "apr": ".apr", "safetensors": ".safetensors"}


def refusal(params: Mapping[str, Any], target: Target, artifact: Path) -> dict[str, Any]:
    """Return whether the engine refuses the artifact ``truncated``, ``missing`` or ``foreign``, and its words."""
    damage = str(params["damage"])
    with tempfile.TemporaryDirectory(prefix="apr-qa-damaged-") as folder:
        path = _damaged(artifact, Path(folder), damage, target.format)
        try:
            session = BACKENDS.get(target.engine).load(target, path)
        except (EngineMissing, Inapplicable):
            raise
        except AprQaError as said:
            return {"damage": damage, "refused": True, "said": said.what, "kind": type(said).__name__}
        session.close()
    return {"damage": damage, "refused": False, "said": ""}


def _damaged(artifact: Path, folder: Path, damage: str, format_name: str) -> Path:
    if damage == "missing":
        return folder / f"missing{SUFFIX[format_name]}"
    if damage == "foreign":
        path = folder / f"foreign{SUFFIX[format_name]}"
        path.write_text("root:x:0:0:root:/root:/bin/sh\n" * 20, encoding="ascii")
        return path
    if artifact.is_file():
        return _cut(artifact, folder / artifact.name)
    copy = folder / artifact.name
    copy.mkdir()
    for file in artifact.iterdir():
        if file.suffix == ".safetensors":
            _cut(file, copy / file.name)
        elif file.is_file() and file.stat().st_size < 32 * KEPT_BYTES:
            shutil.copyfile(file, copy / file.name)
    return copy


def _cut(source: Path, copy: Path) -> Path:
    """Copy the first half of a file, but not more than a mebibyte."""
    with source.open("rb") as stream:
        copy.write_bytes(stream.read(min(KEPT_BYTES, source.stat().st_size // 2)))
    return copy
