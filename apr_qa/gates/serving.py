"""A server over the artifact speaks the protocol that clients expect of it."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified
from apr_qa.vocabulary import Judgement, Severity

CLEAN_EXITS = (0, -15, 143)
"""Zero, or the death by SIGTERM that some servers re-raise after an orderly shutdown."""


def became_ready(facts: Facts) -> Judgement:
    if facts.get("load_s") is None:
        return falsified("the server never became ready")
    return corroborated(f"ready after {facts['load_s']:.1f} s")


def lists_its_model(facts: Facts) -> Judgement:
    if facts["status"] != 200:
        return falsified(f"GET /v1/models answered {facts['status']}")
    if not facts["ids"]:
        return falsified("GET /v1/models lists no model")
    return corroborated(f"lists {len(facts['ids'])} model")


def stream_equals_plain(facts: Facts) -> Judgement:
    if facts["status"] != 200:
        return falsified(f"a streaming request was answered with {facts['status']}")
    if not facts["text_plain"]:
        return falsified("the same request without streaming gave no text to compare with")
    if facts["chunks"] < 1 or not facts["done_marker"]:
        return falsified(
            f"{facts['chunks']} chunks, end marker {'seen' if facts['done_marker'] else 'missing'}"
        )
    if facts["text_stream"] != facts["text_plain"]:
        return falsified("the streamed text differs from the text of the same request without streaming")
    return corroborated(f"{facts['chunks']} chunks add up to the text without streaming")


def refuses_malformed_json(facts: Facts) -> Judgement:
    if facts["status"] == 400:
        return corroborated("malformed JSON is answered with 400")
    return falsified(f"malformed JSON is answered with {facts['status']} instead of 400")


def stops_cleanly(facts: Facts) -> Judgement:
    if facts["exit_code"] is None:
        return falsified(f"still running {facts['seconds']:.0f} s after SIGTERM")
    if facts["orphans"]:
        return falsified("processes of the server survive it")
    if facts["exit_code"] not in CLEAN_EXITS:
        return falsified(f"ended with exit code {facts['exit_code']} after SIGTERM")
    return corroborated(f"gone {facts['seconds']:.1f} s after SIGTERM, nothing left behind")


def _gate(
    gate_id: str,
    severity: Severity,
    check: Check,
    hypothesis: str,
    measure: str,
    threshold: str,
    **examples: Any,
) -> None:
    enter(
        Gate(
            id=gate_id,
            category="serving",
            severity=severity,
            hypothesis=hypothesis,
            measure=measure,
            threshold=threshold,
            check=check,
            **examples,
        )
    )


_gate(
    "F-SERVE-001",
    Severity.P0,
    became_ready,
    "A server over the artifact starts",
    "start the format's server on a free loopback port and poll GET /v1/models",
    "200 within the load time limit",
    corroborates={"load_s": 2.4},
    falsifies={"load_s": None},
)
_gate(
    "F-HTTP-002",
    Severity.P1,
    lists_its_model,
    "The server says which model it serves",
    "GET /v1/models",
    "200 and at least one id",
    corroborates={"status": 200, "ids": ["model"]},
    falsifies={"status": 200, "ids": []},
)
_gate(
    "F-HTTP-010",
    Severity.P1,
    stream_equals_plain,
    "Streaming gives the same text as not streaming",
    "the same greedy completion with and without stream=true",
    "equal text, at least one chunk, end marker seen",
    corroborates={"status": 200, "text_stream": " 4", "text_plain": " 4", "chunks": 1, "done_marker": True},
    falsifies={"status": 200, "text_stream": " 5", "text_plain": " 4", "chunks": 1, "done_marker": True},
)
_gate(
    "F-HTTP-017",
    Severity.P2,
    refuses_malformed_json,
    "Malformed JSON is the client's mistake, and the server says so",
    "POST a body that is no JSON to /v1/completions",
    "400; anything else is a finding about the runtime, not about the artifact",
    corroborates={"status": 400},
    falsifies={"status": 500},
)
_gate(
    "F-HTTP-004",
    Severity.P1,
    stops_cleanly,
    "SIGTERM ends the server and everything it started",
    "SIGTERM, then exit code, seconds and surviving members of its process group",
    "gone within 10 s, exit 0 or by SIGTERM, no orphan",
    corroborates={"exit_code": 0, "seconds": 0.3, "orphans": False},
    falsifies={"exit_code": None, "seconds": 10.0, "orphans": False},
)
