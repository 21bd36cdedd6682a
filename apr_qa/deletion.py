"""Deletion: the smallest part of a value that still does what the whole did.

Works on JSON values: characters of texts and items of lists are left out, in ever smaller runs, as long as the
value keeps failing (after Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Fails = Callable[[Any], bool]


class Trials:
    """Counts how often something may still be tried."""

    def __init__(self, most: int) -> None:
        self.left = most

    def spend(self) -> bool:
        """Take one trial; false when none is left."""
        self.left -= 1
        return self.left >= 0


def smallest(value: Any, fails: Fails, trials: Trials) -> Any:
    """Return a part of ``value`` that fails and of which no single element can be left out, within ``trials``."""
    while trials.left > 0:
        smaller = _one_pass(value, fails, trials)
        if smaller == value:
            break
        value = smaller
    return value


def shorter(items: Sequence[Any], fails: Callable[[Sequence[Any]], bool], trials: Trials) -> Sequence[Any]:
    """Return a shorter sequence that fails: runs are left out, half of it first, single elements last."""
    size = max(1, len(items) // 2)
    while items and size:
        begin = 0
        while begin < len(items) and trials.left > 0:
            candidate = items[:begin] + items[begin + size :]  # type: ignore[operator]
            if trials.spend() and fails(candidate):
                items = candidate
            else:
                begin += size
        size //= 2
    return items


def _one_pass(value: Any, fails: Fails, trials: Trials) -> Any:
    for path in list(_places(value)):
        part = _at(value, path)
        if part is not None:
            found = shorter(part, lambda items, at=path, whole=value: fails(_with(whole, at, items)), trials)  # type: ignore[misc]
            value = _with(value, path, found)
    return value


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Iterate over the paths of all texts and lists, outer ones first; roles and the like are left alone."""
    if isinstance(value, str | list):
        yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, part in entries:
        if key != "role":
            yield from _places(part, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    """Return the part at ``path``, None where deleting moved it away."""
    for key in path:
        if isinstance(value, list) and key >= len(value):
            return None
        value = value[key]
    return value if isinstance(value, str | list) else None


def _with(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    if not path:
        return part
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(copy[path[0]], path[1:], part)
    return copy
