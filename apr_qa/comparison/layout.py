"""How a file stores its tensors: names of files, sizes, places and types, against the rules of its format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from apr_qa.comparison.names import SHOWN, comparable, weights
from apr_qa.comparison.storage import declared_types
from apr_qa.containers import apr_blocks
from apr_qa.containers.apr_index import ALIGNMENT
from apr_qa.containers.byte_layout import ELEMENT_BYTES
from apr_qa.conversion.architectures import (
    ARCHITECTURES,
    EMBEDDING,
    HEAD,
    expected_shapes,
    from_gguf_name,
    to_gguf_name,
)
from apr_qa.errors import AprQaError
from apr_qa.formats import FORMATS, OpenModel, TensorInfo

_FOREIGN_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".msgpack", ".ggml"}
_FLOATS = ("f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2")
_GGUF_ALIGNMENT = 32
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")


def paths(model: OpenModel) -> dict[str, Any]:
    """Compare what the names of the weight files say with what the files hold, and where they lie.

    A name without a known suffix says nothing, which is lawful: caches keep files under their hash.
    """
    folder = model.path if model.path.is_dir() else model.path.parent
    files = sorted({info.file for info in model.tensors.values()})
    found = [{"name": file.name, "says": file.suffix.lower(), "holds": _content(file)} for file in files]
    known = {f".{name}" for name in FORMATS.names()} | _FOREIGN_SUFFIXES
    return {
        "files": found[:SHOWN],
        "count": len(found),
        "format": model.format,
        "wrong": [
            entry["name"]
            for entry in found
            if entry["holds"] != model.format
            or (entry["says"] in known and entry["says"] != f".{model.format}")
        ],
        "outside": [file.name for file in files if file.parent.absolute() != folder.absolute()],
    }


def _content(file: Path) -> str:
    return next((name for name, member in FORMATS.items() if member.matches(file)), "")


def byte_sizes(model: OpenModel) -> dict[str, Any]:
    """Compare the size of every payload with what its type and shape make, and look for overlaps."""
    wrong = []
    quantised = 0
    for name, info in model.tensors.items():
        if model.format == "safetensors" and info.dtype not in ELEMENT_BYTES:
            continue  # Packed out of several tensors by its recipe; the header's rules hold for each of them.
        quantised += info.dtype not in ELEMENT_BYTES
        lawful = sizes_of(info, model.format)
        if info.size not in lawful:
            wrong.append({"name": name, "dtype": info.dtype, "size": info.size, "lawful": list(lawful)})
    return {
        "checked": len(model.tensors),
        "quantised": quantised,
        "bytes": sum(info.size for info in model.tensors.values()),
        "wrong": wrong[:SHOWN],
        "overlapping": _overlapping(model)[:SHOWN],
    }


def sizes_of(info: TensorInfo, format_name: str) -> tuple[int, ...]:
    """Return the lawful payload sizes of a tensor in bytes; none for a type that is not known."""
    if info.dtype in ELEMENT_BYTES:
        return (prod(info.shape) * ELEMENT_BYTES[info.dtype],)
    if format_name == "apr":
        return apr_blocks.stored_sizes(info.dtype, info.shape)
    import gguf

    kind = gguf.GGMLQuantizationType.__members__.get(info.dtype.upper())
    if kind is None or not info.shape:
        return ()
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    # A block never crosses the end of a row.
    return () if info.shape[-1] % block else (prod(info.shape) // block * block_bytes,)


def _overlapping(model: OpenModel) -> list[str]:
    placed = sorted((info.file, info.offset, info.size, name) for name, info in model.tensors.items())
    found = []
    for before, after in pairwise(placed):
        if before[0] == after[0] and before[2] and before[1] + before[2] > after[1]:
            found.append(after[3])
    ends = {file: file.stat().st_size for file in {entry[0] for entry in placed}}
    return found + [name for file, offset, size, name in placed if offset + size > ends[file]]


def alignment(model: OpenModel) -> dict[str, Any]:
    """Return the multiple that payloads must begin at, those that do not, and the header's own version."""
    stated = model.metadata.get("general.alignment", _GGUF_ALIGNMENT)
    multiple = {"gguf": stated, "apr": ALIGNMENT}.get(model.format, 1)
    power = type(multiple) is int and multiple > 0 and multiple & (multiple - 1) == 0
    misaligned = [
        name for name, info in model.tensors.items() if not power or info.offset % int(multiple) != 0
    ]
    files = sorted({info.file for info in model.tensors.values()})
    return {
        "alignment": multiple,
        "checked": len(model.tensors),
        "misaligned": misaligned[:SHOWN],
        "misaligned_count": len(misaligned),
        "version": model.metadata.get("gguf.version"),
        "unrecognised": [file.name for file in files if _content(file) != model.format],
    }


