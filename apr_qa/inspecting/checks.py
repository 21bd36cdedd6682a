"""What can be asked about one opened file beyond its header: check -> what answers it with facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apr_qa.formats import OpenModel
from apr_qa.inspecting import (
    block_scales,
    companions,
    folder_scan,
    living_weights,
    merge_scan,
    packed_scan,
    self_description,
    special_tokens,
    structure,
    template_scan,
    text_scan,
    value_patterns,
)


def origin(model: OpenModel) -> dict[str, Any]:
    """Return what a file says about where it came from, in words."""
    recorded = model.metadata.get("lineage") or {}
    said = [
        str(recorded[key])[:40] for key in ("source_format", "source_sha256", "tool") if recorded.get(key)
    ]
    said = said or [str(model.metadata[key])[:80] for key in _ORIGINS if model.metadata.get(key)]
    return {"format": model.format, "lineage": ", ".join(said)}


def _contract(model: OpenModel) -> dict[str, Any]:
    # Contracts are validated by pydantic, whose import costs more than most checks.
    from apr_qa.families.file_facts import contract_facts

    return contract_facts(model)


_ORIGINS = ("source", "original_format", "provenance")

CHECKS: Mapping[str, Callable[[OpenModel], dict[str, Any]]] = {
    "special_tokens": special_tokens.special_tokens,
    "special_ids": special_tokens.identities,
    "beginning": special_tokens.beginning,
    "vocabulary_rows": special_tokens.padding,
    "merges": merge_scan.merges,
    "template": template_scan.template_facts,
    "block_scales": block_scales.scales,
    "value_patterns": value_patterns.patterns,
    "holes": value_patterns.holes,
    "packed": packed_scan.packed,
    "origin": origin,
    "contract": _contract,
    "pickles": folder_scan.pickles,
    "remote_code": folder_scan.remote_code,
    "paths": folder_scan.paths,
    "names": text_scan.names,
    "texts": text_scan.texts,
    "special_words": text_scan.special_words,
    "growth": text_scan.growth,
    "surroundings": text_scan.surroundings,
    "layer_names": structure.names,
    "necessary_keys": structure.keys,
    "projections": structure.shapes,
    "token_rows": living_weights.rows,
    "template_tokens": living_weights.template_tokens,
    "vectors": living_weights.vectors,
    "metadata": self_description.metadata,
    "corruption": self_description.corruption,
    "apr_layout": self_description.apr_layout,
    "companions": companions.companions,
    "file_type": companions.file_type,
}
