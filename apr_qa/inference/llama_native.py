"""llama.cpp's model and context as Python objects: loading, batches, logits, and its last words.

Sizes are tokens and cells (one cell holds keys and values of one position of one sequence).
"""

from __future__ import annotations

import collections
import ctypes
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr_qa.errors import InferenceFailed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BATCH_TOKENS = 512
"""Tokens of one call of llama_decode."""

_CELL_BLOCK = 256
"""llama.cpp rounds the cache of a sequence up to this many cells."""

_F32_BYTES = 4

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


class Shape(NamedTuple):
    """What a context has room for."""

    sequences: int
    positions: int
    """Of each sequence, new tokens included."""
    outputs: int
    """Logits of one call."""
    exact: bool = True
    """Whether attention is computed in float32, see `Context`."""


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

    def rounds(self) -> bool:
        """Say whether a product with its weights rounds the other factor: all types but float32 do."""
        size = self.llama.llama_model_size(self.pointer)
        return bool(size < _F32_BYTES * self.llama.llama_model_n_params(self.pointer))

    def streams(self) -> bool:
        """Say whether each sequence has a cache of its own: recurrent states share one that takes any order."""
        llama = self.llama
        return not (llama.llama_model_is_recurrent(self.pointer) or llama.llama_model_is_hybrid(self.pointer))

    def close(self) -> None:
        """Free the weights; contexts must be closed before."""
        if self.pointer:
            self.llama.llama_model_free(self.pointer)
            self.pointer = None


class Context:
    """The key-value caches of several sequences, and the batch that feeds them.

    Exact attention works in float32; otherwise it is what llama.cpp does by default, flash attention over a
    float16 cache, faster by a third. With float32 weights the latter makes logits of one sequence differ by up to
    3e-2 between a batch and alone, exactness by 3e-5. Where weights are of another type, their products
    round more than that either way: 4e-2 to 5e-2 with F16, 0.8 to 1.4 with Q8_0 (SmolLM2-135M, 32 sequences).

    A cache for each sequence: attention then looks at its own cells only, not at those of all the others.
    """

    def __init__(self, model: NativeModel, shape: Shape, watch: Any = None) -> None:
        """``watch``: evaluation callback of ggml's scheduler, called for every node of the graph."""
        self._model = model
        self._watch = watch
        self._llama = llama = model.llama
        self._width = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model.pointer)))
        self._shape = shape._replace(positions=-(-shape.positions // _CELL_BLOCK) * _CELL_BLOCK)
        self._pointer: Any = llama.llama_init_from_model(model.pointer, self._parameters())
        if not self._pointer:
            raise InferenceFailed(f"llama.cpp makes no context of {self._shape}: {last_words()}")
        self._batch = llama.llama_batch_init(BATCH_TOKENS, 0, 1)

    def _parameters(self) -> Any:
        shape = self._shape
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = shape.sequences * shape.positions
        parameters.n_seq_max = shape.sequences
        parameters.n_outputs_max = min(BATCH_TOKENS, shape.outputs)
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = self._model.threads
        parameters.kv_unified = not self._model.streams()
        parameters.offload_kqv = parameters.op_offload = self._model.gpu
        if self._watch is not None:
            parameters.cb_eval = self._watch
        if shape.exact and not self._model.gpu:
            parameters.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
            parameters.type_k = parameters.type_v = self._llama.GGML_TYPE_F32
        return parameters

    def holds(self, shape: Shape) -> bool:
        """Say whether a batch of that shape fits."""
        has = self._shape
        return has.exact == shape.exact and all(
            got >= wanted for got, wanted in zip(has[:3], shape[:3], strict=True)
        )

    def clear(self) -> None:
        """Forget all sequences, data included: a stale NaN would survive a mask."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._pointer), True)

    def shares_beginnings(self) -> bool:
        """Say whether a sequence can go on from a part of another: every position of every layer is kept."""
        return self._model.streams() and self._llama.llama_model_n_swa(self._model.pointer) == 0

    def copy(self, source: int, sequences: Iterable[int]) -> None:
        """Let ``sequences`` begin with all that ``source`` has; their cells are copied, nothing is computed."""
        memory = self._llama.llama_get_memory(self._pointer)
        for sequence in sequences:
            self._llama.llama_memory_seq_cp(memory, source, sequence, -1, -1)

    def move(self, source: int, sequence: int) -> None:
        """Go on with ``source`` as ``sequence``, whose content is forgotten."""
        memory = self._llama.llama_get_memory(self._pointer)
        self._llama.llama_memory_seq_rm(memory, sequence, -1, -1)
        self.copy(source, [sequence])
        self._llama.llama_memory_seq_rm(memory, source, -1, -1)

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
