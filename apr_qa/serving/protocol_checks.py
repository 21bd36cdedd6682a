"""Further checks of a server's protocol: the shape of its answers, its refusals, what reaches the model."""

from __future__ import annotations

import json
from typing import Any

from apr_qa.errors import InferenceFailed
from apr_qa.serving.endpoint import Endpoint, Reply

QUESTION = "What is 2 + 2?"
TOO_MANY_TOKENS = 1_000_000
PARALLEL = 10


def chat_answer(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return the anatomy of one chat answer, whether or not it is what it should be."""
    reply = server.post("/chat/completions", {**base, **_limits(params), "messages": [_user(QUESTION)]})
    content = _json(reply)
    choices = content.get("choices") if isinstance(content, dict) else None
    message = choices[0].get("message") if isinstance(choices, list) and choices else None
    text = message.get("content") if isinstance(message, dict) else None
    usage = content.get("usage") if isinstance(content, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    return {
        "status": reply.status,
        "is_json": content is not None,
        "has_content": isinstance(text, str),
        "text": text if isinstance(text, str) else None,
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "body": reply.excerpt,
    }


def conversation(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return how many prompt tokens a question takes alone, after a system prompt and after another turn."""
    system = {"role": "system", "content": "You are called Penelope and answer in one short sentence."}
    earlier = [_user("My name is Ada."), {"role": "assistant", "content": "Hello Ada."}]
    asked = {
        "alone": [_user(QUESTION)],
        "with_system": [system, _user(QUESTION)],
        "with_turn": [*earlier, _user(QUESTION)],
    }
    told: dict[str, Any] = {}
    for name, messages in asked.items():
        reply = server.post("/chat/completions", {**base, **_limits(params), "messages": messages})
        content = _json(reply)
        usage = content.get("usage") if isinstance(content, dict) else None
        told[name] = {
            "status": reply.status,
            "prompt_tokens": usage.get("prompt_tokens") if isinstance(usage, dict) else None,
        }
    return told


def empty_messages(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return how a conversation without any turn is answered."""
    return _refusal(server.post("/chat/completions", {**base, **_limits(params), "messages": []}))


def huge_max_tokens(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return how a request for far more tokens than any context holds is answered, and whether the server lives."""
    content = {**base, "prompt": QUESTION, "max_tokens": TOO_MANY_TOKENS, "temperature": 0.0, "stop": [" "]}
    try:
        first = _refusal(server.post("/completions", content))
    except InferenceFailed as error:
        first = {"status": None, "body": error.what}
    return {**first, "alive": server.get("/models").status == 200}


def repeated(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return the texts of one greedy request made three times."""
    content = {**base, **_limits(params), "messages": [_user(QUESTION)]}
    return {"texts": [_text(server.post("/chat/completions", content)) for _ in range(3)]}


def parallel(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return the statuses of `PARALLEL` requests made at the same time."""
    from apr_qa.serving.endpoint import at_once

    content = {**base, **_limits(params), "prompt": "The capital of France is"}

    def ask(_: int) -> int:
        return server.post("/completions", content).status

    return {"asked": PARALLEL, "statuses": at_once(ask, range(PARALLEL))}


def event_lines(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return what a stream is made of, line by line."""
    content = {**base, **_limits(params), "messages": [_user(QUESTION)], "stream": True}
    reply = server.post("/chat/completions", content)
    lines = [line for line in reply.body.decode("utf-8", "replace").splitlines() if line]
    fields = ("data:", ":", "event:", "id:", "retry:")
    return {
        "status": reply.status,
        "lines": len(lines),
        "foreign": [line[:80] for line in lines if not line.startswith(fields)][:5],
        "last": lines[-1][:80] if lines else "",
    }


def answer_times(server: Endpoint, base: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds that the list of models takes, three times."""
    import time

    taken = []
    for _ in range(3):
        started = time.perf_counter()
        status = server.get("/models").status
        taken.append(round(time.perf_counter() - started, 4))
    return {"status": status, "seconds": taken}


def _limits(params: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": params.get("max_tokens", 16), "temperature": 0.0, "seed": 0}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _text(reply: Reply) -> str | None:
    content = _json(reply)
    try:
        return str(content["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError):
        return None


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.body)
    except ValueError:
        return None


def _refusal(reply: Reply) -> dict[str, Any]:
    return {"status": reply.status, "body": reply.excerpt}


CHECKS = {
    "chat_answer": chat_answer,
    "conversation": conversation,
    "empty_messages": empty_messages,
    "huge_max_tokens": huge_max_tokens,
    "repeated": repeated,
    "parallel": parallel,
    "event_lines": event_lines,
    "answer_times": answer_times,
}
