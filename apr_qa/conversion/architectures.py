"""What differs between the same architecture in Hugging Face files and in GGUF.

Three things: tensor names, configuration keys, and the order of the rows of q and k. Hugging Face
rotates the two halves of a head against each other, ggml's ``llama`` graph rotates neighbouring pairs, so
llama's q and k rows are interleaved in GGUF; the qwen graphs rotate halves and keep the order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apr_qa.conversion.failures import ConfigContradicted
from apr_qa.conversion.rotary import (
    WAY_OUT,
    plain_number,
    rope_of,
    scaling_from_factors,
    scaling_from_metadata,
)
from apr_qa.errors import MalformedFile, UnsupportedArchitecture

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_GLOBAL_NAMES = {
    EMBEDDING: "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    HEAD: "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GLOBAL_BACK = {stored: name for name, stored in _GLOBAL_NAMES.items()}
_LAYER_BACK = {stored: name for name, stored in _LAYER_NAMES.items()}

_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "head_dim": "attention.key_length",
    "vocab_size": "vocab_size",
}
MODEL_TYPE = "apr_qa.model_type"
"""GGUF key that tells apart what shares a ``general.architecture``."""
MAX_LAYERS = 4096
"""More than any model has; a bound for what is built from the number."""
_REQUIRED = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("rms_norm_eps", "max_position_embeddings"),
)
"""What no engine loads a model without."""


@dataclass(frozen=True)
class Architecture:
    """One architecture that the built-in converter knows under its Hugging Face ``model_type``."""

    name: str
    model_class: str
    gguf_name: str = ""
    """``general.architecture``, where that is another word."""
    interleaved: bool = False
    """GGUF holds q and k rows in pair order."""
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def stored_name(self) -> str:
        """``general.architecture`` and the prefix of its keys."""
        return self.gguf_name or self.name


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", interleaved=True),
    "mistral": Architecture("mistral", "MistralForCausalLM", gguf_name="llama", interleaved=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", qk_norm=True),
}


def require(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of ``config`` if every part of it converts.

    Raises UnsupportedArchitecture, or MalformedFile for numbers that no model has.
    """
    model_type = str(config.get("model_type", ""))
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedArchitecture(f"architecture {model_type!r} is not among {known}", fix=WAY_OUT)
    uneven = [key for key in _KEYS if isinstance(config.get(key), list)]
    lawful: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", None), "use_sliding_window": (False, None)}
    lawful |= {"quantization_config": (None,), **dict.fromkeys(uneven, ())}
    for key, values in lawful.items():
        if config.get(key) not in values:
            raise UnsupportedArchitecture(f"{key} = {config[key]!r} does not convert", fix=WAY_OUT)
    _check_numbers(config)
    rope_of(config)
    return ARCHITECTURES[model_type]


def _check_numbers(config: Mapping[str, Any]) -> None:
    values = {key: config.get(key) for key in _KEYS}
    for key in ("head_dim", "num_key_value_heads"):
        if values[key] is None:
            del values[key]
    epsilon = values.pop("rms_norm_eps")
    wrong = [key for key, value in values.items() if type(value) is not int or not 0 < value < 1 << 31]
    if not (isinstance(epsilon, float) and 0 < epsilon < 1):
        wrong.append("rms_norm_eps")
    if not wrong and head_dim(config) % 2:
        wrong.append("head_dim")
    if not wrong and config["num_hidden_layers"] > MAX_LAYERS:
        wrong.append("num_hidden_layers")
    if wrong:
        raise ConfigContradicted(f"the config gives {wrong[0]} the impossible value {config.get(wrong[0])!r}")


def to_gguf_name(name: str) -> str | None:
    """Return the GGUF name of a canonical tensor name, or None if there is none."""
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None or match[2] not in _LAYER_NAMES:
        return None
    return f"blk.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"


def from_gguf_name(stored: str) -> str:
    """Return the canonical name of a GGUF tensor; an unknown name stays as it is."""
    if stored in _GLOBAL_BACK:
        return _GLOBAL_BACK[stored]
    match = re.fullmatch(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)", stored)
    if match is None or match[2] not in _LAYER_BACK:
        return stored
    return f"model.layers.{match[1]}.{_LAYER_BACK[match[2]]}.{match[3]}"


def interleaved_heads(name: str, config: Mapping[str, Any]) -> int:
    """Return how many heads the rows of tensor ``name`` are interleaved by in GGUF; 0 for the same order."""
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None or not architecture.interleaved:
        return 0
    keys = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    match = re.fullmatch(r"model\.layers\.\d+\.self_attn\.([qk]_proj)\.(?:weight|bias)", name)
    if match is None:
        return 0
    heads = config.get(keys[match[1]]) or config["num_attention_heads"]
    if not isinstance(heads, int):
        raise UnsupportedArchitecture("the number of heads differs from layer to layer", fix=WAY_OUT)
    return heads


