"""JSON objects from files nobody vouches for: duplicate keys, deep nesting and broken text are refused.

``json.loads`` keeps the last of two equal keys, so two readers of one file can disagree about it; here the
second one is an error.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from apr_qa.containers.file_access import file_size, open_binary
from apr_qa.containers.json_stream import PIECE_BYTES, Stream, enter
from apr_qa.containers.json_structure import Text
from apr_qa.containers.memory_bill import Bill, weight
from apr_qa.errors import MalformedFile

MAX_DEPTH = 64
MAX_FILE_BYTES = 256 * 2**20
_BLOCK = 1 << 20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_COSTS = ((b"{", 184), (b"[", 64), (b":", 150), (b",", 72))
"""What one sign of the text can stand for in bytes of memory, at most."""


def parse_object(
    text: Text, where: str, *, allow_nonfinite: bool = False, bill: Bill | None = None
) -> dict[str, Any]:
    """Parse a UTF-8 JSON object; raises MalformedFile with the line where the parser stopped.

    ``allow_nonfinite`` accepts the literals ``NaN`` and ``Infinity``, which JSON lacks but Python's own
    writer produces (healthy ``config.json`` files contain them). ``bill`` pays for the result; without one the text
    may cost twice its size and a fixed allowance.
    """
    bill = bill or Bill(len(text))
    if _most(text) <= bill.left:
        value = _parsed(text[:], where, allow_nonfinite)
        if not isinstance(value, dict):
            raise MalformedFile(f"a JSON object is needed, found {type(value).__name__}", where=where)
        bill.pay(weight(value), where)
        return value
    whole: dict[str, Any] = {}
    for part, paid in object_parts(text, where, bill=bill, allow_nonfinite=allow_nonfinite):
        if not paid:
            bill.pay(weight(part), where)
        enter(whole, part, where)
    return whole


def object_parts(
    text: Text, where: str, *, bill: Bill, allow_nonfinite: bool = False
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the entries of a JSON object, some at a time, and whether ``bill`` has paid for them.

    The caller finds keys that come again in another part; `enter` does. Raises MalformedFile.
    """

    def parse(part: bytes, place: int) -> Any:
        return _parsed(part, where, allow_nonfinite, lambda: _lines(text, place))

    stream = Stream(text, where, bill, parse, MAX_DEPTH)
    begin, end = stream.stripped(0, len(text))
    if begin == end or text[begin] != ord("{"):
        raise MalformedFile("a JSON object is needed", where=where)
    yield from stream.entries(begin, end)


def read_object(path: Path, bill: Bill | None = None) -> dict[str, Any]:
    """Parse the JSON object in a file of at most 256 MiB; raises MalformedFile."""
    size = file_size(path)
    if size > MAX_FILE_BYTES:
        raise MalformedFile(f"{size} bytes of JSON, limit {MAX_FILE_BYTES}", where=path.name)
    with open_binary(path) as handle:
        if size <= PIECE_BYTES:
            # A buffered reader allocates what it is asked for, not what is there.
            return parse_object(handle.read(size), path.name, allow_nonfinite=True, bill=bill)
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return parse_object(text, path.name, allow_nonfinite=True, bill=bill)


def _most(text: Text) -> int:
    """Return what the tree of a text and the text itself can take in memory, at most."""
    blocks = (text[at : at + _BLOCK] for at in range(0, len(text), _BLOCK))
    most: int = 8 * len(text) + sum(cost * block.count(sign) for block in blocks for sign, cost in _COSTS)
    return most


def _parsed(
    text: bytes, where: str, allow_nonfinite: bool, lines_before: Callable[[], int] | None = None
) -> Any:
    """Parse any JSON text that is small enough; raises MalformedFile."""
    try:
        decoded = text.decode("utf-8")
        value = json.loads(
            decoded,
            object_pairs_hook=lambda pairs: _unique(pairs, where),
            parse_constant=None if allow_nonfinite else lambda word: _no_constant(word, where),
        )
    except json.JSONDecodeError as error:
        line = error.lineno + (lines_before() if lines_before else 0)
        raise MalformedFile(
            f"not valid JSON: {error.msg} (column {error.colno})", where=f"{where}:{line}"
        ) from None
    except RecursionError:
        raise MalformedFile("JSON is nested too deeply", where=where) from None
    except ValueError as error:
        raise MalformedFile(f"not valid JSON text: {str(error)[:200]}", where=where) from None
    if isinstance(value, dict | list) and lines_before is None:
        _check_depth(value, where)  # that of a part has been looked at with its whole
    if _SURROGATE.search(decoded):
        _check_surrogates(value, where)
    return value


def _lines(text: Text, end: int) -> int:
    """Return the number of line ends before a place."""
    return sum(text[at : min(end, at + _BLOCK)].count(b"\n") for at in range(0, end, _BLOCK))


def dump_bytes(value: dict[str, Any], *, indent: int | None = None) -> bytes:
    """Return compact (or indented) UTF-8 JSON; raises ValueError for NaN and infinity when compact."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, allow_nan=indent is not None
    )
    return text.encode("utf-8")


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise MalformedFile(f"the JSON key {twice[:200]!r} appears twice", where=where)
    return value


def _no_constant(word: str, where: str) -> float:
    raise MalformedFile(f"{word} is no JSON value", where=where)


def _check_depth(value: Any, where: str) -> None:
    # json.loads alone stops at the interpreter's recursion limit, which later walks would hit as well.
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise MalformedFile(f"JSON is nested deeper than {MAX_DEPTH} levels", where=where)


def _check_surrogates(value: Any, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedFile("a string holds half of a surrogate pair", where=where) from None
