"""Two configurations field by field, after both were brought into one form.

Missing fields take the default of their architecture (transformers' configuration classes), aliases their
usual name, both ways to write rotary parameters one. GGUF is asked only what it can say, and its own
metadata is read where the rebuilt configuration is silent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from apr_qa.comparison.generation import ROLES, stated_ids, wrong_ids
from apr_qa.conversion.architectures import ARCHITECTURES
from apr_qa.formats import OpenModel

SHOWN = 20
_FLOAT_TOLERANCE = 1e-6
"""GGUF keeps float32, whose resolution is 6e-8."""
_ALIASES: Mapping[str, str] = {
    **{"n_embd": "hidden_size", "d_model": "hidden_size", "n_inner": "intermediate_size"},
    **{"n_layer": "num_hidden_layers", "num_layers": "num_hidden_layers", "n_head": "num_attention_heads"},
    **{"n_positions": "max_position_embeddings", "activation_function": "hidden_act"},
    **{
        "hidden_activation": "hidden_act",
        "num_local_experts": "num_experts",
        "n_routed_experts": "num_experts",
    },
    **{"layer_norm_epsilon": "rms_norm_eps", "layer_norm_eps": "rms_norm_eps", "norm_eps": "rms_norm_eps"},
    **{"num_experts_per_token": "num_experts_per_tok", "rotary_pct": "partial_rotary_factor"},
}
_DEFAULTS: Mapping[str, Any] = {
    **{
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "partial_rotary_factor": 1.0,
    },
    **{"attention_bias": False, "mlp_bias": False, "use_parallel_residual": False},
}
_FAMILY_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "qwen2": {"max_position_embeddings": 32768, "attention_bias": True},
    "qwen3": {"max_position_embeddings": 32768, "head_dim": 128},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"tie_word_embeddings": True},
    "gemma3_text": {"tie_word_embeddings": True},
}
_GGUF_NAMES: Mapping[str, str] = {
    **{"mistral": "llama", "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"},
    **{"gemma3_text": "gemma3", "gpt_neox": "gptneox", "phi": "phi2", "cohere": "command-r"},
}
"""``model_type`` -> ``general.architecture`` where they differ."""
_GGUF_METADATA = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_IGNORED = {
    *(
        "_name_or_path",
        "name_or_path",
        "architectures",
        "auto_map",
        "transformers_version",
        "torch_dtype",
        "dtype",
    ),
    *("initializer_range", "use_cache", "attention_dropout", "hidden_dropout", "embd_pdrop", "attn_pdrop"),
    *("resid_pdrop", "pretraining_tp", "output_attentions", "output_hidden_states", "output_router_logits"),
    *("router_aux_loss_coef", "max_window_layers", "use_sliding_window", "rope_theta", "rope_scaling"),
    *(
        "rope_parameters",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "_attn_implementation",
    ),
    *("transformers.js_config", "is_llama_config", "rope_interleaved", "use_mrope", "return_dict"),
    *(
        "chunk_size_feed_forward",
        "id2label",
        "label2id",
        "task_specific_params",
        "problem_type",
        "tokenizer_class",
    ),
}
"""Says nothing about what an engine computes, or is compared in another form."""
_WRITTEN_LATER = {"layer_types"}
"""What newer versions of transformers derive and write, older ones do not."""
_ROPE_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_ROPE_IN_GGUF = ("type", "theta", "factor", "original_max_position_embeddings", "low_freq_factor")
_ROPE_NAMES: Mapping[Any, str] = {"su": "longrope", "none": "default", None: "default"}


def config_differences(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Compare all fields that both sides can express; an absent configuration is a difference."""
    if not truth.config or not artifact.config:
        sides = {"truth": bool(truth.config), "artifact": bool(artifact.config)}
        return {"compared": 0, "differences": [{"field": "config", **sides}]}
    ours, theirs = canonical(truth), canonical(artifact)
    fields = _shared(ours, theirs, artifact, defaults=set(_defaults(ours)))
    differences = [
        {"field": field, "truth": ours.get(field), "artifact": theirs.get(field)}
        for field in fields
        if not _equal(field, ours.get(field), theirs.get(field))
    ]
    for role in ROLES:
        foreign = wrong_ids(role, truth, artifact)
        if foreign:
            stated = sorted(stated_ids(truth, role))
            differences.append({"field": f"{role}_token_id", "truth": stated, "artifact": foreign})
    return {"compared": len(fields) + len(ROLES), "differences": differences[:SHOWN]}


