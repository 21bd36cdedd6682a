"""Plain HTTP to a server that speaks the OpenAI protocol, with the standard library alone."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from apr_qa.errors import InferenceFailed

TIMEOUT_S = 300.0
MAX_BODY_BYTES = 64 << 20
MAX_EXCERPT = 500
"""Characters of a body that facts may hold."""

MAX_CLIENTS = 16
"""Requests on their way at the same time."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Reply:
    """Status and body of one answer."""

    status: int
    body: bytes

    @property
    def excerpt(self) -> str:
        return self.body[: 4 * MAX_EXCERPT].decode("utf-8", "replace")[:MAX_EXCERPT]

    def content(self) -> dict[str, Any]:
        """Return the JSON object that the body is; raises InferenceFailed."""
        try:
            content = json.loads(self.body)
        except ValueError as error:
            raise InferenceFailed(
                f"the server answers {self.status} with no JSON: {self.excerpt!r}"
            ) from error
        if not isinstance(content, dict):
            raise InferenceFailed(f"the server answers {self.status} with no JSON object: {self.excerpt!r}")
        return content


class Endpoint:
    """A base URL, with or without ``/v1``, and the connections to it."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        except ValueError as error:
            raise InferenceFailed(f"{url!r} is no http address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InferenceFailed(f"{url!r} is no http address")
        self.url = url
        self._secure = parts.scheme == "https"
        self._host = parts.netloc.rpartition("@")[2]
        self._timeout_s = timeout_s
        path = parts.path.rstrip("/")
        self._prefix = path if path.endswith("/v1") else f"{path}/v1"

    def get(self, path: str, *, versioned: bool = True) -> Reply:
        """GET ``/v1`` + ``path``, or ``path`` itself; raises InferenceFailed when there is no answer."""
        return self._ask("GET", path, None, _whole, prefix=self._prefix if versioned else "")

    def post(self, path: str, content: dict[str, Any] | bytes) -> Reply:
        """POST JSON (or, as bytes, anything) to ``/v1`` + ``path``."""
        return self._ask("POST", path, content, _whole)

    def events(self, path: str, content: dict[str, Any]) -> tuple[int, list[str]]:
        """POST and read the answer as server-sent events; return the status and the data of each event."""
        return self._ask("POST", path, content, _event_data)

    def _ask(
        self,
        method: str,
        path: str,
        content: dict[str, Any] | bytes | None,
        read: Callable[[http.client.HTTPResponse], T],
        *,
        prefix: str | None = None,
    ) -> T:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        body = json.dumps(content).encode() if isinstance(content, dict) else content
        try:
            with contextlib.closing(kind(self._host, timeout=self._timeout_s)) as connection:
                connection.request(
                    method, (self._prefix if prefix is None else prefix) + path, body, self._headers()
                )
                return read(connection.getresponse())
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise InferenceFailed(f"{method} {path} got no answer from {self.url}: {problem}") from error

    @staticmethod
    def _headers() -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        return headers


def _whole(response: http.client.HTTPResponse) -> Reply:
    body = response.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        raise InferenceFailed(f"the server answers with more than {MAX_BODY_BYTES} bytes")
    return Reply(response.status, body)


def _event_data(response: http.client.HTTPResponse) -> tuple[int, list[str]]:
    """Read ``data:`` lines (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    lines = _whole(response).body.decode("utf-8", "replace").splitlines()
    data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    return response.status, data


def at_once(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return ``work(item)`` for all items in their order, asked at the same time as clients would."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(MAX_CLIENTS, len(items))) as clients:
        return list(clients.map(work, items))
