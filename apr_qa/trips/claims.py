"""What is asked of round trips, and in which tiers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apr_qa.comparison.claims import PAIR_NUMBERS
from apr_qa.vocabulary import Artifact, Claim, Severity, Tier

_WHOLE = (Tier.STANDARD, Tier.DEEP)
_SURFACE = (Tier.MVP, Tier.QUICK, Tier.CI)
_FAILURES = (
    "F-CONV-TNAME-001",
    "F-CONV-DEQUANT-001",
    "F-CONV-CONFIG-001",
    "F-CONV-MISSING-001",
    "F-CONV-UNKNOWN-002",
)


def trip_claims(truth: Artifact, artifact: Artifact, tier: Tier) -> tuple[Claim, ...]:
    """Return what the engine ``trips`` is asked: from the truth with the apr file, from a gguf file itself.

    A surface tier sends one layer along one chain, so that every kind of tensor and all companions have
    travelled; the others send the whole model along all of them.
    """
    if tier in _SURFACE:
        asked = _surface() if artifact.format == "apr" else iter(())
        return tuple(_claim(gate, {**params, "values": 1}) for gate, params in asked)
    if tier in _WHOLE:
        chains = {"apr": _from_truth, "gguf": _from_gguf}.get(artifact.format)
        return tuple(_claim(gate, params) for gate, params in (chains() if chains else ()))
    return ()


def _surface() -> Iterator[tuple[str, dict[str, Any]]]:
    made = ["SA", "SAG", "SAGS"]
    yield "F-CONV-RT-002", {"check": "trip", "path": "SAGS"}
    yield "F-CONV-CARD-001", {"check": "cardinality", "paths": made}
    yield "F-CONV-NAME-001", {"check": "names", "paths": made}
    yield from _failures(made)


def _from_truth() -> Iterator[tuple[str, dict[str, Any]]]:
    made = ["SA", "SAG", "SAGS"]
    yield "F-CONV-RT-002", {"check": "trip", "path": "SAGS"}
    yield "F-CONV-CARD-001", {"check": "cardinality", "paths": made}
    yield "F-CONV-NAME-001", {"check": "names", "paths": made}
    yield from _failures(made, last=["SAGS"])
    yield "F-CONV-RT-004", {"check": "trip", "path": "SAGA"}
    yield "F-CONV-RT-BYTE-001", {"check": "payloads", "paths": ["SA", "SAGA"]}
    yield "F-CONV-RT-003", {"check": "trip", "path": "SAGAS", "last": ["SAGA", "SAGAS"]}
    yield from _pair("A-G", "SA", "SAG")
    yield "F-CONV-012", {"check": "trip", "path": "SAS"}
    yield from _pair("A-S", "SA", "SAS", last=["SAG", "SAS"])
    yield "F-CONV-IDEM-001", {"check": "identical_files", "paths": ["SA", "SG"]}
    yield "F-CONV-COM-001", {"check": "commute", "paths": ["SA", "SGA"], "last": ["SA", "SGA"]}
    yield "F-CONV-014", {"check": "checksum", "path": "SGS", "last": ["SG", "SGS"]}
    yield "F-CONV-013", {"check": "trip", "path": "SGS", "through": "f16"}


def _from_gguf() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "F-CONV-RT-001", {"check": "trip", "path": "GASG", "last": ["GAS", "GASG"]}
    yield "F-CONV-IDEM-001", {"check": "identical_files", "paths": ["GA"]}
    yield from _pair("G-A", "G", "GA")
    yield from _pair("G-S", "G", "GS")
    yield "F-CONV-COM-001", {"check": "commute", "paths": ["GA", "GSA"]}
    yield "F-CONV-CARD-001", {"check": "cardinality", "paths": ["GA", "GS", "GSA"]}
    yield from _failures(["GA", "GS", "GSA"])


def _failures(paths: list[str], **more: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for gate in _FAILURES[:-1]:
        yield gate, {"check": "failures", "paths": paths}
    yield _FAILURES[-1], {"check": "failures", "paths": paths, **more}


def _pair(pair: str, one: str, other: str, **more: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    params = {"check": "pair", "paths": [one, other]}
    yield f"F-CONV-{pair}", params
    yield PAIR_NUMBERS[pair], {**params, **more}


def _claim(gate: str, params: dict[str, Any]) -> Claim:
    return Claim(gate_id=gate, kind="inspect", severity=Severity.P0, params=params)
