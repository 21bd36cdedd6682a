"""Scenarios as a product: claims times targets, made one at a time when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, overload

from apr_qa.vocabulary import Claim, Scenario, Target

Claims = Sequence[Claim]


class Lazy(Sequence[Scenario]):
    """Scenarios of which each is made when it is asked for, by `made`."""

    @overload
    def __getitem__(self, place: int) -> Scenario: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Scenario, ...]: ...

    def __getitem__(self, place: int | slice) -> Scenario | tuple[Scenario, ...]:
        if isinstance(place, slice):
            return tuple(self[number] for number in range(*place.indices(len(self))))
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(place)
        return self.made(number)

    @abstractmethod
    def made(self, number: int) -> Scenario:
        """Return the scenario at a place from 0 on."""


class Crossed(Lazy):
    """Every claim of a part on the target of that part, in order; claims that several targets share are stored once."""

    def __init__(self, parts: Iterable[tuple[Target, Claims]]) -> None:
        self.parts = tuple((target, claims) for target, claims in parts if len(claims))
        self._ends = list(accumulate(len(claims) for _, claims in self.parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def made(self, number: int) -> Scenario:
        """Return the scenario at a place from 0 on."""
        part = bisect_right(self._ends, number)
        target, claims = self.parts[part]
        return Scenario(target=target, claim=claims[number - self._ends[part]])

    def __iter__(self) -> Iterator[Scenario]:
        for target, claims in self.parts:
            for claim in claims:
                yield Scenario(target=target, claim=claim)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(one == another for one, another in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash((len(self), *(target for target, _ in self.parts)))

    def claims(self) -> Iterator[Claim]:
        """Iterate over the claims of all parts, those that several targets share once."""
        distinct = {id(claims): claims for _, claims in self.parts}
        return chain.from_iterable(distinct.values())

    def where(self, test: Callable[[Claim], bool]) -> Crossed:
        """Return the scenarios for whose claims ``test`` holds; parts that lose nothing keep their claims."""
        return self.rewritten(lambda _, claims: tuple(filter(test, claims)))

    def rewritten(self, change: Callable[[Target, Claims], Claims]) -> Crossed:
        """Return the product with the claims that ``change`` gives each part; equal claims stay shared."""
        kept: dict[tuple[Any, ...], Claims] = {}
        return Crossed(
            (target, _shared(kept, claims, change(target, claims))) for target, claims in self.parts
        )


def _shared(kept: dict[tuple[Any, ...], Claims], before: Claims, after: Claims) -> Claims:
    """Return ``before`` where nothing was changed, or equal claims that another part has already."""
    if len(before) == len(after) and all(one is other for one, other in zip(before, after, strict=True)):
        return before
    return kept.setdefault(tuple(map(id, after)), after)


def crossed(scenarios: Iterable[Scenario]) -> Crossed:
    """Return scenarios as a product: those that follow each other on one target are a part."""
    if isinstance(scenarios, Crossed):
        return scenarios
    parts: list[tuple[Target, list[Claim]]] = []
    for scenario in scenarios:
        if not parts or parts[-1][0] != scenario.target:
            parts.append((scenario.target, []))
        parts[-1][1].append(scenario.claim)
    return Crossed((target, tuple(claims)) for target, claims in parts)
