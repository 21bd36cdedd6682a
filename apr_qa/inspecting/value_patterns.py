"""Numbers that are lawful and yet cannot be weights: bytes swapped, one float type read as another, holes.

The spread of magnitudes tells: within a row, half of all values of a trained matrix lie within a few powers
of two of each other (Gaussian 1.8, Laplace 2.3, Student t with 2 degrees of freedom 3.2). Swapped bytes put
mantissa bits into the exponent and spread it over its range (16 for f16, 128 for f32); f16 read as bf16
stretches it eightfold, bf16 read as f16 shrinks it to an eighth, around one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apr_qa.formats import OpenModel, TensorInfo
from apr_qa.inspecting import block_scales

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SHOWN = 20
MOST_SPREAD = 8.0
"""Powers of two between the quartiles of magnitude within a row, median over rows."""
LEAST_MAGNITUDE, MOST_MAGNITUDE = -60.0, 40.0
"""Powers of two of a typical value."""
_ROWS, _COLUMNS = 64, 4096
_LEAST_VALUES = 32
_FLOATS = ("f16", "bf16", "f32", "f64")
_SQUEEZED_SHARE = 0.995
_SQUEEZED_LEVELS = 64
_LEAST_SIGN_SHARE = 0.2
_HOLE_BYTES = 4096
_PIECE = 512


def patterns(model: OpenModel) -> dict[str, Any]:
    """Return the tensors whose numbers look like other numbers read wrongly, and how many were looked at."""
    wrong: list[dict[str, str]] = []
    looked_at = 0
    for name, info in sorted(model.tensors.items()):
        values = _sample(model, info)
        if values is None:
            continue
        looked_at += 1
        fault = fault_of(values, info.dtype)
        if fault:
            wrong.append({"name": name, "fault": fault})
    return {"wrong": wrong[:SHOWN], "count": len(wrong), "looked_at": looked_at}


def _sample(model: OpenModel, info: TensorInfo) -> npt.NDArray[np.float32] | None:
    """Return some rows of plain values, or of block scales; None where there are too few."""
    import numpy as np

    if 0 in info.shape or not info.shape:
        return None
    if info.dtype not in _FLOATS:
        scales = block_scales.first_scales(model, info)
        if scales is None or scales.size < _LEAST_VALUES:
            return None
        return scales[: _ROWS * _COLUMNS].reshape(1, -1)
    columns = info.shape[-1] if len(info.shape) > 1 else int(np.prod(info.shape))
    width = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8}[info.dtype]
    rows = model.raw(info.name).reshape(-1, columns * width)
    if columns < _LEAST_VALUES:
        return None
    picked = np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(np.int64)
    from apr_qa.containers.byte_layout import to_float32

    count = min(columns, _COLUMNS)
    part = np.ascontiguousarray(rows[picked, : count * width])
    return to_float32(part.reshape(-1), info.dtype, (len(picked), count))


def fault_of(rows: npt.NDArray[np.float32], dtype: str) -> str:
    """Say how a sample of rows cannot be what weights look like; empty if they can."""
    import numpy as np

    quartiles = _quartiles(rows)
    if not len(quartiles):
        return ""
    spread = float(np.median(quartiles[:, 2] - quartiles[:, 0]))
    middle = float(np.median(quartiles[:, 1]))
    if spread > MOST_SPREAD:
        return (
            f"its magnitudes spread over 2^{spread:.0f} within a row, as with swapped bytes or another type"
        )
    if not LEAST_MAGNITUDE < middle < MOST_MAGNITUDE:
        return f"its typical magnitude is 2^{middle:.0f}"
    return _squeezed(rows) if dtype == "f16" and len(rows) > 1 else ""


def _quartiles(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the quartiles of log2 of magnitude of every row that has enough finite values other than zero."""
    import numpy as np

    magnitudes = np.abs(rows)
    magnitudes[~(np.isfinite(rows) & (rows != 0))] = np.inf
    counts = np.count_nonzero(np.isfinite(magnitudes), axis=1)
    enough = counts >= _LEAST_VALUES // 2
    ordered, counts = np.sort(magnitudes[enough], axis=1), counts[enough]
    places = (counts - 1)[:, None] * np.array([0.25, 0.5, 0.75])
    below = places.astype(np.int64)
    above = np.minimum(below + 1, counts[:, None] - 1)
    low, high = (np.log2(np.take_along_axis(ordered, at, 1).astype(np.float64)) for at in (below, above))
    quartiles: npt.NDArray[np.float64] = low + (places - below) * (high - low)
    return quartiles


