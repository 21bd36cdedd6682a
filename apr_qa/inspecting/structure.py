"""What names, shapes and keys of any usual transformer must satisfy, whether or not its architecture converts.

Conventions of transformers' classes and of llama.cpp's converter; what a family does in its own way is left out
rather than guessed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from apr_qa.formats import OpenModel

SHOWN = 20
_PLAIN = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2"),
    *("gemma3_text", "phi3", "smollm3", "granite", "olmo", "olmo2", "starcoder2", "stablelm"),
)
"""Families whose projections have the usual shapes."""
_HEAD_WIDTHS = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128}
"""What transformers takes where head_dim is not stated."""
_LAYER = re.compile(r"^(.*?(?:layers|h|blocks|blk)\.)(\d+)\.(.+)$")
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|token_embd)\.weight$"
)
_NORM = re.compile(
    r"(?:^|\.)(?:norm|ln_f|final_layernorm|final_layer_norm|final_norm|output_norm|norm_f)\.weight$"
)
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "gemma2": (
        *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "sliding_window"),
    ),
    "gemma3_text": ("query_pre_attn_scalar", "sliding_window"),
    "mixtral": ("num_local_experts", "num_experts_per_tok"),
    "qwen2_moe": ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
    "qwen3_moe": ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
}
"""Fields without which a model of the family computes something else; null counts as missing."""
_STATED: Mapping[str, tuple[str, ...]] = {
    "mistral": ("sliding_window",),
    "mixtral": ("sliding_window",),
    "phi3": ("sliding_window",),
}
"""Fields that may be null, but whose absence means a default that the model may not have."""
_GGUF_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "gemma2": ("attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"),
    "gemma3": ("attention.sliding_window",),
    "phi3": ("rope.dimension_count",),
    "qwen2moe": ("expert_count", "expert_used_count"),
    "qwen3moe": ("expert_count", "expert_used_count"),
}
_ROTARY = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "phi3",
)
_FIRST_LLAMAS = range(32000, 32100)
"""Vocabularies of Llama 1 and 2, whose files were published before the rotary base had a field."""
_ROPE_KEYS = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2moe": "qwen2moe",
    "qwen3moe": "qwen3moe",
}


def keys(model: OpenModel) -> dict[str, Any]:
    """Return which fields that decide what the family computes are not stated, and which contradict the file."""
    config = dict(model.config)
    text = config.get("text_config")
    config |= text if isinstance(text, Mapping) else {}
    family = str(config.get("model_type", ""))
    missing, known = [], family in (*_REQUIRED, *_STATED, *_ROTARY)
    if model.format == "gguf":
        prefix = f"{model.architecture}."
        missing = [
            prefix + k for k in _GGUF_REQUIRED.get(model.architecture, ()) if prefix + k not in model.metadata
        ]
        if (
            model.architecture in _ROPE_KEYS
            and not _early(config)
            and prefix + "rope.freq_base" not in model.metadata
        ):
            missing.append(prefix + "rope.freq_base")
        known = model.architecture in (*_GGUF_REQUIRED, *_ROPE_KEYS)
    else:
        missing += [key for key in _REQUIRED.get(family, ()) if config.get(key) is None]
        missing += [key for key in _STATED.get(family, ()) if key not in config]
        missing += [] if family not in _ROTARY or _early(config) or _states_theta(config) else ["rope_theta"]
        missing += [] if config.get("architectures") or not config else ["architectures"]
    return {
        "architecture": family,
        "known": known,
        "missing": missing,
        "contradictions": _contradictions(model),
    }


def _early(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "llama" and config.get("vocab_size") in _FIRST_LLAMAS


def _states_theta(config: Mapping[str, Any]) -> bool:
    rope = config.get("rope_parameters")
    nested = [rope, *rope.values()] if isinstance(rope, Mapping) else []
    return any(isinstance(one, Mapping) and one.get("rope_theta") is not None for one in [config, *nested])


def _contradictions(model: OpenModel) -> list[str]:
    """Return what one file says in two ways."""
    config, found = model.config, []
    declared = str(config.get("dtype", config.get("torch_dtype", "")))
    if (
        model.format != "gguf"
        and declared.removeprefix("torch.") == "float16"
        and model.quantization == "bf16"
    ):
        found.append("declared float16, but stored as bf16, whose range float16 does not have")
    found += _rope_lengths(config)
    if model.format == "apr":
        found += _apr_twice(model)
    return found


def _rope_lengths(config: Mapping[str, Any]) -> list[str]:
    scaling = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not (isinstance(heads, int) and heads > 0 and isinstance(hidden, int)):
        return []
    share = config.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1.0))
    width = int(config.get("head_dim") or hidden // heads)
    pairs = int(width * share) // 2 if isinstance(share, int | float) else 0
    return [
        f"{key} has {len(scaling[key])} factors where {pairs} pairs of values are rotated"
        for key in ("long_factor", "short_factor")
        if isinstance(scaling.get(key), list) and len(scaling[key]) != pairs
    ]


def _apr_twice(model: OpenModel) -> list[str]:
    """Compare the documented keys of an APR file with the embedded configuration; readers take either."""
    from apr_qa.containers.apr_metadata import CONFIG_KEYS

    rope = model.config.get("rope_parameters")
    theta = rope.get("rope_theta") if isinstance(rope, Mapping) else None
    values = {**({"rope_theta": theta} if theta is not None else {}), **model.config}
    pairs = {stated: (model.metadata.get(stated), values.get(key)) for stated, key in CONFIG_KEYS.items()}
    found = [
        f"{stated} is {one!r} in the metadata and {other!r} in the embedded configuration"
        for stated, (one, other) in pairs.items()
        if one is not None and other is not None and one != other
    ]
    named, meant = model.metadata.get("architecture"), model.config.get("model_type")
    if isinstance(named, str) and isinstance(meant, str) and named.lower() != meant:
        found.append(f"architecture is {named!r} in the metadata and {meant!r} in the embedded configuration")
    return found


def names(model: OpenModel) -> dict[str, Any]:
    """Return what is odd about the names: gaps, layers that lack what all others have, two ways of naming."""
    parts = [(match[1], int(match[2]), match[3]) for name in model.tensors if (match := _LAYER.match(name))]
    by_prefix: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for prefix, layer, rest in parts:
        by_prefix[prefix][layer].add(rest)
    faults = [fault for prefix, layers in by_prefix.items() for fault in _layer_faults(prefix, layers)]
    faults += _mixed(model, sorted(by_prefix))
    if by_prefix and len(by_prefix) == 1:
        faults += [
            f"no {what} is there"
            for what, rule in (("embedding", _EMBEDDING), ("last norm", _NORM))
            if not any(rule.search(name) for name in model.tensors if not _LAYER.match(name))
        ]
    return {"layers": sum(map(len, by_prefix.values())), "faults": faults[:SHOWN]}


def _layer_faults(prefix: str, layers: Mapping[int, set[str]]) -> list[str]:
    missing = sorted(set(range(max(layers) + 1)) - layers.keys())
    faults = [f"{prefix}{layer} is missing" for layer in missing[:SHOWN]]
    kinds = Counter(frozenset(names) for names in layers.values())
    usual, times = kinds.most_common(1)[0]
    if 2 * times <= len(layers) or len(layers) < 3:
        return faults
    for layer, present in sorted(layers.items()):
        # One layer less than all others is a loss; a pattern of them is an architecture.
        if present < usual and kinds[frozenset(present)] == 1:
            faults.append(f"{prefix}{layer} lacks {', '.join(sorted(usual - present)[:3])}")
    return faults


def _mixed(model: OpenModel, prefixes: list[str]) -> list[str]:
    faults = [
        f"some layers are called {one}N and others {other}N"
        for one in prefixes
        for other in prefixes
        if one != other and one.endswith(f".{other}")
    ]
    stored = [info.stored_name for info in model.tensors.values()]
    foreign = r"^model\.|^layers\.|^transformer\." if model.format == "gguf" else r"^blk\.\d+\."
    odd = [name for name in stored if re.match(foreign, name)] if model.format != "apr" else []
    if odd:
        faults.append(f"{len(odd)} tensors have names of another container, {odd[0]} first")
    return faults


def shapes(model: OpenModel) -> dict[str, Any]:
    """Return which projections do not have the shape that follows from the configuration, in plain families."""
    family = str(model.config.get("model_type", ""))
    if family not in _PLAIN or model.format == "gguf":
        return {"unknown_architecture": family or "(none)"}
    wanted = _projections(model.config)
    checked, wrong = 0, []
    for name, info in model.tensors.items():
        match = _LAYER.match(name)
        expected = (
            wanted.get(match[3].removesuffix(".weight")) if match and name.endswith(".weight") else None
        )
        if expected is not None:
            checked += 1
            if info.shape != expected:
                wrong.append({"name": name, "found": list(info.shape), "expected": list(expected)})
    return {"checked": checked, "mismatches": wrong[:SHOWN]}


def _projections(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    numbers = [config.get(key) for key in ("hidden_size", "num_attention_heads", "intermediate_size")]
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        return {}
    hidden, heads, inner = (int(str(number)) for number in numbers)
    shared = config.get("num_key_value_heads") or heads
    width = config.get("head_dim") or _HEAD_WIDTHS.get(str(config.get("model_type"))) or hidden // heads
    if not (isinstance(shared, int) and isinstance(width, int)):
        return {}
    query, key = heads * width, shared * width
    expected: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "self_attn.qkv_proj": (query + 2 * key, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "mlp.gate_up_proj": (2 * inner, hidden),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    expert, count = config.get("moe_intermediate_size"), config.get("num_experts")
    if isinstance(expert, int) and isinstance(count, int):
        expected["mlp.gate"] = (count, hidden)
        for number in range(min(count, 1024)):
            part = f"mlp.experts.{number}."
            expected |= {part + "gate_proj": (expert, hidden), part + "up_proj": (expert, hidden)}
            expected[part + "down_proj"] = (hidden, expert)
    return expected
