"""GGUF headers, read from a memory map by a parser that trusts no number.

Every count, length and offset is compared with what the file can hold before anything is allocated for
it, so a hostile header costs no more than its own size. The format: the GGUF specification of ggml,
versions 2 and 3 (little-endian).
"""

from __future__ import annotations

import math
import mmap
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from apr_qa.containers.file_access import open_binary
from apr_qa.containers.ggml_types import TYPES
from apr_qa.containers.memory_bill import Bill
from apr_qa.errors import MalformedFile, ModelUnavailable

MAGIC = b"GGUF"
MAX_STRING_BYTES = 16 << 20
"""Of one text. The longest that models have are chat templates."""
MIN_ALIGNMENT, MAX_ALIGNMENT = 8, 1 << 20
MAX_ARRAY_ITEMS = 1 << 24
MAX_STRINGS = 1_500_000
"""In all arrays together. The largest vocabularies in use have below 2**20 tokens, and about as many merges."""
MAX_KEYS = MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = 65535
MAX_NAME_BYTES = 64
"""Of a tensor. llama.cpp's own limit is one byte less."""
MAX_DIMS = 4

_MIN_KEY_VALUE = 8 + 1 + 4 + 1
_MIN_TENSOR_INFO = 8 + 1 + 4 + 8 + 4 + 8
_ALIGNMENT = "general.alignment"
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_LENGTH = struct.Struct("<Q")
_LONGEST_MESSAGE = 600
_TENSOR_BYTES, _KEY_BYTES = 600, 200
"""What one of each takes in memory, about."""
_UNPAID_BYTES, _UNPAID_TEXTS = 1 << 20, 1 << 14
_SHOWN = 80
_PRINTABLE = re.compile(r"[ -~]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the file declares it: stored name, row-major shape, absolute byte range."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the tensor data.

    Arrays of strings are lists; arrays of numbers are typed memory views (``.tolist()`` gives the items).
    """

    version: int
    alignment: int
    metadata: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]
    damaged_text: Mapping[str, tuple[int, ...]]
    """Keys whose text is not UTF-8, with the item numbers (0 for a single string); decoded with U+FFFD."""


def read_header(path: Path) -> Header:
    """Parse and check the header of ``path``; raises MalformedFile or ModelUnavailable."""
    try:
        with open_binary(path) as file:
            size = file.seek(0, 2)
            if size < 24:
                _refuse(path, f"{size} bytes are too few for a GGUF header of 24 bytes")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(path, data, size).header()
    except OSError as error:
        raise ModelUnavailable(
            f"cannot read the file: {error.strerror}",
            where=str(path),
            fix="check the path and its permissions",
        ) from error


def _refuse(path: Path, what: str) -> NoReturn:
    raise MalformedFile(
        what[:_LONGEST_MESSAGE],
        where=path.name,
        fix="get the file again from its source, or convert the model again",
    )


class _Parser:
    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size = path, data, size
        self.position = 0
        self.damaged: dict[str, tuple[int, ...]] = {}
        self.strings_left = MAX_STRINGS
        self.bill = Bill(size)

    def header(self) -> Header:
        version = self.preamble()
        tensor_count, key_count = self.number("q"), self.number("q")
        left = self.size - self.position
        self.expect_room("tensor", tensor_count, _MIN_TENSOR_INFO, left, MAX_TENSORS)
        self.expect_room("metadata key", key_count, _MIN_KEY_VALUE, left, MAX_KEYS)
        self.bill.pay(tensor_count * _TENSOR_BYTES + key_count * _KEY_BYTES, self.path.name)
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self.key()
            if key in metadata:
                self.refuse(f"the metadata key {key!r} occurs twice")
            metadata[key] = self.value(key)
        splits = metadata.get("split.count")
        # The first of several splits may hold metadata alone.
        if tensor_count == 0 and not (type(splits) is int and splits > 1):
            self.refuse("the file holds no tensors")
        alignment = self.alignment(metadata)
        infos = [self.tensor_info() for _ in range(tensor_count)]
        tensors = tuple(self.place(infos, alignment))
        return Header(version, alignment, metadata, tensors, self.damaged)

    def preamble(self) -> int:
        if self.data[:4] != MAGIC:
            self.refuse(f"the file starts with {self.data[:4]!r} where GGUF files start with {MAGIC!r}")
        self.position = 4
        version = int(self.number("I"))
        if version and version & 0xFFFF == 0:
            self.refuse("the file is big-endian; this reader and the usual engines take little-endian files")
        if version == 1:
            self.refuse("GGUF version 1 has 32-bit lengths and is no longer read by any engine")
        if version not in (2, 3):
            self.refuse(f"GGUF version {version} is unknown; versions 2 and 3 are read")
        return version

    def expect_room(self, what: str, count: int, least: int, left: int, most: int) -> None:
        if count > most and count * least <= left:
            self.refuse(f"{count} {what} entries; {most} are allowed")
        if count < 0 or count * least > left:
            need = f"at least {count * least} bytes" if count >= 0 else "an impossible size"
            self.refuse(f"{count} {what} entries need {need}, but only {left} bytes follow")

    def number(self, code: str) -> Any:
        layout = "<" + code
        width = struct.calcsize(layout)
        self.expect_bytes(width)
        (value,) = struct.unpack_from(layout, self.data, self.position)
        self.position += width
        return value

    def expect_bytes(self, count: int) -> None:
        missing = self.position + count - self.size
        if missing > 0:
            self.refuse(f"the file is cut off in its header: at least {missing} bytes are missing")

    def text(self, most: int = MAX_STRING_BYTES, what: str = "string") -> bytes:
        length = self.number("Q")
        if length > most:
            self.refuse(f"a {what} of {length} bytes at byte {self.position - 8} exceeds {most} bytes")
        if not length and most != MAX_STRING_BYTES:
            self.refuse(f"a {what} is empty")
        self.expect_bytes(length)
        start = self.position
        self.position += length
        return self.data[start : self.position]

    def key(self) -> str:
        raw = self.text(MAX_KEY_BYTES, "metadata key")
        key = raw.decode("ascii", "replace")
        if not _PRINTABLE.fullmatch(key):
            self.refuse(f"the metadata key {raw[:_SHOWN]!r} is not printable ASCII")
        return key

    def tensor_name(self) -> str:
        raw = self.text(MAX_NAME_BYTES, "tensor name")
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            self.refuse(f"the tensor name {raw!r} is not UTF-8")
        if _CONTROL.search(name):
            self.refuse(f"the tensor name {name!r} holds control characters")
        return name

    def value(self, key: str) -> Any:
        kind = self.number("I")
        if key == _ALIGNMENT and kind != _UINT32:
            self.refuse(f"{_ALIGNMENT} has the type {kind}; {_UINT32} (uint32) is expected")
        if kind == _STRING:
            return self.decoded(key, iter([self.text()]))[0]
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _NUMBERS:
            self.refuse(f"the value of {key!r} has the unknown type {kind}")
        value = self.number(_NUMBERS[kind])
        if kind != _BOOL:
            return value
        if value > 1:
            self.refuse(f"the value of {key!r} is a boolean of {value}")
        return bool(value)

    def array(self, key: str) -> Any:
        kind, count = self.number("I"), self.number("Q")
        if kind == _ARRAY:
            self.refuse(f"the array {key!r} contains arrays, which no GGUF key needs")
        if kind != _STRING and kind not in _NUMBERS:
            self.refuse(f"the array {key!r} has the unknown item type {kind}")
        width = 8 if kind == _STRING else struct.calcsize("<" + _NUMBERS[kind])
        if count > MAX_ARRAY_ITEMS:
            self.refuse(f"the array {key!r} declares {count} items; {MAX_ARRAY_ITEMS} are allowed")
        self.expect_bytes(count * width)
        if kind == _STRING:
            self.strings_left -= count
            if self.strings_left < 0:
                self.refuse(f"the arrays hold more than {MAX_STRINGS} strings")
            return self.decoded(key, self.strings(key, count))
        start = self.position
        self.position += count * width
        raw = self.data[start : self.position]
        if kind == _BOOL and raw.translate(None, b"\0\1"):
            self.refuse(f"the array {key!r} holds a boolean that is neither 0 nor 1")
        items: Any = memoryview(raw)
        return items.cast(_NUMBERS[kind])

    def strings(self, key: str, count: int) -> Iterator[bytes]:
        # Vocabularies have 300,000 strings: this loop is the whole cost of opening a file.
        data, size, position = self.data, self.size, self.position
        length_at = _LENGTH.unpack_from
        for _ in range(count):
            start = position + 8
            if start > size:
                self.position = position
                self.expect_bytes(8)
            position = start + length_at(data, position)[0]
            if position > size or position - start > MAX_STRING_BYTES:
                self.refuse(f"a string of {position - start} bytes in {key!r} does not fit into the file")
            yield data[start:position]
        self.position = position

    def decoded(self, key: str, raw: Iterator[bytes]) -> list[str]:
        # One at a time: two lists of a whole vocabulary would take twice the memory.
        texts: list[str] = []
        damaged: list[int] = []
        paid = unpaid = 0
        for index, item in enumerate(raw):
            unpaid += len(item)
            if unpaid > _UNPAID_BYTES or index - paid > _UNPAID_TEXTS:
                paid, unpaid = self.pay(texts, paid, unpaid), 0
            try:
                texts.append(item.decode())
            except UnicodeDecodeError:
                texts.append(item.decode(errors="replace"))
                damaged.append(index)
        self.pay(texts, paid, unpaid)
        if damaged:
            self.damaged[key] = tuple(damaged)
        return texts

    def pay(self, texts: list[str], since: int, raw_bytes: int) -> int:
        """Pay for the texts from number ``since`` on; return how many are paid for."""
        new = texts[since:]
        # At most four bytes a character, and what a text takes without any. Looked at closely only where that matters.
        cost = 4 * raw_bytes + 76 * len(new)
        if cost > self.bill.left // 2 and raw_bytes <= _UNPAID_BYTES:
            cost = sum(map(sys.getsizeof, new)) + 9 * len(new)
        self.bill.pay(cost, self.path.name)
        return len(texts)

    def alignment(self, metadata: Mapping[str, Any]) -> int:
        alignment = int(metadata.get(_ALIGNMENT, 32))
        # The specification asks for a multiple of 8, llama.cpp for a power of two.
        if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self.refuse(
                f"{_ALIGNMENT} is {alignment}; a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT} is expected"
            )
        return alignment

    def tensor_info(self) -> tuple[str, str, tuple[int, ...], int, int]:
        name = self.tensor_name()
        count = self.number("I")
        if not 1 <= count <= MAX_DIMS:
            self.refuse(f"tensor {name!r} has {count} dimensions; 1 to {MAX_DIMS} are allowed")
        shape = tuple(reversed([self.number("Q") for _ in range(count)]))
        kind, offset = self.number("I"), self.number("Q")
        if kind not in TYPES:
            self.refuse(f"tensor {name!r} has the unknown type {kind}")
        dtype, block, block_bytes = TYPES[kind]
        elements = math.prod(shape)
        if not 0 < elements < 1 << 63:
            self.refuse(f"tensor {name!r} has the impossible shape {list(shape)}")
        if shape[-1] % block:
            self.refuse(
                f"tensor {name!r}: rows of {shape[-1]} are no multiple of the {dtype} block of {block}"
            )
        return name, dtype, shape, offset, elements // block * block_bytes

    def place(
        self, infos: list[tuple[str, str, tuple[int, ...], int, int]], alignment: int
    ) -> Iterator[StoredTensor]:
        times = Counter(info[0] for info in infos)
        if len(times) != len(infos):
            self.refuse(f"the tensor {times.most_common(1)[0][0]!r} occurs twice")
        # Without a tensor there need be no padding.
        start = (
            _padded(self.position, alignment) if infos else min(self.size, _padded(self.position, alignment))
        )
        self.check_ranges(infos, start, alignment)
        for name, dtype, shape, offset, size in infos:
            yield StoredTensor(name, dtype, shape, start + offset, size)

    def check_ranges(
        self, infos: list[tuple[str, str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> None:
        expected, end = 0, 0
        for name, _, _, offset, size in sorted(infos, key=lambda info: info[3]):
            if offset % alignment:
                self.refuse(
                    f"tensor {name!r} starts at {offset}, which is no multiple of the alignment {alignment}"
                )
            if offset < expected:
                self.refuse(
                    f"tensor {name!r} starts at {offset}, inside the tensor before it (ends at {expected})"
                )
            if offset > expected:
                self.refuse(f"{offset - expected} bytes before tensor {name!r} belong to no tensor")
            end = offset + size
            expected = _padded(end, alignment)
        missing = start + end - self.size
        if missing > 0:
            self.refuse(f"the file is cut off: {missing} bytes of tensor data are missing")
        if self.size > start + expected:
            self.refuse(f"{self.size - start - expected} bytes after the last tensor belong to nothing")

    def refuse(self, what: str) -> NoReturn:
        _refuse(self.path, what)


def _padded(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
