"""Engines: each loads one target and answers for it.

Only a worker process calls ``load``; the engine is imported inside it. ``unavailable`` may be called by
the parent and must be cheap: it imports no engine.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from apr_qa.errors import Inapplicable
from apr_qa.plugins import Registry
from apr_qa.vocabulary import Response, Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BACKENDS: Registry[Backend] = Registry("backends")


@dataclass(frozen=True)
class Request:
    """One text to continue. ``prompt`` is final text: special tokens written in it are parsed only when
    ``templated`` is true (a chat template produced them); a raw prompt gets the model's own BOS rule."""

    prompt: str
    max_tokens: int = 32
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    templated: bool = False
    top_p: float = 1.0
    top_k: int = 0


class Session(Protocol):
    """A loaded target."""

    vocab_size: int
    """Width of the logits; 0 where the engine does not tell."""
    context_size: int
    """Positions of one sequence, prompt and new tokens; 0 where nothing tells."""

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Return the token ids of ``text``."""
        ...

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of ``token_ids``, special tokens left out."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Continue every request in one batch, greedily at temperature 0; raises InferenceFailed.

        A request that cannot run is answered by ``finish_reason`` "error" and ``facts["error"]``; only
        when none can run, or the engine breaks, is InferenceFailed raised.
        """
        ...

    def stream(self, request: Request) -> Generator[str, None, Response]:
        """Yield the text of one continuation in pieces, some empty; the generator's value is the response."""
        ...

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Response:
        """Answer a conversation."""
        ...

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return float32 logits of shape [len(token_ids), vocab_size] from one forward pass."""
        ...

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Render through the artifact's own chat template, generation prompt added."""
        ...

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make one check (of a file, of a protocol) and return what was found, as plain JSON values."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...


class Mute:
    """A session over something that does not generate text: base of those that only answer checks."""

    vocab_size = 0
    context_size = 0

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        raise _mute()

    def detokenize(self, token_ids: Sequence[int]) -> str:
        raise _mute()

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        raise _mute()

    def stream(self, request: Request) -> Generator[str, None, Response]:
        raise _mute()

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Response:
        raise _mute()

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        raise _mute()

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        raise _mute()

    def close(self) -> None:
        """Nothing is held but memory maps."""


def _mute() -> Inapplicable:
    return Inapplicable("files are inspected and converted here, not run")


class Backend(Protocol):
    """One engine."""

    name: str
    formats: tuple[str, ...]

    def unavailable(self, target: Target) -> str | None:
        """Return why ``target`` cannot run here (no GPU, package missing), or None."""
        ...

    def load(self, target: Target, artifact: Path, *, threads: int = 0, endpoint: str = "") -> Session:
        """Load ``artifact``; raises MalformedFile, EngineMissing, Inapplicable or InferenceFailed."""
        ...
