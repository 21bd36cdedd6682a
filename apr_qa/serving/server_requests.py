"""Bodies of OpenAI requests: what a client may ask, checked field by field.

A field that is unknown is ignored, as other servers do; a known field of the wrong type or range is
refused by name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

DEFAULT_MAX_TOKENS = 16
"""Of the OpenAI completions endpoint."""
MAX_PROMPTS = 256
MAX_STOPS = 16


class RequestError(Exception):
    """A request that the server does not answer; ``content`` is the OpenAI error object it gets."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Wanted:
    """What both endpoints understand."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: tuple[str, ...]
    stream: bool


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object that ``body`` is; raises RequestError."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(400, "the body is no JSON object")
    return content


def wanted(content: dict[str, Any], model_id: str) -> Wanted:
    """Return the checked common fields; raises RequestError (404 for a model that is not served)."""
    model = content.get("model", model_id)
    if not isinstance(model, str):
        raise RequestError(400, "model must be a string", "model")
    if model != model_id:
        raise RequestError(404, f"the model {model!r} is not served here", "model", "model_not_found")
    if content.get("n") not in (None, 1):
        raise RequestError(400, "n must be 1", "n")
    return Wanted(
        max_tokens=_integer(content, _limit_name(content), DEFAULT_MAX_TOKENS, 1, 1 << 20),
        temperature=_number(content, "temperature", 0.0, 2.0, 1.0),
        top_p=_number(content, "top_p", 0.0, 1.0, 1.0),
        top_k=_integer(content, "top_k", 0, 0, 1 << 31),
        seed=_integer(content, "seed", 0, -(1 << 63), (1 << 63) - 1),
        stop=_stops(content),
        stream=_flag(content, "stream"),
    )


def prompts(content: dict[str, Any]) -> list[str]:
    """Return the prompts of a completion; raises RequestError."""
    if _flag(content, "echo"):
        raise RequestError(400, "echo is not supported", "echo")
    prompt = content.get("prompt")
    if prompt is None:
        raise RequestError(400, "prompt is missing", "prompt")
    found = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise RequestError(400, "prompt must be a string or a list of strings", "prompt")
    if len(found) > MAX_PROMPTS:
        raise RequestError(400, f"prompt holds more than {MAX_PROMPTS} texts", "prompt")
    return found


def messages(content: dict[str, Any]) -> list[dict[str, str]]:
    """Return the messages of a chat completion, contents as text; raises RequestError."""
    found = content.get("messages")
    if not isinstance(found, list) or not found:
        raise RequestError(400, "messages must be a list that is not empty", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(found)]


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise RequestError(400, f"{where} must be an object", where)
    role = message.get("role")
    if not isinstance(role, str):
        raise RequestError(400, f"{where}.role must be a string", f"{where}.role")
    text = message.get("content")
    if isinstance(text, list):  # content parts; only text can be answered
        parts = [part.get("text") if isinstance(part, dict) else None for part in text]
        if all(isinstance(part, str) for part in parts):
            text = "".join(str(part) for part in parts)
    if not isinstance(text, str):
        raise RequestError(400, f"{where}.content must be text", f"{where}.content")
    return {"role": role, "content": text}


def _limit_name(content: dict[str, Any]) -> str:
    return "max_completion_tokens" if content.get("max_completion_tokens") is not None else "max_tokens"


def _integer(content: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = content.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestError(400, f"{name} must be an integer from {least} to {most}", name)
    return value


def _number(content: dict[str, Any], name: str, least: float, most: float, default: float) -> float:
    value = content.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(400, f"{name} must be a number", name)
    if not (math.isfinite(value) and least <= value <= most):
        raise RequestError(400, f"{name} must be from {least} to {most}", name)
    return float(value)


def _flag(content: dict[str, Any], name: str) -> bool:
    value = content.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise RequestError(400, f"{name} must be true or false", name)
    return value


def _stops(content: dict[str, Any]) -> tuple[str, ...]:
    value = content.get("stop")
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) and text for text in found):
        raise RequestError(400, "stop must be a string or a list of strings, none of them empty", "stop")
    if len(found) > MAX_STOPS:
        raise RequestError(400, f"stop holds more than {MAX_STOPS} texts", "stop")
    return tuple(found)
