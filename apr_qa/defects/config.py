"""Configurations that say something else than what the weights were trained for."""

from __future__ import annotations

import functools
import math
from typing import Any

from apr_qa.defects import Inexpressible, Plant, Specimen
from apr_qa.defects._editing import EMBEDDING, HEAD, Image, editing, layers, planted, rows_of
from apr_qa.defects._editing_apr import AprImage
from apr_qa.defects._editing_gguf import GgufImage
from apr_qa.defects._editing_safetensors import SafetensorsImage

_ALL = ("safetensors", "gguf", "apr")
_FILES = ("safetensors", "gguf")


_planted = functools.partial(planted, "config")


def _number(image: Image, key: str) -> int:
    value = image.config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Inexpressible(f"needs a configuration with {key}")
    return value


def _head_dim(image: Image) -> int:
    return int(
        image.config.get("head_dim") or _number(image, "hidden_size") // _number(image, "num_attention_heads")
    )


@_planted("rms-eps-1e5-vs-1e6", _ALL, "ggml-org/llama.cpp#2373, ggml-org/llama.cpp#2384, apache/tvm#15856")
def _epsilon(specimen: Specimen) -> None:
    """The converter wrote its own default for the epsilon of all norms."""
    with editing(specimen) as image:
        present = image.config.get("rms_norm_eps")
        if not isinstance(present, float):
            raise Inexpressible("needs a configuration with rms_norm_eps")
        image.set_config("rms_norm_eps", 1e-6 if present > 3e-6 else 1e-5)


@_planted(
    "rope-theta-fallback-10000",
    _ALL,
    "vllm-project/vllm#42624, Open-Athena/MarinFold#184, ggml-org/llama.cpp#2773",
)
def _theta_lost(specimen: Specimen) -> None:
    """The rotary base is not stated, so that loaders take their default (or it is a foreign one)."""
    with editing(specimen) as image:
        if float(image.rope()["rope_theta"]) == 10000.0:
            image.set_config("rope_theta", 500000.0)
        else:
            image.drop_config("rope_theta")


@_planted("rope-theta-foreign-default", ("gguf", "apr"), "paiml/aprender#324")
def _theta_of_another_family(specimen: Specimen) -> None:
    """The exporter stated another family's rotary base."""
    with editing(specimen) as image:
        foreign = 1e6 if float(image.rope()["rope_theta"]) != 1e6 else 5e5
        image.set_config("rope_theta", foreign)


@_planted("rope-scaling-spurious", _FILES, "ggml-org/llama.cpp#2402, ggml-org/llama.cpp#2530")
def _scaling_switched_on(specimen: Specimen) -> None:
    """Linear position scaling by 8 for a model that was trained without."""
    with editing(specimen) as image:
        rope = image.rope()
        if rope.get("rope_type", rope.get("type", "default")) not in ("default", None):
            raise Inexpressible("needs a model without rope scaling")
        nested = image.config.get("rope_parameters")
        if isinstance(image, SafetensorsImage) and isinstance(nested, dict):
            nested |= {"rope_type": "linear", "factor": 8.0}
        else:
            image.set_config("rope_scaling", {"rope_type": "linear", "factor": 8.0})


@_planted("rope-type-norm-vs-neox", ("gguf",), "jzhang38/TinyLlama#24, ooples/AiDotNet#2074")
def _other_rotary_pairs(specimen: Specimen) -> None:
    """Rotation pairs neighbours where it should pair halves, or the other way round."""
    from apr_qa.conversion.architectures import interleave_rows

    with editing(specimen) as image:
        for layer in range(layers(image)):
            for part, key in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
                name = f"model.layers.{layer}.self_attn.{part}.weight"
                image.write(name, interleave_rows(rows_of(image, name), _number(image, key)))


@_planted("partial-rotary-factor-ignored", _FILES, "ollama/ollama#9453, vllm-project/vllm#51049")
def _partial_rotation_ignored(specimen: Specimen) -> None:
    """All of each head is rotated although the model rotates a part."""
    with editing(specimen) as image:
        if isinstance(image, GgufImage):
            key = f"{image.architecture}.rope.dimension_count"
            if image.keys.get(key, _head_dim(image)) >= _head_dim(image):
                raise Inexpressible("needs a model that rotates only a part of each head")
            image.keys.set(key, _head_dim(image))
            return
        factor = {**image.config, **image.rope()}.get("partial_rotary_factor", 1.0)
        if factor in (None, 1.0):
            raise Inexpressible("needs a model that rotates only a part of each head")
        image.drop_config("partial_rotary_factor")


def _window(image: Image) -> int:
    config = image.config
    explicit = str(config.get("model_type")).startswith("qwen")
    if not config.get("sliding_window") or not config.get("use_sliding_window", not explicit):
        raise Inexpressible("needs a model with a sliding window")
    return _number(image, "sliding_window")


