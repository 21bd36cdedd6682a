"""Whether logits agree with golden ones: element by element, within a tolerance for the type of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from apr_qa.errors import UsageError
from apr_qa.vocabulary import Record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Tolerance(Record, frozen=True):
    """An element agrees when ``|found - golden| <= atol + rtol * |golden|``; NaN never does."""

    atol: float
    rtol: float
    mismatched: float
    """Share of the elements that may disagree."""


LEVELS: Mapping[str, Tolerance] = {
    "fp32": Tolerance(atol=1e-2, rtol=1e-3, mismatched=0.01),
    "fp16": Tolerance(atol=5e-2, rtol=1e-2, mismatched=0.01),
    "bf16": Tolerance(atol=0.5, rtol=5e-2, mismatched=0.02),
    "int8": Tolerance(atol=1.0, rtol=0.1, mismatched=0.05),
    "int4": Tolerance(atol=4.0, rtol=0.2, mismatched=0.10),
}
"""Between two engines. SmolLM2-135M showed largest differences of single logits of 0.015 (F32 in llama.cpp against
torch), 0.044 (F16), 0.72 (bfloat16), 1.3 (Q8_0) and 5 to 12.7 (four bits); the limits leave room for twice that, for
all elements but the share that may disagree."""


class Agreement(Record, frozen=True, omit_defaults=False):
    """How two sets of logits compare."""

    agrees: bool
    elements: int
    mismatched: int
    largest: float
    """Largest difference over all elements; infinite where one is not finite."""
    mean_shift: float
    """Mean difference in units of its standard error: far from 0 means a bias and not noise."""
    scale: float
    """Standard deviation of the found logits over that of the golden ones."""
    top1: float
    """Share of positions with the same likeliest token."""


def tolerance(level: str) -> Tolerance:
    """Return the tolerance of a level; raises UsageError."""
    if level not in LEVELS:
        raise UsageError(f"there is no tolerance {level!r}", fix=f"one of {', '.join(LEVELS)}")
    return LEVELS[level]


def agreement(
    golden: npt.NDArray[np.float32], found: npt.NDArray[np.float32], allowed: Tolerance
) -> Agreement:
    """Compare logits of shape [tokens, vocabulary]; raises UsageError where there is nothing to compare.

    A wider vocabulary on one side (padding) is cut; another number of tokens is no comparison.
    """
    import numpy as np

    if len(golden) != len(found) or not golden.size or not found.size:
        raise UsageError(f"{found.shape[0]} positions cannot be compared with {golden.shape[0]} golden ones")
    width = min(golden.shape[1], found.shape[1])
    left, right = golden[:, :width].astype(np.float64), found[:, :width].astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(right - left)
        good = difference <= allowed.atol + allowed.rtol * np.abs(left)
        signed = np.nan_to_num(right - left)
    bad = int(good.size - np.count_nonzero(good))
    finite = bool(np.isfinite(difference).all())
    error = float(signed.std()) / math.sqrt(signed.size)
    return Agreement(
        agrees=bad <= allowed.mismatched * good.size,
        elements=int(good.size),
        mismatched=bad,
        largest=float(difference.max()) if finite else float("inf"),
        mean_shift=float(signed.mean()) / error if error else 0.0,
        scale=float(np.nan_to_num(right).std() / (left.std() or 1.0)),
        top1=float(np.mean(left.argmax(-1) == right.argmax(-1))),
    )
