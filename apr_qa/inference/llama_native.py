"""llama.cpp's model and context as Python objects: loading, batches, logits, and its last words.

Sizes are tokens and cells (one cell holds keys and values of one position of one sequence).
"""

from __future__ import annotations

import collections
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.errors import InferenceFailed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BATCH_TOKENS = 512
"""Tokens of one call of llama_decode."""

_CELL_BLOCK = 256
"""llama.cpp rounds its cache up to this many cells."""

_ERROR = 4
"""Of ggml_log_level."""

_GENERIC = ("failed to load model", "failed to initialize the context", "failed to decode")
"""Parts of messages that only repeat that something failed; the line before says what."""

_log: collections.deque[str] = collections.deque(maxlen=50)
_callbacks: list[Any] = []
"""llama.cpp keeps one callback for the whole process; Python must keep it alive."""

Entry = tuple[int, int, int, bool]
"""Token, its position, its sequence, whether its logits are wanted."""


def capture_log(llama: Any) -> None:
    """Keep llama.cpp's error lines for `last_words` and print nothing."""
    if _callbacks:
        return

    def keep(level: int, text: bytes | None, _: Any) -> None:
        if level == _ERROR and text:
            _log.append(text.decode("utf-8", "replace").strip())

    _callbacks.append(llama.llama_log_callback(keep))
    llama.llama_log_set(_callbacks[0], ctypes.c_void_p(0))


def last_words() -> str:
    """Return the last error line that says something specific."""
    lines = [line for line in _log if line]
    specific = [line for line in lines if not any(part in line for part in _GENERIC)]
    return (specific or lines or ["it does not say why"])[-1]


class NativeModel:
    """A loaded GGUF file."""

    def __init__(self, llama: Any, path: Path, threads: int, *, gpu: bool) -> None:
        self.llama = llama
        self.threads = threads
        self.gpu = gpu
        capture_log(llama)
        _log.clear()
        llama.llama_backend_init()
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = -1 if gpu else 0
        self.pointer: Any = llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.pointer:
            raise InferenceFailed(f"llama.cpp refuses the file: {last_words()}")

    def close(self) -> None:
        """Free the weights; contexts must be closed before."""
        if self.pointer:
            self.llama.llama_model_free(self.pointer)
            self.pointer = None


class Context:
    """A key-value cache that several sequences share, and the batch that feeds it."""

    def __init__(
        self, model: NativeModel, cells: int, sequences: int, outputs: int, watch: Any = None
    ) -> None:
        """``watch``: evaluation callback of ggml's scheduler, called for every node of the graph."""
        self._model = model
        self._watch = watch
        self._llama = llama = model.llama
        self._width = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model.pointer)))
        self._size = (-(-cells // _CELL_BLOCK) * _CELL_BLOCK, sequences, outputs)
        self._pointer: Any = llama.llama_init_from_model(model.pointer, self._parameters())
        if not self._pointer:
            raise InferenceFailed(f"llama.cpp makes no context of {self._size[0]} cells: {last_words()}")
        self._batch = llama.llama_batch_init(BATCH_TOKENS, 0, 1)

    def _parameters(self) -> Any:
        cells, sequences, outputs = self._size
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_seq_max = sequences
        parameters.n_outputs_max = min(BATCH_TOKENS, outputs)
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = self._model.threads
        parameters.kv_unified = True
        parameters.offload_kqv = parameters.op_offload = self._model.gpu
        if self._watch is not None:
            parameters.cb_eval = self._watch
        if not self._model.gpu:
            # Exact attention: with flash attention and a float16 cache, equal sequences differ by 6e-3 in
            # their logits from batch to batch, without by 2e-6 (tiny F32 Llama); it costs 7 to 20 % of the speed.
            parameters.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
            parameters.type_k = parameters.type_v = self._llama.GGML_TYPE_F32
        return parameters

    def holds(self, cells: int, sequences: int, outputs: int) -> bool:
        """Say whether a batch of that size fits."""
        return all(has >= wanted for has, wanted in zip(self._size, (cells, sequences, outputs), strict=True))

    def clear(self) -> None:
        """Forget all sequences, data included: a stale NaN would survive a mask."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._pointer), True)

    def shares_beginnings(self) -> bool:
        """Say whether a sequence can go on from a part of another: every position of every layer is kept."""
        llama, model = self._llama, self._model.pointer
        if llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model):
            return False
        return bool(llama.llama_model_n_swa(model) == 0)

    def share(self, source: int, sequences: Sequence[int], positions: int) -> None:
        """Let ``sequences`` begin with the first ``positions`` of ``source``; nothing is computed or copied."""
        memory = self._llama.llama_get_memory(self._pointer)
        for sequence in sequences:
            self._llama.llama_memory_seq_cp(memory, source, sequence, 0, positions)

    def decode(self, entries: Sequence[Entry]) -> npt.NDArray[np.float32]:
        """Append ``entries`` to their sequences; return the wanted logits, [wanted, vocab_size], in order."""
        import numpy as np

        chunks = [entries[begin : begin + BATCH_TOKENS] for begin in range(0, len(entries), BATCH_TOKENS)]
        return np.concatenate([self._decode_chunk(chunk) for chunk in chunks])

    def _decode_chunk(self, entries: Sequence[Entry]) -> npt.NDArray[np.float32]:
        import numpy as np

        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        result = self._llama.llama_decode(self._pointer, batch)
        if result != 0:
            raise InferenceFailed(f"llama_decode returns {result}: {last_words()}")
        count = sum(wanted for _, _, _, wanted in entries)
        if count == 0:
            return np.empty((0, self._width), dtype=np.float32)
        logits = self._llama.llama_get_logits(self._pointer)
        if not logits:
            raise InferenceFailed("llama.cpp computes no logits for this model")
        return np.ctypeslib.as_array(logits, shape=(count, self._width)).copy()

    def hidden(self, entries: Sequence[Entry]) -> npt.NDArray[np.float32]:
        """Append ``entries``, at most `BATCH_TOKENS`, and return their last hidden states, [entries, hidden]."""
        import numpy as np

        self._llama.llama_set_embeddings(self._pointer, True)
        try:
            self._decode_chunk(entries)
            width = int(self._llama.llama_model_n_embd(self._model.pointer))
            states = self._llama.llama_get_embeddings(self._pointer)
            if not states:
                raise InferenceFailed("llama.cpp gives out no hidden state of this model")
            return np.ctypeslib.as_array(states, shape=(len(entries), width)).copy()
        finally:
            self._llama.llama_set_embeddings(self._pointer, False)

    def close(self) -> None:
        """Free cache and batch."""
        if self._pointer:
            self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self._pointer)
            self._pointer = None
