"""The same questions to another runtime over HTTP: Ollama, or any server that speaks the OpenAI protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr_qa.backends import Request, Session
from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.serving.endpoint import Endpoint
from apr_qa.serving.openai_protocol import model_ids

DEFAULT = "http://127.0.0.1:11434"
TOKENS = 32

_known: dict[tuple[int, str, tuple[str, ...]], dict[str, Any]] = {}


def compare(session: Session, params: Mapping[str, Any], artifact: Path) -> dict[str, Any]:
    """Return what both say and how fast; raises Inapplicable when nothing answers at the address.

    ``params``: endpoint, model, prompts, temperature, least_ratio, and ``load`` to let the other load the file.
    """
    address = str(params.get("endpoint") or os.environ.get("OLLAMA_HOST") or DEFAULT)
    try:
        served = model_ids(Endpoint(address, timeout_s=5).get("/models"))
    except InferenceFailed as failure:
        raise Inapplicable(f"no other runtime answers at {address}: {failure.what}") from None
    if params.get("load"):
        from apr_qa.measuring import ollama_files

        return ollama_files.load(address, artifact)
    wanted = str(params.get("model") or "") or next(iter(served), "")
    key = (id(session), f"{address} {wanted}", tuple(params["prompts"]))
    if key not in _known:
        _known[key] = _compared(session, Endpoint(address), wanted, params)
    return {**_known[key], "served": served, "least_ratio": params.get("least_ratio")}


def _compared(session: Session, other: Endpoint, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    from apr_qa.backends.openai_http import HttpSession

    there = HttpSession(other, model)
    if model and there.model != model:
        raise Inapplicable(f"the other runtime does not serve {model}")
    rows = []
    for prompt in params["prompts"]:
        request = Request(
            str(prompt), max_tokens=TOKENS, temperature=float(params.get("temperature", 0)), seed=42
        )
        ours, theirs = session.generate([request])[0], there.generate([request])[0]
        rows.append(
            {
                "prompt": prompt,
                "ours": ours.text,
                "theirs": theirs.text,
                "our_rate": ours.tokens_per_s,
                "their_rate": theirs.tokens_per_s,
                "our_first_s": ours.time_to_first_token_s,
                "their_first_s": _first_s(there, str(prompt)),
            }
        )
    return {"model": there.model, "answers": rows}


def _first_s(there: Any, prompt: str) -> float | None:
    """Return the time of an answer of one token."""
    duration = there.generate([Request(prompt, max_tokens=1)])[0].duration_s
    return float(duration) if duration is not None else None
