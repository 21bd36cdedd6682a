"""The rules of each format, written down a second time: slow, simple, and sharing nothing with the readers.

Each function returns "" for a lawful file, a reason for a forbidden one, and None where the published rules leave
it open or the readers are free to be stricter.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from typing import Any

Verdict = str | None

SAFETENSORS_BITS = {
    **{
        "BOOL": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
    },
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32},
    **{"F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64},
}
GGML = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2)},
}
"""Elements and bytes of a block of the types that this file needs; other numbers are left open."""
APR_SIZES = {0: 4, 1: 2, 30: 2, 4: 4, 5: 8}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Twice(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _Twice
    return dict(pairs)


def _constant(word: str) -> Any:
    raise ValueError(word)


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        deepest += 1
    return deepest


def _parsed(raw: bytes) -> tuple[Any, Verdict]:
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _Twice:
        return None, "a key twice"
    except (ValueError, RecursionError):
        return None, "no JSON"
    if not isinstance(value, dict):
        return None, "no object"
    return value, None if _depth(value) > 60 else ""


def safetensors(data: bytes) -> Verdict:
    """Judge a SafeTensors file by the README of the format."""
    if len(data) < 8:
        return "too short"
    (length,) = struct.unpack_from("<Q", data)
    if length > 100_000_000 or 8 + length > len(data):
        return "header length"
    raw = data[8 : 8 + length]
    if raw[:1] != b"{" or raw.rstrip(b" ")[-1:] != b"}":
        return "no object, or padding other than spaces"
    header, verdict = _parsed(raw)
    return verdict if verdict != "" else _safetensors_header(header, len(data) - 8 - length)


def _safetensors_header(header: dict[str, Any], payload: int) -> Verdict:
    extra = header.pop("__metadata__", {})
    if not isinstance(extra, dict) or not all(isinstance(v, str) for v in extra.values()):
        return None if extra is None else "__metadata__"
    spans = []
    open_question = False
    for name, entry in header.items():
        fault = _safetensors_entry(entry)
        if fault:
            return fault
        open_question |= fault is None or bool(_CONTROL.search(name)) or not 0 < len(name) <= 512
        spans.append(tuple(entry["data_offsets"]))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            return "gap or overlap"
        at = end
    if at != payload:
        return "file length"
    return None if open_question else ""


def _safetensors_entry(entry: Any) -> Verdict:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        return "entry"
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in SAFETENSORS_BITS:
        return "dtype"
    for key in ("shape", "data_offsets"):
        if not isinstance(entry[key], list) or any(type(n) is not int or n < 0 for n in entry[key]):
            return key
    if len(entry["data_offsets"]) != 2 or entry["data_offsets"][0] > entry["data_offsets"][1]:
        return "data_offsets"
    bits = math.prod(entry["shape"]) * SAFETENSORS_BITS[entry["dtype"]]
    if bits % 8 or bits // 8 != entry["data_offsets"][1] - entry["data_offsets"][0]:
        return "size"
    if any(n >= 2**64 for n in entry["shape"]):
        return "shape"
    return None if max(entry["shape"], default=0) > 2**40 or len(entry["shape"]) > 8 or len(entry) > 3 else ""


class _Cut(Exception):
    pass


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise _Cut
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> bytes:
        return self.take(self.number("Q"))


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


def gguf(data: bytes) -> Verdict:
    """Judge a GGUF file by the specification of ggml and by what its own loader asserts."""
    try:
        return _gguf(_Reader(data))
    except _Cut:
        return "cut short"


def _gguf(reader: _Reader) -> Verdict:
    if reader.take(4) != b"GGUF":
        return "magic"
    if reader.number("I") not in (2, 3):
        return "version"
    tensor_count, key_count = reader.number("Q"), reader.number("Q")
    if tensor_count == 0:
        return None
    unclear = False
    seen: dict[bytes, tuple[int, Any]] = {}
    for _ in range(key_count):
        key = reader.text()
        if not key or len(key) > 65535 or key in seen:
            return "key"
        if any(byte < 32 or byte > 126 for byte in key):
            return "characters of a key"
        kind = reader.number("I")
        value, fault = _gguf_value(reader, kind)
        if fault:
            return fault
        unclear |= fault is None
        seen[key] = (kind, value)
    kind, alignment = seen.get(b"general.alignment", (4, 32))
    if kind != 4 or alignment % 8 or not alignment:
        return "alignment"
    if alignment & (alignment - 1) or alignment > 2**20:
        return "alignment that ggml refuses"
    return _gguf_tensors(reader, tensor_count, alignment, unclear)


def _gguf_value(reader: _Reader, kind: int) -> tuple[Any, Verdict]:
    if kind == 8:
        reader.text()
        return None, ""
    if kind == 9:
        item, count = reader.number("I"), reader.number("Q")
        if item == 9:
            return None, None  # nested arrays exist in the specification, and in no file
        if item != 8 and item not in _SCALARS:
            return None, "item type"
        for _ in range(count):
            value, fault = _gguf_value(reader, item)
            if fault:
                return None, fault
        return None, ""
    if kind not in _SCALARS:
        return None, "type"
    value = reader.number(_SCALARS[kind])
    return value, "boolean" if kind == 7 and value > 1 else ""


def _gguf_tensors(reader: _Reader, count: int, alignment: int, unclear: bool) -> Verdict:
    names: set[bytes] = set()
    spans = []
    for _ in range(count):
        name, number = reader.text(), reader.number("I")
        if number > 4:
            return "dimensions"
        dims = [reader.number("Q") for _ in range(number)]
        kind, offset = reader.number("I"), reader.number("Q")
        fault = _gguf_name(name, names)
        if fault:
            return fault
        names.add(name)
        if kind not in GGML:
            return "removed type" if kind in (4, 5, 31, 32, 33) or kind > 60 else None
        if fault is None or not dims or 0 in dims:
            unclear = True
            continue
        block, size = GGML[kind]
        if math.prod(dims) >= 2**63 or dims[0] % block or offset % alignment:
            return "shape or offset"
        spans.append((offset, math.prod(dims) // block * size))
    start = -(-reader.at // alignment) * alignment
    return _gguf_extent(sorted(spans), start, alignment, len(reader.data), unclear)


def _gguf_name(name: bytes, before: set[bytes]) -> Verdict:
    if not name or len(name) > 64 or name in before:
        return "name"
    try:
        return None if _CONTROL.search(name.decode()) else ""
    except UnicodeDecodeError:
        return "name"


def _gguf_extent(
    spans: list[tuple[int, int]], start: int, alignment: int, length: int, unclear: bool
) -> Verdict:
    at = end = 0
    for offset, size in spans:
        if offset < at:
            return "overlap"
        if offset > at and not unclear:
            return "gap"
        end = offset + size
        at = -(-end // alignment) * alignment
    if start + end > length:
        return "cut short"
    if not unclear and length > start + at:
        return "trailing bytes"
    return None if unclear else ""


def apr(data: bytes) -> Verdict:
    """Judge an APR version 2 file: header, checksums, metadata, index, extents."""
    fault = _apr_header(data)
    if fault != "":
        return fault
    flags, count = struct.unpack_from("<HI", data, 6)
    size, index_at, data_at = struct.unpack_from("<IQQ", data, 20)
    _, verdict = _parsed(data[64 : 64 + size])
    if verdict:
        return None if verdict == "a key twice" else verdict
    try:
        fault, spans, used = _apr_index(data[index_at:data_at], count)
    except _Cut:
        return "index cut short"
    if fault:
        return fault
    padding = data[64 + size : index_at] + data[index_at + used : data_at]
    padding += b"".join(data[data_at + at + n : data_at + at + -(-n // 64) * 64] for at, n in spans)
    if any(padding) or data_at - index_at - used >= 64:
        return "padding"
    required = data_at + max((at + -(-n // 64) * 64 for at, n in spans), default=0)
    tail = _apr_tail(data, required, signed=bool(flags & 8))
    return None if not tail and (fault is None or verdict is None) else tail


def _apr_header(data: bytes) -> Verdict:
    if data[:4] not in (b"APR\0", b"APR2") or len(data) < 64:
        return "magic"
    major, minor, flags, _, at, size, index_at, data_at = struct.unpack_from("<BBHIQIQQ", data, 4)
    if (major, minor) != (2, 0) or at != 64 or any(data[44:64]):
        return "header"
    if zlib.crc32(data[:40] + data[44:64]) != struct.unpack_from("<I", data, 40)[0]:
        return "header checksum"
    if flags & 0x0800:
        return "column-major"
    if flags & 0x0017:
        return None  # compressed, encrypted, sharded: readable to nobody who must agree
    if index_at != 64 + -(-size // 64) * 64 or not index_at <= data_at <= len(data) or data_at % 64:
        return "extent"
    return ""


def _apr_tail(data: bytes, required: int, *, signed: bool) -> Verdict:
    if len(data) < required:
        return "cut short"
    if signed:
        return "" if len(data) == required else None
    if len(data) == required + 4:
        return "" if zlib.crc32(data[:required]) == struct.unpack_from("<I", data, required)[0] else "footer"
    return "" if len(data) == required else "trailing bytes"


def _apr_index(index: bytes, count: int) -> tuple[Verdict, list[tuple[int, int]], int]:
    reader, previous = _Reader(index), b""
    spans: list[tuple[int, int]] = []
    unclear = False
    for _ in range(count):
        name = reader.take(reader.number("H"))
        code, number = reader.number("B"), reader.number("B")
        dims = [reader.number("Q") for _ in range(number)]
        offset, size = reader.number("Q"), reader.number("Q")
        if not name or len(name) > 256 or number > 8 or name <= previous:
            return "entry", [], 0
        previous = name
        try:
            unclear |= bool(_CONTROL.search(name.decode()))
        except UnicodeDecodeError:
            return "name", [], 0
        if offset % 64:
            return "offset", [], 0
        if offset + size >= 2**64:
            return "extent", [], 0
        fault = _apr_size(name, code, dims, size)
        if fault:
            return fault, [], 0
        unclear |= fault is None
        spans.append((offset, size))
    at = 0
    for offset, size in sorted(spans):
        if size and offset < at:
            return "overlap", [], 0
        if offset > at:
            return "gap", [], 0
        at = max(at, offset + -(-size // 64) * 64)
    return None if unclear else "", spans, reader.at


def _apr_size(name: bytes, code: int, dims: list[int], size: int) -> Verdict:
    if name == b"lm_head.weight" and size == 0:
        return None  # the placeholder of a tied head
    elements = math.prod(dims)
    if elements >= 2**63:
        return "shape"
    known = (*range(15), 30, 128, 129)
    if code not in known:
        return "dtype"
    if max(dims, default=0) > 2**40 or (code in (128, 129) and not elements):
        return None
    if code in APR_SIZES:
        needed = elements * APR_SIZES[code]
    elif code in (128, 129):
        needed = -(-elements // 32) * 18 if code == 128 else 4 + elements
    else:
        return None
    return "" if needed == size else "size"


def weight_map(text: bytes) -> Verdict:
    """Judge the one part of an index that a path can escape through."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "no JSON"
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not names:
        return "no weight_map"
    for name in names.values():
        if (
            not isinstance(name, str)
            or name in ("", ".", "..")
            or any(c in name for c in "/\\\0")
            or ":" in name
        ):
            return "path"
    return None


JUDGES = {"safetensors": safetensors, "gguf": gguf, "apr": apr}
