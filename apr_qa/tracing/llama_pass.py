"""A forward pass through llama.cpp with a look at every stage, by the scheduler's evaluation callback.

The callback is given each node of the compute graph after it was computed. Nodes carry the names that
llama.cpp's model builders give them (``attn_norm-0``, ``l_out-3``, …); the layout of ``ggml_tensor`` is that
of ggml's public header, and a check of its size and of a known name refuses a library with another one.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.inference.llama_native import BATCH_TOKENS, Context, NativeModel, Shape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from apr_qa.tracing.stages import Sink

_F32 = 0
_BEFORE_PROJECTION = "kqv_out"
"""What goes into the output projection; stands for the attention where a builder does not name what comes out."""

_STAGES = {
    "embd": "embedding",
    "norm": "norm",
    "kq_soft_max": "attention_weights",
    "attn_out": "attention",
    _BEFORE_PROJECTION: "attention",
    "ffn_out": "mlp",
    "ffn_moe_out": "mlp",
    "l_out": "layer",
    "result_norm": "final_norm",
    "result_output": "logits",
}


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor`` up to its name."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


def observe(native: NativeModel, token_ids: Sequence[int], sink: Sink) -> npt.NDArray[np.float32]:
    """Show ``sink`` every stage of one pass over ``token_ids``; return the logits, [tokens, vocabulary].

    Raises Inapplicable on a GPU, where values cannot be read in place, and for a library whose tensors have
    another layout; InferenceFailed for more tokens than one batch holds.
    """
    if native.gpu:
        raise Inapplicable("stages are looked at in host memory, so only on the CPU")
    if len(token_ids) > BATCH_TOKENS:
        raise InferenceFailed(f"a traced pass takes {BATCH_TOKENS} tokens, not {len(token_ids)}")
    watcher = _Watcher(sink, len(token_ids))
    callback = native.llama.ggml_backend_sched_eval_callback(watcher)
    context = Context(native, Shape(1, len(token_ids), len(token_ids)), watch=callback)
    try:
        logits = context.decode([(token, place, 0, True) for place, token in enumerate(token_ids)])
    finally:
        context.close()
    if watcher.failure is not None:
        raise watcher.failure
    if "logits" not in watcher.seen or "layer" not in watcher.seen:
        raise Inapplicable(
            "this llama.cpp names no stages that are known here, or lays out tensors otherwise"
        )
    return logits


class _Watcher:
    """Called before each node (is it wanted?) and after it was computed."""

    def __init__(self, sink: Sink, positions: int) -> None:
        self.seen: set[str] = set()
        self.failure: BaseException | None = None
        self._sink = sink
        self._positions = positions
        self._asked = 0.0
        self._done: set[tuple[str, int]] = set()
        self._held: tuple[int, Any, float] | None = None

    def __call__(self, pointer: int, ask: bool, _: Any) -> bool:
        if self.failure is not None:
            return not ask  # an exception cannot cross the library; go on and raise it afterwards
        tensor = ctypes.cast(pointer, ctypes.POINTER(_Tensor)).contents
        place = _place(bytes(tensor.name))
        if ask:
            self._asked = time.perf_counter()
            return place is not None
        if place is not None and place not in self._done and tensor.type == _F32:
            try:
                self._show(place, tensor, held=bytes(tensor.name).startswith(_BEFORE_PROJECTION.encode()))
            except Exception as error:  # noqa: BLE001 - carried over the C frames and raised by `observe`
                self.failure = error
        return True

    def _show(self, place: tuple[str, int], tensor: _Tensor, *, held: bool) -> None:
        stage, layer = place
        seconds = time.perf_counter() - self._asked
        values = _values(tensor)
        if stage == "attention_weights":
            values = values.reshape(values.shape[-3:])[:, : self._positions]
        else:
            values = values.reshape(-1, values.shape[-1])
        if held:
            self._held = (layer, values.copy(), seconds)
            return
        if self._held is not None and stage in ("attention", "layer"):
            (before, kept, taken), self._held = self._held, None
            seconds += taken if stage == "attention" else 0.0
            if stage == "layer":
                self._done.add(("attention", before))
                self._sink("attention", before, kept, taken)
        self._done.add(place)
        self.seen.add(stage)
        self._sink(stage, layer, values, seconds)


def _place(name: bytes) -> tuple[str, int] | None:
    """Return stage and layer of a node by its name; views and intermediate nodes have none."""
    match = re.fullmatch(rb"([a-z_]+)(?:-(\d+))?", name)
    if match is None:
        return None
    word, layer = match[1].decode(), int(match[2]) if match[2] else -1
    stage = _STAGES.get(word)
    if stage is None or (stage == "norm" and layer < 0):
        return None
    return stage, layer


def _values(tensor: _Tensor) -> npt.NDArray[np.float32]:
    """Return a view of the values, outermost dimension first; it lives as long as the callback."""
    import numpy as np

    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    if not tensor.data or min(shape) <= 0:
        raise InferenceFailed("llama.cpp shows a stage without values")
    size = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 4
    memory = (ctypes.c_char * size).from_address(tensor.data)
    return np.ndarray(shape, dtype=np.float32, buffer=memory, strides=strides)
