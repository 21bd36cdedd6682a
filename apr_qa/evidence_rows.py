"""Lines of stored evidence, read for counting: what lines have in common is decoded once for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from apr_qa.groups import ENCODER as ENCODER
from apr_qa.groups import Kept
from apr_qa.tally import Rows, Tally, asked, measured, told
from apr_qa.vocabulary import Claim, Outcome, Response, Severity, Target

MOST_BYTES = 64 << 20
"""Bytes for claims that are remembered; of the others every row is decoded."""
_OF_ONE = 400
"""Bytes that a remembered claim takes besides its own."""
_MOST_TARGETS = 10_000

_TARGET = msgspec.json.Decoder(Target)
_CLAIM = msgspec.json.Decoder(Claim)


class RawScenario(msgspec.Struct, gc=False):
    """Target and claim as they stand in the file."""

    target: msgspec.Raw
    claim: msgspec.Raw


class Row(msgspec.Struct, gc=False):
    """An entry whose scenario is not decoded."""

    id: str
    gate_id: str
    severity: Severity
    scenario: RawScenario
    outcome: Outcome
    reason: str
    response: Response | None = None
    metrics: dict[str, Any] = {}
    timestamp: str = ""


_ROW = msgspec.json.Decoder(Row)


class KnownTarget(msgspec.Struct, gc=False, eq=False):
    """A target, a number that only equal targets have, and how the hash of a scenario about it begins."""

    target: Target
    number: int
    prefix: bytes


class KnownClaim(msgspec.Struct, gc=False, eq=False):
    """A claim in canonical bytes, and what is remembered of it."""

    canonical: bytes
    traits: tuple[Hashable, ...]
    sort: int
    """A number that only claims with equal traits have."""
    numbers: bytes
    """What `tally.asked` returns besides the traits."""

    @property
    def gate_id(self) -> str:
        return str(self.traits[0])

    @property
    def claim(self) -> Claim:
        """Return the claim itself."""
        return _CLAIM.decode(self.canonical)


class Edited(ValueError):
    """An id or a gate that does not follow from the scenario of its entry."""


Line = tuple[KnownTarget, KnownClaim, Row]


class Known:
    """Targets and claims that were read before, by the bytes that they stand in the file with."""

    def __init__(self) -> None:
        self._targets: dict[bytes, KnownTarget] = {}
        self._claims: dict[bytes, KnownClaim] = {}
        self._numbers: dict[Target, int] = {}
        self._traits: dict[tuple[Hashable, ...], tuple[int, tuple[Hashable, ...]]] = {}
        self._room = MOST_BYTES

    def target(self, raw: bytes) -> KnownTarget:
        """Return the target of ``raw``; raises msgspec.DecodeError."""
        known = self._targets.get(raw)
        if known is None:
            target = _TARGET.decode(raw)
            number = self._numbers.setdefault(target, len(self._numbers))
            known = KnownTarget(target, number, b"[" + ENCODER.encode(target) + b",")
            if len(self._targets) < _MOST_TARGETS:
                self._targets[raw] = known
        return known

    def claim(self, raw: bytes) -> KnownClaim:
        """Return the claim of ``raw``; raises msgspec.DecodeError."""
        known = self._claims.get(raw)
        if known is None:
            known = self.described(raw)
            if self._room > 0:
                self._room -= len(raw) + _OF_ONE
                self._claims[raw] = known
        return known

    def described(self, raw: bytes) -> KnownClaim:
        """Return the claim of ``raw`` and remember nothing but its traits."""
        claim = _CLAIM.decode(raw)
        canonical = ENCODER.encode(claim)
        traits, numbers = asked(claim, canonical)
        sort, traits = self._traits.setdefault(traits, (len(self._traits), traits))
        # What is equal is stored once.
        return KnownClaim(raw if raw == canonical else canonical, traits, sort, numbers)

    def lines(self, lines: Iterable[bytes]) -> Iterator[Line]:
        """Iterate over the entries of lines; raises msgspec.DecodeError, UnicodeDecodeError, Edited."""
        decode, claims, of = _ROW.decode, self._claims, b""
        for line in lines:
            row = decode(line)
            raw = bytes(row.scenario.target)
            if raw != of:  # most rows are about the target of the row before
                target, of = self.target(raw), raw
            raw = bytes(row.scenario.claim)
            claim = claims.get(raw) or self.claim(raw)
            if row.id != scenario_id(target, claim) or row.gate_id != claim.traits[0]:
                raise Edited
            yield target, claim, row


def scenario_id(target: KnownTarget, claim: KnownClaim) -> str:
    """Return the id of the scenario of both: `vocabulary.digest` of what was encoded before."""
    return hashlib.sha256(target.prefix + claim.canonical + b"]").hexdigest()[:16]


class Groups:
    """Numbers of groups of a tally, by what is known of an entry and what was told of it."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._numbers: dict[Hashable, int] = {}

    def of(self, target: KnownTarget, claim: KnownClaim, row: Any) -> int:
        """Return the number of the group that an entry belongs to."""
        what = told(row)
        key = (target.number, claim.sort, row.severity, what)
        number = self._numbers.get(key)
        if number is None:
            whole = (target.target, claim.traits, row.severity, what)
            number = self._numbers[key] = self._tally.group(whole)
        return number


def in_columns(groups: Groups, entries: Iterable[Line], lines: Sequence[Kept]) -> Rows:
    """Return entries in columns; ``lines`` are what they were read from.

    Every entry is let go before the next one is read: memory that is used again is still in the processor's cache.
    """
    import numpy as np

    of, latest = groups.of, ""
    names: list[str] = []
    numbers: list[int] = []
    asked: list[bytes] = []
    measures: list[Any] = []
    for target, claim, row in entries:
        names.append(row.id)
        numbers.append(of(target, claim, row))
        asked.append(claim.numbers)
        measures += measured(row.response)
        if row.timestamp > latest:
            latest = row.timestamp
    tokens, rates, firsts = np.array(measures, np.float64).reshape(-1, 3).T
    return Rows(
        groups=np.array(numbers, np.int64),
        numbers=np.frombuffer(bytes.fromhex("".join(names)), ">u8").astype(np.uint64),
        asked=asked,
        tokens=tokens,
        rates=rates,
        firsts=firsts,
        latest=latest,
        named=lambda place: (names[place], lines[place]),
    )