@_planted("sliding-window-missing", _FILES, "ggml-org/llama.cpp#7709, ggml-org/llama.cpp#8227")
def _window_lost(specimen: Specimen) -> None:
    """The attention window was not exported."""
    with editing(specimen) as image:
        _window(image)
        if isinstance(image, GgufImage):
            image.drop_config("sliding_window")
        else:
            image.set_config("sliding_window", None)


@_planted("sliding-window-off-by-one", ("safetensors",), "vllm-project/vllm#4380", expected="warn")
def _window_one_less(specimen: Specimen) -> None:
    """The attention window is one position short."""
    with editing(specimen) as image:
        image.set_config("sliding_window", _window(image) - 1)


@_planted("head-dim-derived", _FILES, "InternLM/lmdeploy#2761, huggingface/candle#2358")
def _head_dim_derived(specimen: Specimen) -> None:
    """The width of a head follows from hidden_size although the model states another."""
    with editing(specimen) as image:
        derived = _number(image, "hidden_size") // _number(image, "num_attention_heads")
        if _head_dim(image) == derived:
            raise Inexpressible("needs heads whose width is not hidden_size / num_attention_heads")
        if isinstance(image, GgufImage):
            image.set_config("head_dim", derived)
        else:
            image.drop_config("head_dim")


def _shared_heads(image: Image) -> tuple[int, int]:
    heads, shared = _number(image, "num_attention_heads"), _number(image, "num_key_value_heads")
    if heads == shared:
        raise Inexpressible("needs heads that share keys and values")
    return heads, shared


@_planted("kv-head-count-wrong", (*_FILES, "apr"), "vllm-project/vllm#1164, ggml-org/llama.cpp#3364")
def _one_key_for_each_head(specimen: Specimen) -> None:
    """Keys and values are declared for each head although heads share them."""
    with editing(specimen) as image:
        image.set_config("num_key_value_heads", _shared_heads(image)[0])


