"""Distances of inner states: hidden states and attention weights of two engines that read the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apr_qa.comparison.divergence_budget import MULTIPLE
from apr_qa.errors import InferenceFailed
from apr_qa.logits.readings import Readings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HIDDEN_FLOORS: Mapping[str, float] = {"f32": 1e-3, "f16": 4e-3, "bf16": 5e-2}
"""Least relative error of a hidden state that is granted."""
ATTENTION_FLOORS: Mapping[str, float] = {"f32": 1e-3, "f16": 2e-3, "bf16": 3e-2}
"""Least total variation of attention weights that is granted."""
_QUANTISED_FLOOR = 6e-2
_UNCALIBRATED = 0.5


def distances(reference: Readings, test: Readings) -> dict[str, Any]:
    """Return the distance of each state or layer that both sides give out, none where a side gives out none.

    ``hidden``: relative error of a token's state, mean over tokens; a side with one state has the last.
    ``attention``: total variation of a query's weights, mean over heads and queries. Raises InferenceFailed
    for states of another shape and for what is not finite.
    """
    import numpy as np

    states = min(len(reference.hidden), len(test.hidden))
    if not states or reference.hidden[-1].shape != test.hidden[-1].shape:
        shapes = f"{list(reference.hidden.shape)} and {list(test.hidden.shape)}"
        raise InferenceFailed(f"hidden states of shapes {shapes} cannot be compared")
    if 1 < states != max(len(reference.hidden), len(test.hidden)):
        raise InferenceFailed(
            f"{len(reference.hidden)} hidden states cannot be compared with {len(test.hidden)}"
        )
    ours, theirs = (side.hidden[-states:].astype(np.float64) for side in (reference, test))
    size = np.linalg.norm(ours, axis=-1)
    errors = np.linalg.norm(theirs - ours, axis=-1) / np.maximum(size, np.finfo(np.float32).tiny)
    found: dict[str, Any] = {"hidden": _finite(errors.mean(axis=-1), "hidden states"), "attention": []}
    if reference.attention is not None and test.attention is not None:
        if reference.attention.shape != test.attention.shape:
            raise InferenceFailed(
                f"attention of shapes {list(reference.attention.shape)} and {list(test.attention.shape)} "
                "cannot be compared"
            )
        apart = np.abs(reference.attention.astype(np.float64) - test.attention).sum(-1) / 2
        found["attention"] = _finite(apart.mean(axis=(1, 2)), "attention weights")
    return found


def limits(quantization: str, twin: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the largest distances granted to a storage type: `MULTIPLE` of the twin's, at least the floor."""
    found = {}
    for name, floors in (("hidden", HIDDEN_FLOORS), ("attention", ATTENTION_FLOORS)):
        floor = floors.get(quantization, _QUANTISED_FLOOR)
        if twin is None:
            found[name] = floor if quantization in floors else _UNCALIBRATED
        else:
            found[name] = max(floor, MULTIPLE * max(twin[name], default=0.0))
    return found


def _finite(values: npt.NDArray[np.float64], what: str) -> list[float]:
    import numpy as np

    if not np.isfinite(values).all():
        raise InferenceFailed(f"{what} are not finite")
    return [float(f"{value:.4g}") for value in values]
