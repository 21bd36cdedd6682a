"""The JSON metadata of ``.apr`` files: documented keys, their aliases and types, and the config they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from apr_qa.conversion.architectures import ARCHITECTURES, HEAD, from_gguf_name
from apr_qa.errors import MalformedFile

TEXT_KEYS = ("model_type", "name", "description", "author", "license", "data_source", "data_license")
TYPED_KEYS = (
    *TEXT_KEYS,
    *("version", "source", "original_format", "created_at", "total_size", "param_count", "quantization"),
    *("sharding", "chat_template", "chat_format", "special_tokens", "architecture", "hf_architecture"),
    *("hf_model_type", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "vocab_size"),
    *("intermediate_size", "max_position_embeddings", "rope_theta", "rope_type", "rms_norm_eps", "head_dim"),
    *("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
)
"""In the order in which the reference writer puts them."""
STATED_NULLS = ("license", "data_source", "data_license")
"""Written as null when unset; every other unset key is left out."""
ALIASES = {
    "hidden_size": ("hidden_dim", "d_model", "n_embd"),
    "num_layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "num_heads": ("num_attention_heads", "n_heads", "n_head"),
    "num_kv_heads": ("num_key_value_heads", "n_kv_heads"),
    "vocab_size": ("n_vocab",),
    "intermediate_size": ("ffn_dim", "intermediate_dim", "n_inner"),
    "max_position_embeddings": ("max_seq_len", "context_length", "n_ctx"),
    "rms_norm_eps": ("layer_norm_eps", "norm_eps"),
}
CONFIG_KEYS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "rms_norm_eps": "rms_norm_eps",
    "head_dim": "head_dim",
    "num_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "moe_intermediate_size": "moe_intermediate_size",
}
"""Documented key -> key of ``config.json``."""
ROPE_PAIRS, ROPE_HALVES = 0, 2
HF_CONFIG, HF_GENERATION_CONFIG = "hf_config", "hf_generation_config"

_FLOATS = ("rope_theta", "rms_norm_eps")
_OBJECTS = ("quantization", "sharding", "special_tokens", HF_CONFIG, HF_GENERATION_CONFIG, "lineage")
_OBJECT_KEYS = (*_OBJECTS, "hf_tokenizer", "hf_tokenizer_config", "rope_scaling", "rope_parameters")
_COUNTS = (*(set(CONFIG_KEYS) - set(_FLOATS)), "total_size", "param_count", "rope_type")
_TEXTS = (*TEXT_KEYS, "version", "source", "original_format", "created_at", "chat_template", "chat_format")
_TEXT_KEYS = (*_TEXTS, "architecture", "hf_architecture", "hf_model_type")
_GGUF_LAYER_PARTS = {
    "attn_qkv": "self_attn.qkv_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_FOREIGN_NAMES = {"tok_embeddings.weight": "model.embed_tokens.weight"}


def normalised(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the metadata under canonical keys; raises MalformedFile for wrong types.

    A key beside one of its aliases is refused too: the strict decoder of the reference server then goes on
    without any metadata.
    """
    metadata = dict(raw)
    for canonical, aliases in ALIASES.items():
        present = [key for key in (canonical, *aliases) if key in raw]
        if len(present) > 1:
            raise MalformedFile(f"metadata says the same twice: {' and '.join(present)}", where=where)
        if present and present[0] != canonical:
            metadata[canonical] = metadata.pop(present[0])
    _check_types(metadata, _TEXT_KEYS, str, "text", where)
    for key in (*_COUNTS, *_FLOATS):
        if metadata.get(key) is not None and not _is_number(key, metadata[key]):
            what = "a number" if key in _FLOATS else "a count"
            raise MalformedFile(f"metadata key {key} is {str(metadata[key])[:80]!r}, not {what}", where=where)
    _check_types(metadata, _OBJECT_KEYS, dict, "an object", where)
    _check_types(metadata, ("tied_embeddings",), bool, "true or false", where)
    return metadata


def canonical_name(stored: str) -> str:
    """Return the Hugging Face name of a stored tensor; an unknown name stays as it is."""
    name = _FOREIGN_NAMES.get(stored, from_gguf_name(stored))
    match = re.fullmatch(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)", name)
    if match is None or match[2] not in _GGUF_LAYER_PARTS:
        return name
    return f"model.layers.{match[1]}.{_GGUF_LAYER_PARTS[match[2]]}.{match[3]}"


