"""Predictions of GGUF through llama.cpp, and the one inner state that it gives out: the last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apr_qa import devices
from apr_qa.errors import EngineMissing, Inapplicable, InferenceFailed
from apr_qa.inference.llama_native import BATCH_TOKENS, Context, NativeModel, Shape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class LlamaProbe:
    """One GGUF file in llama.cpp."""

    engine = "llama_cpp"

    def __init__(self, path: Path, device: str = "cpu") -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve their neighbours
        try:
            import llama_cpp.llama_cpp as llama
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineMissing(
                f"llama-cpp-python cannot be imported: {error}", fix="pip install 'apr-qa[llama]'"
            ) from error
        if device != "cpu" and not llama.llama_supports_gpu_offload():
            raise Inapplicable("llama.cpp is built without GPU support, or finds no GPU")
        threads = int(os.environ.get("OMP_NUM_THREADS") or devices.usable_cores())
        self._native = NativeModel(llama, path, threads, gpu=device != "cpu")
        self._width = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._native.pointer)))
        self._limit = int(llama.llama_model_n_ctx_train(self._native.pointer))
        self._context: Context | None = None

    def logits(self, rows: Sequence[Sequence[int]], positions: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return logits [rows × positions, vocabulary] of one pass over sequences of equal length."""
        wanted = set(positions)
        context = self._empty(rows, 0)
        return context.decode(
            [
                (token, place, number, place in wanted)
                for number, row in enumerate(rows)
                for place, token in enumerate(row)
            ]
        )

    def decoded(
        self, rows: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]] | None, new_tokens: int
    ) -> npt.NDArray[np.float32]:
        """Return logits [rows × new_tokens, vocabulary] of decoding token by token with the cache.

        The tokens that are appended are ``continuations``, or the model's own first choices.
        """
        import numpy as np

        context = self._empty(rows, new_tokens)
        length = len(rows[0])
        prefill = [
            (token, place, number, place == length - 1)
            for number, row in enumerate(rows)
            for place, token in enumerate(row)
        ]
        steps = [context.decode(prefill)]
        for step in range(new_tokens - 1):
            taken = steps[-1].argmax(-1) if continuations is None else [row[step] for row in continuations]
            steps.append(
                context.decode(
                    [(int(token), length + step, number, True) for number, token in enumerate(taken)]
                )
            )
        return np.stack(steps, axis=1).reshape(-1, self._width)

    def inner(self, ids: Sequence[int]) -> tuple[npt.NDArray[np.float32], None]:
        """Return the hidden state behind the final norm, [1, tokens, hidden]; llama.cpp gives out no other."""
        context = self._empty([ids], 0)
        entries = [(token, place, 0, True) for place, token in enumerate(ids)]
        return context.hidden(entries)[None], None

    def close(self) -> None:
        """Release the weights."""
        self._drop()
        self._native.close()

    def _empty(self, rows: Sequence[Sequence[int]], more: int) -> Context:
        """Return an empty context for ``rows`` and ``more`` tokens each; raises InferenceFailed if they do not fit."""
        longest = max(len(row) for row in rows) + more
        if 0 < self._limit < longest:
            raise InferenceFailed(f"{longest} tokens exceed the context of {self._limit}")
        foreign = [token for row in rows for token in row if not 0 <= token < self._width]
        if foreign:
            raise InferenceFailed(f"{foreign[0]} is no token id of a vocabulary of {self._width}")
        shape = Shape(len(rows), longest, BATCH_TOKENS)
        if self._context is None or not self._context.holds(shape):
            self._drop()
            self._context = Context(self._native, shape)
        self._context.clear()
        return self._context

    def _drop(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None
