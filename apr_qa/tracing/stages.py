"""The stages of a decoder, named alike for every engine, and what is kept of the values seen there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apr_qa.vocabulary import Record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

STAGES = ("embedding", "norm", "attention_weights", "attention", "mlp", "layer", "final_norm", "logits")
"""In the order in which values pass them; those between ``embedding`` and ``final_norm`` exist once a layer."""

LEVELS = ("none", "basic", "layer", "payload")
"""How much is kept: nothing, the time of the pass, statistics of each stage, and some of its values too."""

PAYLOAD_VALUES = 8
"""Values of a stage that the level ``payload`` shows: the first ones of the last position."""

Sink = Callable[[str, int, Any, float], None]
"""Is called with stage, layer (-1 outside of layers), values and seconds; the values are of shape
[positions, width], for ``attention_weights`` [heads, positions, keys], as float32, and must be copied to be kept."""


class Seen(Record, frozen=True, omit_defaults=False):
    """One stage of one layer in one pass."""

    stage: str
    layer: int
    """-1 outside of the layers."""
    mean: float | None
    std: float | None
    l2: float | None
    """Root of the sum of squares."""
    min: float | None
    max: float | None
    nan: int
    inf: int
    seconds: float | None = None
    values: tuple[float | None, ...] = ()

    @property
    def name(self) -> str:
        return self.stage if self.layer < 0 else f"layers.{self.layer}.{self.stage}"

    @property
    def finite(self) -> bool:
        return not self.nan and not self.inf


def summary(
    stage: str, layer: int, values: npt.NDArray[np.float32], seconds: float | None, *, payload: bool = False
) -> Seen:
    """Return the statistics of the finite values, and how many are not; what has none is None, not zero."""
    import numpy as np

    flat = np.asarray(values, dtype=np.float64).ravel()
    finite = flat[np.isfinite(flat)]
    known = (
        {
            "mean": float(finite.mean()),
            "std": float(finite.std()),
            "l2": float(math.sqrt(float(np.square(finite).sum()))),
            "min": float(finite.min()),
            "max": float(finite.max()),
        }
        if finite.size
        else dict.fromkeys(("mean", "std", "l2", "min", "max"))
    )
    shown = (
        np.asarray(values).reshape(-1, np.asarray(values).shape[-1])[-1][:PAYLOAD_VALUES] if payload else ()
    )
    return Seen(
        stage=stage,
        layer=layer,
        **known,
        nan=int(np.isnan(flat).sum()),
        inf=int(np.isinf(flat).sum()),
        seconds=seconds,
        values=tuple(float(value) if np.isfinite(value) else None for value in shown),
    )
