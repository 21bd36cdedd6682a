"""Requests at the edge of what is allowed: a prompt of nothing, and one of blanks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr_qa.backends import Request, Session
from apr_qa.errors import InferenceFailed

EMPTY = ("", "   ")
TOKENS = 8


def edge(session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what became of prompts of nothing: each answered, or refused with words.

    ``params``: ``prompts``, default an empty one and one of blanks; ``tokens``, how many new ones are asked for.
    """
    prompts, most = params.get("prompts", EMPTY), int(params.get("tokens", TOKENS))
    return {"which": "edge", "answers": [_answer(session, str(prompt), most) for prompt in prompts]}


def _answer(session: Session, prompt: str, most: int) -> dict[str, Any]:
    asked = {"prompt_characters": len(prompt), "most": most}
    try:
        (response,) = session.generate([Request(prompt, max_tokens=most)])
    except InferenceFailed as refusal:
        return {**asked, "refused": refusal.what}
    if response.finish_reason == "error":
        return {**asked, "refused": str(response.facts.get("error"))}
    ids = response.token_ids
    tokens = len(ids) if ids is not None else response.facts.get("completion_tokens")
    return {**asked, "text": response.text, "tokens": tokens, "finish_reason": response.finish_reason}
