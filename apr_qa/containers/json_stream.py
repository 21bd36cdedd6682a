"""Large JSON texts, parsed a quarter of a megabyte at a time and paid for as they grow."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from apr_qa.containers.json_structure import Text, pieces
from apr_qa.containers.memory_bill import Bill, weight
from apr_qa.errors import MalformedFile

PIECE_BYTES = 1 << 18
MAX_SCALAR_BYTES = 16 << 20
"""Of one string or number. The longest that models have are chat templates."""
MAX_LARGE_LEVELS = 6
"""How deep a container may lie that is larger than a piece; vocabularies lie at depth 3."""
_POOL_ENTRY = 48
_KEY = re.compile(rb'\s*("(?:[^"\\]|\\.){0,65536}")\s*:', re.DOTALL)
_BLANK = re.compile(rb"[ \t\r\n]*")
_CLOSING = {ord("{"): ord("}"), ord("["): ord("]")}

Parse = Callable[[bytes, int], Any]
"""Parses a small text that begins at some place of the large one; raises MalformedFile."""


class Stream:
    """One large text, and what it is being read into."""

    def __init__(self, text: Text, where: str, bill: Bill, parse: Parse, max_depth: int) -> None:
        self.text, self.where, self.bill, self.parse, self.max_depth = text, where, bill, parse, max_depth
        self._pool: dict[str, str] = {}

    def entries(self, begin: int, end: int, level: int = 1) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yield the entries of the object from ``begin`` to ``end``, some at a time, and whether they are paid for.

        A key that comes again in another part is the caller's to find.
        """
        for start, stop in self._pieces(begin, end, level):
            if stop - start <= PIECE_BYTES:
                yield self.parse(b"{" + self.text[start:stop] + b"}", start), False
                continue
            key = _KEY.match(self.text, start, stop)
            if key is None:
                raise MalformedFile("not valid JSON: an entry without a key", where=self.where)
            name = self.parse(b"[" + key[1] + b"]", start)[0]
            yield {name: self.value(key.end(), stop, level + 1)}, True

    def value(self, begin: int, end: int, level: int = 1) -> Any:
        """Return the value that lies from ``begin`` to ``end``; all of it is paid for."""
        begin, end = self.stripped(begin, end)
        container = begin < end and self.text[begin] in _CLOSING
        if container and end - begin > PIECE_BYTES:
            if level > MAX_LARGE_LEVELS:
                raise MalformedFile("JSON is nested too deeply for its size", where=self.where)
            return (
                self._object(begin, end, level)
                if self.text[begin] == ord("{")
                else self._array(begin, end, level)
            )
        if end - begin > MAX_SCALAR_BYTES:
            raise MalformedFile(f"a string or number of {end - begin} bytes", where=self.where)
        part = self.parse(b"[" + self.text[begin:end] + b"]", begin)
        if len(part) != 1:
            raise MalformedFile("not valid JSON: one value is needed", where=self.where)
        self.bill.pay(weight(part[0]), self.where)
        return part[0]

    def stripped(self, begin: int, end: int) -> tuple[int, int]:
        """Return the range without the white space at both ends."""
        blank = _BLANK.match(self.text, begin, end)
        begin = blank.end() if blank else begin
        while end > begin:
            tail = self.text[max(begin, end - 4096) : end]
            kept = len(tail.rstrip(b" \t\r\n"))
            end -= len(tail) - kept
            if kept:
                break
        return begin, end

    def _object(self, begin: int, end: int, level: int) -> dict[str, Any]:
        whole: dict[str, Any] = {}
        for part, paid in self.entries(begin, end, level):
            if not paid:
                self.bill.pay(weight(part), self.where)
            enter(whole, part, self.where)
            if set(map(type, part.values())) == {int}:
                # A vocabulary, whose tokens the merges are made of.
                self._pool.update(zip(part, part, strict=True))
                self.bill.pay(len(part) * _POOL_ENTRY, self.where)
        return whole

    def _array(self, begin: int, end: int, level: int) -> list[Any]:
        whole: list[Any] = []
        for start, stop in self._pieces(begin, end, level):
            if stop - start > PIECE_BYTES:
                whole.append(self.value(start, stop, level + 1))
                continue
            part = self.parse(b"[" + self.text[start:stop] + b"]", start)
            if _are_pairs(part):
                whole += self._shared(part)
            else:
                self.bill.pay(weight(part), self.where)
                whole += part
        return whole

    def _shared(self, pairs: list[list[str]]) -> list[list[str]]:
        """Return pairs of texts in which equal texts are one object: merges repeat each token many times."""
        before, share, size = len(self._pool), self._pool.setdefault, sys.getsizeof
        result = [[share(left, left), share(right, right)] for left, right in pairs]
        added = len(self._pool) - before
        cost = sum(map(size, islice(reversed(self._pool), added))) + added * _POOL_ENTRY
        self.bill.pay(cost + len(result) * (size([0, 0]) + 8), self.where)
        return result

    def _pieces(self, begin: int, end: int, level: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of whole elements of the container from ``begin`` to ``end``, first to last sign."""
        if self.text[end - 1] != _CLOSING[self.text[begin]]:
            raise MalformedFile("not valid JSON: an object or list is not closed", where=self.where)
        ranges = pieces(self.text, begin + 1, end - 1, PIECE_BYTES)
        for number, (start, stop, depth) in enumerate(ranges):
            if depth + level > self.max_depth:
                raise MalformedFile(f"JSON is nested deeper than {self.max_depth} levels", where=self.where)
            blank = _BLANK.match(self.text, start, stop)
            if blank is not None and blank.end() == stop:
                if number or stop != end - 1:
                    raise MalformedFile("not valid JSON: a comma too many", where=self.where)
                return
            yield start, stop


def enter(whole: dict[str, Any], part: Mapping[str, Any], where: str) -> None:
    """Add the entries of ``part``; raises MalformedFile for a key that is there."""
    twice = next((key for key in part if key in whole), None) if whole else None
    if twice is not None:
        raise MalformedFile(f"the JSON key {twice[:200]!r} appears twice", where=where)
    whole.update(part)


def _are_pairs(items: list[Any]) -> bool:
    """Say whether all items are lists of two texts each."""
    return (
        set(map(type, items)) == {list}
        and set(map(len, items)) == {2}
        and set(map(type, chain.from_iterable(items))) == {str}
    )
