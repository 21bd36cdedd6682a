"""Two models that should be one and the same: values bit for bit, everything else by what it means."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec

from apr_qa.comparison.config import config_differences
from apr_qa.comparison.generation import generation
from apr_qa.comparison.healthy_rounding import rounded
from apr_qa.comparison.names import weights
from apr_qa.comparison.template import template_differences
from apr_qa.comparison.tokenizer import tokenizer_differences
from apr_qa.formats import OpenModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SHOWN = 10
_SETTINGS = ("bos_token", "eos_token", "pad_token", "unk_token", "add_bos_token", "add_eos_token")

Facts = dict[str, Any]
_OF_TEXTS: Mapping[str, Callable[[OpenModel, OpenModel], Facts]] = {
    "tokenizer": tokenizer_differences,
    "template": template_differences,
    "generation": generation,
}


class Sameness:
    """Compares models; what depends on texts alone is compared once for each pair of texts."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, Facts]] = {}

    def facts(self, start: OpenModel, end: OpenModel, *, coarsest: str = "f32") -> Facts:
        """Return how ``end`` differs from ``start``, whose values were stored as ``coarsest`` on the way."""
        texts = (_texts(start), _texts(end))
        if texts not in self._known:
            self._known[texts] = {name: compare(start, end) for name, compare in _OF_TEXTS.items()}
        return {
            "coarsest": coarsest,
            "tensors": values(start, end, coarsest),
            "config": config_differences(start, end),
            **self._known[texts],
        }


def values(start: OpenModel, end: OpenModel, coarsest: str = "f32") -> Facts:
    """Compare every tensor of both models after the rounding to ``coarsest`` that ``start`` has suffered."""
    wanted, found = weights(start), weights(end)
    facts: Facts = {
        "compared": 0,
        "values": 0,
        "differing": [],
        "differing_count": 0,
        "missing": sorted(wanted.keys() - found.keys())[:SHOWN],
        "unexpected": sorted(found.keys() - wanted.keys())[:SHOWN],
        "reshaped": [name for name in wanted if name in found and found[name].shape != wanted[name].shape],
    }
    for name in wanted:
        if name in found and found[name].shape == wanted[name].shape:
            facts["compared"] += 1
            facts["values"] += prod(wanted[name].shape)
            difference = _difference(start.read(name), end.read(name), coarsest)
            if difference:
                facts["differing_count"] += 1
                facts["differing"] += [{"name": name, **difference}]
    facts["differing"] = facts["differing"][:SHOWN]
    return facts


def _difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], coarsest: str) -> Facts:
    """Return how many values differ and by how much at most; empty if none does. NaN equals NaN."""
    import numpy as np

    vector = one.ndim < 2
    expected = one if vector and coarsest not in ("f16", "bf16") else rounded(one, coarsest)
    if expected is None or np.array_equal(expected.view(np.uint32), other.view(np.uint32)):
        return {}
    # A vector may have travelled in a finer type than the matrices.
    if vector and np.array_equal(one, other, equal_nan=True):
        return {}
    with np.errstate(all="ignore"):
        wrong = ~((expected == other) | (np.isnan(expected) & np.isnan(other)))
        worst = float(np.nanmax(np.abs(expected - other), initial=0.0))
    count = int(np.count_nonzero(wrong))
    return {"count": count, "worst": worst if worst < 1e30 else 1e30} if count else {}


def payloads(one: OpenModel, other: OpenModel) -> Facts:
    """Compare stored types and bytes of every tensor of two files of one format."""
    import numpy as np

    names = sorted(one.tensors.keys() | other.tensors.keys())
    differing = []
    for name in names:
        left, right = one.tensors.get(name), other.tensors.get(name)
        if left is None or right is None:
            differing.append({"name": name, "why": "in one file only"})
        elif (left.dtype, left.shape) != (right.dtype, right.shape):
            differing.append(
                {"name": name, "why": f"{left.dtype} {left.shape} and {right.dtype} {right.shape}"}
            )
        elif not np.array_equal(one.raw(name), other.raw(name)):
            differing.append({"name": name, "why": "other bytes"})
    total = sum(info.size for info in one.tensors.values())
    return {
        "compared": len(names),
        "bytes": total,
        "differing": differing[:SHOWN],
        "differing_count": len(differing),
    }


def checksum(model: OpenModel) -> str:
    """Return the SHA-256 over names, shapes and values of all weights, whatever the file looks like."""
    import numpy as np

    digest = hashlib.sha256()
    for name, info in sorted(weights(model).items()):
        digest.update(f"{name} {info.shape}\n".encode())
        digest.update(model.read(name).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def file_hashes(model: OpenModel) -> dict[str, str]:
    """Return the SHA-256 of every file of an artifact by its name."""
    found = {}
    for file in model.files:
        with file.open("rb") as handle:
            found[file.name] = hashlib.file_digest(handle, "sha256").hexdigest()
    return found


def _texts(model: OpenModel) -> str:
    settings = {key: model.tokenizer_config.get(key) for key in _SETTINGS}
    ids = {key: model.config.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # GGUF says some things less exactly, and is compared accordingly; the other two say all.
    parts = (
        model.format == "gguf",
        model.tokenizer,
        settings,
        model.generation_config,
        ids,
        model.chat_template,
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
