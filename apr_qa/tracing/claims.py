"""What is asked of a loaded model besides text: a traced pass, and how fast it decodes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from apr_qa.vocabulary import Claim, Severity, Tier

_P0, _P1, _P2 = Severity.P0, Severity.P1, Severity.P2
_SPEED = {"repetitions": 3}

LOOKS: tuple[tuple[str, str, Severity, dict[str, Any]], ...] = (
    ("F-TRACE-PAYLOAD-001", "trace", _P0, {}),
    ("F-GPU-005", "trace", _P1, {}),
    ("F-TRACE-PAYLOAD-003", "trace", _P2, {}),
    ("F-CHECK-002", "trace", _P0, {}),
    ("F-CHECK-003", "trace", _P1, {}),
    ("F-NUM-001", "trace", _P2, {}),
    ("F-CHECK-005", "trace", _P2, {}),
    ("F-CHECK-009", "trace", _P0, {}),
    ("F-CHECK-008", "trace", _P0, {}),
    ("F-CHECK-010", "trace", _P1, {}),
    ("F-TRACELEVEL-005", "trace", _P2, {}),
    ("F-CHECK-006", "positions", _P0, {}),
    ("F-CHECK-007", "key_value_cache", _P0, {}),
    ("F-CHECK-001", "tokenizer_round_trip", _P1, {}),
    ("F-STATE-TIMING-001", "key_value_cache", _P1, {}),
    ("F-STATE-CORRUPT-001", "interleaved", _P1, {}),
    ("F-ERR-UNWRAP-001", "bad_calls", _P1, {}),
    ("F-ERR-PROP-001", "error_in_batch", _P2, {}),
    ("F-PROFILE-001", "trace", _P2, {}),
    ("F-PROFILE-002", "trace", _P2, {}),
    ("F-BENCH-001", "benchmark", _P2, _SPEED),
    ("F-BENCH-003", "benchmark", _P2, _SPEED),
    ("F-PERF-001", "benchmark", _P2, _SPEED),
    ("F-PERF-002", "benchmark", _P2, _SPEED),
    ("F-PROFILE-007", "benchmark", _P2, _SPEED),
    ("F-PROFILE-008", "benchmark", _P2, _SPEED),
    ("F-CANARY-001", "canary", _P2, {}),
    ("F-CANARY-002", "canary", _P2, {}),
    ("F-CANARY-003", "canary", _P2, {}),
    ("F-TRACE-001", "trace_levels", _P2, {}),
    ("F-TRACE-002", "trace_levels", _P2, {}),
    ("F-TRACE-005", "trace_levels", _P2, {}),
    ("F-TRACE-003", "trace_planted", _P2, {}),
    ("F-TRACE-004", "trace_planted", _P2, {}),
    ("F-TRACE-006", "trace_planted", _P2, {}),
    ("F-CHECK-004", "trace", _P1, {}),
    ("F-PROFILE-003", "trace_focus", _P2, {}),
    ("F-PROFILE-004", "trace_focus", _P2, {}),
)
"""Gate, check of the session, severity, parameters."""

_BY_TIER = {Tier.QUICK: 18, Tier.STANDARD: len(LOOKS), Tier.DEEP: len(LOOKS)}
"""How many of `LOOKS` a tier asks; the others ask none, because mvp has to be cheap enough for every commit."""


def session_claims(tier: Tier, named: Collection[str] = ()) -> tuple[Claim, ...]:
    """Return the claims about the inside of a model that is loaded in process; larger tiers begin alike.

    ``named``: gates that are asked whatever the tier.
    """
    first = _BY_TIER.get(tier, 0)
    return tuple(
        Claim(gate_id=gate, kind="inspect", severity=severity, params={"check": check, **more})
        for number, (gate, check, severity, more) in enumerate(LOOKS)
        if number < first or gate in named
    )
