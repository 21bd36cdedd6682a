"""JSON objects from files nobody vouches for: duplicate keys, deep nesting and broken text are refused.

``json.loads`` keeps the last of two equal keys, so two readers of one file can disagree about it; here the
second one is an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from apr_qa.containers.file_access import file_size, open_binary
from apr_qa.errors import MalformedFile

MAX_DEPTH = 64
MAX_FILE_BYTES = 256 * 2**20
FREE_CONTAINERS = 2**19
BYTES_PER_CONTAINER = 32
"""An empty list takes 64 bytes of memory and 3 of text. Model files have one object or list for each merge of a
tokenizer, and three for each tensor of a header: far fewer than this allows."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(text: bytes, where: str, *, allow_nonfinite: bool = False) -> dict[str, Any]:
    """Parse a UTF-8 JSON object; raises MalformedFile with the line where the parser stopped.

    ``allow_nonfinite`` accepts the literals ``NaN`` and ``Infinity``, which JSON lacks but Python's own
    writer produces (healthy ``config.json`` files contain them).
    """
    containers = text.count(b"{") + text.count(b"[")
    if containers > FREE_CONTAINERS + len(text) // BYTES_PER_CONTAINER:
        raise MalformedFile(
            f"{containers} brackets are more than any model file of this size has", where=where
        )
    try:
        decoded = text.decode("utf-8")
        value = json.loads(
            decoded,
            object_pairs_hook=lambda pairs: _unique(pairs, where),
            parse_constant=None if allow_nonfinite else lambda word: _no_constant(word, where),
        )
    except json.JSONDecodeError as error:
        raise MalformedFile(
            f"not valid JSON: {error.msg} (column {error.colno})", where=f"{where}:{error.lineno}"
        ) from None
    except RecursionError:
        raise MalformedFile("JSON is nested too deeply", where=where) from None
    except ValueError as error:
        raise MalformedFile(f"not valid JSON text: {str(error)[:200]}", where=where) from None
    if not isinstance(value, dict):
        raise MalformedFile(f"a JSON object is needed, found {type(value).__name__}", where=where)
    _check_depth(value, where)
    if _SURROGATE.search(decoded):
        _check_surrogates(value, where)
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Parse the JSON object in a file of at most 256 MiB; raises MalformedFile."""
    size = file_size(path)
    if size > MAX_FILE_BYTES:
        raise MalformedFile(f"{size} bytes of JSON, limit {MAX_FILE_BYTES}", where=path.name)
    with open_binary(path) as handle:
        # A buffered reader allocates what it is asked for, not what is there.
        return parse_object(handle.read(size), path.name, allow_nonfinite=True)


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


def _check_depth(value: dict[str, Any], where: str) -> None:
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


def _check_surrogates(value: dict[str, Any], where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedFile("a string holds half of a surrogate pair", where=where) from None
