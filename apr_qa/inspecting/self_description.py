"""What a file tells about itself, whether its reader would notice damage, and whether it was left alone."""

from __future__ import annotations

import hashlib
import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr_qa import workspace
from apr_qa.containers.apr_blocks import known_code
from apr_qa.containers.apr_container import HEADER_BYTES
from apr_qa.containers.apr_index import ALIGNMENT
from apr_qa.errors import AprQaError, Inapplicable
from apr_qa.formats import FORMATS, OpenModel

KEPT_BYTES = 4 << 20
"""How much of a file is copied to be damaged: enough to hold the headers of all but the largest vocabularies."""
DAMAGES = ("truncated", "overwritten", "emptied")
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "hidden size": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "vocabulary": ("vocab_size",),
    "key-value heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
}
"""What an engine needs to know -> the keys under which configurations say it; the last may be left out."""
OPTIONAL = ("key-value heads",)


def metadata(model: OpenModel) -> dict[str, Any]:
    """Return the numbers without which no engine can run the model; None where the file does not tell one."""
    config = model.config.get("text_config")
    config = {**model.config, **config} if isinstance(config, dict) else model.config
    found = {
        name: next((config[key] for key in keys if config.get(key) is not None), None)
        for name, keys in NUMBERS.items()
    }
    return {"tensors": len(model.tensors), "numbers": found, "optional": list(OPTIONAL)}


def corruption(model: OpenModel) -> dict[str, Any]:
    """Return what the reader of the format says to damaged copies of the file; the file itself is only read."""
    format_ = FORMATS.get(model.format)
    tried = []
    with tempfile.TemporaryDirectory(prefix="apr-qa-damaged-") as folder:
        for damage in DAMAGES:
            path = _damaged(model, Path(folder) / damage, damage)
            try:
                format_.open(path)
            except AprQaError as refusal:
                tried.append({"damage": damage, "refused": True, "said": refusal.what[:200]})
            else:
                tried.append({"damage": damage, "refused": False, "said": ""})
    return {"tried": tried}


def _damaged(model: OpenModel, folder: Path, damage: str) -> Path:
    folder.mkdir()
    if model.path.is_dir():
        for file in model.path.iterdir():
            if file.is_file() and file not in model.files[:1] and file.stat().st_size < KEPT_BYTES:
                shutil.copyfile(file, folder / file.name)
    weights = next((file for file in model.files if file.suffix == ".safetensors"), model.path)
    with weights.open("rb") as stream:
        content = bytearray(stream.read(min(KEPT_BYTES, weights.stat().st_size * 3 // 4)))
    if damage == "overwritten":
        content[4:24] = b"\xff" * 20
    (folder / weights.name).write_bytes(b"" if damage == "emptied" else bytes(content))
    return folder if model.path.is_dir() else folder / weights.name


def apr_layout(model: OpenModel) -> dict[str, Any]:
    """Return what the bytes of an .apr file say: magic, version, types and places of tensors."""
    if model.format != "apr":
        raise Inapplicable("this is no .apr file")
    with model.path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
        magic, major, minor = struct.unpack_from("<4sBB", head)
        _, _, _, _, count, _, _, index_offset, data_offset = struct.unpack_from("<4sBBHIQIQQ", head)
        stream.seek(index_offset)
        index = stream.read(data_offset - index_offset)
    unknown, misplaced, at = [], [], 0
    for _ in range(count):
        (length,) = struct.unpack_from("<H", index, at)
        name, code, dims = struct.unpack_from(f"<{length}sBB", index, at + 2)
        at += 4 + length + 8 * dims
        (offset,) = struct.unpack_from("<Q", index, at)
        at += 16
        shown = name.decode("utf-8", "replace")
        unknown += [] if known_code(code) else [f"{shown}: {code}"]
        misplaced += [f"{shown}: {offset}"] if offset % ALIGNMENT else []
    places = {"index": index_offset, "tensor data": data_offset}
    misplaced += [f"{name}: {place}" for name, place in places.items() if place % ALIGNMENT]
    return {
        "magic": magic.decode("latin-1"),
        "version": [major, minor],
        "tensors": count,
        "unknown_types": unknown[:20],
        "misplaced": misplaced[:20],
    }


def isolation(model: OpenModel, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether a file is what it was when the run began, and what else lies where it lies now.

    ``params``: ``sha256`` as recorded (empty for what is derived), ``names`` (a hash of the names beside it).
    """
    inside = model.path.resolve().is_relative_to(workspace.root().resolve())
    return {
        "origin": str(params.get("origin", "")),
        "recorded": str(params.get("sha256", "")),
        "sha256": workspace.content_sha256(model.path),
        "names_recorded": str(params.get("names", "")),
        "names": neighbours(model.path),
        "in_workspace": inside,
    }


def neighbours(path: Path) -> str:
    """Return a hash of the names of the files in a model's folder, or, of a file, of those that begin as it does.

    What a careless tool leaves behind is a file beside the weights, or one named after them.
    """
    if path.is_dir():
        names = [file.name for file in path.iterdir() if file.is_file()]
    else:
        stem = path.name.removesuffix(path.suffix)
        names = [file.name for file in path.parent.iterdir() if file.is_file() and file.name.startswith(stem)]
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
