"""An engine that loads nothing and answers at once: what is left is the cost of the program itself.

A distribution of its own, as somebody else would write one: with this folder on ``PYTHONPATH`` it is found by
its entry point. Loading a file whose name holds ``refused`` is refused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apr_qa.backends import Mute, Request
from apr_qa.errors import InferenceFailed
from apr_qa.vocabulary import Response, Target

DELAY = "NOOP_DELAY_S"
"""Seconds that a call takes."""
GROWTH = "NOOP_GROWTH_MB"
"""Megabytes that every call forgets to free."""


class Noop(Mute):
    """A session whose answer is the number that the prompt asks for, or its last word."""

    def __init__(self) -> None:
        self._delay_s = float(os.environ.get(DELAY, "0"))
        self._growth = int(os.environ.get(GROWTH, "0")) << 20
        self._kept: list[bytes] = []

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        if self._delay_s:
            time.sleep(self._delay_s)
        if self._growth:
            self._kept.append(os.urandom(1024) * (self._growth >> 10))
        return [_answer(request.prompt) for request in requests]

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        return messages[-1]["content"]

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"check": check}


def _answer(prompt: str) -> Response:
    words = f"The answer to this is {prompt.split()[-1]}."
    return Response(text=words, token_ids=(1, 2, 3), finish_reason="stop", prompt_tokens=4, vocab_size=8)


class Engine:
    """Registers as ``noop``."""

    name = "noop"
    formats = ("safetensors", "gguf", "apr")

    def unavailable(self, target: Target) -> str | None:
        return None

    def load(self, target: Target, artifact: Path, *, threads: int = 0, endpoint: str = "") -> Noop:
        if "refused" in artifact.name:
            raise InferenceFailed("this one is not loaded", where=str(artifact))
        return Noop()


ENGINE = Engine()