def config_from_metadata(metadata: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the embedded ``config.json``, or one rebuilt from the documented keys and tensor ``names``.

    Empty where the file describes no language model.
    """
    embedded = metadata.get(HF_CONFIG)
    if embedded is not None:
        return dict(embedded)
    config = {
        key: metadata[stated] for stated, key in CONFIG_KEYS.items() if metadata.get(stated) is not None
    }
    model_type = _model_type(metadata)
    if not config:
        return {"model_type": model_type} if model_type else {}
    config |= {"model_type": model_type, "hidden_act": "silu", "tie_word_embeddings": HEAD not in names}
    if metadata.get("tied_embeddings") is not None:
        config["tie_word_embeddings"] = metadata["tied_embeddings"]
    if config.get("num_attention_heads"):
        config.setdefault("num_key_value_heads", config["num_attention_heads"])
        config.setdefault("head_dim", config.get("hidden_size", 0) // config["num_attention_heads"])
    config |= {key: metadata[key] for key in ("rope_scaling", "rope_parameters") if metadata.get(key)}
    return config | _family_keys(metadata, model_type, names) | _token_ids(metadata)


def metadata_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the documented keys that say what a Hugging Face ``config`` says."""
    rope = config.get("rope_parameters")
    theta = rope.get("rope_theta") if isinstance(rope, dict) else None
    found = {"rope_theta": theta, "num_experts": config.get("num_local_experts")}
    found |= {stated: config[key] for stated, key in CONFIG_KEYS.items() if config.get(key) is not None}
    known: dict[str, Any] = {key: value for key, value in found.items() if _is_number(key, value)}
    if known.get("num_heads") and "hidden_size" in known:
        known.setdefault("num_kv_heads", known["num_heads"])
        known.setdefault("head_dim", known["hidden_size"] // known["num_heads"])
    if "rope_theta" in known:
        known |= {"rope_theta": float(known["rope_theta"]), "rope_type": ROPE_HALVES}
    if isinstance(config.get("model_type"), str):
        known |= dict.fromkeys(("model_type", "architecture", "hf_model_type"), config["model_type"])
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and isinstance(classes[0], str):
        known["hf_architecture"] = classes[0]
    return known


def in_writing_order(values: Mapping[str, Any], *, nulls: bool = False) -> dict[str, Any]:
    """Return ``values`` in the order of the reference writer, custom keys last.

    ``nulls`` writes every unset documented key as null, as older writers did.
    """
    stated = {key: values.get(key) for key in TYPED_KEYS if nulls or key in STATED_NULLS or key in values}
    return stated | {key: value for key, value in values.items() if key not in TYPED_KEYS}


def _model_type(metadata: Mapping[str, Any]) -> str:
    for key in ("hf_model_type", "architecture"):
        if metadata.get(key):
            return str(metadata[key]).lower()
    # ``model_type`` is the importer's internal name; only some of those are Hugging Face names as well.
    named = str(metadata.get("model_type") or "").lower()
    return named if named in ARCHITECTURES else ""


def _family_keys(metadata: Mapping[str, Any], model_type: str, names: set[str]) -> dict[str, Any]:
    known = ARCHITECTURES.get(model_type)
    architecture = metadata.get("hf_architecture") or (known and known.model_class)
    keys: dict[str, Any] = {"architectures": [architecture]} if architecture else {}
    if model_type == "llama":
        keys["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in names
        keys["mlp_bias"] = "model.layers.0.mlp.gate_proj.bias" in names
    return keys


def _token_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    stated = {"bos": "bos", "eos": "eos", "pad": "padding"}
    found = {f"{key}_token_id": metadata.get(f"tokenizer.{name}_token_id") for key, name in stated.items()}
    return {key: value for key, value in found.items() if isinstance(value, int)}


def _is_number(key: str, value: Any) -> bool:
    return type(value) in ((int, float) if key in _FLOATS else (int,)) and 0 <= value < 2**63


def _check_types(
    metadata: Mapping[str, Any], keys: tuple[str, ...], kind: type, what: str, where: str
) -> None:
    for key in keys:
        value = metadata.get(key)
        if value is not None and type(value) is not kind:
            raise MalformedFile(f"metadata key {key} is {str(value)[:80]!r}, not {what}", where=where)
