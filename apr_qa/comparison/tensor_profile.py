"""What happened to one tensor beyond its distance from the truth: finiteness, statistics, likely cause.

Everything costly is looked at only where the distance already says that something is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apr_qa.comparison.healthy_rounding import holds

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CLOSE = 0.05
"""A reinterpretation explains the values if it brings them this near to the truth."""
_SAMPLE = 1 << 16
_ZERO_SHARE = 0.5


@dataclass(frozen=True)
class Profile:
    """One tensor of the artifact, with its counterpart."""

    name: str
    dtype: str
    exact: bool | None
    """Values are equal; None where the stored type cannot hold all values of the truth."""
    nonfinite: int
    truth_nonfinite: int
    statistics: tuple[float, float, float, float] | None
    """Mean and standard deviation of a vector, then those of the truth."""
    cause: str = ""
    """What the values look like that are not near the truth; empty for healthy tensors."""


def observe(
    name: str,
    types: tuple[str, str],
    artifact: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float32],
    *,
    error: float,
    healthy: bool,
) -> Profile:
    """Return the profile of a tensor whose types are (artifact's, truth's) and whose relative error is known."""
    dtype, source = types
    bad, bad_truth = (0, 0) if math.isfinite(error) else (_nonfinite(artifact), _nonfinite(truth))
    return Profile(
        name=name,
        dtype=dtype,
        exact=(error == 0.0) if holds(dtype, source) else None,
        nonfinite=bad,
        truth_nonfinite=bad_truth,
        statistics=_statistics(artifact, truth) if min(truth.shape, default=1) == 1 else None,
        cause="" if healthy else cause_of(artifact, truth, dtype),
    )


def cause_of(artifact: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], dtype: str) -> str:
    """Name the corruption that explains the values; empty if none of the known ones does."""
    import numpy as np

    if _nonfinite(artifact) > _nonfinite(truth):
        return "not finite"
    zero, zero_truth = (float(np.mean(side == 0)) for side in (artifact, truth))
    if zero > _ZERO_SHARE and zero > 2 * zero_truth:
        return "zeros"
    flat, right = artifact.reshape(-1)[:_SAMPLE], truth.reshape(-1)[:_SAMPLE]
    for what, reread in _reread(flat, dtype):
        if _near(reread, right):
            return what
    return ""


def _reread(values: npt.NDArray[np.float32], dtype: str) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Return the stored bits read in every way that writers and readers have disagreed about."""
    import numpy as np

    with np.errstate(all="ignore"):
        half = np.ascontiguousarray(values, np.float32).astype("<f2")
        upper = (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2")

        def as_brain(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            widened: npt.NDArray[np.float32] = (bits.view("<u2").astype("<u4") << 16).view("<f4")
            return widened

        ways = {
            "f32": [("byte order reversed", values.view("<u4").byteswap().view("<f4"))],
            "f16": [
                ("byte order reversed", half.view("<u2").byteswap().view("<f2").astype(np.float32)),
                ("bf16 bits read as f16", as_brain(half)),
            ],
            "bf16": [
                ("byte order reversed", as_brain(upper.byteswap())),
                ("f16 bits read as bf16", upper.view("<f2").astype(np.float32)),
            ],
        }
        # A file widened after the mistake holds the wrong numbers in a wider type.
        widened = [
            ("bf16 bits read as f16", as_brain(half)),
            ("f16 bits read as bf16", upper.view("<f2").astype("<f4")),
        ]
        return ways.get(dtype, []) + (widened if dtype == "f32" else [])


def _near(values: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> bool:
    import numpy as np

    with np.errstate(all="ignore"):
        norm = float(np.linalg.norm(truth))
        return norm > 0 and float(np.linalg.norm(values - truth)) <= _CLOSE * norm


def _nonfinite(values: npt.NDArray[np.float32]) -> int:
    import numpy as np

    return int(values.size - np.count_nonzero(np.isfinite(values)))


def _statistics(
    artifact: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]
) -> tuple[float, float, float, float]:
    import numpy as np

    with np.errstate(all="ignore"):
        sides = [(side.mean(dtype=np.float64), side.std(dtype=np.float64)) for side in (artifact, truth)]
    safe = [float(value) if math.isfinite(value) else 1e9 for pair in sides for value in pair]
    return safe[0], safe[1], safe[2], safe[3]
