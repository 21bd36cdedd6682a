"""Let Ollama load a file of ours: upload it, make a model of it, ask it, remove it.

The calls are those of https://github.com/ollama/ollama/blob/main/docs/api.md (blobs, create, generate, delete).
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import urllib.parse
from pathlib import Path
from typing import Any

from apr_qa.errors import Inapplicable

LIMIT_S = 300.0


def load(address: str, artifact: Path) -> dict[str, Any]:
    """Return the status of each call and the text that the loaded model says."""
    parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
    if artifact.suffix != ".gguf":
        raise Inapplicable("Ollama loads GGUF files only")
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
    name = f"apr-qa-{digest[:12]}"
    status, _ = _call(parts.netloc, "GET", "/api/tags", None)
    if status != 200:
        raise Inapplicable(f"{address} is no Ollama: it has no /api/tags")
    uploaded, _ = _call(parts.netloc, "POST", f"/api/blobs/sha256:{digest}", artifact.read_bytes())
    made, said = _call(
        parts.netloc,
        "POST",
        "/api/create",
        {"model": name, "files": {artifact.name: f"sha256:{digest}"}, "stream": False},
    )
    try:
        asked = {"model": name, "prompt": "What is 2 + 2? The answer is", "stream": False}
        answered, answer = _call(parts.netloc, "POST", "/api/generate", asked) if made == 200 else (0, {})
    finally:
        _call(parts.netloc, "DELETE", "/api/delete", {"model": name})
    return {
        "upload": uploaded,
        "create": made,
        "generate": answered,
        "text": answer.get("response", ""),
        "said": "" if made == 200 else str(said.get("error", ""))[:300],
    }


def _call(
    host: str, method: str, path: str, content: dict[str, Any] | bytes | None
) -> tuple[int, dict[str, Any]]:
    body = json.dumps(content).encode() if isinstance(content, dict) else content
    try:
        with contextlib.closing(http.client.HTTPConnection(host, timeout=LIMIT_S)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Inapplicable(f"{method} {path} got no answer from {host}: {error}") from None
    try:
        decoded = json.loads(text or b"{}")
    except ValueError:
        decoded = {}
    return response.status, decoded if isinstance(decoded, dict) else {}
