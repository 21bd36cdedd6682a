"""Chat templates: the artifact's own Jinja program, run as transformers runs it, in a process of its own.

A template comes out of a model file, so it is untrusted code. `template_sandbox` says what it may do; what it
does is bounded in time, memory and output, and a template that dies of that is an answer like any other.
"""

from __future__ import annotations

import atexit
import json
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from apr_qa import processes
from apr_qa.errors import InferenceFailed
from apr_qa.inference.template_sandbox import MAX_BYTES, MAX_CHARACTERS, MAX_SECONDS

WALL_LIMIT_S = 60.0
"""For an answer on a machine that is busy; the processor time of a template is limited by its process."""


class RenderingLimit(InferenceFailed):
    """A template asked for more time, memory or output than any template needs."""


class ForbiddenTemplate(InferenceFailed):
    """A template tried what the sandbox forbids."""


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
) -> str:
    """Render ``messages`` as the text that the model continues; raises InferenceFailed.

    ``special_tokens`` maps variable names of the template (``bos_token``, ``eos_token``, …) to their text.
    """
    if len(template) > MAX_CHARACTERS:
        raise RenderingLimit(f"the chat template has {len(template)} characters, more than {MAX_CHARACTERS}")
    variables = {
        **special_tokens,
        "messages": [dict(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    reply = _RENDERER.ask({"template": template, "variables": variables})
    if "text" in reply:
        return str(reply["text"])
    line = reply.get("line")
    kind = (
        RenderingLimit
        if reply.get("limit")
        else ForbiddenTemplate
        if reply.get("security")
        else InferenceFailed
    )
    raise kind(
        f"the chat template failed: {reply['error']}", where=f"chat template, line {line}" if line else ""
    )


class _Renderer:
    """The process that renders, started when the first template is and after each one that ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: processes.Child | None = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._child is None or not self._child.alive():
                self._drop()
                self._child = processes.Child(["-m", "apr_qa.inference.template_sandbox"])
            self._child.send(json.dumps(request, default=str).encode("ascii"))
            try:
                reply: dict[str, Any] | None = self._child.receive(WALL_LIMIT_S)
            except queue.Empty:
                reply = {"error": f"no answer within {WALL_LIMIT_S:g} s", "limit": True}
            if reply is None:
                reply = {"error": self._death(self._child), "limit": True}
            if reply.get("limit"):
                self._drop()
            return reply

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    @staticmethod
    def _death(child: processes.Child) -> str:
        how = child.exit_description()
        if how.endswith("SIGVTALRM"):
            return f"it takes more than {MAX_SECONDS:g} s"
        return f"its process ended ({how}); {MAX_BYTES >> 20} MiB of memory are allowed"


_RENDERER = _Renderer()
atexit.register(_RENDERER.close)
