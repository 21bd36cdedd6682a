"""Which tensors two models have, under canonical names, and in which shapes."""

from __future__ import annotations

from typing import Any

from apr_qa.conversion.architectures import ARCHITECTURES, EMBEDDING, HEAD
from apr_qa.formats import OpenModel, TensorInfo

SHOWN = 20
_BUFFERS = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")
"""Derived values that old checkpoints carry among their weights."""


def tied(model: OpenModel) -> bool:
    """Say whether the output head is the embedding."""
    return bool(model.config.get("tie_word_embeddings", False))


def comparable(model: OpenModel) -> str:
    """Return the architecture whose tensors have no canonical names in this file, or nothing."""
    if model.format == "gguf" and model.architecture not in ARCHITECTURES:
        return model.architecture or "(none)"
    return ""


def weights(model: OpenModel) -> dict[str, TensorInfo]:
    """Return the tensors that carry information: no rotary buffers, no stored copy of a tied head."""
    return {
        name: info
        for name, info in model.tensors.items()
        if not name.endswith(_BUFFERS) and not (name == HEAD and tied(model))
    }


def tensor_set(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Compare names and shapes under canonical names."""
    unknown = comparable(artifact) or comparable(truth)
    if unknown:
        return {"unknown_architecture": unknown}
    wanted, found = weights(truth), weights(artifact)
    if HEAD not in wanted and EMBEDDING in wanted:
        found.pop(HEAD, None)  # A copy of a tied head is judged by its values.
    shared = [name for name in wanted if name in found]
    mismatched = [
        {"name": name, "artifact": list(found[name].shape), "truth": list(wanted[name].shape)}
        for name in shared
        if found[name].shape != wanted[name].shape
    ]
    shapes = {name: wanted[name].shape for name in shared}
    return {
        "compared": len(shared),
        "matrices": sum(len(shape) > 1 for shape in shapes.values()),
        "vectors": sum(len(shape) == 1 for shape in shapes.values()),
        "missing": sorted(wanted.keys() - found.keys())[:SHOWN],
        "unexpected": sorted(found.keys() - wanted.keys())[:SHOWN],
        "mismatched": mismatched[:SHOWN],
        "transposed": [m["name"] for m in mismatched if m["artifact"] == m["truth"][::-1]][:SHOWN],
    }
