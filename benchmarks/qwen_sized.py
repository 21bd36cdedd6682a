"""A model in the real dimensions of Qwen2-0.5B with random weights, as a folder that Hugging Face would export.

Its 494 million weights are bfloat16, its tokenizer is a byte-level BPE of 151,643 tokens and Qwen2's special ones: the
first merges are learned from CPython's own documentation, so that English takes as many tokens as it usually does, the
others are made up. The same seed gives the same bytes. Needs numpy and tokenizers, half a minute and 1 GB of disk.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG: Mapping[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
TOKENS = 151643
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LEARNED = 20_000
_IDEOGRAPHS = range(0x4E00, 0x4E00 + 20_000)
_LETTERS = "etaoinshrdlucmfwypvbgkqjxz"


def make(folder: Path, seed: int = 0) -> Path:
    """Fill ``folder`` with the model and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "model.safetensors", CONFIG, seed)
    generation = {"bos_token_id": 151643, "do_sample": False, "eos_token_id": [151645, 151643]}
    contents = {
        "config.json": CONFIG,
        "generation_config.json": {**generation, "pad_token_id": 151643},
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "bos_token": None,
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        "tokenizer.json": tokenizer(TOKENS, seed),
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return folder


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return canonical name -> shape of every tensor of a Qwen2 with a tied head."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    key = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        of_layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "mlp.down_proj.weight": (hidden, inner),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.k_proj.bias": (key,),
            "self_attn.k_proj.weight": (key, hidden),
            "self_attn.o_proj.weight": (hidden, hidden),
            "self_attn.q_proj.bias": (hidden,),
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.v_proj.bias": (key,),
            "self_attn.v_proj.weight": (key, hidden),
        }
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    return found | {"model.norm.weight": (hidden,)}


def write_weights(path: Path, config: Mapping[str, Any], seed: int) -> None:
    """Write random bfloat16 weights, one tensor at a time, scaled so that predictions are neither flat nor infinite."""
    import numpy as np

    rng = np.random.default_rng(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes(config).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (offset, offset + size)}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes(config).items():
            values = rng.standard_normal(shape, np.float32)
            if len(shape) == 2:
                values *= (2.0 if "embed_tokens" in name else 1.0) / np.sqrt(shape[1])
            else:
                values = 0.1 * values + (0.0 if name.endswith("bias") else 1.0)
            bits = values.astype(np.float32, copy=False).view(np.uint32)
            stream.write(((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2").tobytes())


def tokenizer(size: int, seed: int) -> dict[str, Any]:
    """Return the contents of a tokenizer.json with ``size`` tokens and the special ones behind them."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )

    learning = Tokenizer(models.BPE())
    learning.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learning.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    learning.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, _LEARNED), initial_alphabet=alphabet, show_progress=False
    )
    learning.train_from_iterator(pydoc_data.topics.topics.values(), trainer=trainer)
    learning.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in SPECIAL])
    found: dict[str, Any] = json.loads(learning.to_str())
    model = found["model"]
    vocabulary: dict[str, int] = {
        token: place for token, place in model["vocab"].items() if token not in SPECIAL
    }
    for left, right in _made_up(set(vocabulary), seed):
        if len(vocabulary) >= size:
            break
        vocabulary[left + right] = len(vocabulary)
        model["merges"].append([left, right])
    model["vocab"] = vocabulary
    for place, added in enumerate(found["added_tokens"]):
        added["id"] = len(vocabulary) + place
    return found


def _made_up(known: set[str], seed: int) -> Iterator[tuple[str, str]]:
    """Yield merges whose parts exist and whose results are new: of ideographs, then of letters, without end."""
    draw = random.Random(seed)
    for left, right in _ideographs():
        if left + right not in known:
            known.add(left + right)
            yield left, right
    words = sorted(word for word in known if 1 < len(word) < 12 and word.lstrip("Ġ").isalpha())
    ends = sorted(word for word in known if len(word) < 4 and word.isalpha() and word.isascii()) or list(
        _LETTERS
    )
    while True:
        left, right = draw.choice(words), draw.choice(ends)
        if left + right not in known:
            known.add(left + right)
            words.append(left + right)
            yield left, right


def _ideographs() -> Iterator[tuple[str, str]]:
    """Yield the merges of the bytes of an ideograph, which byte-level BPE writes as characters of its own."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    for point in _IDEOGRAPHS:
        first, second, third = (shown[byte] for byte in chr(point).encode())
        yield first, second
        yield first + second, third
