"""Tensor payloads of ``.apr`` files: dtype codes, sizes, and the block formats in both directions.

Two families of writers give some codes different meanings, so a code is read together with the payload
size: the only reading whose size formula fits is the right one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from apr_qa.containers.byte_layout import CHUNK_ELEMENTS, ELEMENT_BYTES, float_chunks, to_float32
from apr_qa.containers.ggml_blocks import dequantised
from apr_qa.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLOCKS = {
    **{"q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34)},
    **{"q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210)},
    "q4": (32, 18),
}
"""Values and bytes of one block."""
Q8 = "q8"
Q8_SCALE_BYTES = 4
CODES = {"f32": 0, "f16": 1, "bf16": 30, "q4": 128, "q8": 129}
"""What this project writes."""
_READINGS: dict[int, tuple[str, ...]] = {
    0: ("f32",),
    1: ("f16",),
    2: ("q4_0",),
    3: ("f64", "q4_1"),
    4: ("i32",),
    5: ("i64",),
    6: ("i8", "q5_0"),
    7: ("u8", "q5_1"),
    8: ("q4", "q8_0"),
    9: (Q8,),
    10: ("q2_k",),
    11: ("q3_k",),
    12: ("q4_k",),
    13: ("q5_k",),
    14: ("q6_k",),
    30: ("bf16",),
    128: ("q4",),
    129: (Q8,),
}
QUANTIZED = frozenset({*BLOCKS, Q8})
_SMALLEST_SCALE = 6.1e-5
"""Below it (the smallest normal half) other readers take the scale of a q4 block as zero."""
_CHUNK_BLOCKS = 2**13


def resolve(code: int, shape: tuple[int, ...], size: int) -> str | None:
    """Return the dtype that explains code, row-major shape and payload size, or None if nothing does."""
    return next((name for name in _READINGS.get(code, ()) if size in stored_sizes(name, shape)), None)


def known_code(code: int) -> bool:
    """Say whether any writer uses the dtype code."""
    return code in _READINGS


def stored_sizes(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lawful payload sizes; blocks may run through the flat tensor or start anew in each row."""
    count = math.prod(shape)
    if dtype in ELEMENT_BYTES:
        return (count * ELEMENT_BYTES[dtype],)
    if dtype == Q8:
        return (Q8_SCALE_BYTES + count if count else 0,)
    values, block_bytes = BLOCKS[dtype]
    flat = -(-count // values) * block_bytes
    if dtype == "q4":
        return (flat,)
    columns = shape[-1] if shape else 1
    rows = count // columns if columns else 0
    return (flat, rows * -(-columns // values) * block_bytes)


def decode(payload: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode a payload that ``resolve`` accepted into a fresh float32 array."""
    import numpy as np

    if dtype in ELEMENT_BYTES:
        return to_float32(payload, dtype, shape)
    count = math.prod(shape)
    with np.errstate(all="ignore"):
        if dtype == Q8:
            scaled = payload[Q8_SCALE_BYTES:].view(np.int8).astype(np.float32)
            scaled *= payload[:Q8_SCALE_BYTES].view("<f4")
            return scaled.reshape(shape)
        values, block_bytes = BLOCKS[dtype]
        flat = _q4_values(payload.reshape(-1, block_bytes)) if dtype == "q4" else dequantised(payload, dtype)
    columns = shape[-1] if shape else 1
    padded = -(-columns // values) * values
    if dtype != "q4" and columns % values and flat.size * columns == count * padded:
        # Every row starts a new block. Where both layouts have this size, the layout contract says rows.
        return np.ascontiguousarray(flat.reshape(-1, padded)[:, :columns]).reshape(shape)
    return flat[:count].reshape(shape)


def encode(array: Any, dtype: str, name: str) -> Iterator[npt.NDArray[Any]]:
    """Yield the payload of a float32 array; raises UsageError for values that the dtype cannot hold."""
    if dtype in QUANTIZED:
        _refuse_nonfinite(array, dtype, name)
        yield from _q4_chunks(array) if dtype == "q4" else _q8_chunks(array)
    else:
        yield from float_chunks(array, dtype, name)


def _q4_values(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import numpy as np

    flat = np.empty(len(blocks) * 32, np.float32)
    for start in range(0, len(blocks), _CHUNK_BLOCKS):
        part = blocks[start : start + _CHUNK_BLOCKS]
        flat[start * 32 : (start + len(part)) * 32] = _q4_piece(part)
    return flat


def _q4_piece(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import numpy as np

    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    scales[~(np.isfinite(scales) & (np.abs(scales) >= _SMALLEST_SCALE))] = 0.0
    packed = blocks[:, 2:]
    nibbles = np.stack((packed & 15, packed >> 4), axis=-1).reshape(len(blocks), -1)
    return ((nibbles.astype(np.float32) - 8) * scales).reshape(-1)


def _q4_chunks(array: Any) -> Iterator[npt.NDArray[np.uint8]]:
    import numpy as np

    flat = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
    for start in range(0, flat.size, CHUNK_ELEMENTS):
        chunk = flat[start : start + CHUNK_ELEMENTS]
        blocks = np.pad(chunk, (0, -chunk.size % 32)).reshape(-1, 32)
        scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(7)
        # Also for a peak so small that its seventh is no float32 any more.
        scales[scales == 0] = 1.0
        codes = (np.clip(_rounded(blocks / scales), -8, 7) + 8).astype(np.uint8)
        with np.errstate(over="ignore"):
            halves = scales.astype("<f2").view(np.uint8)
        yield np.concatenate((halves, codes[:, 0::2] | codes[:, 1::2] << 4), axis=1)


def _q8_chunks(array: Any) -> Iterator[npt.NDArray[Any]]:
    import numpy as np

    flat = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
    if flat.size == 0:
        return
    peak = max(float(flat.max()), -float(flat.min()))
    scale = np.float32(peak / 127) or np.float32(1.0)
    yield np.array([scale], "<f4")
    for start in range(0, flat.size, CHUNK_ELEMENTS):
        with np.errstate(all="ignore"):
            codes = _rounded(flat[start : start + CHUNK_ELEMENTS] / scale)
        yield np.clip(np.nan_to_num(codes), -127, 127).astype(np.int8)


def _rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round halves away from zero, as the reference writer does; numpy rounds them to even."""
    import numpy as np

    rounded: npt.NDArray[np.float32] = np.trunc(values + np.copysign(np.float32(0.5), values))
    return rounded


def _refuse_nonfinite(array: Any, dtype: str, name: str) -> None:
    import numpy as np

    # A block scale is a half: 7 times its largest finite value is the largest weight of q4.
    limit = 7 * 65504.0 if dtype == "q4" else float(np.finfo(np.float32).max)
    if array.size and not max(float(array.max()), -float(array.min())) <= limit:
        raise UsageError(f"a weight is not finite or does not fit {dtype}", where=name, fix="store it as f32")
