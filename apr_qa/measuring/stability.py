"""The same again and again: many requests hold no more memory, and those that come at once all succeed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr_qa.backends import Request, Session
from apr_qa.errors import Inapplicable, InferenceFailed

PROMPTS = (
    "What is 2 + 2? The answer is",
    "Once upon a time",
    "def add(a, b):\n    return",
    "Hello, my name is",
)


WARMUP = 10
ITERATIONS = 100
LIMIT_S = 40.0


def memory(session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the memory of this process in MB before and after ``iterations`` generations, warm-up aside.

    No generation begins after `LIMIT_S`; the facts say how many there were.
    """
    if hasattr(session, "endpoint"):
        raise Inapplicable("the model is held by another process, whose memory is not seen here")
    began, done = time.perf_counter(), 0
    for index in range(WARMUP):
        session.generate([Request(PROMPTS[index % len(PROMPTS)], max_tokens=4)])
    before = _resident_mb()
    while done < int(params.get("iterations", ITERATIONS)) and time.perf_counter() - began < LIMIT_S:
        session.generate([Request(PROMPTS[done % len(PROMPTS)], max_tokens=4)])
        done += 1
    return {"iterations": done, "before_mb": before, "after_mb": _resident_mb()}


def at_once(session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many of ``requests`` that are asked together are answered with a text."""
    wanted = int(params.get("requests", 8))
    requests = [Request(PROMPTS[i % len(PROMPTS)], max_tokens=8) for i in range(wanted)]
    try:
        responses = session.generate(requests)
    except InferenceFailed as failure:
        return {"requests": wanted, "answered": 0, "error": failure.what}
    answered = [r for r in responses if r.finish_reason != "error" and (r.text or "").strip()]
    return {"requests": wanted, "answered": len(answered)}


def _resident_mb() -> float:
    """Return the resident memory of this process; the second field of statm counts pages (proc(5))."""
    import os

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
