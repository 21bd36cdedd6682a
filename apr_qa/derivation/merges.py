"""Merges in a few lines on tensors: SLERP and TIES, for what is made on the spot.

SLERP: Shoemake 1985. TIES: trim, elect sign, disjoint mean (Yadav et al. 2023, arXiv 2306.01708).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

STRAIGHT = 1e-6
"""Angle, in radians, below which the arc is taken for a line."""


def slerp(one: Array, other: Array, t: float = 0.5) -> Array:
    """Return the point at ``t`` on the arc between two tensors, taken as vectors."""
    import numpy as np

    a, b = one.astype(np.float64), other.astype(np.float64)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    angle = float(np.arccos(np.clip((a * b).sum() / length, -1, 1))) if length else 0.0
    if angle < STRAIGHT:
        return ((1 - t) * a + t * b).astype(np.float32)
    found = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return np.asarray(found, np.float32)


def ties(density: float) -> Callable[[Array, Array, Array], Array]:
    """Return the merge of two models with their base that keeps this share of each task vector."""

    def merge(base: Array, one: Array, other: Array) -> Array:
        import numpy as np

        vectors = np.stack([_trimmed(one - base, density), _trimmed(other - base, density)])
        agreeing = np.where(np.sign(vectors) == np.sign(vectors.sum(axis=0)), vectors, np.float32(0))
        counts = np.maximum(1, np.count_nonzero(agreeing, axis=0))
        return np.asarray(base + agreeing.sum(axis=0) / counts, np.float32)

    return merge


def _trimmed(vector: Array, density: float) -> Array:
    import numpy as np

    count = max(1, round(density * vector.size))
    sizes = np.abs(vector)
    least = np.partition(sizes.reshape(-1), vector.size - count)[vector.size - count]
    return np.asarray(np.where(sizes >= least, vector, np.float32(0)), np.float32)
