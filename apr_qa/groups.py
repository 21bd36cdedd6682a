"""Groups of entries that are alike: each is counted, and keeps the entries with the smallest ids."""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Callable, Hashable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar

import msgspec

from apr_qa.vocabulary import Evidence, digest

SHOWN = 20
"""Entries kept of a group that speaks for the artifact, or was not tried."""
LISTED = 100
"""Entries kept of a group that counts and does not corroborate: what findings are listed from."""

K = TypeVar("K", bound=Hashable)
Kept = bytes | Evidence
"""An entry, or the line of a file that it is read from when it is asked for."""
Test = Callable[[Evidence], bool]
ENCODER = msgspec.json.Encoder(order="deterministic")
_ENTRY = msgspec.json.Decoder(Evidence)
_ID = itemgetter(0)


class Group:
    """Entries that are alike in everything that a verdict over many of them may ask for."""

    __slots__ = (
        "_first",
        "bound",
        "count",
        "firsts",
        "kept",
        "limit",
        "numbers",
        "questions",
        "rates",
        "text",
        "tokens",
        "words",
    )

    def __init__(self, limit: int, *, text: bool) -> None:
        self.count = 0
        self.limit = limit
        self.text = text
        """Whether text was asked for: else nobody compares the questions."""
        self.kept: list[tuple[str, Kept]] = []
        self.bound: int | None = None
        """Ids whose number is not smaller are not kept; None while there is room."""
        self.numbers = array("Q")
        self.questions = array("Q")
        self.words = array("Q")
        self.tokens = array("I")
        self.rates = array("d")
        self.firsts = array("d")
        self._first: tuple[str, Evidence] | None = None

    def wanted(self, numbers: Any) -> list[int]:
        """Return the places of the ids in ``numbers``, an array, that may be among the smallest."""
        import numpy as np

        places = np.arange(len(numbers)) if self.bound is None else np.flatnonzero(numbers < self.bound)
        if len(places) > self.limit:
            places = places[np.argpartition(numbers[places], self.limit)[: self.limit]]
        found: list[int] = places.tolist()
        return found

    def keep(self, name: str, entry: Kept) -> None:
        """Keep an entry if its id is among the smallest."""
        insort(self.kept, (name, entry), key=_ID)
        if len(self.kept) > self.limit:
            self.kept.pop()
        if len(self.kept) == self.limit:
            self.bound = number_of(self.kept[-1][0])

    def extend(self, numbers: Any, questions: Any, words: Any, tokens: Any, rates: Any, firsts: Any) -> None:
        """Count rows by their columns, numpy arrays; a measurement that is NaN was not made."""
        import numpy as np

        self.count += len(numbers)
        self.numbers.frombytes(numbers.tobytes())
        if self.text:
            self.questions.frombytes(questions.tobytes())
            self.words.frombytes(words.tobytes())
            self.tokens.frombytes(tokens.tobytes())
        for column, values in ((self.rates, rates), (self.firsts, firsts)):
            column.frombytes(values[~np.isnan(values)].tobytes())

    def columns(self) -> tuple[array[Any], ...]:
        """Return what is known of every row."""
        return self.numbers, self.questions, self.words, self.tokens, self.rates, self.firsts

    @property
    def first(self) -> Evidence:
        """Return the entry with the smallest id, which stands for all where they are alike."""
        name, entry = self.kept[0]
        if self._first is None or self._first[0] != name:
            self._first = name, opened(entry)
        return self._first[1]


def number_of(name: str) -> int:
    """Return an id as a number of 64 bits; what is no id of ours becomes the number of its hash."""
    try:
        return int(name, 16) & 0xFFFF_FFFF_FFFF_FFFF
    except ValueError:
        return int(digest(name.encode("utf-8", "surrogatepass")), 16)


def opened(entry: Kept) -> Evidence:
    """Return an entry that may be kept as the line that it was read from."""
    return _ENTRY.decode(entry) if isinstance(entry, bytes) else entry


class Selection:
    """Some groups of a tally, to be counted, looked at by the first entries, and divided further."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return sum(group.count for group in self.groups)

    def where(self, test: Test) -> Selection:
        """Return the groups for whose entries ``test`` holds; it may ask for nothing that groups mix."""
        return Selection([group for group in self.groups if test(group.first)])

    def by(self, key: Callable[[Evidence], K]) -> dict[K, Selection]:
        """Return the groups by a key of their entries, in the order of the smallest id."""
        found: dict[K, list[Group]] = {}
        for group in sorted(self.groups, key=lambda group: group.kept[0][0]):
            found.setdefault(key(group.first), []).append(group)
        return {name: Selection(groups) for name, groups in found.items()}

    @property
    def first(self) -> Evidence:
        """Return the entry with the smallest id; raises ValueError where nothing is selected."""
        return min(self.groups, key=lambda group: group.kept[0][0]).first

    def ids(self, most: int = LISTED) -> tuple[str, ...]:
        """Return the smallest ids; groups keep `SHOWN` or `LISTED` each."""
        return tuple(name for name, _ in islice(self._kept(), most))

    def entries(self, most: int | None = None) -> list[Evidence]:
        """Return the entries that are kept, or the first of them, sorted by id."""
        return [opened(entry) for _, entry in islice(self._kept(), most)]

    def _kept(self) -> Iterator[tuple[str, Kept]]:
        return merge(*(group.kept for group in self.groups), key=_ID)

    def column(self, name: str) -> Any:
        """Return a column of all selected rows as a numpy array: ``numbers`` (ids), ``questions``, ``words``, …"""
        import numpy as np

        columns = [np.frombuffer(column, dtype=column.typecode) for column in self._columns(name)]
        return np.concatenate(columns) if columns else np.empty(0, dtype="Q")

    def measured(self, name: str) -> int:
        """Return how many values a column has."""
        return sum(map(len, self._columns(name)))

    def median(self, name: str, *, zeros: bool = True) -> float | None:
        """Return the median of a column of measurements, zeros left out or not; None where nothing was measured."""
        import numpy as np

        values = self.column(name)
        values = values if zeros else values[values != 0]
        return float(np.median(values, overwrite_input=True)) if len(values) else None

    def _columns(self, name: str) -> list[array[Any]]:
        return [column for group in self.groups if len(column := getattr(group, name))]
