"""A server's answers have the shape that clients of the OpenAI protocol rely on."""

from __future__ import annotations

import re
from typing import Any

from apr_qa.gates import Check, Gate, enter
from apr_qa.gates._http_checks import (
    CONTROL,
    MARKERS,
    SLOW_S,
    accepted,
    answers_soon,
    counts_usage,
    ends_with_done,
    grows,
    has_content,
    is_coherent,
    is_json,
    lines_are_events,
    names_bad_input,
    not_empty,
    refuses_empty,
    repeats_itself,
    serves_many,
    survives_huge,
    without,
)
from apr_qa.vocabulary import Severity

_CHAT: dict[str, Any] = {
    **{"status": 200, "is_json": True, "has_content": True, "text": "The answer is 4.", "body": "{"},
    **{"prompt_tokens": 14, "completion_tokens": 6},
}
_TURNS: dict[str, Any] = {
    "alone": {"status": 200, "prompt_tokens": 14},
    "with_system": {"status": 200, "prompt_tokens": 30},
    "with_turn": {"status": 200, "prompt_tokens": 33},
}
_STREAM: dict[str, Any] = {"status": 200, "lines": 8, "foreign": [], "last": "data: [DONE]"}
_LOST = {"status": 200, "prompt_tokens": 14}
_CONTROL_PATTERN = "|".join(re.escape(word) for word in CONTROL)
_MARKER_PATTERN = "|".join(MARKERS)
_P0, _P1, _P2 = Severity.P0, Severity.P1, Severity.P2

_ROWS: tuple[tuple[str, Severity, str, str, Check, dict[str, Any], dict[str, Any]], ...] = (
    ("F-HTTP-005", _P1, "Chat completions are accepted", "200", accepted, _CHAT, {"status": 404}),
    (
        "F-HTTP-006",
        _P1,
        "A chat answer has a message",
        "choices[0].message.content is a string",
        has_content,
        _CHAT,
        {"has_content": False},
    ),
    ("F-HTTP-007", _P1, "Answers are JSON", "RFC 8259", is_json, _CHAT, {"is_json": False}),
    ("F-HTTP-008", _P1, "A chat answer says something", "content not blank", not_empty, _CHAT, {"text": " "}),
    (
        "F-HTTP-009",
        _P1,
        "Text is text and not token ids",
        "no 'token123', no list of ids",
        without(r"\btoken\d+|^\s*\[\d+(?:,\s*\d+)+\]", "no token ids"),
        _CHAT,
        {"text": "token17 token4"},
    ),
    (
        "F-HTTP-009b",
        _P1,
        "Text holds no spelling of the vocabulary",
        "none of " + " ".join(MARKERS),
        without(_MARKER_PATTERN, "no markers of the vocabulary"),
        _CHAT,
        {"text": "TheĠanswer"},
    ),
    (
        "F-API-002",
        _P1,
        "Control tokens do not leak into text",
        "none of " + " ".join(CONTROL),
        without(_CONTROL_PATTERN, "no control tokens"),
        _CHAT,
        {"text": "4<|im_end|>"},
    ),
    (
        "F-HTTP-014",
        _P2,
        "Usage is counted",
        "prompt and completion tokens above 0",
        counts_usage,
        _CHAT,
        {"prompt_tokens": 0},
    ),
    (
        "F-HTTP-020",
        _P1,
        "A chat answer is coherent",
        "no U+FFFD, no single character for most of it",
        is_coherent,
        _CHAT,
        {"text": "!!!!!!!!!!!!!!!!"},
    ),
    (
        "F-HTTP-012",
        _P1,
        "A system prompt reaches the model",
        "more prompt tokens with it than without",
        grows("with_system", "a system prompt"),
        _TURNS,
        {"with_system": _LOST},
    ),
    (
        "F-HTTP-013",
        _P1,
        "Earlier turns reach the model",
        "more prompt tokens with them than without",
        grows("with_turn", "an earlier turn"),
        _TURNS,
        {"with_turn": _LOST},
    ),
    (
        "F-HTTP-015",
        _P2,
        "A conversation without a turn is refused",
        "4xx",
        refuses_empty,
        {"status": 400, "body": "{"},
        {"status": 500},
    ),
    (
        "F-HTTP-018",
        _P1,
        "A request for a million tokens is survived",
        "no 5xx, and the server answers afterwards",
        survives_huge,
        {"status": 400, "body": "", "alive": True},
        {"alive": False},
    ),
    (
        "F-HTTP-016",
        _P2,
        "Greedy answers repeat themselves",
        "equal texts",
        repeats_itself,
        {"texts": ["4", "4", "4"]},
        {"texts": ["4", "5", "4"]},
    ),
    (
        "F-HTTP-019",
        _P1,
        "Simultaneous requests are all answered",
        "10 of 10 with 200",
        serves_many,
        {"asked": 2, "statuses": [200, 200]},
        {"statuses": [200, 503]},
    ),
    (
        "F-API-005",
        _P1,
        "A stream is made of events",
        "every line is a field of server-sent events",
        lines_are_events,
        _STREAM,
        {"foreign": ["hello"]},
    ),
    (
        "F-HTTP-011",
        _P1,
        "A stream says that it is over",
        "last line data: [DONE]",
        ends_with_done,
        _STREAM,
        {"last": "data: {}"},
    ),
    (
        "F-API-003",
        _P2,
        "The server answers soon when there is nothing to compute",
        f"≤ {SLOW_S:g} s, best of three",
        answers_soon,
        {"status": 200, "seconds": [0.01]},
        {"seconds": [4.0]},
    ),
    (
        "F-API-004",
        _P2,
        "Bad input is refused with a reason",
        "4xx and a body",
        names_bad_input,
        {"status": 422, "body": "prompt?"},
        {"status": 500},
    ),
)

for _id, _severity, _hypothesis, _threshold, _check, _healthy, _change in _ROWS:
    enter(
        Gate(
            id=_id,
            category="serving",
            severity=_severity,
            hypothesis=_hypothesis,
            measure="HTTP requests to the running server",
            threshold=_threshold,
            check=_check,
            corroborates=_healthy,
            falsifies={**_healthy, **_change},
        )
    )
