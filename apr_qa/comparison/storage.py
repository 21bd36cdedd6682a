"""What an artifact says about itself: the type its weights are stored in, and what it was made from."""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import Any

from apr_qa import workspace
from apr_qa.formats import OpenModel

_LEAST_SHARE = 0.25
"""A mixture of types is called after one that need not be the largest: a quarter bears the name out."""
_NARROW = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""What llama.cpp's quantiser takes where a row is no multiple of the 256 values of a K block."""
_UPGRADED = {"q2_k": "q3_k", "q3_k": "q4_k"}
"""Types that the mixtures of this name prefer for many tensors."""
_TYPE_IN_NAME = re.compile(
    r"(?:^|[-_.])(f32|f16|bf16|fp16|fp32|i?q\d_(?:k(?:_[sml])?|[01]|nl|xs|xxs|s|m))(?=$|[-_.])", re.IGNORECASE
)
_SPELLINGS = {"fp16": "f16", "fp32": "f32", "float16": "f16", "bfloat16": "bf16", "float32": "f32"}


def declared_types(model: OpenModel) -> dict[str, str]:
    """Return who says which storage type: file name, header, configuration; silent sources are left out."""
    found: dict[str, str] = {}
    named = _TYPE_IN_NAME.findall(model.path.stem if model.path.is_file() else model.path.name)
    if named:
        # model-f16-q4_0 was quantised from f16: the last word counts.
        found["file name"] = named[-1].lower()
    label = _file_type(model.metadata.get("general.file_type")) if model.format == "gguf" else ""
    if label:
        found["general.file_type"] = label
    stated = model.metadata.get("quantization")
    if model.format == "apr" and isinstance(stated, dict) and stated.get("quant_type"):
        found["quantization"] = str(stated["quant_type"]).lower()
    for key in ("dtype", "torch_dtype"):
        value = model.config.get(key)
        if model.format != "gguf" and isinstance(value, str) and model.quantization in _SPELLINGS.values():
            found[f"config {key}"] = value.removeprefix("torch.")
    return {source: _SPELLINGS.get(name, name) for source, name in found.items()}


def quantization(model: OpenModel) -> dict[str, Any]:
    """Compare declared storage types with those that hold the weights of matrices."""
    shares = stored_shares(model)
    declared = declared_types(model)
    wrong = {source: name for source, name in declared.items() if not _borne_out(source, name, shares)}
    return {"declared": declared, "stored": shares, "dominant": model.quantization, "wrong": wrong}


def stored_shares(model: OpenModel) -> dict[str, float]:
    """Return dtype -> share of the values of all matrices, largest first."""
    weight: Counter[str] = Counter()
    for info in model.tensors.values():
        if len(info.shape) > 1:
            weight[info.dtype] += prod(info.shape)
    total = weight.total() or 1
    return {dtype: round(count / total, 6) for dtype, count in weight.most_common()}


def lineage(truth: OpenModel, artifact: OpenModel, origin: str, truth_sha256: str) -> dict[str, Any]:
    """Return what the artifact records about its source, and whether that is the truth.

    What was made from the same file as the truth itself is its sibling, and as good.
    """
    recorded = artifact.metadata.get("lineage") or {}
    source = str(recorded.get("source_sha256", ""))
    origin_of_truth = str((truth.metadata.get("lineage") or {}).get("source_sha256", ""))
    same = bool(source) and source in (truth_sha256, origin_of_truth)
    if source and not same:
        same = source == workspace.content_sha256(truth.path)
    return {
        "origin": origin,
        "recorded": source,
        "tool": str(recorded.get("tool", "")),
        "expected": truth_sha256,
        "same": same,
    }


def _file_type(value: Any) -> str:
    from gguf import LlamaFileType

    names = {int(kind): kind.name.lower() for kind in LlamaFileType if kind.name != "GUESSED"}
    name = names.get(value, "") if isinstance(value, int) else ""
    return name.split("_", 1)[1] if "_" in name else ""


def _borne_out(source: str, declared: str, shares: dict[str, float]) -> bool:
    if source.startswith("config"):
        # The configuration says what to compute in; only a type of smaller range than the stored one harms.
        return declared != "f16" or "f16" in shares or not {"bf16", "f32"} & shares.keys()
    kind = re.sub(r"_k_[sml]$", "_k", declared)
    names = {kind, _NARROW.get(kind, ""), _UPGRADED.get(kind, "")}
    if _bits(kind) and kind.startswith("iq"):
        names |= {name for name in shares if _bits(name) == _bits(kind)}
    return sum(shares.get(name, 0.0) for name in names) >= _LEAST_SHARE


def _bits(name: str) -> str:
    match = re.match(r"i?q(\d)", name)
    return match[1] if match else ""
