"""Healthy rounding to types whose scales are tensors of their own: GPTQ, FP8 and bitsandbytes, to the nearest."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_GPTQ = re.compile(r"gptq(\d)g(-?\d+)")
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
"""The sixteen levels of NF4 (QLoRA, arXiv 2305.14314, appendix E)."""
FP8_BLOCK = 128
BNB_BLOCK = 64
_GPTQ_FACTOR = 1.7
"""GPTQ spreads the error of a column over later ones, so single weights are further off than the nearest level."""


def handles(dtype: str) -> bool:
    """Say whether ``dtype`` is one of these types."""
    return dtype in ("fp8", "nf4", "int8") or _GPTQ.fullmatch(dtype) is not None


def rounded(
    values: npt.NDArray[np.float32], dtype: str, groups: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float32]:
    """Return a float32 matrix as it reads back from a type that `handles` knows.

    ``groups`` names the group of each input channel where a GPTQ file has them in another order than the channels.
    """
    match = _GPTQ.fullmatch(dtype)
    if match:
        nearest = _grouped(values, int(match[2]), (1 << int(match[1])) - 1, groups)
        return values + (nearest - values) * _GPTQ_FACTOR
    if dtype == "fp8":
        return _eight_bit(values)
    if dtype == "int8":
        return _centred(values, -1, 254)
    return _normal_float(values)


def _grouped(
    values: npt.NDArray[np.float32], size: int, levels: int, groups: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.float32]:
    """Round with one scale for each group of a row, wherever the channels of a group stand."""
    import numpy as np

    columns = values.shape[1]
    if groups is None or len(groups) != columns or groups.min() < 0 or groups.max() >= columns:
        return _centred(values, size, levels)
    if not (np.bincount(groups)[groups] == size).all():
        return _centred(values, size, levels)
    order = np.argsort(groups, kind="stable")
    result = np.empty_like(values)
    result[:, order] = _centred(values[:, order], size, levels)
    return result


def _centred(values: npt.NDArray[np.float32], group: int, levels: int) -> npt.NDArray[np.float32]:
    """Round to evenly spaced levels around zero, one scale for each group of a row."""
    import numpy as np

    rows, columns = values.shape
    size = group if 0 < group < columns and columns % group == 0 else columns
    blocks = values.reshape(-1, size)
    scale = np.abs(blocks).max(axis=1, keepdims=True) * np.float32(2 / levels)
    scale[scale == 0] = 1.0
    half = (levels + 1) // 2
    codes = np.clip(np.round(blocks / scale), -half, levels - half)
    return np.asarray(codes * scale, np.float32).reshape(rows, columns)


def _eight_bit(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import numpy as np

    result = np.empty_like(values)
    for top in range(0, values.shape[0], FP8_BLOCK):
        for left in range(0, values.shape[1], FP8_BLOCK):
            place = (slice(top, top + FP8_BLOCK), slice(left, left + FP8_BLOCK))
            scale = np.float32(np.abs(values[place]).max() / 448) or np.float32(1)
            result[place] = _levels()[e4m3_index(values[place] / scale)] * scale
    return result


@functools.cache
def _levels() -> npt.NDArray[np.float32]:
    """Return the finite values of E4M3 in ascending order."""
    import numpy as np

    from apr_qa.containers.byte_layout import to_float32

    table = to_float32(np.arange(256, dtype=np.uint8), "f8_e4m3", (256,))
    return np.unique(table[np.isfinite(table)])


def e4m3_index(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the position of the nearest level of E4M3 for each value."""
    import numpy as np

    levels = _levels()
    middles = (levels[1:] + levels[:-1]) / 2
    found: npt.NDArray[np.int64] = np.searchsorted(middles, values)
    return found


def _normal_float(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import numpy as np

    flat = np.resize(values.reshape(-1), -(-values.size // BNB_BLOCK) * BNB_BLOCK).reshape(-1, BNB_BLOCK)
    scale = np.abs(flat).max(axis=1, keepdims=True)
    scale[scale == 0] = 1.0
    levels = np.array(NF4, np.float32)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, flat / scale)
    return np.asarray(levels[codes] * scale, np.float32).reshape(-1)[: values.size].reshape(values.shape)
