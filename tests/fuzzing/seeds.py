"""Small lawful files of each format, as parts that a mutator can take apart and put together again."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

Shape = list[int]


def safetensors(header: Any, payload: bytes) -> bytes:
    """Return a file; ``header`` is an object, or the text itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def safetensors_parts() -> tuple[dict[str, Any], bytes]:
    """Return header and payload of a small lawful file with several types, an empty tensor and a scalar."""
    entries = [("a.weight", "F32", [3, 4], 48), ("b.weight", "BF16", [2, 8], 32), ("c", "I64", [], 8)]
    entries += [("d", "F16", [0, 7], 0), ("e.bias", "F8_E4M3", [5], 5), ("f", "BOOL", [3], 3)]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape, size in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return header, bytes(i % 251 for i in range(at))


@dataclass
class Gguf:
    """A GGUF file in parts; every count is written as given, so that it can lie."""

    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    key_count: int | None = None
    keys: list[tuple[bytes, int, Any]] = field(default_factory=list)
    """Key, type number, value as bytes that are already encoded."""
    tensors: list[tuple[bytes, Shape, int, int]] = field(default_factory=list)
    """Name, dimensions as stored, type number, offset."""
    alignment: int = 32
    payload: bytes = b""

    def build(self) -> bytes:
        body = self.magic + struct.pack("<I", self.version)
        body += _u64(len(self.tensors) if self.tensor_count is None else self.tensor_count)
        body += _u64(len(self.keys) if self.key_count is None else self.key_count)
        for key, kind, value in self.keys:
            body += gguf_text(key) + struct.pack("<I", kind & 0xFFFFFFFF) + value
        for name, dims, kind, offset in self.tensors:
            body += gguf_text(name) + struct.pack("<I", len(dims)) + b"".join(_u64(d) for d in dims)
            body += struct.pack("<I", kind & 0xFFFFFFFF) + _u64(offset)
        return body + bytes(-len(body) % self.alignment) + self.payload


def gguf_text(value: bytes) -> bytes:
    return _u64(len(value)) + value


def gguf_array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<I", kind) + _u64(len(items)) + b"".join(items)


