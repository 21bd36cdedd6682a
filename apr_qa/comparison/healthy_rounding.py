"""What storing a tensor in a type does to its values when nothing goes wrong: round there and back.

Plain floats are rounded here, GGUF's blocks by ggml's own quantiser where llama-cpp-python is installed
and by gguf's (which has none for K types) where it is not.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from apr_qa.comparison import packed_rounding
from apr_qa.containers import apr_blocks
from apr_qa.containers.byte_layout import to_bf16, to_float32
from apr_qa.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EXACT = ("f64", "f32")
"""Types that hold every float32."""
FLOATS = (*EXACT, "f16", "bf16")
_APR_BLOCKS = ("q4", "q8")
_QUANTISED = (
    *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    *("iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0", "mxfp4"),
)
"""What ggml quantises without importance weights; it ends the process for every other type, whole numbers included."""


_HELD = {
    "f64": ("f64", "f32", "f16", "bf16"),
    "f32": ("f32", "f16", "bf16"),
    "f16": ("f16",),
    "bf16": ("bf16",),
}
"""Stored type -> types whose every value it holds."""
_PIECE = 1 << 16


def holds(dtype: str, source: str) -> bool:
    """Say whether rounding to ``dtype`` leaves every value as it is that was stored as ``source``."""
    return source in _HELD.get(dtype, ())


def rounded(
    values: npt.NDArray[np.float32], dtype: str, groups: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float32] | None:
    """Return the float32 matrix as it reads back from ``dtype``; None where no quantiser is at hand.

    A quantised row must be whole: blocks run along the last dimension, unless ``groups`` names the group of each
    column.
    """
    import numpy as np

    if dtype in FLOATS:
        return float_rounded(values, dtype)
    with np.errstate(all="ignore"):
        if dtype in _APR_BLOCKS:
            return _apr_rounded(values, dtype)
        if packed_rounding.handles(dtype) and values.ndim == 2:
            return packed_rounding.rounded(values, dtype, groups)
        return _gguf_rounded(values, dtype)


def float_rounded(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32]:
    """Round to one of `FLOATS` and back, in pieces whose temporaries stay in the processor's cache."""
    import numpy as np

    if dtype in EXACT:
        return values
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    found = np.empty_like(flat)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        with np.errstate(all="ignore"):
            if dtype == "f16":
                found[start : start + _PIECE] = piece.astype(np.float16)
            else:
                found[start : start + _PIECE] = to_float32(to_bf16(piece).view(np.uint8), dtype, piece.shape)
    return found.reshape(values.shape)


def _apr_rounded(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32] | None:
    import numpy as np

    try:
        chunks = [chunk.reshape(-1).view(np.uint8) for chunk in apr_blocks.encode(values, dtype, "")]
    except UsageError:
        return None
    return apr_blocks.decode(np.concatenate(chunks), dtype, values.shape)


def _gguf_rounded(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32] | None:
    import gguf
    import numpy as np
    from gguf.quants import dequantize

    stored = gguf_blocks(values, dtype)
    if stored is None:
        return None
    try:
        kind = gguf.GGMLQuantizationType[dtype.upper()]
        return np.asarray(dequantize(stored, kind), np.float32).reshape(values.shape)
    except NotImplementedError:
        return None


def gguf_blocks(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.uint8] | None:
    """Return a float32 matrix as rows of GGUF blocks of type ``dtype``; None where no quantiser is at hand."""
    import gguf
    import numpy as np
    from gguf.quants import quantize

    kind = gguf.GGMLQuantizationType.__members__.get(dtype.upper())
    if dtype not in _QUANTISED or kind is None or values.ndim != 2:
        return None
    if values.shape[1] % gguf.GGML_QUANT_SIZES[kind][0]:
        return None
    values = np.ascontiguousarray(values, np.float32)
    blocks = _ggml_quantised(values, kind)
    try:
        return np.asarray(quantize(values, kind), np.uint8) if blocks is None else blocks
    except NotImplementedError:
        return None


def _ggml_quantised(values: npt.NDArray[np.float32], kind: Any) -> npt.NDArray[np.uint8] | None:
    import gguf
    import numpy as np

    quantise = _ggml_quantiser()
    if quantise is None:
        return None
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    stored = np.empty((rows, columns // block * block_bytes), np.uint8)
    written = quantise(int(kind), values.ctypes.data, stored.ctypes.data, 0, rows, columns, None)
    return stored if written == stored.nbytes else None


@functools.cache
def _ggml_quantiser() -> Any:
    """Return ``ggml_quantize_chunk`` of the library that llama-cpp-python brings, or None."""
    import ctypes

    try:
        from llama_cpp._ggml import libggml

        function = libggml.ggml_quantize_chunk
    except (ImportError, AttributeError, OSError):
        return None
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return function
