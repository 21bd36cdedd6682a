"""Equal questions on different targets, joined over columns of numbers: what is kept of every row, however many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apr_qa.groups import Selection, opened
from apr_qa.vocabulary import Evidence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]


def questions(selection: Selection) -> Numbers:
    """Return the different questions of a selection, sorted."""
    ordered = selection.column("questions")
    ordered.sort()
    return _first_of_equal(ordered)


def _first_of_equal(ordered: Numbers) -> Numbers:
    """Return what is different in sorted numbers; `numpy.unique` takes ten times as long for a hundred thousand."""
    import numpy as np

    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def _among(numbers: Numbers, ordered: Numbers) -> NDArray[np.bool_]:
    """Say which numbers are among sorted ones."""
    import numpy as np

    if not len(ordered):
        return np.zeros(len(numbers), dtype=bool)
    place = np.searchsorted(ordered, numbers)
    place[place == len(ordered)] = 0
    among: NDArray[np.bool_] = ordered[place] == numbers
    return among


def by_modality(selection: Selection) -> dict[str, Numbers]:
    """Return the different questions of a selection for each modality."""
    return {name: questions(own) for name, own in selection.by(_modality).items()}


def rows_with(selection: Selection, asked: dict[str, Numbers], *, without: bool = False) -> Numbers:
    """Return the ids of the rows whose question is among those of their modality, sorted, or is not."""
    import numpy as np

    none = np.empty(0, dtype=np.uint64)
    found = [none]
    for name, own in selection.by(_modality).items():
        among = _among(own.column("questions"), asked.get(name, none))
        found.append(own.column("numbers")[among != without])
    return np.concatenate(found)


def _modality(entry: Evidence) -> str:
    return entry.scenario.target.modality


def rows_about(selection: Selection, asked: Numbers) -> Numbers:
    """Return the ids of the rows that ask one of some questions, which are sorted."""
    import numpy as np

    none = np.empty(0, dtype=np.uint64)
    # Group by group: what is joined takes several times the memory of its columns.
    groups = [Selection([group]) for group in selection.groups]
    found = [one.column("numbers")[_among(one.column("questions"), asked)] for one in groups]
    return np.concatenate([none, *found])


def names(numbers: Numbers, most: int = 20) -> tuple[str, ...]:
    """Return the smallest ids of rows."""
    import numpy as np

    first = np.partition(numbers, most)[:most] if len(numbers) > most else numbers
    return tuple(f"{number:016x}" for number in sorted(first.tolist()))


def holder(selection: Selection, name: str) -> Evidence:
    """Return an entry of the group that an id belongs to: that entry itself, unless the group only counted it."""
    number = int(name, 16)
    group = next(group for group in selection.groups if number in group.numbers)
    return next((opened(entry) for kept, entry in group.kept if kept == name), group.first)


def reason_of(selection: Selection, name: str) -> str:
    """Return the reason of an entry as the end of a sentence; nothing where the entry was only counted."""
    entry = holder(selection, name)
    return f": {entry.reason}" if entry.id == name else ""


def common(one: Selection, other: Selection, within: Selection) -> Numbers | None:
    """Return the question that stands in both selections and has the smallest id ``within`` a third, or None."""
    import numpy as np

    if not one or not other:
        return None
    both = np.intersect1d(questions(one), questions(other), assume_unique=True)
    if not len(both):
        return None
    asked, rows = within.column("questions"), within.column("numbers")
    among = _among(asked, both)
    first: Numbers = asked[among][[np.argmin(rows[among])]]
    return first


def rows_on_several(selection: Selection, place: Callable[[Evidence], str]) -> Numbers:
    """Return the ids of the rows whose question was put in more than one place."""
    return rows_about(selection, _in_several([*map(questions, selection.by(place).values())]))


def _in_several(sets: list[Numbers]) -> Numbers:
    """Return the numbers that are in more than one of some sets, sorted."""
    import numpy as np

    put = np.concatenate([np.empty(0, np.uint64), *sets])
    sets.clear()  # they take as much memory once more
    put.sort()
    return _first_of_equal(put[1:][put[1:] == put[:-1]])


def turns_and_bare(turns: Selection, bare: Selection) -> tuple[Numbers, Numbers]:
    """Return the ids of turns that were put bare, too: those with more prompt tokens than that, and the others."""
    import numpy as np

    (words, rows, tokens), (bare_words, _, bare_tokens) = _first_of_each(turns), _first_of_each(bare)
    _, here, there = np.intersect1d(words, bare_words, assume_unique=True, return_indices=True)
    longer = tokens[here] > bare_tokens[there]
    return rows[here][longer], rows[here][~longer]


def _first_of_each(selection: Selection) -> tuple[Any, Any, Any]:
    """Return text, id and prompt tokens of the first row of each text whose tokens were counted."""
    import numpy as np

    words, rows, tokens = (selection.column(name) for name in ("words", "numbers", "tokens"))
    counted = tokens > 0
    words, rows, tokens = words[counted], rows[counted], tokens[counted]
    order = np.lexsort((rows, words))
    words, rows, tokens = words[order], rows[order], tokens[order]
    first = np.ones(len(words), dtype=bool)
    first[1:] = words[1:] != words[:-1]
    return words[first], rows[first], tokens[first]
