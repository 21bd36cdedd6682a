"""Evidence counted: groups of entries that are alike, with their number and the first of each, in any order.

Whoever judges a run asks the same of every entry: on which target, about what, with which outcome, did it say
anything. Entries that are alike in all of this form a group. A group keeps the entries with the smallest ids and
counts the others, so a run of millions takes the memory of a few thousand entries and a few numbers a row, and
what is said about it does not depend on the order of arrival.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import msgspec

from apr_qa.groups import ENCODER, LISTED, SHOWN, Group, Kept, Selection, number_of, opened
from apr_qa.vocabulary import Claim, Evidence, Outcome, Severity, Target

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
_NUMBERS = struct.Struct("qq")
_AT_ONCE = 1 << 12
"""Entries in memory that are counted at a time."""

Key = tuple[Target, tuple[Hashable, ...], Severity, tuple[Hashable, ...]]
"""What entries of one group have in common: target, traits of the claim, severity, and what was `told`."""


def asked(claim: Claim, canonical: bytes | None = None) -> tuple[tuple[Hashable, ...], bytes]:
    """Return what tells groups apart in a claim, which `ENCODER` encodes as ``canonical``, and two numbers of 64 bits.

    The first is a hash of the whole claim, the same where different targets were asked the same; the second of the
    text alone, the same for a bare prompt and for a single turn. Both hold in one process, where they are compared.
    """
    turns = len(claim.messages) > 1
    whole = hash(canonical or _encoded(claim))
    text = 0 if turns else hash(claim.question)
    traits = claim.gate_id, claim.kind, claim.basic, claim.temperature == 0, turns
    return traits, _NUMBERS.pack(whole, text)


def _encoded(claim: Claim) -> bytes:
    """Return a claim in bytes; a file holds legal text only, but what is in memory may not."""
    try:
        return ENCODER.encode(claim)
    except UnicodeEncodeError:
        return repr(claim).encode("utf-8", "backslashreplace")


def told(row: Any) -> tuple[Hashable, ...]:
    """Return what groups are told apart by in what happened; ``row`` has the fields of Evidence for it.

    That is: the outcome, what the reason of a failure says, whether there was garbage, and of a response: was there
    one, with text, how did it end, was it late.
    """
    outcome, response, metrics = row.outcome, row.response, row.metrics
    sign = signs(row.reason) if outcome in _FAILED else None
    garbage = bool(metrics) and bool(metrics.get("garbage"))
    if response is None:
        return outcome, sign, garbage
    text, end, duration = response.text, response.finish_reason, response.duration_s
    state = 0 if text is None else 1 if not text else 2 if text.isspace() else 3
    late = "untimed" if duration is None else duration > SLOW_S
    return outcome, sign, garbage, state, bool(end), end == "stop", late


def lacked_memory(entry: Evidence) -> bool:
    """Say whether an entry failed for lack of memory."""
    return entry.outcome.failed and signs(entry.reason)[0]


def met_unknown_instruction(entry: Evidence) -> bool:
    """Say whether a process died of an instruction that the processor does not have."""
    return entry.outcome is Outcome.CRASHED and signs(entry.reason)[1]


def signs(reason: str) -> tuple[bool, bool]:
    """Return what the reason of a failure says of memory and of instructions."""
    words = reason.lower()
    return any(sign in words for sign in NO_MEMORY), UNKNOWN_INSTRUCTION in reason


class Rows(msgspec.Struct):
    """Entries in columns: numpy arrays of one value a row; a measurement that is NaN was not made."""

    groups: Any
    """Numbers that `Tally.group` gave."""
    numbers: Any
    """Ids as unsigned integers."""
    asked: Sequence[bytes]
    """The numbers of the claims that `asked` returns."""
    tokens: Any
    rates: Any
    firsts: Any
    latest: str
    """Latest timestamp."""
    named: Callable[[int], tuple[str, Kept]]
    """Returns id and entry of a row, if it is to be kept."""


def measured(response: Any) -> tuple[Any, Any, Any]:
    """Return tokens, rate and seconds to the first token of a response."""
    if response is None:
        return None, None, None
    return response.prompt_tokens, response.tokens_per_s, response.time_to_first_token_s


class Tally:
    """All evidence of one run, counted: it grows by some entries after others, in any order."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}
        self._groups: list[Group] = []
        self._whole: list[tuple[str, Kept]] | None = []
        self.latest = ""
        """Latest timestamp."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and self._summary() == other._summary()

    __hash__ = None  # type: ignore[assignment]

    def _summary(self) -> object:
        groups = {}
        for key, number in self._numbers.items():
            group = self._groups[number]
            groups[key] = (group.count, [name for name, _ in group.kept], *map(sorted, group.columns()))
        return self.latest, groups

    @property
    def total(self) -> int:
        """Return the number of entries."""
        return len(self.all)

    def group(self, key: Key) -> int:
        """Return the number of the group of entries that have ``key`` in common."""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._groups)
            outcome = key[3][0]
            doubtful = outcome not in (Outcome.CORROBORATED, Outcome.INAPPLICABLE, Outcome.SKIPPED)
            self._groups.append(Group(LISTED if doubtful else SHOWN, text=key[1][1] in TEXT_KINDS))
        return number

    def add(self, entries: Sequence[Evidence]) -> None:
        """Count entries that are in memory."""
        import numpy as np

        about = [asked(entry.scenario.claim) for entry in entries]
        keys = (
            (entry.scenario.target, traits, entry.severity, told(entry))
            for (traits, _), entry in zip(about, entries, strict=True)
        )
        tokens, rates, firsts = (
            np.array([measured(one.response) for one in entries], np.float64).reshape(-1, 3).T
        )
        rows = Rows(
            groups=np.array([self.group(key) for key in keys], np.int64),
            numbers=np.array([number_of(entry.id) for entry in entries], np.uint64),
            asked=[numbers for _, numbers in about],
            latest=max((entry.timestamp for entry in entries), default=""),
            tokens=tokens,
            rates=rates,
            firsts=firsts,
            named=lambda place: (entries[place].id, entries[place]),
        )
        self.count(rows)

    def count(self, rows: Rows) -> None:
        """Count rows of a file, or of what is in memory."""
        import numpy as np

        self.latest = max(self.latest, rows.latest)
        if self._whole is not None:
            fits = len(self._whole) + len(rows.asked) <= WHOLE
            self._whole = self._whole + list(map(rows.named, range(len(rows.asked)))) if fits else None
        order = np.argsort(rows.groups, kind="stable")
        groups, numbers = rows.groups[order], rows.numbers[order]
        questions = np.frombuffer(b"".join(rows.asked), np.uint64).reshape(-1, 2)[order]
        counted = (rows.tokens >= 0) & (rows.tokens <= _MOST_TOKENS)
        columns = (
            questions[:, 0],
            questions[:, 1],
            np.where(counted, rows.tokens, 0).astype(np.uint32)[order],
            rows.rates[order],
            rows.firsts[order],
        )
        begins = np.flatnonzero(np.diff(groups, prepend=-1)).tolist()
        for begin, end in zip(begins, [*begins[1:], len(groups)], strict=True):
            group = self._groups[groups[begin]]
            for place in group.wanted(numbers[begin:end]):
                group.keep(*rows.named(int(order[begin + place])))
            group.extend(numbers[begin:end], *(column[begin:end] for column in columns))

    @property
    def all(self) -> Selection:
        """Return everything."""
        return Selection(self._groups)

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
    tally, entries = Tally(), iter(evidence)
    while some := list(islice(entries, _AT_ONCE)):
        tally.add(some)
    return tally
