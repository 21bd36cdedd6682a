"""The decode loop that every in-process engine shares: batches, refusals, timing.

An engine only computes logits; what happens with them is the same for all of them, so that two engines
with equal logits give equal answers, in a batch or alone, streamed or not.

A request that cannot run (prompt and ``max_tokens`` exceed the context, no token, text that is not Unicode)
does not take the batch with it: its response has ``finish_reason`` "error" and the reason in
``facts["error"]``. When no request of the batch could run, `InferenceFailed` is raised.
"""

from __future__ import annotations

import time
from collections.abc import Container, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from apr_qa.backends import Request
from apr_qa.errors import InferenceFailed
from apr_qa.inference import protected_prompt
from apr_qa.inference.continuation import Continuation, Sampler
from apr_qa.vocabulary import Response

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Engine(Protocol):
    """What the loop needs from a loaded model. Rows are numbered as the prompts of the last prefill."""

    vocab_size: int
    context_size: int
    """Positions of one sequence; 0 where the artifact does not say."""
    max_sequences: int
    """Sequences of one wave."""
    max_cells: int
    """Cache cells of one wave, its longest request times their number; one long request may exceed it."""
    end_ids: Container[int]
    """Tokens that the artifact declares to end a generation."""

    def turn_end_id(self) -> int | None:
        """Return the token that the chat template writes after an assistant turn."""
        ...

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Return the token ids of ``text``."""
        ...

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of ``token_ids``, special tokens left out."""
        ...

    def prefill(self, prompts: Sequence[Sequence[int]], positions: int) -> npt.NDArray[np.float32]:
        """Forget everything, read ``prompts``; return logits [prompts, vocab_size] of their last tokens.

        ``positions``: how many tokens one of them may have in the end, the new ones included.
        """
        ...

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append one token to each of ``rows`` (ascending, a subset of the last); return their logits."""
        ...


class _Lane:
    """One request on its way through a wave."""

    def __init__(self, engine: Engine, index: int, request: Request) -> None:
        self.index = index
        self.request = request
        self.prompt = protected_prompt.tokens(engine.tokenize, request.prompt, templated=request.templated)
        self.cells = len(self.prompt) + request.max_tokens
        self._check(engine)
        self.sampler = Sampler(request.temperature, request.top_k, request.top_p, request.seed)
        ends = _Ends(engine.end_ids, engine.turn_end_id() if request.templated else None)
        self.continuation = Continuation(engine.detokenize, ends, request.max_tokens, request.stop)

    def _check(self, engine: Engine) -> None:
        if not self.prompt:
            raise InferenceFailed("the prompt has no tokens")
        if self.request.max_tokens < 1:
            raise InferenceFailed(f"max_tokens is {self.request.max_tokens}, it must be at least 1")
        if 0 < engine.context_size < self.cells:
            raise InferenceFailed(
                f"context overflow: {len(self.prompt)} prompt tokens and max_tokens "
                f"{self.request.max_tokens} exceed the context of {engine.context_size}"
            )

    def response(self, engine: Engine, measured: _Measured) -> Response:
        done = self.continuation
        facts: dict[str, Any] = {}
        if done.end_id is not None and done.end_id not in engine.end_ids:
            facts["undeclared_end_token"] = done.end_id
        return Response(
            text=done.text,
            token_ids=tuple(done.token_ids),
            finish_reason=done.finish_reason,
            prompt_tokens=len(self.prompt),
            vocab_size=engine.vocab_size,
            duration_s=measured.duration_s,
            time_to_first_token_s=measured.time_to_first_token_s,
            tokens_per_s=measured.tokens_per_s,
            facts=facts,
        )


class _Ends:
    """The declared end tokens and, in a chat, the end of a turn."""

    def __init__(self, declared: Container[int], turn_end: int | None) -> None:
        self._declared = declared
        self._turn_end = turn_end

    def __contains__(self, token_id: object) -> bool:
        return token_id == self._turn_end or token_id in self._declared


class _Measured(NamedTuple):
    duration_s: float
    time_to_first_token_s: float | None
    tokens_per_s: float | None


class _Stopwatch:
    """Times one wave: everything, until its first tokens, and the tokens decoded after them."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first: float | None = None
        self._decoded = 0

    def tick(self, tokens: int) -> None:
        if self._first is None:
            self._first = time.perf_counter() - self._started
        else:
            self._decoded += tokens

    def measured(self) -> _Measured:
        duration = time.perf_counter() - self._started
        decoding = duration - (self._first or 0.0)
        return _Measured(duration, self._first, self._decoded / decoding if self._decoded else None)


