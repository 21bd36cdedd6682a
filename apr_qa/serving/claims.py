"""What is asked of a running server about its protocol."""

from __future__ import annotations

from apr_qa.vocabulary import Claim, Severity, Tier

CHECK_TOKENS = 8
"""New tokens of a protocol check: enough for several chunks of a stream."""

_P1, _P2 = Severity.P1, Severity.P2

SURFACE: tuple[tuple[str, str, Severity], ...] = (
    ("F-HTTP-002", "models", _P1),
    ("F-HTTP-010", "stream", _P1),
    ("F-HTTP-017", "malformed", _P2),
)
"""Gate, check, severity: what every tier asks."""

WHOLE: tuple[tuple[str, str, Severity], ...] = (
    ("F-HTTP-005", "chat_answer", _P1),
    ("F-HTTP-006", "chat_answer", _P1),
    ("F-HTTP-007", "chat_answer", _P1),
    ("F-HTTP-008", "chat_answer", _P1),
    ("F-HTTP-009", "chat_answer", _P1),
    ("F-HTTP-009b", "chat_answer", _P1),
    ("F-API-002", "chat_answer", _P1),
    ("F-HTTP-014", "chat_answer", _P2),
    ("F-HTTP-020", "chat_answer", _P1),
    ("F-HTTP-012", "conversation", _P1),
    ("F-HTTP-013", "conversation", _P1),
    ("F-HTTP-015", "empty_messages", _P2),
    ("F-HTTP-016", "repeated", _P2),
    ("F-HTTP-019", "parallel", _P1),
    ("F-API-003", "answer_times", _P2),
    ("F-API-004", "missing_field", _P2),
    ("F-API-005", "event_lines", _P1),
    ("F-HTTP-011", "event_lines", _P1),
    ("F-HTTP-018", "huge_max_tokens", _P1),
)
"""What larger tiers ask besides; the most demanding comes last."""

SHUTDOWN = ("F-HTTP-004", "shutdown", _P1)

_CHATTING = frozenset({"chat_answer", "conversation", "empty_messages", "repeated", "event_lines"})
"""Checks that need a chat template."""


def server_claims(tier: Tier, *, has_template: bool = True, ours: bool = True) -> tuple[Claim, ...]:
    """Return the protocol claims of a tier; a server that is not ``ours`` is not asked to stop."""
    asked = [*SURFACE]
    if tier in (Tier.QUICK, Tier.STANDARD, Tier.DEEP):
        asked += [row for row in WHOLE if has_template or row[1] not in _CHATTING]
    if ours:
        asked.append(SHUTDOWN)
    return tuple(
        Claim(
            gate_id=gate,
            kind="http",
            severity=severity,
            params={"check": check, "max_tokens": CHECK_TOKENS},
        )
        for gate, check, severity in asked
    )
