"""Numbers as model files store them: element sizes, checked products, conversion from and to float32."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.errors import MalformedFile, UnsupportedArchitecture, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_DIMENSIONS = 32
"""What every supported numpy can shape."""
MAX_ELEMENTS = 2**56
CHUNK_ELEMENTS = 2**22

_NUMPY = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    "i64": "<i8",
    "i32": "<i4",
    "i16": "<i2",
    "i8": "i1",
    "u64": "<u8",
    "u32": "<u4",
    "u16": "<u2",
    "u8": "u1",
    "bool": "?",
}
ELEMENT_BYTES = {
    **{"f64": 8, "i64": 8, "u64": 8, "f32": 4, "i32": 4, "u32": 4},
    **{"f16": 2, "bf16": 2, "i16": 2, "u16": 2},
    **{"f8_e4m3": 1, "f8_e5m2": 1, "i8": 1, "u8": 1, "bool": 1},
    **{"f8_e8m0": 1, "f8_e4m3fnuz": 1, "f8_e5m2fnuz": 1, "c64": 8},
}
"""Bytes of one element by dtype name, block formats excluded."""
PACKED_BITS = {"f4": 4, "f6_e2m3": 6, "f6_e3m2": 6}
"""Bits of one element of the types that are smaller than a byte."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that no tensor is called by; they would break lines and terminals wherever a name is shown."""
FLOAT_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""Names in ``config.json`` of the dtypes that a writer can store."""


def aligned(count: int, multiple: int) -> int:
    """Round ``count`` up to a multiple."""
    return -(-count // multiple) * multiple


def count_elements(shape: Sequence[int], where: str) -> int:
    """Return the product of ``shape``; raises MalformedFile when no address space could hold it."""
    if len(shape) > MAX_DIMENSIONS:
        raise MalformedFile(f"{len(shape)} dimensions, limit {MAX_DIMENSIONS}", where=where)
    bound = 1
    for dimension in shape:
        # A zero must not hide its neighbours: numpy refuses (0, 2**62) too.
        bound *= max(dimension, 1)
        if bound > MAX_ELEMENTS:
            raise MalformedFile(f"shape {list(shape)} overflows", where=where)
    return math.prod(shape)


def dominant(sizes: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """Return the dtype that holds most elements of the matrices in ``name -> (dtype, shape)``."""
    matrices = [pair for pair in sizes.values() if len(pair[1]) == 2] or list(sizes.values())
    weight: Counter[str] = Counter()
    for dtype, shape in matrices:
        weight[dtype] += math.prod(shape)
    return max(sorted(weight), key=lambda dtype: weight[dtype], default="")


def to_float32(payload: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode a flat byte array of plain elements into a fresh float32 array."""
    import numpy as np

    with np.errstate(all="ignore"):
        if dtype == "bf16":
            bits = payload.view("<u2").astype(np.uint32)
            bits <<= 16
            widened: npt.NDArray[np.float32] = bits.view(np.float32).reshape(shape)
            return widened
        if dtype == "f8_e5m2":
            # The upper byte of an IEEE half: same sign, exponent width and bias.
            halves: npt.NDArray[np.float16] = (payload.astype(np.uint16) << 8).view(np.float16)
            return halves.astype(np.float32).reshape(shape)
        if dtype in _SMALL_FLOATS:
            looked_up: npt.NDArray[np.float32] = _SMALL_FLOATS[dtype]()[payload]
            return looked_up.reshape(shape)
        if dtype not in _NUMPY:
            raise UnsupportedArchitecture(f"values of type {dtype} cannot be decoded")
        elements = payload if dtype == "bool" else payload.view(_NUMPY[dtype])
        values: npt.NDArray[np.float32] = (elements != 0 if dtype == "bool" else elements).astype(np.float32)
        return values.reshape(shape)


def float_chunks(array: Any, dtype: str, name: str) -> Iterator[npt.NDArray[Any]]:
    """Yield the bytes to store for a float32 array, rounded to nearest even, a few megabytes at a time.

    NaN and infinity are kept; a finite value that the dtype cannot hold raises UsageError.
    """
    import numpy as np

    flat = np.ascontiguousarray(array, dtype="<f4").reshape(-1)
    for start in range(0, flat.size, CHUNK_ELEMENTS):
        chunk = flat[start : start + CHUNK_ELEMENTS]
        if dtype == "f32":
            yield chunk
            continue
        with np.errstate(all="ignore"):
            stored = chunk.astype("<f2") if dtype == "f16" else to_bf16(chunk)
            infinite = np.isinf(stored) if dtype == "f16" else (stored & 0x7FFF) == 0x7F80
        if np.any(infinite & np.isfinite(chunk)):
            raise UsageError(
                f"a finite weight does not fit {dtype}", where=name, fix="store the model as f32 or bf16"
            )
        yield stored


def to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round float32 to the bit patterns of bfloat16, ties to even; a NaN stays a NaN."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = bits >> 16
    rounded &= 1
    rounded += bits
    rounded += 0x7FFF
    rounded >>= 16
    result: npt.NDArray[np.uint16] = rounded.astype("<u2")
    lost = np.isnan(bits.view("<f4"))
    if lost.any():  # a NaN whose payload lies in the low half would round to infinity or to zero
        result[lost] = (bits[lost] >> 16) | 0x40
    return result


def check_shape(array: Any, shape: tuple[int, ...], name: str) -> None:
    """Raise MalformedFile unless a tensor that was read has the shape it was announced with."""
    if tuple(array.shape) != tuple(shape):
        raise MalformedFile(f"shape {tuple(array.shape)} was announced as {tuple(shape)}", where=name)


def _e4m3_values() -> npt.NDArray[np.float32]:
    """All 256 values of E4M3FN: bias 7, no infinities, NaN at 0x7F and 0xFF (OCP OFP8 1.0, table 1)."""
    values = _float8_values(exponent_bits=4, bias=7)
    values[0x7F] = values[0xFF] = math.nan
    return values


def _e4m3fnuz_values() -> npt.NDArray[np.float32]:
    """All 256 values of E4M3FNUZ: bias 8, one zero, NaN at 0x80 (arXiv:2206.02915)."""
    values = _float8_values(exponent_bits=4, bias=8)
    values[0x80] = math.nan
    return values


def _e5m2fnuz_values() -> npt.NDArray[np.float32]:
    """All 256 values of E5M2FNUZ: bias 16, one zero, NaN at 0x80 (arXiv:2206.02915)."""
    values = _float8_values(exponent_bits=5, bias=16)
    values[0x80] = math.nan
    return values


def _e8m0_values() -> npt.NDArray[np.float32]:
    """All 256 values of E8M0: powers of two, bias 127, NaN at 0xFF (OCP Microscaling 1.0, table 7)."""
    import numpy as np

    values = np.ldexp(np.float32(1), np.arange(256) - 127).astype(np.float32)
    values[0xFF] = math.nan
    return values


def _float8_values(exponent_bits: int, bias: int) -> npt.NDArray[np.float32]:
    """Return the value of every byte as sign, exponent and mantissa, without special codes."""
    import numpy as np

    mantissa_bits = 7 - exponent_bits
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    size = np.where(
        exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - 1.0 * bias)
    )
    return np.where(codes & 128, -size, size).astype(np.float32)


_SMALL_FLOATS = {
    "f8_e4m3": _e4m3_values,
    "f8_e4m3fnuz": _e4m3fnuz_values,
    "f8_e5m2fnuz": _e5m2fnuz_values,
    "f8_e8m0": _e8m0_values,
}