def generate(engine: Engine, requests: Sequence[Request]) -> list[Response]:
    """Continue ``requests`` in as few waves as the engine's limits allow; see the module for refusals."""
    responses: list[Response | None] = [None] * len(requests)
    lanes, refusals = [], []
    for index, request in enumerate(requests):
        try:
            lanes.append(_Lane(engine, index, request))
        except InferenceFailed as refusal:
            refusals.append(refusal)
            responses[index] = Response(finish_reason="error", facts={"error": refusal.what})
    if refusals and not lanes:
        raise refusals[0]
    for wave in _waves(lanes, engine):
        watch = _Stopwatch()
        for _ in _run(engine, wave, watch):
            pass
        measured = watch.measured()
        for lane in wave:
            responses[lane.index] = lane.response(engine, measured)
    return [response for response in responses if response is not None]


def stream(engine: Engine, request: Request) -> Generator[str, None, Response]:
    """Yield the new text after every token, "" while it is held back; return the whole response."""
    lane = _Lane(engine, 0, request)
    watch = _Stopwatch()
    for pieces in _run(engine, [lane], watch):
        yield from pieces
    return lane.response(engine, watch.measured())


def require_finite(logits: npt.NDArray[np.float32]) -> None:
    """Raise InferenceFailed unless every logit is a finite number."""
    import numpy as np

    finite = np.isfinite(logits)
    if not finite.all():
        rows = int((~finite.all(axis=-1)).sum())
        raise InferenceFailed(f"non-finite logits at {rows} of {len(logits)} positions")


def _waves(lanes: Sequence[_Lane], engine: Engine) -> Iterator[list[_Lane]]:
    """Group lanes of similar length, so that little of a wave is padding."""
    wave: list[_Lane] = []
    for lane in sorted(lanes, key=lambda lane: lane.cells):
        longest = lane.cells * (len(wave) + 1)
        if wave and (len(wave) >= engine.max_sequences or longest > engine.max_cells):
            yield wave
            wave = []
        wave.append(lane)
    if wave:
        yield wave


def _run(engine: Engine, wave: Sequence[_Lane], watch: _Stopwatch) -> Iterator[list[str]]:
    logits = engine.prefill([lane.prompt for lane in wave], max(lane.cells for lane in wave))
    rows = list(range(len(wave)))
    while rows:
        require_finite(logits)
        picked = [wave[row].sampler.pick(logits[i]) for i, row in enumerate(rows)]
        pieces = [wave[row].continuation.accept(token) for row, token in zip(rows, picked, strict=True)]
        watch.tick(len(rows))
        yield pieces
        going = [i for i, row in enumerate(rows) if wave[row].continuation.finish_reason is None]
        rows, tokens = [rows[i] for i in going], [picked[i] for i in going]
        if rows:
            logits = engine.step(rows, tokens)


def utf8(text: str) -> bytes:
    """Encode ``text``; raises InferenceFailed for a lone surrogate, which no tokenizer can read."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InferenceFailed(f"the text is not valid Unicode: {error.reason}") from error


def require_tokens(engine: Engine, token_ids: Sequence[int]) -> None:
    """Raise InferenceFailed unless ``token_ids`` are tokens of the model and fit into its context."""
    if not token_ids:
        raise InferenceFailed("there are no tokens to compute logits for")
    foreign = [token for token in token_ids if not 0 <= token < engine.vocab_size]
    if foreign:
        raise InferenceFailed(f"{foreign[0]} is no token id of a vocabulary of {engine.vocab_size}")
    if 0 < engine.context_size < len(token_ids):
        raise InferenceFailed(f"{len(token_ids)} tokens exceed the context of {engine.context_size}")
