"""The ``.apr`` v2 container: header, checksums, tensor index and padding, checked before anything is trusted.

64 bytes of header, JSON metadata, index, payloads; every part starts at a multiple of 64. Two CRC-32:
one in the header over itself, one (optional) at the end of the file over everything before it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from apr_qa.containers.apr_blocks import stored_sizes
from apr_qa.containers.apr_index import (
    ALIGNMENT,
    MIN_ENTRY_BYTES,
    Announced,
    Entry,
    index_bytes,
    parse_index,
    payload_length,
)
from apr_qa.containers.byte_layout import aligned
from apr_qa.containers.file_access import file_size, open_binary
from apr_qa.errors import MalformedFile

MAGIC = b"APR\0"
MAGICS = {
    MAGIC: "",
    b"APR2": "",
    b"APR1": "an APR1 (Whisper) file; only APR version 2 can be read",
    b"APRN": "an APRN (version 1, classical models) file; only APR version 2 can be read",
}
"""Leading bytes of the family, and why a member is refused; ``APR2`` is an alias that readers accept."""
HEADER_BYTES = 64
FOOTER_BYTES = 4
MAX_METADATA_BYTES = 256 * 2**20
MAX_INDEX_BYTES = 256 * 2**20

LZ4, ZSTD, ENCRYPTED, SIGNED, SHARDED = 0x0001, 0x0002, 0x0004, 0x0008, 0x0010
QUANTIZED, ROW_MAJOR, COLUMN_MAJOR = 0x0020, 0x0400, 0x0800
_REFUSED_FLAGS = {
    LZ4: "it is LZ4-compressed, and no two writers agree on how",
    ZSTD: "it is ZSTD-compressed, and no two writers agree on how",
    ENCRYPTED: "it is encrypted",
    SHARDED: "it is one shard of a model; sharded .apr models cannot be read",
    COLUMN_MAJOR: "its tensors are column-major, which the format forbids",
}
_HEADER = struct.Struct("<4sBBHIQIQQ")
_CRC_AT = 40
_READ_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Container:
    """A lawful container; ``footer`` says whether the checksum of the whole file was there (and right)."""

    flags: int
    metadata: bytes
    entries: tuple[Entry, ...]
    data_offset: int
    footer: bool


@dataclass(frozen=True)
class _Header:
    flags: int
    tensor_count: int
    metadata_size: int
    index_offset: int
    data_offset: int


def read_container(path: Path) -> Container:
    """Read and check everything but the payload values; raises MalformedFile."""
    where, size = path.name, file_size(path)
    with open_binary(path) as handle:
        header = _header(handle.read(HEADER_BYTES), where)
        _check_extent(header, size, where)
        metadata = _padded(
            handle, header.metadata_size, header.index_offset - HEADER_BYTES, "metadata", where
        )
        index = handle.read(header.data_offset - header.index_offset)
        entries, used = parse_index(index, header.tensor_count, where)
        if aligned(used, ALIGNMENT) != len(index) or any(index[used:]):
            raise MalformedFile("the tensor index is not padded with zeros to a multiple of 64", where=where)
        required = header.data_offset + payload_length(entries, where)
        footer = _check_length(required, size, signed=bool(header.flags & SIGNED), where=where)
        _check_padding(handle, header.data_offset, entries, where)
        if footer:
            _check_footer(handle, required, where)
    return Container(header.flags, metadata, entries, header.data_offset, footer)


def write_container(
    handle: BinaryIO,
    metadata: bytes,
    tensors: Sequence[Announced],
    payload: Callable[[str], Iterable[Any]],
) -> None:
    """Write tensors whose chunks of bytes ``payload(name)`` yields, so that only one is in memory."""
    ordered = sorted(tensors, key=lambda tensor: tensor[0].encode())
    crc = 0
    for chunk in _file_chunks(metadata, ordered, payload):
        crc = zlib.crc32(chunk, crc)
        handle.write(chunk)
    handle.write(crc.to_bytes(FOOTER_BYTES, "little"))


def _file_chunks(
    metadata: bytes, tensors: Sequence[Announced], payload: Callable[[str], Iterable[Any]]
) -> Iterator[Any]:
    yield _prefix(metadata, tensors)
    for name, dtype, shape in tensors:
        written = 0
        for chunk in payload(name):
            written += memoryview(chunk).nbytes
            yield chunk
        if written != stored_sizes(dtype, shape)[0]:
            raise ValueError(f"{name}: {written} bytes came, not {stored_sizes(dtype, shape)[0]}")
        yield bytes(-written % ALIGNMENT)


def _prefix(metadata: bytes, tensors: Sequence[Announced]) -> bytes:
    flags = ROW_MAJOR | (QUANTIZED if any(dtype in ("q4", "q8") for _, dtype, _ in tensors) else 0)
    body, index = _pad(metadata), _pad(index_bytes(tensors))
    index_offset = HEADER_BYTES + len(body)
    fields = (flags, len(tensors), HEADER_BYTES, len(metadata), index_offset, index_offset + len(index))
    start = _HEADER.pack(MAGIC, 2, 0, *fields)
    reserved = bytes(HEADER_BYTES - _CRC_AT - 4)
    return start + zlib.crc32(start + reserved).to_bytes(4, "little") + reserved + body + index


def _pad(part: bytes) -> bytes:
    return part.ljust(aligned(len(part), ALIGNMENT), b"\0")


def _header(raw: bytes, where: str) -> _Header:
    _check_magic(raw, where)
    if len(raw) < HEADER_BYTES:
        raise MalformedFile(f"truncated: {HEADER_BYTES - len(raw)} bytes of the header missing", where=where)
    _, major, minor, flags, count, metadata_offset, metadata_size, index, data = _HEADER.unpack_from(raw)
    if (major, minor) != (2, 0):
        raise MalformedFile(f"APR version {major}.{minor}; only 2.0 can be read", where=where)
    stated = int.from_bytes(raw[_CRC_AT : _CRC_AT + 4], "little")
    actual = zlib.crc32(raw[:_CRC_AT] + raw[_CRC_AT + 4 :])
    if stated != actual:
        raise MalformedFile(f"header checksum is {actual:08x}, the file says {stated:08x}", where=where)
    if any(raw[_CRC_AT + 4 :]):
        raise MalformedFile("reserved header bytes are not zero", where=where)
    refused = [reason for bit, reason in _REFUSED_FLAGS.items() if flags & bit]
    if refused:
        raise MalformedFile("; ".join(refused), where=where)
    if metadata_offset != HEADER_BYTES:
        raise MalformedFile(f"metadata starts at {metadata_offset}, not at {HEADER_BYTES}", where=where)
    return _Header(flags, count, metadata_size, index, data)


def _check_magic(raw: bytes, where: str) -> None:
    if raw[:4] not in MAGICS:
        raise MalformedFile(f"starts with {raw[:4]!r}, which is no .apr file", where=where)
    reason = MAGICS[raw[:4]]
    if raw[:8] == MAGIC + b"\1\0\0\0":
        reason = "a file of the TSP dialect, which is no language model"
    if reason:
        raise MalformedFile(reason, where=where)


def _check_extent(header: _Header, size: int, where: str) -> None:
    if header.metadata_size > MAX_METADATA_BYTES:
        raise MalformedFile(
            f"{header.metadata_size} bytes of metadata, limit {MAX_METADATA_BYTES}", where=where
        )
    expected = HEADER_BYTES + aligned(header.metadata_size, ALIGNMENT)
    if header.index_offset != expected:
        raise MalformedFile(f"the index starts at {header.index_offset}, not at {expected}", where=where)
    span = header.data_offset - header.index_offset
    if span < 0 or span % ALIGNMENT or span > MAX_INDEX_BYTES:
        raise MalformedFile(f"the payloads cannot start at {header.data_offset}", where=where)
    if header.data_offset > size:
        missing = header.data_offset - size
        raise MalformedFile(f"truncated: {missing} bytes before the tensor data are missing", where=where)
    if header.tensor_count * MIN_ENTRY_BYTES > span:
        raise MalformedFile(f"{header.tensor_count} tensors do not fit {span} bytes of index", where=where)


def _padded(handle: BinaryIO, size: int, padded_size: int, what: str, where: str) -> bytes:
    raw = handle.read(padded_size)
    if any(raw[size:]):
        raise MalformedFile(f"the padding after the {what} is not zero", where=where)
    return raw[:size]


def _check_length(required: int, size: int, *, signed: bool, where: str) -> bool:
    if size < required:
        raise MalformedFile(
            f"truncated: {required - size} of {required} bytes are missing",
            where=where,
            fix="fetch the file again",
        )
    extra = size - required
    # How a signature is stored is not published; it can only be what follows the payloads.
    if extra not in (0, FOOTER_BYTES) and not signed:
        raise MalformedFile(f"{extra} bytes follow the last tensor, a footer has 4", where=where)
    return extra == FOOTER_BYTES


def _check_padding(handle: BinaryIO, data_offset: int, entries: tuple[Entry, ...], where: str) -> None:
    for entry in entries:
        padding = -entry.size % ALIGNMENT
        if padding:
            handle.seek(data_offset + entry.offset + entry.size)
            if any(handle.read(padding)):
                raise MalformedFile(f"the padding after tensor {entry.name!r} is not zero", where=where)


def _check_footer(handle: BinaryIO, required: int, where: str) -> None:
    handle.seek(0)
    crc, left = 0, required
    while left:
        chunk = handle.read(min(left, _READ_BYTES))
        if not chunk:
            raise MalformedFile("it shrinks while it is read", where=where)
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
    stated = int.from_bytes(handle.read(FOOTER_BYTES), "little")
    if crc != stated:
        raise MalformedFile(
            f"footer checksum is {crc:08x}, the file says {stated:08x}: bytes were changed", where=where
        )
