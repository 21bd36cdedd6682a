"""Tiny real models for the tests: seeded random weights that every engine loads.

Each function fills a directory as a Hugging Face export does (config.json, model.safetensors,
tokenizer.json, tokenizer_config.json, generation_config.json) and returns it. The weights are scaled
so that the next-token distributions are neither flat nor constant, and no two layers, heads or norms
are alike: a swap shows. Neither the package under test nor an inference engine is used here.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FloatArray = npt.NDArray[np.float32]

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "What is 2 + 2? The answer is 4. What is 17 - 9? The answer is 8.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "Once upon a time there was a small model that had to answer every question in the world.",
    "The capital of France is Paris; the capital of Italy is Rome; nobody asked about Ghent.",
    "You are a helpful assistant. Answer the question of the user in one sentence.",
    "Größe, naïve café, Москва, 東京, नमस्ते, 🙂 and other words that need more than one byte a letter.",
)


def make_llama(directory: Path, *, seed: int = 0, dtype: str = "f32", **overrides: Any) -> Path:
    """Fill ``directory`` with a Llama: 2 layers, 4 heads, 2 key-value heads, untied head, no biases."""
    config = {
        **_base_config("llama", "LlamaForCausalLM"),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 10000.0,
    }
    return _fill(directory, "smollm", config, seed, dtype, overrides)


def make_qwen2(directory: Path, *, seed: int = 0, dtype: str = "f32", **overrides: Any) -> Path:
    """Fill ``directory`` with a Qwen2: q, k and v biases, grouped queries, head tied to the embedding."""
    config = {
        **_base_config("qwen2", "Qwen2ForCausalLM"),
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "rope_theta": 1000000.0,
    }
    return _fill(directory, "qwen2", config, seed, dtype, overrides)


def make_qwen3(directory: Path, *, seed: int = 0, dtype: str = "f32", **overrides: Any) -> Path:
    """Fill ``directory`` with a Qwen3: norms of q and k, head_dim 32 (hidden / heads is 16), tied head."""
    config = {
        **_base_config("qwen3", "Qwen3ForCausalLM"),
        "head_dim": 32,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "use_sliding_window": False,
        "rope_theta": 1000000.0,
    }
    return _fill(directory, "qwen2", config, seed, dtype, overrides)


def tensors_of(config: dict[str, Any], seed: int = 0) -> dict[str, FloatArray]:
    """Return every tensor of the model that ``config`` describes, canonical names, row-major float32."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> FloatArray:
        return np.asarray(scale * rng.standard_normal((rows, columns)) / np.sqrt(columns), np.float32)

    def vector(size: int, mean: float) -> FloatArray:
        return (mean + 0.1 * rng.standard_normal(size)).astype(np.float32)

    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    tensors = {"model.embed_tokens.weight": matrix(vocabulary, hidden, 2.0)}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in _layer_shapes(config).items():
            full = f"model.layers.{layer}.{name}"
            if len(shape) == 2:
                tensors[full] = matrix(*shape)
            else:
                tensors[full] = vector(shape[0], 0.0 if name.endswith("bias") else 1.0)
    tensors["model.norm.weight"] = vector(hidden, 1.0)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(vocabulary, hidden, 2.0)
    return tensors


def write_safetensors(path: Path, tensors: dict[str, FloatArray], dtype: str = "f32") -> None:
    """Write ``tensors`` to one file, each as ``dtype`` (f32, f16 or bf16)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    payloads, offset = [], 0
    for name, tensor in tensors.items():
        payload = _encode(tensor, dtype)
        span = [offset, offset + len(payload)]
        header[name] = {"dtype": dtype.upper(), "shape": list(tensor.shape), "data_offsets": span}
        payloads.append(payload)
        offset = span[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(payloads))


@functools.cache
def tokenizer_json(style: str) -> str:
    """Return a byte-level BPE tokenizer.json of about 400 tokens, split as ``smollm`` or ``qwen2`` does.

    The three special tokens are ids 0 to 2 (smollm) or come after the learned tokens (qwen2), as in the
    published models of these families.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=style == "smollm")
    if style == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    else:
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated", invert=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special if style == "smollm" else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer=trainer)
    tokenizer.add_special_tokens(special)
    return str(tokenizer.to_str())


def _base_config(model_type: str, architecture: str) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5 if model_type == "llama" else 1e-6,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def _fill(
    directory: Path, style: str, config: dict[str, Any], seed: int, dtype: str, overrides: dict[str, Any]
) -> Path:
    tokenizer = Tokenizer.from_str(tokenizer_json(style))
    end = tokenizer.token_to_id("<|im_end|>")
    start = tokenizer.token_to_id("<|im_start|>")
    pad = tokenizer.token_to_id("<|endoftext|>")
    config = {**config, "vocab_size": tokenizer.get_vocab_size(), "eos_token_id": end, "bos_token_id": pad}
    if style == "smollm":
        config.update(bos_token_id=start, pad_token_id=end)
    config["torch_dtype"] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype]
    config.update(overrides)
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / "model.safetensors", tensors_of(config, seed), dtype)
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": end, "do_sample": False}
    generation["pad_token_id"] = end if style == "smollm" else pad
    (directory / "tokenizer.json").write_text(tokenizer_json(style), encoding="utf-8")
    _write_json(directory / "config.json", config)
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(style, config))
    _write_json(directory / "generation_config.json", generation)
    return directory


def _tokenizer_config(style: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "bos_token": "<|im_start|>" if style == "smollm" else None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>" if style == "smollm" else "<|endoftext|>",
        "unk_token": "<|endoftext|>" if style == "smollm" else None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _layer_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, key = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if config["model_type"] == "qwen3":
        shapes.update({"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)})
    if config["model_type"] == "qwen2" or config.get("attention_bias"):
        biases = {"self_attn.q_proj.bias": (query,), "self_attn.k_proj.bias": (key,)}
        shapes.update({**biases, "self_attn.v_proj.bias": (key,)})
    if config["model_type"] != "qwen2" and config.get("attention_bias"):
        shapes["self_attn.o_proj.bias"] = (hidden,)
    return shapes


def _encode(tensor: FloatArray, dtype: str) -> bytes:
    if dtype == "f32":
        return tensor.astype("<f4").tobytes()
    if dtype == "f16":
        return tensor.astype("<f2").tobytes()
    bits = tensor.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
