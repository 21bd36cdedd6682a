"""Header of a SafeTensors file: 8 bytes of length, a JSON object, payloads without gap or overlap.

Checked before anything is allocated: the rules of the format's README, plus duplicate keys, which the
reference library lets pass (the last one wins there).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from apr_qa.containers.byte_layout import CONTROL, ELEMENT_BYTES, PACKED_BITS, aligned, count_elements
from apr_qa.containers.file_access import file_size, open_binary
from apr_qa.containers.json_stream import enter
from apr_qa.containers.memory_bill import Bill, weight
from apr_qa.containers.strict_json import dump_bytes, object_parts
from apr_qa.errors import MalformedFile
from apr_qa.formats import TensorInfo

MAX_HEADER_BYTES = 100_000_000
"""Limit of the reference implementation."""
LENGTH_BYTES = 8
METADATA = "__metadata__"
_TENSOR_BYTES = 400
"""What one tensor takes in memory, long names excepted: their text has been paid for."""
MAX_NAME_CHARACTERS = 4096
_NAMES_IN_MESSAGE = 200
_SIGNS_PER_TENSOR, _FREE_SIGNS = 16, 2**18
"""Commas or colons: an entry has at most 3 and one for each dimension, the rest is for ``__metadata__``."""
_FETCH = "fetch the file again"
DTYPES = {
    **{"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "F8_E4M3": "f8_e4m3", "F8_E5M2": "f8_e5m2"},
    **{"F8_E8M0": "f8_e8m0", "F8_E4M3FNUZ": "f8_e4m3fnuz", "F8_E5M2FNUZ": "f8_e5m2fnuz", "C64": "c64"},
    **{"F4": "f4", "F6_E2M3": "f6_e2m3", "F6_E3M2": "f6_e3m2"},
    **{"I64": "i64", "I32": "i32", "I16": "i16", "I8": "i8"},
    **{"U64": "u64", "U32": "u32", "U16": "u16", "U8": "u8", "BOOL": "bool"},
}
_STORED = {name: code for code, name in DTYPES.items()}


def read_header(path: Path, bill: Bill | None = None) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors and the ``__metadata__`` of one file; raises MalformedFile.

    ``bill`` pays for what is returned; without one it may cost what the size of the file allows.
    """
    size = file_size(path)
    with open_binary(path) as handle:
        length = _header_length(handle.read(LENGTH_BYTES), size, path.name)
        text = handle.read(length)
    text = text.rstrip(b" ")
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise MalformedFile(
            "the header is no JSON object padded with spaces only", where=path.name, fix="write the file anew"
        )
    _check_density(text, path.name)
    bill = bill or Bill(size)
    bill.pay(len(text), path.name)
    data_start = LENGTH_BYTES + length
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] | None = None
    for part, paid in object_parts(text, path.name, bill=bill):
        if METADATA in part:
            if metadata is not None:
                raise MalformedFile(f"the JSON key {METADATA!r} appears twice", where=path.name)
            if not paid:
                bill.pay(weight(part[METADATA]), path.name)
            metadata = _string_map(part.pop(METADATA), path.name)
        bill.pay(len(part) * _TENSOR_BYTES, path.name)
        found = {name: _tensor(name, entry, path, data_start) for name, entry in part.items()}
        enter(tensors, found, path.name)
    bill.left += len(text)
    _check_coverage(tensors.values(), data_start, size, path.name)
    return tensors, metadata or {}


def header_bytes(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """Return length and header for (name, dtype, shape) stored back to back, payloads 8-byte aligned."""
    entries: dict[str, Any] = {METADATA: metadata}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + count_elements(shape, name) * ELEMENT_BYTES[dtype]
        entries[name] = {"dtype": _STORED[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = dump_bytes(entries)
    text = text.ljust(aligned(len(text), 8))
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _check_density(text: bytes, where: str) -> None:
    """Refuse a header of many small JSON values before they become objects, each many times its text."""
    tensors = text.count(b'"data_offsets"')
    if max(text.count(b","), text.count(b":")) > _SIGNS_PER_TENSOR * tensors + _FREE_SIGNS:
        raise MalformedFile(
            f"the header holds far more than {tensors} tensors and their metadata", where=where
        )


def _header_length(first: bytes, size: int, where: str) -> int:
    if len(first) < LENGTH_BYTES:
        raise MalformedFile(f"truncated: {len(first)} of the 8 length bytes are there", where=where)
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES:
        raise MalformedFile(f"header length {length} is above the limit {MAX_HEADER_BYTES}", where=where)
    missing = LENGTH_BYTES + length - size
    if missing > 0:
        raise MalformedFile(
            f"truncated: the header lacks {missing} of {length} bytes", where=where, fix=_FETCH
        )
    return length


def _string_map(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise MalformedFile("__metadata__ is no map of strings", where=where)
    return value


def _tensor(name: str, entry: Any, path: Path, data_start: int) -> TensorInfo:
    where = f"{path.name}: tensor {name[:_NAMES_IN_MESSAGE]!r}"
    if len(name) > MAX_NAME_CHARACTERS or CONTROL.search(name):
        raise MalformedFile("the name is too long, or holds control characters", where=where)
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise MalformedFile("dtype, shape and data_offsets are needed", where=where)
    code = entry["dtype"]
    if not isinstance(code, str) or code not in DTYPES:
        raise MalformedFile(f"unknown dtype {str(code)[:40]!r}", where=where)
    dtype = DTYPES[code]
    shape = _naturals(entry["shape"], "shape", where)
    offsets = _naturals(entry["data_offsets"], "data_offsets", where)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise MalformedFile(f"data_offsets {list(offsets)[:4]} are no range", where=where)
    size = offsets[1] - offsets[0]
    bits = count_elements(shape, where) * (PACKED_BITS.get(dtype) or 8 * ELEMENT_BYTES[dtype])
    if bits % 8:
        raise MalformedFile(f"{code} {list(shape)} ends within a byte", where=where)
    needed = bits // 8
    if size != needed:
        raise MalformedFile(f"{size} bytes stored, {code} {list(shape)} needs {needed}", where=where)
    return TensorInfo(name, name, dtype, shape, path, data_start + offsets[0], size)


def _naturals(value: Any, what: str, where: str) -> tuple[int, ...]:
    # bool is an int to Python, and true is no dimension.
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise MalformedFile(f"{what} is no list of non-negative integers", where=where)
    return tuple(value)


def _check_coverage(tensors: Iterable[TensorInfo], data_start: int, size: int, where: str) -> None:
    end = data_start
    for tensor in sorted(tensors, key=lambda item: (item.offset, item.size)):
        if tensor.offset != end:
            fault = "overlaps its predecessor" if tensor.offset < end else "leaves a gap before it"
            name = tensor.name[:_NAMES_IN_MESSAGE]
            raise MalformedFile(f"tensor {name!r} {fault} ({abs(tensor.offset - end)} bytes)", where=where)
        end += tensor.size
    if end > size:
        raise MalformedFile(
            f"truncated: {end - size} bytes of tensor data are missing", where=where, fix=_FETCH
        )
    if end < size:
        raise MalformedFile(f"{size - end} bytes follow the last tensor", where=where)