@_planted("head-counts-doubled", _ALL, "class of ggml-org/llama.cpp#3364")
def _twice_as_many_half_heads(specimen: Specimen) -> None:
    """Twice as many heads of half the width: every shape still fits."""
    with editing(specimen) as image:
        heads, shared = _shared_heads(image)
        width = _head_dim(image)
        if width % 4:
            raise Inexpressible("needs heads whose width can be halved")
        for key, value in (
            ("num_attention_heads", 2 * heads),
            ("num_key_value_heads", 2 * shared),
            ("head_dim", width // 2),
        ):
            image.set_config(key, value)


@_planted(
    "attn-softcap-missing", ("gguf", "safetensors"), "ggml-org/llama.cpp#8197, vllm-project/vllm-metal#665"
)
def _caps_lost(specimen: Specimen) -> None:
    """The caps of attention and output logits were not exported."""
    with editing(specimen) as image:
        caps = [k for k in ("attn_logit_softcapping", "final_logit_softcapping") if image.config.get(k)]
        if isinstance(image, GgufImage):
            caps = [
                key
                for key in ("attn_logit_softcapping", "final_logit_softcapping")
                if f"{image.architecture}.{key}" in image.keys
            ]
        if not caps:
            raise Inexpressible("needs a model that caps its logits")
        for key in caps:
            if isinstance(image, GgufImage):
                image.drop_config(key)
            else:
                image.set_config(key, None)


@_planted("attn-scale-wrong", _FILES, "ggml-org/llama.cpp#8197, ml-explore/mlx-swift-examples#99")
def _attention_scaled(specimen: Specimen) -> None:
    """Attention scores have another scale."""
    with editing(specimen) as image:
        scalar = image.config.get("query_pre_attn_scalar")
        if isinstance(scalar, int | float) and isinstance(image, SafetensorsImage):
            width = _head_dim(image)
            image.set_config("query_pre_attn_scalar", width if width != scalar else 2 * width)
            return
        names = [n for n in image.tensors if ".self_attn.q_proj." in n or ".self_attn.qkv_proj." in n]
        if not names:
            raise Inexpressible("needs query projections")
        for name in names:
            values = image.read(name)
            values[: _number(image, "num_attention_heads") * _head_dim(image)] *= 0.9
            image.write(name, values)


@_planted("embed-scale-missing", _FILES, "huggingface/transformers#29402, Lightning-AI/litgpt#1031")
def _embedding_scaled(specimen: Specimen) -> None:
    """The embedding carries a factor sqrt(hidden_size) that it should not have."""
    with editing(specimen) as image:
        image.write(EMBEDDING, rows_of(image, EMBEDDING) * math.sqrt(_number(image, "hidden_size")))


@_planted("moe-norm-topk-prob", _FILES, "pytorch/torchtitan#1448, openvinotoolkit/openvino#37421")
def _expert_weights_not_normalised(specimen: Specimen) -> None:
    """The weights of the chosen experts are normalised where they must not be, or the other way round."""
    with editing(specimen) as image:
        if isinstance(image, GgufImage):
            key = f"{image.architecture}.expert_weights_norm"
            if key not in image.keys:
                raise Inexpressible("needs a mixture of experts that states expert_weights_norm")
            image.keys.set(key, not image.keys.get(key))
            return
        present = image.config.get("norm_topk_prob")
        if not isinstance(present, bool):
            raise Inexpressible("needs a mixture of experts that states norm_topk_prob")
        image.set_config("norm_topk_prob", not present)


def _tied_although_not(keep: bool) -> Plant:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            if HEAD not in image.tensors or image.config.get("tie_word_embeddings"):
                raise Inexpressible("needs an output head of its own")
            image.set_config("tie_word_embeddings", True)
            if not keep:
                image.remove(HEAD)

    return plant


@_planted("vocab-size-vs-embedding", _FILES, "ggml-org/llama.cpp#8445, OpenNMT/CTranslate2#1618")
def _one_row_too_many(specimen: Specimen) -> None:
    """The declared vocabulary and the embedding differ by a row."""
    with editing(specimen) as image:
        if isinstance(image, GgufImage):
            # The number of rows is all that engines go by; the file has one row less than tokens.
            image.write(EMBEDDING, rows_of(image, EMBEDDING)[:-1])
        else:
            image.set_config("vocab_size", _number(image, "vocab_size") + 1)


@_planted(
    "architecture-tag-missing-or-wrong",
    ("apr", "gguf", "safetensors"),
    "paiml/aprender#1748, paiml/aprender#2212",
)
def _untagged(specimen: Specimen) -> None:
    """The model class is not named, or the architecture is one whose keys the file does not have."""
    with editing(specimen) as image:
        if isinstance(image, GgufImage):
            foreign = "qwen2" if image.architecture != "qwen2" else "llama"
            image.keys.set("general.architecture", foreign)
            return
        if isinstance(image, AprImage):
            config = image.metadata.get("hf_config")
            for holder in (image.metadata, config if isinstance(config, dict) else {}):
                for key in ("hf_architecture", "architectures"):
                    holder.pop(key, None)
            return
        image.drop_config("architectures")


@_planted("architecture-tag-foreign", _ALL, "paiml/aprender#2437, paiml/aprender#2178")
def _tagged_as_another(specimen: Specimen) -> None:
    """The file says consistently that it is of a sister architecture."""
    with editing(specimen) as image:
        name = str(image.config.get("model_type"))
        if name not in ("llama", "qwen2", "qwen3"):
            raise Inexpressible("needs an architecture that is easily taken for another")
        foreign, model_class = (
            ("qwen2", "Qwen2ForCausalLM") if name != "qwen2" else ("llama", "LlamaForCausalLM")
        )
        if isinstance(image, GgufImage):
            keys = image.keys
            values = {
                key.replace(f"{name}.", f"{foreign}.", 1) if key.startswith(f"{name}.") else key: value
                for key, value in keys.values.items()
            }
            keys.values = values
            keys.set("general.architecture", foreign)
            return
        tags: dict[str, Any] = {"model_type": foreign, "architectures": [model_class]}
        for key, value in tags.items():
            image.set_config(key, value)
        if isinstance(image, AprImage):
            image.metadata |= {"hf_architecture": model_class, "hf_model_type": foreign}
            image.metadata |= {"architecture": foreign, "model_type": foreign}


@_planted("dtype-float16-for-bf16-range-model", ("safetensors",), "unslothai/unsloth#4014, QwenLM/Qwen3#826")
def _too_wide_for_half(specimen: Specimen) -> None:
    """Declared float16 although weights and activations need the range of bfloat16."""
    with editing(specimen) as image:
        name = next((n for n in image.tensors if n.endswith("mlp.down_proj.weight")), "")
        if not name or image.tensors[name].dtype == "f16":
            raise Inexpressible("needs weights that are stored as bf16 or f32")
        keys = [key for key in ("dtype", "torch_dtype") if key in image.config] or ["torch_dtype"]
        for key in keys:
            image.set_config(key, "float16")
        image.write(name, image.read(name) * 1e4)


@_planted(
    "max-position-inflated", _FILES, "LostRuins/koboldcpp#487, ggml-org/llama.cpp#4625", expected="warn"
)
def _context_inflated(specimen: Specimen) -> None:
    """A longer context is promised than the model was trained for."""
    with editing(specimen) as image:
        image.set_config("max_position_embeddings", 16 * _number(image, "max_position_embeddings"))


_planted(
    "tie-flag-true-but-untied",
    ("safetensors", "apr"),
    "huggingface/transformers#46456, vllm-project/vllm#6758",
    description="the head is declared tied and left out although the model had one of its own",
)(_tied_although_not(keep=False))
_planted(
    "tie-flag-true-beside-own-head",
    ("safetensors", "apr"),
    "huggingface/transformers#46456",
    description="the head is declared tied, and another one is stored",
)(_tied_although_not(keep=True))
