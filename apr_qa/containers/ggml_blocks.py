"""The block types of ggml, decoded a cache-sized piece at a time.

The gguf package loops in Python over groups of sixteen rows; one long row a piece takes a quarter of that time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa import extras
from apr_qa.containers.ggml_types import BLOCKS
from apr_qa.errors import UnsupportedArchitecture

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PIECE_VALUES = 1 << 18


def dequantised(payload: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[np.float32]:
    """Decode whole blocks of a ggml type into a flat float32 array; raises UnsupportedArchitecture.

    NotInstalled is raised where the package gguf is missing.
    """
    import numpy as np

    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError:
        raise extras.not_installed("gguf") from None
    kind = GGMLQuantizationType.__members__.get(dtype.upper())
    if kind is None:  # an older release of the package
        raise UnsupportedArchitecture(f"type {dtype} cannot be decoded")
    values, width = BLOCKS[dtype]
    blocks = payload.reshape(-1, width)
    flat = np.empty(len(blocks) * values, np.float32)
    step = max(1, _PIECE_VALUES // values)
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            try:
                decoded = dequantize(part.reshape(1, -1), kind)
            except NotImplementedError as error:
                raise UnsupportedArchitecture(f"type {dtype} cannot be decoded") from error
            flat[start * values : (start + len(part)) * values] = decoded.reshape(-1)
    return flat
