"""What pruning and quantisation promise of storage: zeros, and bytes against a reference that was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from apr_qa.comparison.names import weights
from apr_qa.conversion.convert import convert
from apr_qa.derivation.members import Member, Unmeasured
from apr_qa.errors import AprQaError

_WEIGHTS = (".safetensors", ".gguf", ".apr")
_SIXTEEN = ("f16", "bf16")
_UNPRUNED = ("embed_tokens", "lm_head", "norm")
SCOPES = ("linear", "all")


def sparsity(child: Member, parents: Sequence[Member], promised: Any, scope: str) -> dict[str, Any]:
    """Measure the share of zeros in the pruned tensors, before and after.

    ``scope``: linear (matrices of the layers, which Wanda and magnitude pruning work on) or all matrices.
    """
    if not isinstance(promised, int | float) or not 0 < promised < 1:
        raise Unmeasured("the recipe states no sparsity between 0 and 1")
    if scope not in SCOPES:
        raise Unmeasured(f"the scope is one of {', '.join(SCOPES)}, not {scope!r}")
    import numpy as np

    names = [name for name, info in weights(child.model).items() if _prunable(name, info.shape, scope)]
    zeros = before = total = 0
    for name in names:
        values = child.model.read(name)
        zeros += values.size - int(np.count_nonzero(values))
        total += values.size
        if parents and name in parents[0].model.tensors:
            own = parents[0].model.read(name)
            before += own.size - int(np.count_nonzero(own))
    if not total:
        raise Unmeasured("there is no matrix that could have been pruned")
    return {
        "tensors": len(names),
        "weights": total,
        "promised": float(promised),
        "measured": zeros / total,
        "parent": before / total if parents else None,
    }


def size(child: Member, parents: Sequence[Member]) -> dict[str, Any]:
    """Measure the bytes of the weight files against those of the 16-bit model that it was made from.

    A parent in another type is written as f16 in the artifact's format and that file is measured. Nothing is ever
    computed back from the artifact; a parent that is the artifact is refused.
    """
    if not parents:
        raise Unmeasured("the playbook names no parent: there is no 16-bit size to compare with")
    parent = parents[0]
    if parent.sha256 == child.sha256:
        raise Unmeasured("the parent is the artifact itself: the ratio could not fail")
    own = weight_bytes(child)
    written = parent.model.quantization not in _SIXTEEN
    reference = _written_f16(parent, child.model.format) if written else weight_bytes(parent)
    values = sum(prod(info.shape) for info in weights(child.model).values())
    return {
        "bytes": own,
        "reference_bytes": reference,
        "reference": "written as f16 from the parent, and measured"
        if written
        else "the parent's file, measured",
        "reference_sha256": parent.sha256,
        "ratio": own / reference,
        "bits_per_weight": 8 * own / values,
        "dtype": child.model.quantization,
    }


def weight_bytes(member: Member) -> int:
    """Return the bytes of the files that hold weights."""
    return sum(file.stat().st_size for file in member.model.files if file.suffix in _WEIGHTS)


def _written_f16(parent: Member, format_name: str) -> int:
    with tempfile.TemporaryDirectory(prefix="apr-qa-f16-") as folder:
        suffix = "" if format_name == "safetensors" else f".{format_name}"
        destination = Path(folder) / f"model{suffix}"
        try:
            convert(parent.model, format_name, destination, quantization="f16")
        except AprQaError as error:
            raise Unmeasured(f"no 16-bit file of the parent can be written: {error.what}") from None
        files = destination.rglob("*") if destination.is_dir() else [destination]
        return sum(file.stat().st_size for file in files if file.suffix in _WEIGHTS)


def _prunable(name: str, shape: tuple[int, ...], scope: str) -> bool:
    if len(shape) < 2:
        return False
    return scope == "all" or not any(word in name for word in _UNPRUNED)