def gguf_parts() -> Gguf:
    """Return a small lawful llama: keys of many types, a tokenizer, plain and quantised tensors."""
    texts = [b"<unk>", b"<s>", b"</s>", *(bytes([letter]) for letter in b"abcdefgh"), b"ab", b"cd"]
    keys: list[tuple[bytes, int, Any]] = [
        (b"general.architecture", 8, gguf_text(b"llama")),
        (b"general.alignment", 4, struct.pack("<I", 32)),
        (b"general.name", 8, gguf_text("größe".encode())),
        (b"general.file_type", 4, struct.pack("<I", 0)),
        (b"llama.block_count", 4, struct.pack("<I", 1)),
        (b"llama.embedding_length", 4, struct.pack("<I", 32)),
        (b"llama.feed_forward_length", 4, struct.pack("<I", 64)),
        (b"llama.attention.head_count", 4, struct.pack("<I", 2)),
        (b"llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        (b"llama.context_length", 4, struct.pack("<I", 128)),
        (b"some.flag", 7, b"\1"),
        (b"some.flags", 9, gguf_array(7, [b"\0", b"\1"])),
        (b"some.double", 12, struct.pack("<d", 0.5)),
        (b"some.long", 11, struct.pack("<q", -3)),
        (b"tokenizer.ggml.model", 8, gguf_text(b"gpt2")),
        (b"tokenizer.ggml.pre", 8, gguf_text(b"smollm")),
        (b"tokenizer.ggml.tokens", 9, gguf_array(8, [gguf_text(text) for text in texts])),
        (b"tokenizer.ggml.token_type", 9, gguf_array(5, [struct.pack("<i", 1)] * len(texts))),
        (b"tokenizer.ggml.merges", 9, gguf_array(8, [gguf_text(b"a b"), gguf_text(b"c d")])),
        (b"tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)),
        (b"tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2)),
        (b"tokenizer.chat_template", 8, gguf_text(b"{{ messages[0].content }}")),
    ]
    tensors: list[tuple[bytes, Shape, int, int]] = []
    at = 0
    for name, dims, kind, size in (
        (b"token_embd.weight", [32, 13], 0, 1664),
        (b"blk.0.attn_q.weight", [32, 32], 8, 1088),
        (b"blk.0.attn_norm.weight", [32], 1, 64),
        (b"blk.0.ffn_up.weight", [32, 4], 2, 72),
        (b"scale", [7], 0, 28),
    ):
        tensors.append((name, dims, kind, at))
        at += size + -size % 32
    return Gguf(keys=keys, tensors=tensors, payload=bytes(at - 4))


@dataclass
class Apr:
    """An APR file in parts; offsets that are None are computed, others are written as given."""

    magic: bytes = b"APR\0"
    version: tuple[int, int] = (2, 0)
    flags: int = 0x0400
    tensor_count: int | None = None
    metadata_offset: int = 64
    metadata_size: int | None = None
    index_offset: int | None = None
    data_offset: int | None = None
    reserved: bytes = bytes(20)
    metadata: bytes = b"{}"
    entries: list[tuple[bytes, int, Shape, int, int]] = field(default_factory=list)
    """Name, dtype code, dimensions, offset, size."""
    payload: bytes = b""
    footer: bytes | None = None
    """None writes the right checksum; empty writes none."""
    header_crc: int | None = None

    def build(self) -> bytes:
        metadata = self.metadata + bytes(-len(self.metadata) % 64)
        index = b"".join(
            struct.pack("<H", len(name) & 0xFFFF)
            + name
            + bytes([code & 255, len(dims) & 255])
            + b"".join(_u64(d) for d in dims)
            + _u64(offset)
            + _u64(size)
            for name, code, dims, offset, size in self.entries
        )
        index += bytes(-len(index) % 64)
        index_at = 64 + len(metadata) if self.index_offset is None else self.index_offset
        data_at = 64 + len(metadata) + len(index) if self.data_offset is None else self.data_offset
        size = len(self.metadata) if self.metadata_size is None else self.metadata_size
        count = len(self.entries) if self.tensor_count is None else self.tensor_count
        start = self.magic + bytes(v & 255 for v in self.version) + struct.pack("<H", self.flags & 0xFFFF)
        start += struct.pack("<I", count & 0xFFFFFFFF) + _u64(self.metadata_offset)
        start += struct.pack("<I", size & 0xFFFFFFFF) + _u64(index_at) + _u64(data_at)
        crc = zlib.crc32(start + self.reserved) if self.header_crc is None else self.header_crc
        body = start + struct.pack("<I", crc) + self.reserved + metadata + index + self.payload
        return body + (struct.pack("<I", zlib.crc32(body)) if self.footer is None else self.footer)


def apr_parts() -> Apr:
    """Return a small lawful file: documented keys, an embedded tokenizer, plain and block types."""
    metadata = {
        "model_type": "llama",
        "architecture": "llama",
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 5,
        "license": None,
        "tied_embeddings": False,
        "tokenizer.vocabulary": ["<|endoftext|>", "a", "b", "ab", "c"],
        "tokenizer.merges": ["a b"],
        "tokenizer.pre_type": "gpt-2",
        "chat_template": "{{ messages[0].content }}",
    }
    entries: list[tuple[bytes, int, Shape, int, int]] = []
    at = 0
    for name, code, dims, size in (
        (b"lm_head.weight", 129, [5, 32], 164),
        (b"model.embed_tokens.weight", 0, [5, 32], 640),
        (b"model.layers.0.mlp.up_proj.weight", 128, [4, 32], 72),
        (b"model.norm.weight", 1, [32], 64),
        (b"scalar", 5, [], 8),
    ):
        entries.append((name, code, dims, at, size))
        at += size + -size % 64
    return Apr(metadata=json.dumps(metadata).encode(), entries=entries, payload=_padded_payload(entries))


def _padded_payload(entries: list[tuple[bytes, int, Shape, int, int]]) -> bytes:
    return b"".join(bytes([1]) * size + bytes(-size % 64) for *_, size in entries)


def folder_parts() -> dict[str, bytes]:
    """Return the files of a small lawful sharded folder."""
    one = {"a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    two = {"b.weight": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = {"metadata": {"total_size": 24}, "weight_map": {"a.weight": names[0], "b.weight": names[1]}}
    config = {"model_type": "llama", "hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    config |= {"intermediate_size": 4, "vocab_size": 3, "rms_norm_eps": 1e-6, "max_position_embeddings": 64}
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": 2, "content": "ab", "special": True}],
        "model": model,
    }
    settings = {"chat_template": "{{ messages[0].content }}", "eos_token": "ab"}
    return {
        names[0]: safetensors(one, bytes(16)),
        names[1]: safetensors(two, bytes(8)),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [2]}).encode(),
    }


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)
