"""One row of stored evidence, read for counting: its scenario is decoded once for all rows that repeat it."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

import msgspec

from apr_qa.groups import Place
from apr_qa.tally import Asked, asked
from apr_qa.vocabulary import Claim, Outcome, Response, Severity, Target

ENCODER = msgspec.json.Encoder(order="deterministic")
MOST_BYTES = 64 << 20
"""Bytes for claims that are remembered; of the others every row is decoded."""
_OF_ONE = 400
"""Bytes that a remembered claim takes besides its own."""

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


class KnownTarget(msgspec.Struct):
    """A target and how the hash of a scenario about it begins."""

    target: Target
    prefix: bytes
    places: dict[tuple[Hashable, ...], Place] = {}
    """Where entries about it are counted, by the traits of their claims."""


class KnownClaim(msgspec.Struct, gc=False):
    """A claim in canonical bytes, and what is remembered of it."""

    canonical: bytes
    about: Asked

    @property
    def claim(self) -> Claim:
        """Return the claim itself."""
        return _CLAIM.decode(self.canonical)


class Known:
    """Targets and claims that were read before, by the bytes that they stand in the file with."""

    def __init__(self) -> None:
        self._targets: dict[bytes, KnownTarget] = {}
        self._claims: dict[bytes, KnownClaim] = {}
        self._traits: dict[tuple[Hashable, ...], tuple[Hashable, ...]] = {}
        self._room = MOST_BYTES

    def target(self, raw: bytes) -> KnownTarget:
        """Return the target of ``raw``; raises msgspec.DecodeError."""
        known = self._targets.get(raw)
        if known is None:
            target = _TARGET.decode(raw)
            known = KnownTarget(target, b"[" + ENCODER.encode(target) + b",")
            if len(self._targets) < 10_000:
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
        about = asked(claim)
        traits = self._traits.setdefault(about.traits, about.traits)
        canonical = ENCODER.encode(claim)
        # Equal bytes are stored once.
        return KnownClaim(
            raw if raw == canonical else canonical, msgspec.structs.replace(about, traits=traits)
        )


def scenario_id(target: KnownTarget, claim: KnownClaim) -> str:
    """Return the id of the scenario of both: `vocabulary.digest` of what was encoded before."""
    return hashlib.sha256(b"".join((target.prefix, claim.canonical, b"]"))).hexdigest()[:16]
