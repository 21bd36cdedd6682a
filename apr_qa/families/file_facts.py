"""What a file says of its family: configuration and shapes for a contract, and the operations it exercises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr_qa.families.conformance import dimensions_of
from apr_qa.families.contract import Size, by_architecture
from apr_qa.families.kernels import class_with, operations
from apr_qa.formats import OpenModel

_STATED = (
    *("architectures", "model_type", "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer"),
    *(
        "num_attention_heads",
        "n_head",
        "num_key_value_heads",
        "num_kv_heads",
        "head_dim",
        "intermediate_size",
    ),
    *("n_inner", "ffn_dim", "vocab_size", "max_position_embeddings", "n_positions", "tie_word_embeddings"),
    *("num_experts", "kv_lora_rank", "num_layers"),
)


def contract_facts(model: OpenModel) -> dict[str, Any]:
    """Return what a contract is about: architecture, dimensions as configured, shape of every tensor."""
    config = model.config
    return {
        "architecture": architecture(model),
        "config": {name: config[name] for name in _STATED if name in config},
        "shapes": {name: list(tensor.shape) for name, tensor in model.tensors.items()},
    }


def kernel_facts(model: OpenModel) -> dict[str, Any]:
    """Return the operations that follow from the header, and the kernel class that has exactly these."""
    found = by_architecture(architecture(model))
    if found is None:
        return {"family": "", "kernel_ops": [], "kernel_class": ""}
    ops = operations(found.constraints, _size(model.config))
    known = class_with(ops)
    return {"family": found.family, "kernel_ops": list(ops), "kernel_class": known.name if known else ""}


def architecture(model: OpenModel) -> str:
    """Return the class of models that a file is of, else what its container calls it."""
    named = model.config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else str(model.architecture)


def _size(config: Mapping[str, Any]) -> Size:
    stated = dimensions_of(config)
    heads: dict[str, Any] = {name: stated[name] for name in ("num_heads", "num_kv_heads") if name in stated}
    tied = config.get("tie_word_embeddings")
    biased = config.get("attention_bias")
    fields: dict[str, Any] = {"parameters": "?", **heads}
    if isinstance(tied, bool):
        fields["tied_embeddings"] = tied
    if isinstance(biased, bool) and config.get("model_type") == "llama":
        fields["has_bias"] = biased
    return Size.model_validate(fields)
