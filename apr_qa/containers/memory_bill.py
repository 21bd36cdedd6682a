"""What reading one artifact has put into memory so far, and where that ends.

A byte of JSON can become thirty bytes of objects. Whoever builds objects from a file pays for them here, so that a
file costs at most twice its size and a fixed allowance, whatever it holds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from apr_qa.errors import MalformedFile

ALLOWANCE = 52 << 20
"""Bytes beyond twice the size of the files: enough for the largest tokenizers without any weights."""


class Bill:
    """Bytes that may still be spent on what a file of ``size`` bytes (all files of a folder) is read into."""

    def __init__(self, size: int) -> None:
        self.limit = 2 * size + ALLOWANCE
        self.left = self.limit

    def pay(self, count: int, where: str) -> None:
        """Spend ``count`` bytes; raises MalformedFile when no more are left."""
        self.left -= count
        if self.left < 0:
            raise MalformedFile(
                f"reading it takes more than {self.limit >> 20} MiB of memory: more entries, or more numbers, than "
                "any model file of this size has",
                where=where,
            )


def weight(value: Any) -> int:
    """Return the bytes of a tree of JSON values."""
    size = sys.getsizeof
    total, level = size(value), [value]
    while level:
        following: list[Any] = []
        for node in level:
            children: Iterable[Any] = node
            if type(node) is dict:
                total += sum(map(size, node))
                children = node.values()
            elif type(node) is not list:
                continue
            total += sum(map(size, children))
            following.extend(child for child in children if type(child) is dict or type(child) is list)
        level = following
    return total
