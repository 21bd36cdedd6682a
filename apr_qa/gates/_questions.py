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
    """Return the different questions of a selection."""
    import numpy as np

    return np.unique(selection.column("questions"))


def by_modality(selection: Selection) -> dict[str, Numbers]:
    """Return the different questions of a selection for each modality."""
    return {name: questions(own) for name, own in selection.by(_modality).items()}


def rows_with(selection: Selection, asked: dict[str, Numbers], *, without: bool = False) -> Numbers:
    """Return the ids of the rows whose question is among those of their modality, or is not."""
    import numpy as np

    none = np.empty(0, dtype=np.uint64)
    found = [none]
    for name, own in selection.by(_modality).items():
        among = np.isin(own.column("questions"), asked.get(name, none), invert=without)
        found.append(own.column("numbers")[among])
    return np.concatenate(found)


def _modality(entry: Evidence) -> str:
    return entry.scenario.target.modality


def rows_about(selection: Selection, asked: Numbers) -> Numbers:
    """Return the ids of the rows that ask one of some questions."""
    import numpy as np

    none = np.empty(0, dtype=np.uint64)
    # Group by group: what is joined takes several times the memory of its columns.
    groups = [Selection([group]) for group in selection.groups]
    found = [one.column("numbers")[np.isin(one.column("questions"), asked)] for one in groups]
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
    both = np.intersect1d(questions(one), questions(other))
    if not len(both):
        return None
    asked, rows = within.column("questions"), within.column("numbers")
    among = np.isin(asked, both)
    first: Numbers = asked[among][[np.argmin(rows[among])]]
    return first


def rows_on_several(selection: Selection, place: Callable[[Evidence], str]) -> Numbers:
    """Return the ids of the rows whose question was put in more than one place."""
    import numpy as np

    seen = several = np.empty(0, dtype=np.uint64)
    for own in selection.by(place).values():
        here = questions(own)
        several = np.union1d(several, np.intersect1d(seen, here, assume_unique=True))
        seen = np.union1d(seen, here)
    return rows_about(selection, several)


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
