"""One pass over all values of a model file: what is not finite, and which matrices are dead.

Plain floats are looked at as bit patterns, a few hundred kilobytes at a time: without the sign, patterns are in the
order of magnitudes, and infinity and NaN come last. Blocks are looked at by their scales, and decoded only where
those could hide something.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from apr_qa.containers.byte_layout import to_float32
from apr_qa.formats import OpenModel, TensorInfo
from apr_qa.inspecting import block_scales, matrix_rows
from apr_qa.vocabulary import Record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LARGEST = 1e6
"""No weight of a healthy model is larger: in eight published ones the largest was about a thousand
(paiml/aprender#2039)."""
LARGEST_HALF = 3e4
"""The same in half precision, which ends at 65504, and in blocks, whose scales are in half precision."""
_WIDE = ("f64", "f32", "bf16")
_INFINITY = {"f16": 0x7C00, "bf16": 0x7F80, "f32": 0x7F800000}
"""Plain type -> pattern of infinity; the larger ones are NaN."""
_CHUNK_BYTES = 1 << 18
"""What stays in a core's own cache."""


class Scan(Record, frozen=True):
    """What the values of all floating-point tensors look like."""

    values: int
    nonfinite: tuple[tuple[str, int], ...]
    """(tensor, number of NaN and infinite values)."""
    extreme: tuple[tuple[str, float], ...]
    """(tensor, largest magnitude) where that is absurd."""
    matrices: int
    all_zero: tuple[str, ...]
    constant: tuple[str, ...]
    """Matrices that hold a single value other than zero."""


class _Looked(NamedTuple):
    """What was seen in one tensor."""

    values: int
    nonfinite: int
    largest: float
    """Largest magnitude, or a bound on it that is no absurd one."""
    constant: float | None = None
    """The only value that there is."""


def scan(model: OpenModel) -> Scan:
    """Look at every value of every floating-point tensor; matrices with one row are not judged dead."""
    nonfinite: list[tuple[str, int]] = []
    zero: list[str] = []
    constant: list[str] = []
    extreme: list[tuple[str, float]] = []
    values = matrices = 0
    for name, info in sorted(model.tensors.items()):
        if info.size == 0 or info.dtype.startswith(("i", "u", "bool")):
            continue
        seen = _look(model, info)
        values += seen.values
        if seen.nonfinite:
            nonfinite.append((name, seen.nonfinite))
        if seen.largest > (LARGEST if info.dtype in _WIDE else LARGEST_HALF):
            extreme.append((name, seen.largest))
        if len(info.shape) >= 2 and info.shape[0] > 1:
            matrices += 1
            if seen.constant is not None:
                (zero if seen.constant == 0 else constant).append(name)
    return Scan(
        values=values,
        nonfinite=tuple(nonfinite),
        extreme=tuple(extreme),
        matrices=matrices,
        all_zero=tuple(zero),
        constant=tuple(constant),
    )


def _look(model: OpenModel, info: TensorInfo) -> _Looked:
    if info.dtype in _INFINITY:
        return _plain(model.raw(info.name), info.dtype)
    return _blocks(model, info) or _decoded(model.read(info.name))


def _plain(raw: npt.NDArray[np.uint8], dtype: str) -> _Looked:
    """Look at the bit patterns of plain floats."""
    import numpy as np

    infinity = _INFINITY[dtype]
    kind = "<u2" if infinity < 1 << 15 else "<u4"
    bits = raw.view(kind)
    magnitude = np.iinfo(kind).max >> 1
    largest = bad = 0
    for start in range(0, bits.size, _CHUNK_BYTES // bits.itemsize):
        chunk = bits[start : start + _CHUNK_BYTES // bits.itemsize]
        # As signed numbers all negative values come before the positive ones, as unsigned ones after them.
        negative, positive = int(chunk.max()), int(chunk.view(kind.replace("u", "i")).max())
        highest = max(negative & magnitude if negative > magnitude else 0, positive, 0)
        if highest < infinity:
            largest = max(largest, highest)
            continue
        patterns = chunk & magnitude
        wrong = patterns >= infinity
        bad += int(np.count_nonzero(wrong))
        largest = max(largest, int(patterns[~wrong].max(initial=0)))
    pattern = np.asarray([largest], kind)
    value = float(to_float32(pattern.view(np.uint8), dtype, (1,))[0])
    return _Looked(bits.size, bad, 0.0 if bad else value, None if bad else _only_value(bits, dtype))


def _only_value(bits: npt.NDArray[Any], dtype: str) -> float | None:
    """Return the value that all patterns stand for; None if there are several."""
    import numpy as np

    first, magnitude = bits[:1].copy(), np.iinfo(bits.dtype).max >> 1
    # The zeros of both signs are one value.
    relevant = magnitude if not int(first[0]) & magnitude else np.iinfo(bits.dtype).max
    wanted = int(first[0]) & relevant
    if int(bits[-1]) & relevant != wanted:
        return None
    step = _CHUNK_BYTES // bits.itemsize
    for start in range(0, bits.size, step):
        if np.any((bits[start : start + step] & relevant) != wanted):
            return None
    return float(to_float32(first.view(np.uint8), dtype, (1,))[0])


def _blocks(model: OpenModel, info: TensorInfo) -> _Looked | None:
    """Look at the scales of ggml blocks and decode a few; None where that does not settle everything."""
    import numpy as np

    largest = block_scales.largest_value(model, info)
    if largest is None or largest > LARGEST_HALF:
        return None
    probe = matrix_rows.decoded(model, info, np.asarray([0]))
    if probe.size < 2 or probe.min() == probe.max():
        return None
    return _Looked(math.prod(info.shape), 0, largest)


def _decoded(values: npt.NDArray[np.float32]) -> _Looked:
    import numpy as np

    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    low, high = float(values.min()), float(values.max())
    return _Looked(values.size, bad, max(-low, high), low if low == high else None)
