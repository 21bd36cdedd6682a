"""The OpenAI protocol from the client's side: reading answers, and checks of the protocol itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from apr_qa.errors import InferenceFailed
from apr_qa.serving import protocol_checks
from apr_qa.serving.endpoint import Endpoint, Reply

_PROMPT = "The capital of France is"
_CHAT = [{"role": "user", "content": "What is 2 + 2?"}]
_MAX_PARALLEL = 64


def model_ids(reply: Reply) -> list[str]:
    """Return the ids that ``GET /v1/models`` lists; none where the answer is something else."""
    try:
        models = reply.content().get("data")
    except InferenceFailed:
        return []
    entries = models if isinstance(models, list) else []
    return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]


def told(reply: Reply) -> dict[str, Any]:
    """Return text, finish reason and token counts of a completion or a chat completion."""
    content = reply.content()
    try:
        choice = content["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError) as error:
        raise InferenceFailed(f"the server answers without a choice: {reply.excerpt!r}") from error
    usage = content.get("usage") or {}
    return {
        "text": text or "",
        "finish_reason": choice.get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
    }


def chunks(data: Sequence[str]) -> list[dict[str, Any]]:
    """Return the JSON objects among the events; an event that is neither JSON nor ``[DONE]`` is an error."""
    objects = []
    for event in data:
        if event in ("", "[DONE]"):
            continue
        try:
            objects.append(json.loads(event))
        except ValueError as error:
            raise InferenceFailed(f"the server streams what is no JSON: {event[:100]!r}") from error
    return [found for found in objects if isinstance(found, dict)]


def delta(chunk: dict[str, Any]) -> str:
    """Return the new text of one streamed chunk of either kind."""
    choices = chunk.get("choices") or [{}]
    text = choices[0].get("text")
    return str(text or (choices[0].get("delta") or {}).get("content") or "")


def run_check(server: Endpoint, model: str, check: str, params: dict[str, Any]) -> dict[str, Any]:
    """Ask ``server`` one thing and return the facts, ``status`` among them; raises InferenceFailed."""
    if check not in _CHECKS:
        raise InferenceFailed(f"no check of a server is called {check!r}")
    return _CHECKS[check](server, {"model": model}, params)


def _check_models(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    reply = server.get("/models")
    return {"status": reply.status, "ids": model_ids(reply), "body": reply.excerpt}


def _check_stream(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    content = {**base, "prompt": params.get("prompt", _PROMPT), **_limits(params)}
    return _streamed_and_plain(server, "/completions", content)


def _check_chat_stream(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    content = {**base, "messages": params.get("messages", _CHAT), **_limits(params)}
    return _streamed_and_plain(server, "/chat/completions", content)


def _check_chat(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    return _asked(
        server, "/chat/completions", {**base, "messages": params.get("messages", _CHAT), **_limits(params)}
    )


def _check_malformed(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    return _refusal(server.post("/completions", b'{"prompt": "a", '))


def _check_missing_field(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    return _refusal(server.post("/completions", {**base, "max_tokens": 1}))


def _check_unknown_path(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    return _refusal(server.get("/no-such-path"))


def _check_max_tokens(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    asked = int(params.get("max_tokens", 3))
    content = {**base, "prompt": params.get("prompt", _PROMPT), **_limits(params), "max_tokens": asked}
    return {"asked": asked, **_asked(server, "/completions", content)}


def _check_concurrent(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    count = max(1, min(int(params.get("n", 4)), _MAX_PARALLEL))
    content = {**base, "prompt": params.get("prompt", _PROMPT), **_limits(params)}
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda _: _asked(server, "/completions", content), range(count)))
    statuses = [answer["status"] for answer in answers]
    return {
        "status": max(statuses),
        "statuses": statuses,
        "texts": [answer.get("text") for answer in answers],
    }


def _limits(params: dict[str, Any]) -> dict[str, Any]:
    return {
        "max_tokens": params.get("max_tokens", 16),
        "temperature": params.get("temperature", 0.0),
        "seed": params.get("seed", 0),
    }


def _asked(server: Endpoint, path: str, content: dict[str, Any]) -> dict[str, Any]:
    reply = server.post(path, content)
    if reply.status != 200:
        return _refusal(reply)
    return {"status": reply.status, **told(reply)}


def _refusal(reply: Reply) -> dict[str, Any]:
    return {"status": reply.status, "body": reply.excerpt}


def _streamed_and_plain(server: Endpoint, path: str, content: dict[str, Any]) -> dict[str, Any]:
    status, data = server.events(path, {**content, "stream": True})
    received = chunks(data) if status == 200 else []
    plain = _asked(server, path, content)
    return {
        "status": status,
        "status_plain": plain["status"],
        "text_stream": "".join(delta(chunk) for chunk in received),
        "text_plain": plain.get("text"),
        "chunks": len(received),
        "done_marker": bool(data) and data[-1] == "[DONE]",
    }


_CHECKS = {
    "models": _check_models,
    "stream": _check_stream,
    "chat": _check_chat,
    "chat_stream": _check_chat_stream,
    "malformed": _check_malformed,
    "missing_field": _check_missing_field,
    "unknown_path": _check_unknown_path,
    "max_tokens": _check_max_tokens,
    "concurrent": _check_concurrent,
    **protocol_checks.CHECKS,
}