def interleave_rows(tensor: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Reorder the rows of a q or k weight or bias from halves (Hugging Face) to pairs (GGUF)."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def separate_rows(tensor: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undo `interleave_rows`."""
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def head_dim(config: Mapping[str, Any]) -> int:
    """Return the width of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def layer_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return {name within a layer: row-major shape} of every tensor that each layer must have."""
    architecture = ARCHITECTURES[str(config["model_type"])]
    hidden, inner, width = int(config["hidden_size"]), int(config["intermediate_size"]), head_dim(config)
    heads = int(config["num_attention_heads"])
    query, key = heads * width, int(config.get("num_key_value_heads") or heads) * width
    projections = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in projections.items()}
    biased = [name for name in projections if _has_bias(architecture, name, config)]
    shapes |= {f"{name}.bias": projections[name][:1] for name in biased}
    shapes |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    if architecture.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
    return shapes


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return {canonical name: row-major shape} of every tensor that the model must have.

    A head that is tied to the embedding is not in the list. ``config`` must be of a known architecture.
    """
    hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (vocabulary, hidden)}
    per_layer = layer_shapes(config)
    layers = int(config["num_hidden_layers"])
    if layers > MAX_LAYERS:
        raise MalformedFile(f"the config gives num_hidden_layers the impossible value {layers}")
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in per_layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        shapes[HEAD] = (vocabulary, hidden)
    return shapes


def metadata_from_config(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    """Return the GGUF keys (with the architecture prefix) that say what ``config`` says.

    Raises UnsupportedArchitecture for a sliding window: llama.cpp reads none for these architectures and
    attends to everything, which costs a model with a window of 32 some 4 nats a token beyond it.
    """
    window = config.get("sliding_window") if config.get("model_type") == "mistral" else None
    if window is not None and window < config["max_position_embeddings"]:
        raise UnsupportedArchitecture(
            f"llama.cpp ignores the sliding window of {window} positions", fix=WAY_OUT
        )
    rope, width = rope_of(config), head_dim(config)
    values = {**config, "head_dim": width}
    values["num_key_value_heads"] = config.get("num_key_value_heads") or config["num_attention_heads"]
    keys: dict[str, int | float | str] = {stored: values[key] for key, stored in _KEYS.items()}
    keys |= {"attention.value_length": width, "rope.dimension_count": width}
    keys["rope.freq_base"] = float(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        keys |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        original = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        keys["rope.scaling.original_context_length"] = int(original)
    architecture = ARCHITECTURES[str(config["model_type"])]
    found = {f"{architecture.stored_name}.{key}": value for key, value in keys.items()}
    return found | ({MODEL_TYPE: architecture.name} if architecture.gguf_name else {})


def config_from_metadata(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: Sequence[float] | None = None
) -> dict[str, Any]:
    """Rebuild a Hugging Face config from GGUF metadata, canonical tensor shapes and the rope factors.

    What the file does not say is left out. An unknown architecture raises nothing; a value that no
    model can have raises MalformedFile.
    """
    name = str(metadata.get("general.architecture", ""))
    stored_keys = {key: f"{name}.{stored}" for key, stored in _KEYS.items()}
    stored_keys["sliding_window"] = f"{name}.attention.sliding_window"
    for key, what in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        stored_keys[f"{key}_token_id"] = f"tokenizer.ggml.{what}_token_id"
    config: dict[str, Any] = {"model_type": _model_type(name, metadata)}
    config |= {key: _checked(stored, metadata) for key, stored in stored_keys.items() if stored in metadata}
    if EMBEDDING in shapes:
        config["vocab_size"] = shapes[EMBEDDING][0]
    config["tie_word_embeddings"] = HEAD not in shapes
    if config["model_type"] in ARCHITECTURES:
        _complete(config, metadata, shapes, factors)
    return config


def _model_type(name: str, metadata: Mapping[str, Any]) -> str:
    """Return the Hugging Face name of an architecture; of several, the one that the file was made from."""
    stated = ARCHITECTURES.get(str(metadata.get(MODEL_TYPE)))
    return stated.name if stated is not None and stated.stored_name == name else name


def _checked(key: str, metadata: Mapping[str, Any]) -> Any:
    value = plain_number(metadata[key])
    least = 0 if key.endswith(("token_id", "sliding_window")) else 1
    if key.endswith("epsilon"):
        lawful = isinstance(value, float) and 0 < value < 1
    else:
        items = value if isinstance(value, list) else [value]
        lawful = all(type(item) is int and least <= item < 1 << 31 for item in items)
    if not lawful:
        raise MalformedFile(f"the metadata key {key!r} has the impossible value {value!r}")
    return value


def _complete(
    config: dict[str, Any],
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    factors: Sequence[float] | None,
) -> None:
    architecture = ARCHITECTURES[config["model_type"]]
    name = architecture.stored_name
    missing = [f"{name}.{_KEYS[key]}" for key in _REQUIRED if key not in config]
    if missing:
        raise MalformedFile(f"required metadata keys are missing: {', '.join(missing)}")
    config["architectures"] = [architecture.model_class]
    config["hidden_act"] = "silu"
    theta = plain_number(metadata.get(f"{name}.rope.freq_base", 10000.0))
    if not (isinstance(theta, float) and 0 < theta < float("inf")):
        raise MalformedFile(f"the metadata key '{name}.rope.freq_base' has the impossible value {theta!r}")
    config["rope_theta"] = theta
    if architecture.name not in ("qwen2", "mistral"):
        config["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in shapes
    if architecture.name == "mistral":
        config.setdefault("sliding_window", None)
    if architecture.name == "llama":
        config["mlp_bias"] = "model.layers.0.mlp.gate_proj.bias" in shapes
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    if "head_dim" not in config and f"{name}.rope.dimension_count" in metadata:
        config["head_dim"] = _checked(f"{name}.rope.dimension_count", metadata)
    if factors is None:
        scaling = scaling_from_metadata(metadata, f"{name}.rope.scaling.")
    else:
        scaling = scaling_from_factors(factors, theta)
    if scaling:
        config["rope_scaling"] = scaling


def _has_bias(architecture: Architecture, name: str, config: Mapping[str, Any]) -> bool:
    if name.startswith("mlp."):
        return bool(config.get("mlp_bias", False))
    if architecture.qkv_bias:
        return not name.endswith("o_proj")
    return bool(config.get("attention_bias", False))