def canonical(model: OpenModel) -> dict[str, Any]:
    """Return the configuration under canonical names with defaults filled in; rotary keys are ``rope.*``."""
    raw: dict[str, Any] = {_ALIASES.get(k, k): v for k, v in model.config.items() if v is not None}
    text: Any = raw.pop("text_config", None)
    if isinstance(text, Mapping):
        raw |= {_ALIASES.get(k, k): v for k, v in text.items() if v is not None}
    fields = {key: value for key, value in raw.items() if key not in _IGNORED}
    if model.format == "gguf":
        fields = {**_from_metadata(model), **fields}
    known = model.format != "gguf" or model.architecture in ARCHITECTURES
    for key, value in (_defaults(fields) if known else {}).items():
        fields.setdefault(key, value)
    _imply(fields)
    fields["sliding_window"] = _window(raw)
    return fields | _rope(raw, fields)


def _defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**_DEFAULTS, **_FAMILY_DEFAULTS.get(str(fields.get("model_type")), {})}


def _imply(fields: dict[str, Any]) -> None:
    heads, hidden = fields.get("num_attention_heads"), fields.get("hidden_size")
    if isinstance(heads, int) and heads > 0:
        fields.setdefault("num_key_value_heads", heads)
        if isinstance(hidden, int):
            fields.setdefault("head_dim", hidden // heads)


def _window(raw: Mapping[str, Any]) -> Any:
    # The Qwen classes switch their window on explicitly, the others by giving its size.
    given = not str(raw.get("model_type")).startswith("qwen")
    return raw.get("sliding_window") if raw.get("use_sliding_window", given) else None


def _from_metadata(model: OpenModel) -> dict[str, Any]:
    prefix = f"{model.metadata.get('general.architecture', model.architecture)}."
    found = {
        field: model.metadata[prefix + key]
        for field, key in _GGUF_METADATA.items()
        if prefix + key in model.metadata
    }
    rotated, width = model.metadata.get(f"{prefix}rope.dimension_count"), model.config.get("head_dim")
    if isinstance(rotated, int) and isinstance(width, int) and width > 0:
        found["partial_rotary_factor"] = rotated / width
    return found


def _rope(raw: Mapping[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        value = raw.get(key)
        given |= value if isinstance(value, Mapping) else {}
    theta = raw.get("rope_theta", 10000.0)
    nested = {key: value for key, value in given.items() if isinstance(value, Mapping)}
    if nested:  # One set of parameters for each kind of layer.
        return {
            f"rope.{kind}.{key}": value
            for kind, part in nested.items()
            for key, value in _rope_fields(part, theta, fields).items()
        }
    return {f"rope.{key}": value for key, value in _rope_fields(given, theta, fields).items()}


def _rope_fields(given: Mapping[str, Any], theta: Any, fields: dict[str, Any]) -> dict[str, Any]:
    rope = {key: value for key, value in given.items() if value is not None}
    old = rope.pop("type", None)
    kind = rope.pop("rope_type", old)
    kind = _ROPE_NAMES.get(kind, kind)
    if "partial_rotary_factor" in rope:
        fields["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    result: dict[str, Any] = {"type": kind, "theta": rope.pop("rope_theta", theta)}
    if kind != "default":
        rope.setdefault("original_max_position_embeddings", fields.get("max_position_embeddings"))
        if kind == "linear":
            rope.pop("original_max_position_embeddings")
        result |= {key: value for key, value in rope.items() if _ROPE_DEFAULTS.get(key) != value}
    return result


def _shared(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], artifact: OpenModel, *, defaults: set[str]
) -> list[str]:
    """Return the fields to compare: those of both sides, and known ones that the artifact ought to have."""
    both = [key for key in ours if key in theirs]
    if artifact.format == "gguf" and artifact.architecture not in ARCHITECTURES:
        return sorted(both)
    expected = {*defaults, *_ALIASES.values(), *_GGUF_METADATA, "sliding_window"}
    if artifact.format == "gguf":
        expected -= {"hidden_act", "mlp_bias", "attention_bias", "use_parallel_residual"}
        rope = {key for key in {*ours, *theirs} if key.startswith("rope.") and key[5:] in _ROPE_IN_GGUF}
        both = [key for key in both if not key.startswith("rope.")]
    else:
        rope = {key for key in {*ours, *theirs} if key.startswith("rope.")}
        expected |= ours.keys() - _WRITTEN_LATER
    one_side = [key for key in {*ours, *theirs} & expected if key not in both]
    return sorted({*both, *one_side, *rope})


def _equal(field: str, ours: Any, theirs: Any) -> bool:
    if field == "model_type":
        return _GGUF_NAMES.get(str(ours), str(ours)) == _GGUF_NAMES.get(str(theirs), str(theirs))
    if field == "tie_word_embeddings":
        # A head stored beside a tied embedding is judged by its values, a missing one is a lie.
        return bool(ours) or not theirs
    if ours is None or theirs is None:
        return not ours and not theirs  # False, 0 and an empty list say what an absent field says.
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (ours, theirs))
    if numbers:
        return math.isclose(ours, theirs, rel_tol=_FLOAT_TOLERANCE)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(_equal("", ours[key], theirs[key]) for key in ours)
    return bool(ours == theirs)
