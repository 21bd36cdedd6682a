"""Which passes read a batch of prompts: what several begin with is read once, and little of a pass is padding.

The plan depends on the prompts alone, so the same batch is always read in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

LEAST_SHARED = 8
"""Tokens that prompts must have in common at their beginning for these to be read apart."""
PASS_TOKENS = 100
"""What a pass costs besides its tokens: reading all weights and calling every operation takes as long as computing
about so many (96 chats for SmolLM2 in bfloat16 on two cores: 2.9 s with this, 6.2 s with 12; in float32 alike)."""
WORTH_COPYING = 12
"""Tokens that must be saved where a common beginning is read into a cache and copied, without a pass more."""

Prompt = Sequence[int]


class Group(NamedTuple):
    """Prompts that begin alike."""

    shared: int
    """Tokens of the common beginning, which get a pass of their own; 0: there is none."""
    passes: tuple[tuple[int, ...], ...]
    """Numbers of the prompts whose rests are read together."""


def groups(prompts: Sequence[Prompt]) -> list[Group]:
    """Return how to read ``prompts`` cheaply; one group of one pass where nothing is gained by more.

    Every prompt is in exactly one pass, and at least its last token is read there.
    """
    everything = tuple(range(len(prompts)))
    simple = [Group(0, (everything,))]
    found = list(_grouped(prompts))
    return found if _cost(prompts, found) < _cost(prompts, simple) else simple


def alike(prompts: Sequence[Prompt]) -> list[tuple[int, tuple[int, ...]]]:
    """Return (tokens in common, numbers of the prompts) of prompts whose beginning is worth a pass of its own."""
    found = [
        (_shared([prompts[number] for number in family]), tuple(family)) for family in _families(prompts)
    ]
    return [(shared, family) for shared, family in found if shared * (len(family) - 1) > WORTH_COPYING]


def _grouped(prompts: Sequence[Prompt]) -> Iterator[Group]:
    loose: list[int] = []
    for family in _families(prompts):
        shared = _shared([prompts[number] for number in family])
        apart = Group(shared, tuple(_buckets(prompts, family, shared)))
        if len(family) > 1 and _cost(prompts, [apart]) < _cost(prompts, [Group(0, (tuple(family),))]):
            yield apart
        else:
            loose += family
    if loose:
        yield Group(0, tuple(_buckets(prompts, sorted(loose), 0)))


def _families(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Yield the numbers of prompts that have a long enough beginning in common, neighbours in sorted order."""
    family: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda one: (list(prompts[one]), one)):
        if family and _shared([prompts[family[0]], prompts[family[-1]], prompts[number]]) < LEAST_SHARED:
            yield family
            family = []
        family.append(number)
    if family:
        yield family


def _shared(prompts: Sequence[Prompt]) -> int:
    """Return the length of the common beginning, one token of the shortest prompt left over."""
    # What the first and the last in sorted order begin with, all between them begin with.
    first, last = min(map(list, prompts)), max(map(list, prompts))
    pairs = enumerate(zip(first, last, strict=False))
    alike = next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))
    return min(alike, min(map(len, prompts)) - 1)


def _buckets(prompts: Sequence[Prompt], family: Iterable[int], shared: int) -> Iterator[tuple[int, ...]]:
    """Cut prompts into passes of similar length, where padding would cost more than another pass."""
    bucket: list[int] = []
    for number in sorted(family, key=lambda one: (len(prompts[one]), one)):
        if bucket and len(bucket) * (len(prompts[number]) - len(prompts[bucket[-1]])) > PASS_TOKENS:
            yield tuple(sorted(bucket))
            bucket = []
        bucket.append(number)
    if bucket:
        yield tuple(sorted(bucket))


def _cost(prompts: Sequence[Prompt], found: Sequence[Group]) -> int:
    """Return what passes cost, in tokens."""
    total = 0
    for group in found:
        total += group.shared + PASS_TOKENS if group.shared else 0
        for members in group.passes:
            longest = max(len(prompts[number]) for number in members) - group.shared
            total += len(members) * longest + PASS_TOKENS
    return total
