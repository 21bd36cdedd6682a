"""Seeded mutators: bytes of any file, parts of each format, values of JSON; every one may make a lawful file."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from fuzzing import seeds

NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1000),
    *(2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**42 + 1, 2**53),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 64, 2**64 - 1),
)
NAMES = (
    "",
    "a",
    "a.weight",
    "x" * 63,
    "x" * 64,
    "x" * 65,
    "x" * 300,
    "../x",
    "a\0b",
    "é",
    "\n",
    "lm_head.weight",
)
JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.0, 1e308, 2**63, 2**64, 2**70, -(2**63), 10**30, "", "x", "F32", "4"),
    *([], {}, [[]], [{}], {"a": 1}, [0, 0], [1, 0], [0, 2**62], ["a"], "é" * 50, "x" * 5000),
)


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with one to four changes that know nothing of any format."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice(_BYTE_MUTATORS)(data, chance)
    return data


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return data
    at = _place(data, chance)
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def _number(data: bytes, chance: random.Random) -> bytes:
    width = chance.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    at = min(_place(data, chance), len(data) - width)
    value = chance.choice(NUMBERS) & (2 ** (8 * width) - 1)
    if chance.random() < 0.4:
        old = int.from_bytes(data[at : at + width], "little")
        value = (old + chance.choice((-64, -32, -8, -1, 1, 8, 32, 64))) & (2 ** (8 * width) - 1)
    return data[:at] + value.to_bytes(width, "little") + data[at + width :]


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return (
        data[: chance.randrange(len(data) + 1)] if chance.random() < 0.5 else data[: -chance.randint(1, 70)]
    )


def _append(data: bytes, chance: random.Random) -> bytes:
    extra = chance.randint(1, 70)
    return data + (bytes(extra) if chance.random() < 0.5 else chance.randbytes(extra))


def _remove(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + data[at + chance.randint(1, 64) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    size = chance.randint(1, 64)
    return data[:at] + data[at : at + size] * 2 + data[at + size :]


def _blank(data: bytes, chance: random.Random) -> bytes:
    at, size = _place(data, chance), chance.randint(1, 32)
    return (data[:at] + chance.choice((b"\0", b"\xff", b" ")) * size + data[at + size :])[: len(data)]


def _place(data: bytes, chance: random.Random) -> int:
    # The head of a file is where its numbers are.
    span = len(data) if chance.random() < 0.4 else min(len(data), chance.choice((16, 64, 256, 1024)))
    return chance.randrange(span) if span else 0


_BYTE_MUTATORS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_flip, _number, _number, _truncate, _append, _remove, _repeat, _blank),
)


def spliced(one: bytes, other: bytes, chance: random.Random) -> bytes:
    """Return the head of one file and the tail of another."""
    return one[: chance.randrange(len(one) + 1)] + other[chance.randrange(len(other) + 1) :]


def mutated_json(value: Any, chance: random.Random) -> Any:
    """Return a copy of a JSON value in which one node is replaced, removed, moved, doubled or renamed."""
    value = copy.deepcopy(value)
    nodes = list(_containers(value))
    if not nodes:
        return chance.choice(JSON_VALUES)
    node = chance.choice(nodes)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys or chance.random() < 0.1:
        _added(node, chance)
        return value
    key = chance.choice(keys)
    action = chance.randrange(7)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[chance.choice(NAMES)] = node.pop(key)
    elif action == 2:
        node[key] = copy.deepcopy(node[chance.choice(keys)])
    elif action == 3 and type(node[key]) is int:
        node[key] += chance.choice((-64, -8, -1, 1, 8, 64, 2**62, -(2**40)))
    elif action == 4 and type(node[key]) is int:
        node[key] = chance.choice(NUMBERS)
    elif action == 5 and isinstance(node[key], str):
        node[key] = chance.choice(("F64", "F32", "F16", "BF16", "I8", "F4", "F8_E8M0", "C64", "Q9", *NAMES))
    else:
        node[key] = copy.deepcopy(chance.choice(JSON_VALUES))
    return value


def _added(node: Any, chance: random.Random) -> None:
    value = copy.deepcopy(chance.choice(JSON_VALUES))
    if isinstance(node, dict):
        node[chance.choice(NAMES)] = value
    else:
        node.append(value)


def _containers(value: Any) -> list[Any]:
    if not isinstance(value, dict | list):
        return []
    children = value.values() if isinstance(value, dict) else value
    return [value, *(node for child in children for node in _containers(child))]


def mutated_text(text: bytes, chance: random.Random) -> bytes:
    """Return JSON text with a fault that no JSON value has: doubled keys, depth, constants, broken text."""
    kind = chance.randrange(8)
    if kind == 0:  # a key twice
        at = text.find(b"{") + 1
        end = text.find(b",", at)
        return text[:at] + text[at:end] + b"," + text[at:] if 0 < at < end else text
    if kind == 1:
        deep = chance.choice((10, 70, 2000, 100_000))
        return text[:-1] + b',"z":' + b"[" * deep + b"]" * deep + b"}"
    if kind == 2:
        word = chance.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b"0x1", b"+1", b"9" * 5000))
        return text[:-1] + b',"z":' + word + b"}"
    if kind == 3:
        return (
            text[:-1]
            + b',"z":"'
            + chance.choice((b"\\ud800", b"\xff", b"\xed\xa0\x80", b"\\u0000", b"\n"))
            + b'"}'
        )
    if kind == 4:
        return chance.choice((b" ", b"\t", b"\n", b"\xef\xbb\xbf", b"\0")) + text
    if kind == 5:
        return text + chance.choice((b" ", b"\t", b"\n", b"\0", b"{}", b",")) * chance.randint(1, 9)
    if kind == 6:
        return text.replace(b'"a.weight"', b'"b.weight"', 1)
    return mutated_bytes(text, chance)


def mutated_json_text(value: Any, chance: random.Random) -> bytes:
    """Return the text of a mutated JSON value, sometimes with faults of the text as well."""
    for _ in range(chance.choice((0, 1, 1, 1, 2))):
        value = mutated_json(value, chance)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutated_text(text, chance) if chance.random() < 0.25 else text


def safetensors_case(chance: random.Random) -> bytes:
    """Return one mutated SafeTensors file."""
    header, payload = seeds.safetensors_parts()
    data = seeds.safetensors(header, payload)
    kind = chance.random()
    if kind < 0.3:
        return mutated_bytes(data, chance)
    if kind < 0.35:
        return spliced(data, chance.choice(_WHOLE)(), chance)
    if kind < 0.5:
        header = {name: header[name] for name in chance.sample(list(header), len(header))}
    text = mutated_json_text(header, chance)
    if chance.random() < 0.2:
        payload = mutated_bytes(payload, chance)
    return seeds.safetensors(text + b" " * (chance.random() < 0.2), payload)


def gguf_case(chance: random.Random) -> bytes:
    """Return one mutated GGUF file."""
    parts = seeds.gguf_parts()
    kind = chance.random()
    if kind < 0.3:
        return mutated_bytes(parts.build(), chance)
    if kind < 0.35:
        return spliced(parts.build(), chance.choice(_WHOLE)(), chance)
    for _ in range(chance.choice((0, 1, 1, 2))):
        chance.choice((_gguf_counts, _gguf_key, _gguf_key, _gguf_tensor, _gguf_tensor, _gguf_payload))(
            parts, chance
        )
    return parts.build()


def _gguf_counts(parts: seeds.Gguf, chance: random.Random) -> None:
    kind = chance.randrange(5)
    if kind == 0:
        parts.tensor_count = chance.choice((*NUMBERS, len(parts.tensors) - 1, len(parts.tensors) + 1))
    elif kind == 1:
        parts.key_count = chance.choice((*NUMBERS, len(parts.keys) - 1, len(parts.keys) + 1))
    elif kind == 2:
        parts.version = chance.choice((0, 1, 2, 2, 2, 3, 4, 0x03000000, 0x02000000, 2**32 - 1))
    elif kind == 3:
        parts.magic = chance.choice((b"GGUF", b"FUGG", b"GGML", b"ggjt", b"\0\0\0\0"))
    else:
        parts.alignment = value = chance.choice((1, 2, 4, 8, 16, 31, 32, 48, 64, 128))
        _set_alignment(parts, chance.choice((4, 4, 4, 5, 10, 6)), chance.choice((value, value, *NUMBERS)))


def _set_alignment(parts: seeds.Gguf, kind: int, value: int) -> None:
    code = {4: "<I", 5: "<i", 10: "<Q", 6: "<f"}[kind]
    bounded = value & 0x7FFFFFFF if kind == 5 else value & 0xFFFFFFFF if kind == 4 else value
    encoded = struct.pack(code, bounded)
    parts.keys = [(k, kind, encoded) if k == b"general.alignment" else (k, t, v) for k, t, v in parts.keys]
    offset, moved = 0, []
    for name, dims, number, _ in parts.tensors:
        moved.append((name, dims, number, offset))
        size = {b"token_embd.weight": 1664, b"blk.0.attn_q.weight": 1088, b"scale": 28}.get(
            name, 72 if number == 2 else 64
        )
        offset += size + -size % max(1, parts.alignment)
    parts.tensors, parts.payload = moved, bytes(offset)


def _gguf_key(parts: seeds.Gguf, chance: random.Random) -> None:
    at = chance.randrange(len(parts.keys))
    key, kind, value = parts.keys[at]
    action = chance.randrange(7)
    if action == 0:
        del parts.keys[at]
    elif action == 1:
        parts.keys.append(parts.keys[at])
    elif action == 2:
        key = chance.choice((*(name.encode("utf-8") for name in NAMES), b"\xff", b"k" * 65535, b"k" * 65536))
        parts.keys[at] = (key, kind, value)
    elif action == 3:
        parts.keys[at] = (key, chance.choice((*range(14), 2**32 - 1)), value)
    elif action == 4:
        parts.keys[at] = (key, kind, mutated_bytes(value, chance))
    elif action == 5:
        count = chance.choice((0, 1, 2, *NUMBERS))
        item = chance.choice((*range(14),))
        raw = struct.pack("<I", item) + struct.pack("<Q", count) + chance.randbytes(chance.choice((0, 8, 64)))
        parts.keys[at] = (key, 9, raw)
    else:
        parts.keys[at] = (key, 8, seeds.gguf_text(chance.choice((b"", b"x" * 5000, b"\xff\xfe", b"../../x"))))


def _gguf_tensor(parts: seeds.Gguf, chance: random.Random) -> None:
    at = chance.randrange(len(parts.tensors))
    name, dims, kind, offset = parts.tensors[at]
    action = chance.randrange(8)
    if action == 0:
        parts.tensors.append(parts.tensors[at])
    elif action == 1:
        del parts.tensors[at]
    elif action == 2:
        name = chance.choice((*(text.encode() for text in NAMES), b"\xff", parts.tensors[0][0]))
    elif action == 3 and dims:
        dims = [*dims]
        dims[chance.randrange(len(dims))] = chance.choice(NUMBERS)
    elif action == 4:
        dims = chance.choice(([], [1] * 5, dims[::-1], [*dims, 1], [2**33, 2**33], [2**16] * 4, [0], [32, 0]))
    elif action == 5:
        kind = chance.choice((*range(45), 2**31, 2**32 - 1))
    elif action == 6:
        offset = chance.choice((*NUMBERS, offset - 32, offset + 32, offset + 1))
    else:
        other = chance.randrange(len(parts.tensors))
        parts.tensors[at], parts.tensors[other] = parts.tensors[other], parts.tensors[at]
        return
    if action >= 2:
        parts.tensors[at] = (name, dims, kind, offset)


def _gguf_payload(parts: seeds.Gguf, chance: random.Random) -> None:
    parts.payload = mutated_bytes(parts.payload, chance)


def apr_case(chance: random.Random) -> bytes:
    """Return one mutated APR file; most have right checksums, or nothing behind them would ever be looked at."""
    parts = seeds.apr_parts()
    kind = chance.random()
    if kind < 0.15:
        return mutated_bytes(parts.build(), chance)
    if kind < 0.2:
        return spliced(parts.build(), chance.choice(_WHOLE)(), chance)
    for _ in range(chance.choice((0, 1, 1, 2))):
        chance.choice((_apr_header, _apr_metadata, _apr_metadata, _apr_entry, _apr_entry, _apr_tail))(
            parts, chance
        )
    return parts.build()


def _apr_header(parts: seeds.Apr, chance: random.Random) -> None:
    kind = chance.randrange(9)
    if kind == 0:
        parts.magic = chance.choice((b"APR2", b"APR1", b"APRN", b"APR\0", b"RPA\0"))
    elif kind == 1:
        parts.version = chance.choice(((2, 0), (2, 1), (1, 0), (3, 0), (0, 2)))
    elif kind == 2:
        parts.flags ^= 1 << chance.randrange(16)
    elif kind == 3:
        parts.tensor_count = chance.choice((*NUMBERS, len(parts.entries) - 1, len(parts.entries) + 1))
    elif kind == 4:
        parts.metadata_offset = chance.choice((0, 63, 64, 65, 128, *NUMBERS))
    elif kind == 5:
        parts.metadata_size = chance.choice((*NUMBERS, len(parts.metadata) - 1, len(parts.metadata) + 1))
    elif kind == 6:
        parts.index_offset = chance.choice((*NUMBERS, 64 + len(parts.metadata)))
    elif kind == 7:
        parts.data_offset = chance.choice(NUMBERS)
    else:
        parts.reserved = bytes(19) + b"\1"


def _apr_metadata(parts: seeds.Apr, chance: random.Random) -> None:
    parts.metadata = mutated_json_text(json.loads(seeds.apr_parts().metadata), chance)


def _apr_entry(parts: seeds.Apr, chance: random.Random) -> None:
    at = chance.randrange(len(parts.entries))
    name, code, dims, offset, size = parts.entries[at]
    action = chance.randrange(9)
    if action == 0:
        parts.entries.insert(at, parts.entries[at])
        return
    if action == 1:
        del parts.entries[at]
        return
    if action == 2:
        name = chance.choice((*(text.encode() for text in NAMES), b"\xff", b"x" * 256, b"x" * 257, b"z"))
    elif action == 3:
        code = chance.choice((*range(32), 128, 129, 130, 255))
    elif action == 4:
        dims = chance.choice(
            ([], [1] * 9, dims[::-1], [*dims, 1], [0], [2**62, 4], [0, 2**63], [chance.choice(NUMBERS)])
        )
    elif action == 5:
        offset = chance.choice((*NUMBERS, offset + 64, offset - 64, offset + 1))
    elif action == 6:
        size = chance.choice((*NUMBERS, size + 1, size - 1))
    elif action == 7:
        code, dims, size = chance.choice(
            ((0, [1], 4), (3, [4], 32), (3, [32], 20), (8, [32], 34), (12, [2, 200], 288))
        )
    else:
        parts.entries.reverse()
        return
    parts.entries[at] = (name, code, dims, offset, size)


def _apr_tail(parts: seeds.Apr, chance: random.Random) -> None:
    kind = chance.randrange(4)
    if kind == 0:
        parts.footer = chance.choice((b"", b"\0\0\0\0", b"\0", b"\0" * 8))
    else:
        parts.payload = mutated_bytes(parts.payload, chance)


def folder_case(chance: random.Random) -> dict[str, bytes | None]:
    """Return the files of a folder that differ from the lawful one; None for a file that is taken away."""
    parts = seeds.folder_parts()
    names = sorted(parts)
    weights = [4.0 if name.endswith("index.json") else 1.0 for name in names]
    changed: dict[str, bytes | None] = {}
    for name in chance.choices(names, weights, k=chance.choice((1, 1, 1, 2))):
        data = parts[name]
        if chance.random() < 0.05:
            changed[name] = chance.choice((None, b""))
        elif name.endswith(".json"):
            changed[name] = mutated_json_text(json.loads(data), chance)
            if chance.random() < 0.1:
                changed[name] = _escaping(name, parts, chance)
        else:
            changed[name] = safetensors_case(chance) if chance.random() < 0.5 else mutated_bytes(data, chance)
    return changed


def _escaping(name: str, parts: dict[str, bytes], chance: random.Random) -> bytes:
    targets = (
        b"../model.safetensors",
        b"/etc/passwd",
        b"C:\\\\x.safetensors",
        b"a/b.safetensors",
        b"..",
        b".",
    )
    old = b"model-00002-of-00002.safetensors"
    if not name.endswith("index.json"):
        return parts[name]
    return parts[name].replace(old, chance.choice((*targets, b"x\\u0000.safetensors", b"", b"config.json")))


_WHOLE: tuple[Callable[[], bytes], ...] = (
    lambda: seeds.safetensors(*seeds.safetensors_parts()),
    lambda: seeds.gguf_parts().build(),
    lambda: seeds.apr_parts().build(),
)
CASES: dict[str, Callable[[random.Random], Any]] = {
    "safetensors": safetensors_case,
    "gguf": gguf_case,
    "apr": apr_case,
    "folder": folder_case,
}
