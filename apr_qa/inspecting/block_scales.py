"""The scales inside quantised blocks, read where they are stored and not through a dequantiser.

A dequantiser may hide a scale that is no number: some take it for zero, some types none here can decode.
Places: the block structures of ggml (``ggml-common.h``); the .apr blocks have their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from apr_qa.formats import OpenModel, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SHOWN = 20
_BLOCKS: dict[str, tuple[int, tuple[int, ...]]] = {
    **{"q4_0": (18, (0,)), "q4_1": (20, (0, 2)), "q5_0": (22, (0,)), "q5_1": (24, (0, 2))},
    **{"q8_0": (34, (0,)), "q8_1": (36, (0, 2)), "q2_k": (84, (80, 82)), "q3_k": (110, (108,))},
    **{"q4_k": (144, (0, 2)), "q5_k": (176, (0, 2)), "q6_k": (210, (208,))},
    **{"iq2_xxs": (66, (0,)), "iq2_xs": (74, (0,)), "iq2_s": (82, (0,)), "iq3_xxs": (98, (0,))},
    **{"iq3_s": (110, (0,)), "iq1_s": (50, (0,)), "iq4_nl": (18, (0,)), "iq4_xs": (136, (0,))},
    **{"tq1_0": (54, (52,)), "tq2_0": (66, (64,)), "q4": (18, (0,))},
}
"""Type -> bytes of a block, and where in it half-precision scales and minima are."""
_MULTIPLES: dict[str, tuple[int, ...]] = {
    **{"q4_0": (8,), "q4_1": (15, 1), "q5_0": (16,), "q5_1": (31, 1), "q8_0": (128,), "iq4_nl": (127,)},
    **{"q2_k": (45, 15), "q3_k": (128,), "q4_k": (945, 63), "q5_k": (1953, 63), "q6_k": (4096,)},
}
"""Type -> how many times a scale, and a minimum, a value can be at most."""
_WIDE = {"q8_k": (292, 0)}
"""The same for scales in float32."""
_PER_TENSOR = "q8"
_EXPONENTS = {"mxfp4": 17}
"""Blocks that begin with a bare exponent, of which 0xFF is no number."""


def scales(model: OpenModel) -> dict[str, Any]:
    """Return how many block scales were looked at, and the tensors in which some are not finite."""
    wrong: list[dict[str, Any]] = []
    looked_at = 0
    for name, info in sorted(model.tensors.items()):
        bad = count = 0
        first = -1
        for values in _scales(model, info):
            finite = _finite(values)
            count += int(values.size)
            bad += int((~finite).sum())
            if bad and first < 0:
                first = int((~finite).argmax())
        looked_at += count
        if bad:
            wrong.append({"name": name, "dtype": info.dtype, "count": bad, "first": first})
    return {"wrong": wrong[:SHOWN], "count": len(wrong), "scales": looked_at}


def largest_value(model: OpenModel, info: TensorInfo) -> float | None:
    """Return what no magnitude in a tensor of ggml blocks exceeds; None if a scale is not finite, or none tells."""
    import numpy as np

    multiples = _MULTIPLES.get(info.dtype, ())
    total = 0.0
    for multiple, values in zip(multiples, _scales(model, info), strict=False):
        low, high = float(values.min()), float(values.max())
        total += multiple * max(-low, high)
    return total if multiples and np.isfinite(total) else None


def first_scales(model: OpenModel, info: TensorInfo) -> npt.NDArray[np.float32] | None:
    """Return the scale of every block of a tensor as float32; None for types without blocks."""
    if info.dtype not in _BLOCKS:
        return None
    return next(_scales(model, info), None)


def _scales(model: OpenModel, info: TensorInfo) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the scales of all blocks, then their minima where the type has them."""
    import numpy as np

    if 0 in info.shape or not info.size:
        return
    raw = model.raw(info.name)
    if info.dtype == _PER_TENSOR:
        yield raw[:4].copy().view("<f4")
    elif info.dtype in _WIDE:
        width, place = _WIDE[info.dtype]
        yield np.ascontiguousarray(raw.reshape(-1, width)[:, place : place + 4]).view("<f4").reshape(-1)
    elif info.dtype in _EXPONENTS:
        exponents = raw.reshape(-1, _EXPONENTS[info.dtype])[:, 0]
        yield np.where(exponents == 255, np.nan, 1.0).astype(np.float32)
    elif info.dtype in _BLOCKS:
        width, places = _BLOCKS[info.dtype]
        blocks = raw.reshape(-1, width)
        for place in places:
            halves = np.ascontiguousarray(blocks[:, place : place + 2]).view("<f2").reshape(-1)
            with np.errstate(all="ignore"):
                yield halves.astype(np.float32)


def _finite(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    import numpy as np

    return np.isfinite(values)
