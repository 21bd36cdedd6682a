"""What belongs to an artifact besides its weights, and whether it is the kind of file that its name says."""

from __future__ import annotations

from typing import Any

from apr_qa.formats import OpenModel, sniff

_OF_OTHERS = (".bin", ".pt", ".pth", ".onnx", ".h5", ".json", ".zip", ".txt")
SUFFIXES = {"safetensors": (".safetensors",), "gguf": (".gguf",), "apr": (".apr",)}


def companions(model: OpenModel) -> dict[str, Any]:
    """Return which parts an engine needs and which of them are there, beside the file or in it."""
    parts = {
        "configuration": bool(model.config),
        "tokenizer": model.tokenizer is not None,
        "weights": bool(model.tensors),
    }
    if model.path.is_dir():
        parts["config.json"] = (model.path / "config.json").is_file()
    return {"needed": sorted(parts), "missing": sorted(name for name, there in parts.items() if not there)}


def file_type(model: OpenModel) -> dict[str, Any]:
    """Return what the content of the file shows and what its name says."""
    weights = [
        file for file in model.files if file.suffix in (".safetensors", ".gguf", ".apr", ".bin", ".pt")
    ]
    name = weights[0].name if weights else model.path.name
    detected = sniff(model.path)
    return {
        "opened_as": model.format,
        "detected": detected.name if detected is not None else "",
        "name": name,
        "expected_suffixes": list(SUFFIXES.get(model.format, ())),
        # A name without a known suffix, as caches give to blobs, says nothing and so nothing wrong.
        "suffix_fits": not name.endswith(_foreign(model.format)),
    }


def _foreign(format_name: str) -> tuple[str, ...]:
    """Return the suffixes that a file of this format must not have."""
    others = [suffix for name, own in SUFFIXES.items() if name != format_name for suffix in own]
    return (*others, *_OF_OTHERS)
