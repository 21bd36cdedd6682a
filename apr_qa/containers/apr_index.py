"""The tensor index of an ``.apr`` file: one entry for each tensor, sorted by name, payloads back to back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from apr_qa.containers.apr_blocks import CODES, known_code, stored_sizes
from apr_qa.containers.byte_layout import CONTROL, aligned, count_elements
from apr_qa.errors import MalformedFile, UsageError

ALIGNMENT = 64
MIN_ENTRY_BYTES = 20
MAX_NAME_BYTES = 256
MAX_TENSORS = 2**17
MAX_DIMS = 8

Announced = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape of a tensor to be written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the tensor index; ``offset`` counts from the start of the payloads."""

    name: str
    code: int
    dims: tuple[int, ...]
    offset: int
    size: int


def parse_index(index: bytes, count: int, where: str) -> tuple[tuple[Entry, ...], int]:
    """Return ``count`` entries and the bytes they take; raises MalformedFile."""
    if count > MAX_TENSORS:
        raise MalformedFile(f"{count} tensors; {MAX_TENSORS} are allowed", where=where)
    entries: list[Entry] = []
    at, previous = 0, b""
    for number in range(count):
        try:
            entry, name, at = _entry(index, at, f"{where}: tensor {number}")
        except struct.error:
            raise MalformedFile(
                f"the index is cut short in tensor {number} of {count}", where=where
            ) from None
        if name <= previous:
            fault = "appears twice" if name == previous else "is out of order"
            raise MalformedFile(f"tensor {entry.name!r} {fault} in the index", where=where)
        entries.append(entry)
        previous = name
    return tuple(entries), at


def _entry(index: bytes, at: int, where: str) -> tuple[Entry, bytes, int]:
    (name_bytes,) = struct.unpack_from("<H", index, at)
    if not 0 < name_bytes <= MAX_NAME_BYTES:
        raise MalformedFile(f"a name of {name_bytes} bytes", where=where)
    name, code, ndim = struct.unpack_from(f"<{name_bytes}sBB", index, at + 2)
    at += 4 + name_bytes
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedFile("the name is not UTF-8", where=where) from None
    if CONTROL.search(text):
        raise MalformedFile(f"the name {text!r} holds control characters", where=where)
    if ndim > MAX_DIMS:
        raise MalformedFile(f"{ndim} dimensions, limit {MAX_DIMS}", where=f"{where} {text!r}")
    if not known_code(code):
        raise MalformedFile(f"unknown dtype code {code}", where=f"{where} {text!r}")
    *dims, offset, size = struct.unpack_from(f"<{ndim + 2}Q", index, at)
    count_elements(dims, f"{where} {text!r}")
    return Entry(text, code, tuple(dims), offset, size), name, at + 8 * (ndim + 2)


def payload_length(entries: tuple[Entry, ...], where: str) -> int:
    """Return the length that the payloads need; they must follow one another without overlap or gap."""
    end = 0
    for entry in sorted(entries, key=lambda item: (item.offset, item.size)):
        if entry.offset % ALIGNMENT:
            raise MalformedFile(
                f"tensor {entry.name!r} starts at {entry.offset}, no multiple of 64", where=where
            )
        if entry.offset < end and entry.size:
            raise MalformedFile(f"tensor {entry.name!r} overlaps its predecessor", where=where)
        if entry.offset > end:
            raise MalformedFile(
                f"{entry.offset - end} bytes before tensor {entry.name!r} are no one's", where=where
            )
        end = max(end, entry.offset + aligned(entry.size, ALIGNMENT))
    return end


def index_bytes(tensors: Sequence[Announced]) -> bytes:
    """Return the unpadded index of ``tensors``, which are in the order of their names."""
    offset = 0
    entries = []
    for name, dtype, shape in tensors:
        encoded = name.encode()
        if len(encoded) > MAX_NAME_BYTES or len(shape) > MAX_DIMS:
            raise UsageError(
                f"apr allows {MAX_NAME_BYTES} bytes of name and {MAX_DIMS} dimensions", where=name
            )
        size = stored_sizes(dtype, shape)[0]
        entries.append(
            struct.pack(f"<H{len(encoded)}sBB", len(encoded), encoded, CODES[dtype], len(shape))
            + struct.pack(f"<{len(shape) + 2}Q", *shape, offset, size)
        )
        offset += aligned(size, ALIGNMENT)
    return b"".join(entries)
