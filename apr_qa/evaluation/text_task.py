"""Perplexity as a task: one model, one text, the same shape of result as every other task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from apr_qa import __version__, clock
from apr_qa.evaluation.subject import Answers, Subject
from apr_qa.vocabulary import Claim, Evidence

LIMIT_S = 4 * 3600.0

_NUMBERS = ("perplexity", "nll_nats", "tokens", "predicted_tokens", "window", "stride")


def evaluate(
    subject: Subject,
    name: str,
    text: str,
    window: int,
    stride: int,
    happened: Callable[[Evidence], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the perplexity of a text as JSON-ready values; no number but 0 where inference failed."""
    params = {"check": "perplexity", "text": text, "window": window, "stride": stride}
    claim = Claim(gate_id="F-EVAL-PPL", kind="measure", params=params)
    entry = Answers(subject, happened).to([claim], modality="run", limit_s=LIMIT_S)[0]
    facts = entry.response.facts if entry.response else {}
    return {
        "apr_qa": __version__,
        "timestamp": clock.now(),
        "task": "perplexity",
        "data": name,
        "data_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "model": subject.to_json(),
        "mode": "inference" if facts else "inference_failed",
        "inference_error": None if facts else entry.reason,
        "totals": {number: facts.get(number, 0) for number in _NUMBERS[1:]},
        "perplexity": facts.get("perplexity"),
    }
