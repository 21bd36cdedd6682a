"""Answers of the OpenAI protocol from the server's side, whole and streamed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from apr_qa.serving.server_requests import RequestError
from apr_qa.vocabulary import Response


class Shape:
    """How the answers of one of the two endpoints look."""

    def __init__(self, kind: str, prefix: str, model_id: str) -> None:
        self._chat = kind == "chat.completion"
        self._kind = kind
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_id}

    def whole(self, responses: Sequence[Response]) -> dict[str, Any]:
        """Return the plain answer; raises RequestError if a request of the batch could not run."""
        failed = [str(response.facts["error"]) for response in responses if response.finish_reason == "error"]
        if failed:
            raise RequestError(400, failed[0])
        choices = [
            {"index": i, **self._text(response.text or ""), "finish_reason": response.finish_reason}
            for i, response in enumerate(responses)
        ]
        return {**self._head, "object": self._kind, "choices": choices, "usage": usage(responses)}

    def chunk(self, piece: str) -> dict[str, Any]:
        """Return one streamed piece."""
        choice = {"index": 0, **self._delta(piece), "finish_reason": None}
        return {**self._head, "object": self._chunk_kind(), "choices": [choice]}

    def last(self, response: Response) -> dict[str, Any]:
        """Return the last chunk of a stream: no text, but the finish reason and the usage."""
        choice = {"index": 0, **self._delta(""), "finish_reason": response.finish_reason}
        return {**self._head, "object": self._chunk_kind(), "choices": [choice], "usage": usage([response])}

    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else self._kind

    def _text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}

    def _delta(self, piece: str) -> dict[str, Any]:
        if not self._chat:
            return {"text": piece}
        return {"delta": {"role": "assistant", "content": piece} if piece else {}}


def usage(responses: Sequence[Response]) -> dict[str, int]:
    """Return the token counts of a batch; the end-of-generation token is not counted."""
    prompt = sum(response.prompt_tokens or 0 for response in responses)
    completion = sum(len(response.token_ids or ()) for response in responses)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(content: dict[str, Any]) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
