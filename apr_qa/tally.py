"""Evidence counted: groups of entries that are alike, with their number and the first of each, in any order.

Whoever judges a run asks the same of every entry: on which target, about what, with which outcome, did it say
anything. Entries that are alike in all of this form a group. A group keeps the entries with the smallest ids and
counts the others, so a run of millions takes the memory of a few thousand entries and a few numbers a row, and
what is said about it does not depend on the order of arrival.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from operator import itemgetter
from typing import Any

import msgspec

from apr_qa.groups import LISTED, SHOWN, Group, Kept, Place, Selection, opened
from apr_qa.vocabulary import Claim, Evidence, Outcome, Target, digest

WHOLE = 5_000
"""A run of so many entries is kept whole beside its groups."""

TEXT_KINDS = ("generate", "chat")
SLOW_S = 60.0
"""A short answer that takes longer is no use to anybody, on any machine."""
NO_MEMORY = (
    "out of memory",
    "memory limit exceeded",
    "failed to allocate",
    "cudamalloc failed",
    "alloc_failed",
)
"""What engines say when they lack memory."""
UNKNOWN_INSTRUCTION = "SIGILL"
_MOST_TOKENS = 0xFFFF_FFFF
"""A prompt of more tokens, or of fewer than none, was not counted by anybody."""

_ID = itemgetter(0)
_FAILED = frozenset(outcome for outcome in Outcome if outcome.failed)


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of a claim: what tells groups apart, and what tells questions apart."""

    text: bool
    """Whether the claim asks for text."""

    traits: tuple[Hashable, ...]
    question: int
    """Hash of the whole claim: the same where different targets were asked the same."""
    words: int
    """Hash of the text alone: the same for a bare prompt and for a single turn; 0 for conversations."""

    @property
    def gate_id(self) -> str:
        return str(self.traits[0])


def asked(claim: Claim) -> Asked:
    """Return what is remembered of a claim."""
    turns = len(claim.messages) > 1
    return Asked(
        text=claim.kind in TEXT_KINDS,
        traits=(claim.gate_id, claim.kind, claim.basic, claim.temperature == 0, turns),
        question=_number(claim),
        words=0 if turns else _number(claim.question),
    )


def _number(value: Any) -> int:
    """Return a hash of 64 bits; a file holds legal text only, but what is in memory may not be."""
    try:
        return int(digest(value), 16)
    except UnicodeEncodeError:
        return int(digest(repr(value).encode("utf-8", "backslashreplace").decode()), 16)


def said(response: Any) -> Hashable:
    """Return what groups are told apart by in a response: was there one, with text, how did it end, was it late."""
    if response is None:
        return None
    text, end, duration = response.text, response.finish_reason, response.duration_s
    state = 0 if text is None else 1 if not text else 2 if text.isspace() else 3
    late = "untimed" if duration is None else duration > SLOW_S
    return state, bool(end), end == "stop", late


def lacked_memory(entry: Evidence) -> bool:
    """Say whether an entry failed for lack of memory."""
    return entry.outcome.failed and _signs(entry.reason)[0]


def met_unknown_instruction(entry: Evidence) -> bool:
    """Say whether a process died of an instruction that the processor does not have."""
    return entry.outcome is Outcome.CRASHED and _signs(entry.reason)[1]


def _signs(reason: str) -> tuple[bool, bool]:
    """Return what the reason of a failure says of memory and of instructions."""
    words = reason.lower()
    return any(sign in words for sign in NO_MEMORY), UNKNOWN_INSTRUCTION in reason


