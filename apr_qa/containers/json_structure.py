"""Where the parts of a JSON text begin and end, found with numpy and without building any of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Text = Any
"""Bytes, or a map of a file."""
_CHUNK = 1 << 18
_NO_BACKSLASH = re.compile(rb"[^\\]")
_COMMA = ord(",")


def commas(text: Text, begin: int, end: int) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Yield, piece by piece, the places of commas that lie in no container and no string, and the depth reached.

    ``begin`` to ``end`` is the inside of one container.
    """
    import numpy as np

    inside, depth = 0, 0
    for start, stop in _chunks(text, begin, end):
        codes = np.frombuffer(text[start:stop], np.uint8)  # a copy: a view would keep a map open
        quotes = _quotes(codes)
        places = np.flatnonzero(_tables()[0][codes])
        places = places[(np.searchsorted(quotes, places) + inside) % 2 == 0]
        inside = (inside + len(quotes)) % 2
        found = codes[places]
        depths = np.cumsum(_tables()[1][found]) + depth
        deepest = int(depths.max(initial=depth))
        yield places[(found == _COMMA) & (depths == 0)] + start, deepest
        depth = int(depths[-1]) if len(depths) else depth


def pieces(text: Text, begin: int, end: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, depth reached so far) of runs of whole elements, each of at most ``most`` bytes or alone."""
    start, candidate, deepest = begin, -1, 0
    for places, depth in commas(text, begin, end):
        deepest = max(deepest, depth)
        at = 0
        while at < len(places):
            last = int(places.searchsorted(start + most, "right")) - 1
            if last >= at:
                candidate, at = int(places[last]), last + 1
                if at == len(places):
                    break
            elif candidate < 0:
                candidate, at = int(places[at]), at + 1
            yield start, candidate, deepest
            start, candidate = candidate + 1, -1
    if candidate >= 0 and end - start > most:
        yield start, candidate, deepest
        start = candidate + 1
    yield start, end, deepest


def _chunks(text: Text, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges to look at, none of which ends within a run of backslashes."""
    start = begin
    while start < end:
        stop = min(end, start + _CHUNK)
        if stop < end and text[stop - 1] == 92:
            found = _NO_BACKSLASH.search(text, stop, end)
            stop = min(end, found.end()) if found else end
        yield start, stop
        start = stop


def _quotes(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the places of quotes that begin or end a string."""
    import numpy as np

    quotes = np.flatnonzero(codes == 34)
    slashes = np.flatnonzero(codes == 92)
    if not len(slashes) or not len(quotes):
        return quotes
    # A run of an odd number of backslashes escapes what follows it.
    breaks = np.flatnonzero(np.diff(slashes) != 1)
    first = slashes[np.concatenate(([0], breaks + 1))]
    last = slashes[np.concatenate((breaks, [len(slashes) - 1]))]
    escaped = (last + 1)[(last - first) % 2 == 0]
    return quotes[~np.isin(quotes, escaped, assume_unique=True)]


_made: list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]] = []


def _tables() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return, for every byte, whether it is looked at, and what it adds to the depth."""
    import numpy as np

    if not _made:
        looked_at, adds = np.zeros(256, np.bool_), np.zeros(256, np.int64)
        looked_at[list(b"{}[],")] = True
        adds[list(b"{[")], adds[list(b"}]")] = 1, -1
        _made.append((looked_at, adds))
    return _made[0]
