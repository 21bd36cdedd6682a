"""Files of megabytes whose every byte is meant to become as much memory as possible, and large healthy ones."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

from fuzzing import seeds

Case = tuple[str, Any]
"""Kind of file, and its bytes; for a folder the files that are changed."""


def _repeated(*elements: bytes) -> Callable[[int, random.Random], bytes]:
    def body(size: int, chance: random.Random) -> bytes:
        element = chance.choice(elements)
        return b"[" + element * (size // len(element)) + element.rstrip(b",") + b"]"

    return body


def _numbered(value: bytes) -> Callable[[int, random.Random], bytes]:
    def body(size: int, chance: random.Random) -> bytes:
        count = size // (len(value) + 9)
        return b"{" + b",".join(b'"%x":%s' % (number, value) for number in range(count)) + b"}"

    return body


def _text(size: int, chance: random.Random) -> bytes:
    piece = chance.choice((b"a" * 9 + b"\\u0041", b"\\ud83d\\ude42a", b"\\\\", b'\\"', b"\\n", b"x"))
    end = chance.choice(("🙂".encode(), "é".encode(), b"", b"\\ud83d\\ude42"))
    return b'"' + piece * (size // len(piece)) + end + b'"'


def _deep(size: int, chance: random.Random) -> bytes:
    depth = chance.choice((30, 60, 200, 50_000))
    one = b"[" * depth + b"1" + b"]" * depth
    return b"[" + b",".join([one] * max(1, size // len(one))) + b"]"


def _pairs(size: int, chance: random.Random) -> bytes:
    return b"[" + b",".join(b'["%x","%x"]' % (n, n * 7) for n in range(size // 18)) + b"]"


BODIES: tuple[Callable[[int, random.Random], bytes], ...] = (
    _repeated(b"[],", b"{},", b'{"":1},', b'{"a":{"b":1}},', b"[[1]],"),
    _repeated(b"1,", b"1000,", b"1.5,", b"123456789012345678901234567890,", b"null,", b"-0.0,"),
    _repeated(b'"ab",', b'"",', '"a🙂",'.encode(), b'"\\ud83d\\ude42",', b'",],[",', b'"\\\\",', b'"\\"",'),
    _numbered(b"1"),
    _numbered(b"{}"),
    _numbered(b'"m.safetensors"'),
    _numbered(b"[1,2]"),
    _text,
    _deep,
    _pairs,
    lambda size, chance: b"9" * size,
    lambda size, chance: b" " * size + b"1",
    lambda size, chance: b'{"a":1' + b',"b":1' * (size // 6) + b"}",
    lambda size, chance: b"[1" + b"," * size + b"1]",
)


def case(chance: random.Random) -> Case:
    """Return one large file."""
    size = int(1e6 * chance.choice((0.3, 1, 2, 5)))
    return chance.choice((_folder, _folder, _folder, _header, _apr, _gguf, _healthy))(size, chance)


def _folder(size: int, chance: random.Random) -> Case:
    body = chance.choice(BODIES)(size, chance)
    name = chance.choice(
        ("config.json", "tokenizer.json", "model.safetensors.index.json", "tokenizer_config.json")
    )
    where = chance.choice(("x", "vocab", "merges", "added_tokens", "weight_map", "rope_scaling"))
    whole = seeds.folder_parts()
    changed = {name: _placed(whole[name], where, body)}
    if chance.random() < 0.3:
        changed["generation_config.json"] = b'{"x":' + chance.choice(BODIES)(size // 2, chance) + b"}"
    return "folder", changed


def _placed(text: bytes, where: str, body: bytes) -> bytes:
    """Return an object with ``body`` as one more entry, or inside the model of a tokenizer."""
    entry = b'"%s":%s' % (where.encode(), body)
    if where in ("vocab", "merges"):
        return b'{"version":"1.0","model":{"type":"BPE",%s}}' % entry
    return text[: text.rindex(b"}")] + b"," + entry + b"}"


def _header(size: int, chance: random.Random) -> Case:
    if chance.random() < 0.5:
        body = chance.choice(BODIES)(size, chance)
        name = chance.choice((b"__metadata__", b"x", b"a.weight"))
        return "safetensors", seeds.safetensors(b'{"%s":%s}' % (name, body), b"")
    shape = chance.choice((b"[]", b"[0]", b"[0,70000]", b"[0,0,0,0,0,0,0,0]"))
    dtype, width = (b"F32", 4) if shape == b"[]" else (b"F64", 0)
    count = size // (60 + len(shape))
    entries = b",".join(
        b'"%x":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}'
        % (n, dtype, shape, n * width, (n + 1) * width)
        for n in range(count)
    )
    return "safetensors", seeds.safetensors(b"{" + entries + b"}", bytes(count * width))


def _apr(size: int, chance: random.Random) -> Case:
    parts = seeds.apr_parts()
    body = chance.choice(BODIES)(size, chance)
    name = chance.choice(
        ("x", "tokenizer.vocabulary", "tokenizer.merges", "hf_tokenizer", "hf_config", "special_tokens")
    )
    fields = {key: value for key, value in json.loads(parts.metadata).items() if key != name}
    parts.metadata = json.dumps(fields)[:-1].encode() + b',"%s":%s}' % (name.encode(), body)
    return "apr", parts.build()


def _gguf(size: int, chance: random.Random) -> Case:
    parts = seeds.gguf_parts()
    kind = chance.choice(("strings", "keys", "numbers", "tensors", "tokens"))
    if kind == "strings":
        text = chance.choice(
            (b"ab", b"", "🙂".encode(), b"a" * 99 + "🙂".encode(), b"\xff" * 20, b"x" * (size // 2))
        )
        count = size // (8 + len(text))
        parts.keys.append((b"some.strings", 9, struct.pack("<IQ", 8, count) + seeds.gguf_text(text) * count))
    elif kind == "tokens":
        count = size // 14
        texts = [seeds.gguf_text(b"%06x" % number) for number in range(count)]
        parts.keys = [key for key in parts.keys if not key[0].startswith(b"tokenizer.ggml.to")]
        parts.keys.append((b"tokenizer.ggml.tokens", 9, seeds.gguf_array(8, texts)))
        if chance.random() < 0.5:
            parts.keys.append((b"tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, count) + bytes(4 * count)))
    elif kind == "keys":
        parts.keys += [(b"k%x" % number, 0, b"\1") for number in range(size // 20)]
    elif kind == "numbers":
        item = chance.choice((0, 5, 6, 7, 12))
        width = {0: 1, 5: 4, 6: 4, 7: 1, 12: 8}[item]
        parts.keys.append(
            (b"some.numbers", 9, struct.pack("<IQ", item, size // width) + bytes(size // width * width))
        )
    else:
        parts.tensors = [(b"t%x" % number, [8], 24, 32 * number) for number in range(size // 70)]
        parts.payload = bytes(32 * len(parts.tensors))
    return "gguf", parts.build()


def _healthy(size: int, chance: random.Random) -> Case:
    """Return a tokenizer as large models have it, of which nothing may be refused."""
    count = size // 30
    vocab = {f"Ġt{number:x}": number for number in range(count)}
    names = list(vocab)
    merges: list[Any] = [[names[n * 7 % count], names[n * 13 % count]] for n in range(2 * count)]
    if chance.random() < 0.5:
        merges = [" ".join(pair) for pair in merges]
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": model}
    text = json.dumps(tokenizer, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, 2)))
    return "folder", {"tokenizer.json": text.encode(), "healthy": b""}
