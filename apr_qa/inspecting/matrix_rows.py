"""Some rows of a matrix, decoded without the rest of it where its type allows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from apr_qa.containers import ggml_blocks
from apr_qa.containers.byte_layout import ELEMENT_BYTES, to_float32
from apr_qa.containers.ggml_types import BLOCKS
from apr_qa.formats import OpenModel, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PLAIN = ("f64", "f32", "f16", "bf16")


def decoded(model: OpenModel, info: TensorInfo, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return ``rows`` (numbers in the order in which they are stored) as a float32 matrix."""
    import numpy as np

    columns = info.shape[-1] if info.shape else 1
    stored = _stored(model, info)
    if stored is None:
        whole: npt.NDArray[np.float32] = model.read(info.name).reshape(-1, columns)[rows]
        return whole
    part = np.ascontiguousarray(stored[rows]).reshape(-1)
    if info.dtype in _PLAIN:
        return to_float32(part, info.dtype, (len(rows), columns))
    return ggml_blocks.dequantised(part, info.dtype).reshape(len(rows), columns)


def first_blocks(model: OpenModel, info: TensorInfo) -> npt.NDArray[np.float32] | None:
    """Return the first block of every row, decoded; None where rows do not consist of ggml blocks."""
    import numpy as np

    stored = _stored(model, info)
    if stored is None or info.dtype in _PLAIN:
        return None
    part = np.ascontiguousarray(stored[:, : BLOCKS[info.dtype][1]])
    return ggml_blocks.dequantised(part, info.dtype).reshape(len(part), -1)


def _stored(model: OpenModel, info: TensorInfo) -> npt.NDArray[np.uint8] | None:
    """Return the stored bytes, one row of the matrix a row; None where rows do not begin at whole bytes or blocks."""
    if info.name in getattr(model, "packed", {}) or not info.shape or 0 in info.shape:
        return None
    if info.dtype in _PLAIN:
        values, width = 1, ELEMENT_BYTES[info.dtype]
    elif info.dtype in BLOCKS:
        values, width = BLOCKS[info.dtype]
    else:
        return None
    columns = info.shape[-1]
    row_bytes = columns // values * width
    if columns % values or row_bytes * math.prod(info.shape[:-1]) != info.size:
        return None
    return model.raw(info.name).reshape(-1, row_bytes)