def contract(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Return the rules that the architecture sets for tensors, and where they have a gap."""
    name = truth.architecture or artifact.architecture
    if name not in ARCHITECTURES:
        return {"unknown_architecture": name or "(none)"}
    try:
        expected = expected_shapes(truth.config)
    except (AprQaError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return {"architecture": name, "rules": 0, "gaps": [], "error": f"{type(error).__name__}: {error}"}
    gaps = [one for one in expected if from_gguf_name(to_gguf_name(one) or "") != one]
    gaps += [f"{one}: {shape}" for one, shape in expected.items() if not shape or min(shape) < 1]
    return {"architecture": name, "rules": len(expected), "gaps": gaps[:SHOWN], "error": ""}


def types(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Return how the storage types of all tensors changed, and the changes that no converter should make."""
    unknown = comparable(artifact) or comparable(truth)
    if unknown:
        return {"unknown_architecture": unknown}
    changes: Counter[str] = Counter()
    wrong = []
    ours, theirs = weights(truth), weights(artifact)
    declared = set(declared_types(artifact).values()) if artifact.format == "gguf" else set()
    for name, info in theirs.items():
        source = ours.get(name)
        changes[f"{source.dtype if source else '(none)'} → {info.dtype}"] += 1
        why = _unlawful(info, source, declared)
        if why:
            wrong.append({"name": name, "dtype": info.dtype, "why": why})
    return {"changes": dict(changes.most_common(SHOWN)), "checked": len(theirs), "wrong": wrong[:SHOWN]}


def _unlawful(info: TensorInfo, source: TensorInfo | None, declared: set[str]) -> str:
    number = info.dtype.startswith(("i8", "i16", "i32", "i64", "u", "bool"))
    if number and (source is None or source.dtype != info.dtype):
        return "weights became whole numbers"
    if len(info.shape) < 2 and info.dtype not in _FLOATS and not number:
        return "a vector is quantised"
    if declared and declared <= set(_FLOATS) and info.dtype not in _FLOATS:
        return f"quantised, though {', '.join(sorted(declared))} is declared"
    return ""


def footprint(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Return what one generated token costs on both sides: multiplications, and values held in memory.

    The head counts once, whether it is stored or tied: nobody has to hold the copy of a tied one.
    """
    unknown = comparable(artifact) or comparable(truth)
    if unknown:
        return {"unknown_architecture": unknown}
    ours, theirs = weights(truth), weights(artifact)
    if HEAD not in ours:
        theirs.pop(HEAD, None)
    bits = {8 * info.size / prod(info.shape) for info in theirs.values() if prod(info.shape)}
    return {
        "truth": _cost(ours),
        "artifact": _cost(theirs),
        "widest_bits": max(bits, default=0.0),
        "bytes": sum(info.size for info in theirs.values()),
    }


def _cost(tensors: Mapping[str, TensorInfo]) -> Mapping[str, int]:
    matrices = {name: prod(info.shape) for name, info in tensors.items() if len(info.shape) > 1}
    looked_up = matrices.get(EMBEDDING, 0)
    inner = sum(size for name, size in matrices.items() if name not in (EMBEDDING, HEAD))
    values = sum(prod(info.shape) for info in tensors.values())
    return {"multiplications": inner + matrices.get(HEAD, looked_up), "values": values}


def identity(
    truth: OpenModel, artifact: OpenModel, differences: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what both sides call the architecture and how large they are, by configuration and by tensors."""
    sides = (truth, artifact)
    sizes = [model.tensors[EMBEDDING].shape if EMBEDDING in model.tensors else () for model in sides]
    return {
        "architecture": [model.architecture for model in sides],
        "architecture_differs": any(entry["field"] == "model_type" for entry in differences),
        "vocabulary": [model.config.get("vocab_size") for model in sides],
        "rows": [shape[0] if len(shape) == 2 else None for shape in sizes],
        "hidden": [model.config.get("hidden_size") for model in sides],
        "columns": [shape[1] if len(shape) == 2 else None for shape in sizes],
        "layers": [model.config.get("num_hidden_layers") for model in sides],
        "layers_found": [_layers(model) for model in sides],
    }


def _layers(model: OpenModel) -> int:
    numbers = [int(match[1]) for name in model.tensors if (match := _LAYER.search(name))]
    return max(numbers, default=-1) + 1
