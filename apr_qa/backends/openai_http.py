"""Any server that speaks the OpenAI protocol: completions, chat, and checks of the protocol itself.

The requests of one call go out at the same time, as those of several clients would, so a measured rate is
what one of them sees of a busy server. What a server does not tell (token ids, logits, its template) cannot be
asked of it: `Inapplicable`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.serving.endpoint import Endpoint, at_once
from apr_qa.serving.openai_protocol import chunks, delta, model_ids, run_check, told
from apr_qa.vocabulary import FORMATS, Response, Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

READY_TIMEOUT_S = 2.0


def is_ready(endpoint: str) -> bool:
    """Say whether a server answers now: ``GET /v1/models``, or, where it has no such path, ``GET /health``."""
    try:
        server = Endpoint(endpoint, READY_TIMEOUT_S)
        status = server.get("/models").status
        return status == 200 or (status == 404 and server.get("/health", versioned=False).status == 200)
    except InferenceFailed:
        return False


class HttpSession:
    """One model behind one server; ``endpoint`` is its base URL."""

    vocab_size = 0
    context_size = 0

    def __init__(self, endpoint: Endpoint, wanted: str) -> None:
        self.endpoint = endpoint.url
        self._http = endpoint
        self._known: dict[str, dict[str, Any]] = {}
        served = model_ids(endpoint.get("/models"))
        self.model = wanted if wanted in served or not served else served[0]

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        raise Inapplicable("the server does not tell token ids")

    def detokenize(self, token_ids: Sequence[int]) -> str:
        raise Inapplicable("the server does not take token ids")

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        raise Inapplicable("the server does not tell logits")

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        raise Inapplicable("the server renders its template itself; use chat")

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        if any(request.templated for request in requests):
            raise Inapplicable("the server renders its template itself; use chat")
        responses = at_once(lambda request: self._answer("/completions", _completion(request)), requests)
        if requests and all(response.finish_reason == "error" for response in responses):
            raise InferenceFailed(str(responses[0].facts["error"]))
        return responses

    def stream(self, request: Request) -> Generator[str, None, Response]:
        """Yield what the server streams, after it has all arrived."""
        started = time.perf_counter()
        content = {**_completion(request), "model": self.model, "stream": True}
        status, data = self._http.events("/completions", content)
        if status != 200:
            raise InferenceFailed(f"the server answers {status} to a stream")
        duration = time.perf_counter() - started
        pieces = [delta(chunk) for chunk in chunks(data)]
        yield from filter(None, pieces)
        return Response(text="".join(pieces), duration_s=duration)

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Response:
        content = {
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        response = self._answer("/chat/completions", content)
        if response.finish_reason == "error":
            raise InferenceFailed(str(response.facts["error"]))
        return response

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        # Gates that judge the same answer share it: a claim is about the server, not about luck.
        key = json.dumps([check, params], sort_keys=True)
        if key not in self._known:
            self._known[key] = run_check(self._http, self.model, check, params)
        return self._known[key]

    def close(self) -> None:
        """Nothing is held: every request has a connection of its own."""

    def _answer(self, path: str, content: dict[str, Any]) -> Response:
        started = time.perf_counter()
        reply = self._http.post(path, {"model": self.model, **content})
        duration = time.perf_counter() - started
        if reply.status != 200:
            error = f"the server answers {reply.status}: {reply.excerpt}"
            return Response(finish_reason="error", facts={"error": error, "status": reply.status})
        facts = told(reply)
        tokens = facts["completion_tokens"]
        return Response(
            text=facts["text"],
            finish_reason=facts["finish_reason"],
            prompt_tokens=facts["prompt_tokens"],
            duration_s=duration,
            tokens_per_s=tokens / duration if tokens and duration > 0 else None,
            facts={"completion_tokens": tokens},
        )


def _completion(request: Request) -> dict[str, Any]:
    content: dict[str, Any] = {
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    if request.stop:
        content["stop"] = list(request.stop)
    if request.top_p < 1:
        content["top_p"] = request.top_p
    if request.top_k > 0:
        content["top_k"] = request.top_k
    return content


class OpenAiHttp:
    """The engine of everything that is already being served."""

    name = "openai_http"
    formats: tuple[str, ...] = FORMATS

    def unavailable(self, target: Target) -> str | None:
        return None

    def load(self, target: Target, artifact: Path, *, threads: int = 0, endpoint: str = "") -> Session:
        if not endpoint:
            raise Inapplicable("no server was named", fix="give its address with --endpoint URL")
        return HttpSession(Endpoint(endpoint), target.model)


BACKENDS.register("openai_http")(OpenAiHttp())