class Tally:
    """All evidence of one run, counted: it grows by one entry after another, in any order."""

    def __init__(self) -> None:
        self._places: dict[tuple[Target, tuple[Hashable, ...]], Place] = {}
        self._whole: list[tuple[str, Kept]] | None = []
        self.latest = ""
        """Latest timestamp."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and self._summary() == other._summary()

    __hash__ = None  # type: ignore[assignment]

    def _summary(self) -> object:
        groups = {
            (place, key): (group.count, [name for name, _ in group.kept], *map(sorted, _measured(group)))
            for place, groups in self._places.items()
            for key, group in groups.items()
        }
        return self.latest, groups

    @property
    def total(self) -> int:
        """Return the number of entries."""
        return len(self.all)

    def add(self, entry: Evidence) -> None:
        """Count an entry that is in memory."""
        about = asked(entry.scenario.claim)
        self.count(entry, entry, self.place(entry.scenario.target, about), about)

    def place(self, target: Target, about: Asked) -> Place:
        """Return where entries are counted that ask such a claim of ``target``."""
        return self._places.setdefault((target, about.traits), {})

    def count(self, row: Any, entry: Kept | Callable[[], Kept], place: Place, about: Asked) -> None:
        """Count one row, which has the fields of Evidence but for its scenario; ``entry`` is kept for showing."""
        outcome, response, name = row.outcome, row.response, row.id
        sign = _signs(row.reason) if outcome in _FAILED else None
        garbage = bool(row.metrics) and bool(row.metrics.get("garbage"))
        key = (row.severity, outcome, said(response), garbage, sign)
        group = place.get(key)
        if group is None:
            doubtful = outcome.counted and outcome is not Outcome.CORROBORATED
            group = place[key] = Group(LISTED if doubtful else SHOWN)
        group.count += 1
        if name < group.bound or self._whole is not None:
            self._keep(group, name, entry() if callable(entry) else entry)
        group.numbers.append(number_of(name))
        if about.text:
            group.questions.append(about.question)
            group.words.append(about.words)
            tokens = 0 if response is None else response.prompt_tokens or 0
            group.tokens.append(tokens if 0 <= tokens <= _MOST_TOKENS else 0)
        if response is not None:
            if (rate := response.tokens_per_s) is not None:
                group.rates.append(rate)
            if (first := response.time_to_first_token_s) is not None:
                group.firsts.append(first)
        if row.timestamp > self.latest:
            self.latest = row.timestamp

    def _keep(self, group: Group, name: str, entry: Kept) -> None:
        if name < group.bound:
            group.keep(name, entry)
        if self._whole is not None:
            self._whole.append((name, entry))
            if len(self._whole) > WHOLE:
                self._whole = None

    @property
    def all(self) -> Selection:
        """Return everything."""
        return Selection([group for groups in self._places.values() for group in groups.values()])

    @property
    def texts(self) -> Selection:
        """Return what asked for text."""
        return self.all.where(lambda entry: entry.scenario.claim.kind in TEXT_KINDS)

    def of_gate(self, *gate_ids: str) -> Selection:
        """Return the entries of some gates."""
        return self.all.where(lambda entry: entry.gate_id in gate_ids)

    def outcomes(self) -> Counter[Outcome]:
        """Return how many entries have each outcome."""
        found: Counter[Outcome] = Counter()
        for group in self.all.groups:
            found[group.first.outcome] += group.count
        return found

    @property
    def complete(self) -> bool:
        """Say whether every entry is kept, and not only the first of each group."""
        return self._whole is not None

    def entries(self) -> list[Evidence]:
        """Return all entries of a run that is kept whole, else those that its groups keep; sorted by id."""
        if self._whole is None:
            return self.all.entries()
        return [opened(entry) for _, entry in sorted(self._whole, key=_ID)]

    def numbers(self) -> array[int]:
        """Return the ids of all entries as numbers."""
        found = array("Q")
        for group in self.all.groups:
            found.extend(group.numbers)
        return found


def _measured(group: Group) -> tuple[Iterable[Any], ...]:
    return group.numbers, group.questions, group.words, group.tokens, group.rates, group.firsts


def number_of(name: str) -> int:
    """Return an id as a number of 64 bits; what is no id of ours becomes the number of its hash."""
    try:
        return int(name, 16) & 0xFFFF_FFFF_FFFF_FFFF
    except ValueError:
        return _number(name)


def repeated(numbers: array[int]) -> int | None:
    """Return a number that stands twice in ``numbers``, or None; many of them are left sorted."""
    if len(numbers) < 100_000:
        return None if len(set(numbers)) == len(numbers) else Counter(numbers).most_common(1)[0][0]
    import numpy as np

    ordered = np.frombuffer(numbers, dtype=np.uint64)
    ordered.sort()
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(twice[0]) if len(twice) else None


def tallied(evidence: Tally | Iterable[Evidence]) -> Tally:
    """Return evidence counted; what is counted already is returned as it is."""
    if isinstance(evidence, Tally):
        return evidence
    tally = Tally()
    for entry in evidence:
        tally.add(entry)
    return tally
