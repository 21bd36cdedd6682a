"""One generated sequence: which token comes next, what text the tokens are, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REPLACEMENT = "\ufffd"
"""What an incomplete UTF-8 sequence decodes to."""


class Sampler:
    """Picks tokens of one sequence: argmax at temperature 0 (ties go to the lowest id), else seeded.

    Temperature, then top-k, then top-p, as transformers orders them. One uniform number is drawn per token
    from a generator of the sequence's own, so the batch around it does not matter.
    """

    def __init__(self, temperature: float, top_k: int, top_p: float, seed: int) -> None:
        self._temperature = temperature
        self._top_k = top_k
        self._top_p = top_p
        self._seed = seed
        self._random: np.random.Generator | None = None

    def pick(self, logits: npt.NDArray[np.float32]) -> int:
        """Return the id of the next token; ``logits`` has shape [vocab_size] and is finite."""
        import numpy as np

        if self._temperature <= 0:
            return int(np.argmax(logits))
        if self._random is None:
            self._random = np.random.default_rng(self._seed & 0xFFFF_FFFF_FFFF_FFFF)
        scaled = logits.astype(np.float64) / self._temperature
        ids = self._candidates(scaled)
        weights = np.exp(scaled[ids] - scaled[ids].max())
        cumulative = np.cumsum(weights / weights.sum())
        if self._top_p < 1:
            keep = int(np.searchsorted(cumulative, self._top_p)) + 1
            cumulative = cumulative[:keep]
        draw = self._random.random() * cumulative[-1]
        place = int(np.searchsorted(cumulative, draw, side="right"))
        return int(ids[min(place, len(cumulative) - 1)])

    def _candidates(self, scaled: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Return the ids that may be drawn, best first where a limit needs the order."""
        import numpy as np

        if 0 < self._top_k < len(scaled):
            best = np.argpartition(-scaled, self._top_k - 1)[: self._top_k]
            return best[np.lexsort((best, -scaled[best]))]
        if self._top_p < 1:
            return np.argsort(-scaled, kind="stable")
        return np.arange(len(scaled))


class Continuation:
    """The text of one sequence while it grows; pieces that were handed out are never taken back."""

    def __init__(
        self,
        detokenize: Callable[[Sequence[int]], str],
        ends: Container[int],
        max_tokens: int,
        stop: Sequence[str] = (),
    ) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.end_id: int | None = None
        """The end-of-generation token, which is no part of ``token_ids``."""
        self._detokenize = detokenize
        self._ends = ends
        self._max_tokens = max_tokens
        self._stop = tuple(text for text in stop if text)
        self._shown = 0
        self._window = 0
        self._read = 0

    def accept(self, token_id: int) -> str:
        """Take the next token; return the new text that no later token can change."""
        if token_id in self._ends:
            self.end_id = token_id
            self.finish_reason = "stop"
        else:
            self.token_ids.append(token_id)
            if len(self.token_ids) >= self._max_tokens:
                self.finish_reason = "length"
        before = len(self.text)
        self._extend()
        self._cut(before)
        return self._release()

    def _extend(self) -> None:
        """Decode a window of tokens, because the text of a token can depend on the one before it.

        Text that ends inside a UTF-8 sequence is kept back until the sequence is complete.
        """
        known = self._detokenize(self.token_ids[self._window : self._read])
        text = self._detokenize(self.token_ids[self._window :])
        if self.finish_reason or (len(text) > len(known) and not text.endswith(REPLACEMENT)):
            self.text += text[len(known) :]
            self._window, self._read = self._read, len(self.token_ids)

    def _cut(self, before: int) -> None:
        """End the text before the first stop string that the new part completes."""
        places = [self.text.find(stop, max(0, before - len(stop) + 1)) for stop in self._stop]
        found = [place for place in places if place >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish_reason = "stop"

    def _release(self) -> str:
        end = len(self.text) if self.finish_reason else len(self.text) - self._held_back()
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _held_back(self) -> int:
        """Return the length of the longest end of the text that may become a stop string."""
        lengths = (
            length
            for stop in self._stop
            for length in range(min(len(stop) - 1, len(self.text)), 0, -1)
            if self.text.endswith(stop[:length])
        )
        return max(lengths, default=0)
