"""How far a matrix is from another: as a whole, in its worst block, and along it.

All sums are over chunks of a few megabytes, so that the temporaries stay in the processor's cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apr_qa.conversion.architectures import interleave_rows, separate_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLOCK = 32
"""Values of a block: what the smallest quantisation blocks hold."""
_CHUNK_VALUES = 1 << 19
_ALIVE = 1e-3
"""A row this small beside the typical one may round to zero: reserved tokens are like that."""
_MATCH = 0.1
"""A transformation explains an error if it takes nine tenths of it away."""


Rounding = Callable[["npt.NDArray[np.float32]"], "npt.NDArray[np.float32]"]


@dataclass(frozen=True)
class Distance:
    """Between a matrix and the truth; all are 0 or 1 (gain) for equal matrices, NaN where either is not finite."""

    error: float
    """Norm of the difference over the norm of the truth."""
    block: float
    """Largest over all blocks: norm of the difference over that of the truth, or of half a typical block
    where the truth's is smaller, so that blocks near zero raise no alarm."""
    gain: float
    """Length of the projection on the truth, in lengths of the truth."""


class Truth:
    """The matrix that others are measured against."""

    def __init__(self, values: npt.NDArray[np.float32]) -> None:
        self.values = values

    @functools.cached_property
    def square(self) -> float:
        """Sum of squares."""
        return sum(float(_dot(chunk, chunk)) for chunk in _chunks(self.values))

    @functools.cached_property
    def least_block(self) -> float:
        """Norm that a block is taken to have at least."""
        return 0.5 * math.sqrt(self.square * BLOCK / max(1, self.values.size))

    def alive(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Say which rows are not small beside the typical row."""
        import numpy as np

        picked = self.values[rows]
        squares = np.einsum("ij,ij->i", picked, picked)
        typical = self.square / max(1, len(self.values))
        alive: npt.NDArray[np.bool_] = squares > _ALIVE**2 * typical
        return alive


def measure(
    values: npt.NDArray[np.float32] | Rounding, truth: Truth, rows: npt.NDArray[np.int64] | None = None
) -> Distance:
    """Return the distance of ``values`` from the truth, or from those ``rows`` of it.

    What becomes of every value by itself can be given as a function, which is called with one chunk of the truth after
    the other, so that the result never lies in memory as a whole.
    """
    import numpy as np

    whole = rows is None or len(rows) == len(truth.values)
    against = truth.values if whole else truth.values[rows]
    square = truth.square if whole else sum(float(_dot(chunk, chunk)) for chunk in _chunks(against))
    error = along = worst = 0.0
    with np.errstate(all="ignore"):
        pieces = _chunks(against)
        parts = map(values, pieces) if callable(values) else _chunks(values)
        for part, right in zip(parts, pieces, strict=True):
            difference = part - right
            squared = float(_dot(difference, difference))
            if squared == 0.0:
                continue
            error += squared
            along += float(_dot(difference, right))
            worst = _larger(worst, _worst_block(difference, right, truth.least_block))
    if square == 0.0:
        return Distance(0.0, 0.0, 1.0) if error == 0.0 else Distance(math.inf, math.inf, math.inf)
    return Distance(math.sqrt(error / square) if error >= 0 else math.nan, worst, 1 + along / square)


def looks_like(values: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], name: str) -> str:
    """Guess what happened to a matrix; empty if no simple transformation explains it."""
    import numpy as np

    with np.errstate(all="ignore"):
        wrong = float(np.linalg.norm(values - truth))
        if not 0 < wrong < math.inf:
            return "not finite" if wrong != 0 else ""
        for guess, restored in _undone(values, truth, name):
            if float(np.linalg.norm(restored - truth)) < _MATCH * wrong:
                return guess
    return ""


def _undone(
    values: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], name: str
) -> list[tuple[str, npt.NDArray[np.float32]]]:
    rows, columns = values.shape
    guesses = [("negated", -values), ("shifted by one", values - 1), ("shifted by minus one", values + 1)]
    if rows == columns and rows > 1:
        guesses.append(("transposed", values.T))
    elif rows > 1:
        guesses.append(("reshaped instead of transposed", values.reshape(columns, rows).T))
    length = float((values * values).sum())
    if length:
        guesses.append(("scaled", values * (float((values * truth).sum()) / length)))
    if ".q_proj." in name or ".k_proj." in name:
        guesses += _reordered(values)
    return guesses


def _reordered(values: npt.NDArray[np.float32]) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Return every way of rearranging rows between rotary pairs and halves, whatever the number of heads."""
    count = values.size if values.shape[0] == 1 else values.shape[0]
    rows = values.reshape(count, -1)
    guesses = []
    for heads in range(1, min(count // 2, 256) + 1):
        if count % (2 * heads) == 0:
            for guess, order in (("in pair order", separate_rows), ("in half order", interleave_rows)):
                guesses.append((f"rotary rows {guess}", order(rows, heads).reshape(values.shape)))
    return guesses


def _chunks(matrix: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    flat = matrix.reshape(-1)
    return [flat[start : start + _CHUNK_VALUES] for start in range(0, flat.size, _CHUNK_VALUES)]


def _dot(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> np.float32:
    import numpy as np

    with np.errstate(all="ignore"):
        product: np.float32 = np.dot(left, right)
    return product


def _worst_block(difference: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], least: float) -> float:
    import numpy as np

    whole = difference.size // BLOCK * BLOCK
    worst = 0.0
    for part, right in ((difference[:whole], truth[:whole]), (difference[whole:], truth[whole:])):
        if part.size:
            blocks, rights = (side.reshape(-1, min(BLOCK, side.size)) for side in (part, right))
            squares = np.einsum("ij,ij->i", blocks, blocks)
            norms = np.maximum(np.einsum("ij,ij->i", rights, rights), np.float32(least * least))
            worst = _larger(worst, float(np.sqrt(squares / norms).max()))
    return worst


def _larger(one: float, other: float) -> float:
    """Return the larger number; NaN wins over every number."""
    return other if not other <= one else one
