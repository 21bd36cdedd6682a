"""How a loaded model behaves across calls: whether earlier ones leave traces, and how it refuses nonsense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apr_qa.backends import Request, Session
from apr_qa.errors import AprQaError

ONE, OTHER = "The capital of France is", "def add(a, b):\n    return"
TOKENS = 8


def interleaved(session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a greedy answer before and after other work: other prompts, a stream, logits, a batch."""
    before = _answer(session, ONE)
    session.generate([Request(OTHER, max_tokens=TOKENS), Request(ONE * 3, max_tokens=TOKENS)])
    for _ in session.stream(Request(OTHER, max_tokens=TOKENS)):
        pass
    session.logits(session.tokenize(OTHER))
    after = _answer(session, ONE)
    return {"before": before, "after": after, "tokens": len(before)}


def _answer(session: Session, prompt: str) -> list[int]:
    return list(session.generate([Request(prompt, max_tokens=TOKENS)])[0].token_ids or ())


def bad_calls(session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return how calls that cannot be answered are refused; dying of one is a crash of the process."""
    beyond = session.vocab_size
    too_long = session.tokenize(ONE)[:1] * (session.context_size + 1) if session.context_size else []
    calls: dict[str, Callable[[], Any]] = {
        "no token": lambda: session.logits([]),
        "a token beyond the vocabulary": lambda: session.logits([beyond]),
        "a negative token": lambda: session.logits([-1]),
        "half a surrogate pair": lambda: session.tokenize("\ud800"),
    }
    if 0 < len(too_long) <= MOST_TOO_LONG:
        calls["more than the context holds"] = lambda: session.logits(too_long)
    return {"calls": [{"call": name, **_outcome(call)} for name, call in calls.items()]}


MOST_TOO_LONG = 4096
"""A longer context is not filled just to be told that it is full."""


def _outcome(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        call()
    except AprQaError as refusal:
        return {"refused": True, "said": refusal.what[:200]}
    except (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        return {"refused": False, "raised": type(error).__name__, "said": str(error)[:200]}
    return {"refused": False, "said": "it was answered"}


def error_in_batch(session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what becomes of a batch in which one request cannot be answered: it says so, the others answer."""
    impossible = "\ud800"
    requests = [Request(ONE, max_tokens=TOKENS), Request(impossible, max_tokens=TOKENS)]
    alone = _answer(session, ONE)
    try:
        good, bad = session.generate(requests)
    except AprQaError as refusal:
        return {"whole_batch_refused": refusal.what, "good": [], "alone": alone, "bad": ""}
    return {
        "good": list(good.token_ids or ()),
        "alone": alone,
        "bad": str(bad.facts.get("error", "")) if bad.finish_reason == "error" else "",
    }


CHECKS: Mapping[str, Callable[[Any, Mapping[str, Any]], dict[str, Any]]] = {
    "interleaved": interleaved,
    "bad_calls": bad_calls,
    "error_in_batch": error_in_batch,
}
