"""One pass over all values of a model file: what is not finite, and which matrices are dead."""

from __future__ import annotations

from apr_qa.containers.byte_layout import to_float32
from apr_qa.formats import OpenModel
from apr_qa.vocabulary import Record

LARGEST = 1e6
"""No weight of a healthy model is larger: in eight published ones the largest was about a thousand
(paiml/aprender#2039)."""
LARGEST_HALF = 3e4
"""The same in half precision, which ends at 65504, and in blocks, whose scales are in half precision."""
_WIDE = ("f64", "f32", "bf16")
_FLOAT_MASKS = {"f16": ("u2", 0x7C00), "bf16": ("u2", 0x7F80), "f32": ("u4", 0x7F800000)}


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
        bad, low, high, count = _extremes(model, name)
        largest = _largest(model, name) if info.dtype in _FLOAT_MASKS and not bad else max(-low, high)
        if largest > (LARGEST if info.dtype in _WIDE else LARGEST_HALF):
            extreme.append((name, largest))
        values += count
        if bad:
            nonfinite.append((name, bad))
        if len(info.shape) >= 2 and info.shape[0] > 1:
            matrices += 1
            if low == high:
                (zero if low == 0 else constant).append(name)
    return Scan(
        values=values,
        nonfinite=tuple(nonfinite),
        extreme=tuple(extreme),
        matrices=matrices,
        all_zero=tuple(zero),
        constant=tuple(constant),
    )


def _extremes(model: OpenModel, name: str) -> tuple[int, float, float, int]:
    """Return (number of non-finite values, minimum, maximum, number of values) of a tensor."""
    import numpy as np

    info = model.tensors[name]
    bad = 0
    if info.dtype in _FLOAT_MASKS:
        # Looking at exponent bits is several times faster than isfinite on 16-bit types.
        kind, mask = _FLOAT_MASKS[info.dtype]
        bits = model.raw(name).view(kind)
        bad = int(np.count_nonzero((bits & mask) == mask))
        # Two values of different magnitude prove a living matrix; the rare rest is looked at in full.
        if not bad and bits.size and (int(bits[0]) ^ int(bits[-1])) & mask:
            return 0, 0.0, 1.0, int(bits.size)
    values = model.read(name)
    if info.dtype not in _FLOAT_MASKS:
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    return bad, float(values.min()), float(values.max()), int(values.size)


def _largest(model: OpenModel, name: str) -> float:
    """Return the largest magnitude of finite plain floats; among those, bit patterns are in order of magnitude."""
    import numpy as np

    dtype = model.tensors[name].dtype
    kind, _ = _FLOAT_MASKS[dtype]
    bits = model.raw(name).view(kind)
    # Sign bits out of the way: the magnitudes of negative values come after all positive ones.
    unsigned, half = np.iinfo(kind).max // 2, np.iinfo(kind).max // 2 + 1
    negative = bits.max(initial=0)
    positive = bits.view(kind.replace("u", "i")).max(initial=0)
    pattern = np.asarray([max(int(negative) & unsigned if negative >= half else 0, int(positive), 0)], kind)
    return float(to_float32(pattern.view(np.uint8), dtype, (1,))[0])