def _squeezed(rows: npt.NDArray[np.float32]) -> str:
    import numpy as np

    # Norms and decay rates have one sign, levels of ternary weights few distinct magnitudes.
    magnitudes = np.abs(rows[rows != 0])
    inside = np.count_nonzero((magnitudes >= 2.0**-3) & (magnitudes < 4.0)) / max(1, magnitudes.size)
    negative = np.count_nonzero(rows < 0) / max(1, magnitudes.size)
    if not _LEAST_SIGN_SHARE < negative < 1 - _LEAST_SIGN_SHARE:
        return ""
    small = np.count_nonzero(magnitudes < float(np.sqrt(np.mean(magnitudes**2))) / 8) / max(
        1, magnitudes.size
    )
    if (
        inside < _SQUEEZED_SHARE
        or small > 1 - _SQUEEZED_SHARE
        or np.unique(magnitudes).size < _SQUEEZED_LEVELS
    ):
        return ""
    return "nearly all of its magnitudes lie between 1/8 and 4, as when bfloat16 is read as float16"


def holes(model: OpenModel) -> dict[str, Any]:
    """Return the runs of zero bytes that begin or end inside a row: pieces of the file that never arrived."""
    found: list[dict[str, Any]] = []
    scanned = 0
    packed = getattr(model, "packed", {})
    for name, info in sorted(model.tensors.items()):
        if len(info.shape) < 2 or 0 in info.shape or info.size < 2 * _HOLE_BYTES or name in packed:
            continue
        scanned += info.size
        found += [{"name": name, **run} for run in _runs(model.raw(name), info)]
    return {"holes": found[:SHOWN], "count": len(found), "bytes": scanned}


def _runs(raw: npt.NDArray[np.uint8], info: TensorInfo) -> list[dict[str, int]]:
    import numpy as np

    whole = raw.size // _PIECE * _PIECE
    pieces = raw[:whole].view(np.uint64).reshape(-1, _PIECE // 8)
    # One word of each tells of nearly all pieces that they are not empty.
    empty = pieces[:, 0] == 0
    if not empty.any():
        return []
    suspects = np.flatnonzero(empty)
    empty[suspects] = ~pieces[suspects].any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], empty.view(np.int8), [0]))))
    row = info.size // max(1, int(np.prod(info.shape[:-1])))
    runs = []
    for begin, end in zip(edges[::2] * _PIECE, edges[1::2] * _PIECE, strict=True):
        start, stop = _widened(raw, int(begin), int(end), row)
        if stop - start < max(_HOLE_BYTES, row):
            continue
        # Pruned neurons, unused experts and reserved tokens are whole rows.
        if not (start % row == 0 and (stop % row == 0 or stop == raw.size)):
            runs.append({"start": start, "bytes": stop - start})
    return runs


def _widened(raw: npt.NDArray[np.uint8], begin: int, end: int, row: int) -> tuple[int, int]:
    """Return the run with the zero bytes on both sides of it."""
    import numpy as np

    before, after = raw[max(0, begin - _PIECE) : begin], raw[end : end + _PIECE]
    last, first = np.flatnonzero(before), np.flatnonzero(after)
    start = begin - (len(before) - 1 - int(last[-1])) if last.size else begin - len(before)
    return start, end + (int(first[0]) if first.size else len(after))
