"""Two models tensor by tensor: are the values as close as the type that they are stored in allows?

An artifact's tensor is compared with the ground truth's, and its error with that of a healthy rounding of
the ground truth to the same stored type (the *twin*). So no error is too large for its type by accident of
the model, and a tensor stored in a better type is held to that type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apr_qa.comparison.healthy_rounding import EXACT, FLOATS, float_rounded, rounded
from apr_qa.comparison.names import SHOWN, comparable, tied, weights
from apr_qa.comparison.tensor_distance import Distance, Rounding, Truth, looks_like, measure
from apr_qa.comparison.tensor_profile import Profile, observe
from apr_qa.containers.packed_weights import groups
from apr_qa.conversion.architectures import EMBEDDING, HEAD
from apr_qa.formats import OpenModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TENSOR_FACTOR = 1.5
"""How much larger than the twin's a tensor's error may be. With log-normal importance weights of sigma 2
ggml's quantisers stayed within 1.2 on tensors of SmolLM2-135M."""
BLOCK_FACTOR = 2.0
"""The same for the worst block. Without importance weights 1.3 was seen, where the twin was a sample."""
GAIN_SHARE = 0.35
"""A tensor may be longer or shorter along the truth by this share of the twin's error; Q2_K with such weights
showed 0.32."""
IMATRIX_BLOCK = 0.5
"""Worst block that is granted to a file whose quantiser weighted channels by importance and says so: with such
weights 0.36 was measured for Q4_0 and 0.19 for Q6_K, whose twins have 0.21 and 0.04. A block that is zero,
doubled or negated has 1 or 2."""
INTERMEDIATE = {"tensor": 2e-3, "block": 4e-3}
"""Least twin error of a quantised type: quantisers are fed from f16 or bf16 files (unit roundoff 2^-9)."""
SLACK = 1e-6
"""For arithmetic in float32 on the way."""
SAMPLE_VALUES = 1 << 16
"""Values of a quantised tensor from which the twin's error is estimated before it is doubted."""
WORST = 1e9
"""Stands for infinity and NaN, which JSON has not."""
_GROUPS = (("norm", "norm"), ("embed_tokens", "embedding"), ("lm_head", "head"))
_IMATRIX = "quantize.imatrix."


@dataclass(frozen=True)
class Compared:
    """One tensor of the artifact against the truth and the twin."""

    name: str
    dtype: str
    values: int
    distance: Distance
    twin: Distance
    used: float
    """Largest share of a budget that is used up; above 1 (or NaN) it is not healthy."""
    looks_like: str = ""

    @property
    def healthy(self) -> bool:
        return self.used <= 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "error": finite(self.distance.error),
            "twin_error": finite(self.twin.error),
            "block": finite(self.distance.block),
            "twin_block": finite(self.twin.block),
            "gain": finite(self.distance.gain),
            "used": finite(self.used),
            "looks_like": self.looks_like,
        }


@dataclass
class Sweep:
    """What one pass over all tensors found."""

    compared: list[Compared]
    uncompared: list[str]
    dead_rows: list[dict[str, Any]]
    profiles: list[Profile] = field(default_factory=list)
    rows: int = 0
    imatrix: bool = False
    unknown_architecture: str = ""


def sweep(truth: OpenModel, artifact: OpenModel, twin: OpenModel | None = None) -> Sweep:
    """Compare every tensor that both models have in the same shape; one tensor is in memory at a time."""
    found = Sweep([], [], [], imatrix=any(str(key).startswith(_IMATRIX) for key in artifact.metadata))
    found.unknown_architecture = comparable(artifact) or comparable(truth)
    if found.unknown_architecture:
        return found
    for name, counterpart in _pairs(truth, artifact):
        pair = _Pair(
            name,
            truth.read(counterpart),
            artifact.read(name),
            artifact.tensors[name].dtype,
            twin,
            groups(artifact, name),
        )
        result = pair.compare(found.imatrix)
        if result is None:
            found.uncompared.append(f"{name} ({pair.dtype})")
        else:
            found.compared.append(result)
        found.profiles.append(pair.profile(truth.tensors[counterpart].dtype, result))
        found.rows += pair.rows
        dead = pair.dead_rows()
        if dead:
            found.dead_rows.append({"name": name, "count": len(dead), "first": dead[:SHOWN]})
    return found


def errors(found: Sweep) -> dict[str, Any]:
    """Return the facts about values: what was compared, the bands, and what leaves them."""
    if found.unknown_architecture:
        return {"unknown_architecture": found.unknown_architecture}
    offending = sorted((c for c in found.compared if not c.healthy), key=lambda c: -finite(c.used))
    groups: dict[str, dict[str, Any]] = {}
    for entry in found.compared:
        group = groups.setdefault(_group(entry.name), {"compared": 0, "offending": [], "used": 0.0})
        group["compared"] += 1
        group["used"] = max(group["used"], finite(entry.used))
        if not entry.healthy and len(group["offending"]) < SHOWN:
            group["offending"].append(entry.name)
    return {
        "compared": len(found.compared),
        "values": sum(entry.values for entry in found.compared),
        "exact": sum(entry.distance.error == 0.0 for entry in found.compared),
        "uncompared": found.uncompared[:SHOWN],
        "uncompared_count": len(found.uncompared),
        "offending": [entry.to_json() for entry in offending[:SHOWN]],
        "offending_count": len(offending),
        "used": max((finite(entry.used) for entry in found.compared), default=0.0),
        "transposed": [e.name for e in offending if e.looks_like == "transposed"][:SHOWN],
        "imatrix": found.imatrix,
        "bands": _bands(found.compared),
        "groups": groups,
    }


def dead(found: Sweep) -> dict[str, Any]:
    """Return the facts about rows that are zero in the artifact and alive in the truth."""
    if found.unknown_architecture:
        return {"unknown_architecture": found.unknown_architecture}
    count = sum(int(entry["count"]) for entry in found.dead_rows)
    return {"dead": found.dead_rows[:SHOWN], "dead_count": count, "rows": found.rows}


def finite(value: float) -> float:
    """Return a number that JSON can hold; NaN and infinity become ``WORST``."""
    return round(float(value), 9) if abs(value) < WORST else WORST


def _pairs(truth: OpenModel, artifact: OpenModel) -> Iterator[tuple[str, str]]:
    """Yield (name in the artifact, name in the truth) of what can be compared."""
    wanted = weights(truth)
    for name, info in artifact.tensors.items():
        counterpart = name
        if name == HEAD and HEAD not in wanted:
            if tied(artifact):
                continue  # Every engine ignores it.
            counterpart = EMBEDDING
        if counterpart in wanted and wanted[counterpart].shape == info.shape and 0 not in info.shape:
            yield name, counterpart


def _group(name: str) -> str:
    for part, group in _GROUPS:
        if part in name:
            return group
    return "attention" if ".self_attn." in name else "mlp" if ".mlp." in name else "other"


def _bands(entries: list[Compared]) -> dict[str, dict[str, Any]]:
    bands: dict[str, dict[str, Any]] = {}
    for entry in entries:
        band = bands.setdefault(entry.dtype, {"tensors": 0})
        band["tensors"] += 1
        values: Mapping[str, float] = {
            "error": entry.distance.error,
            "twin_error": entry.twin.error,
            "block": entry.distance.block,
            "twin_block": entry.twin.block,
        }
        band |= {key: max(band.get(key, 0.0), finite(value)) for key, value in values.items()}
    return bands


class _Pair:
    """One tensor of both models, as matrices of rows."""

    def __init__(
        self,
        name: str,
        truth: npt.NDArray[np.float32],
        artifact: npt.NDArray[np.float32],
        dtype: str,
        twin: OpenModel | None,
        groups: npt.NDArray[np.int64] | None = None,
    ) -> None:
        columns = truth.shape[-1] if truth.ndim else 1
        self.name = name
        self.dtype = dtype
        self.shape = truth.shape
        self.artifact = artifact.reshape(-1, columns)
        self.truth = Truth(truth.reshape(-1, columns))
        self.rows = len(self.artifact) if truth.ndim > 1 else 0
        self._twin = twin
        self._groups = groups
        self._distance = Distance(math.nan, math.nan, math.nan)

    def compare(self, imatrix: bool) -> Compared | None:
        """Return the verdict on the tensor, None if no twin can be made of its type."""
        import numpy as np

        self._distance = distance = measure(self.artifact, self.truth)
        rows = self._sample()
        healthy = self._healthy(rows)
        if healthy is None:
            return None
        twin = measure(healthy, self.truth, rows)
        used = self._used(distance, twin, imatrix)
        if not used <= 1.0 and len(rows) < len(self.artifact):
            # The sample may have missed what is hard to store: look at all of it before blaming.
            rows = np.arange(len(self.artifact))
            healthy = self._healthy(rows)
            if healthy is not None:
                twin = measure(healthy, self.truth, rows)
                used = self._used(distance, twin, imatrix)
        guess = "" if used <= 1.0 else looks_like(self.artifact, self.truth.values, self.name)
        return Compared(self.name, self.dtype, self.artifact.size, distance, twin, used, guess)

    def profile(self, truth_dtype: str, result: Compared | None) -> Profile:
        """Return what else there is to say about the tensor that `compare` has looked at."""
        return observe(
            self.name,
            (self.dtype, truth_dtype),
            self.artifact,
            self.truth.values,
            error=self._distance.error,
            healthy=result is None or result.healthy,
        )

    def dead_rows(self) -> list[int]:
        """Return the rows that are all zero although the truth's are not small beside its other rows."""
        import numpy as np

        if not self.rows:
            return []
        with np.errstate(invalid="ignore"):  # a signalling NaN is no zero either
            zero = np.flatnonzero(~self.artifact.any(axis=1))
        alive = self.truth.alive(zero)
        return [int(row) for row in zero[alive]]

    def _sample(self) -> npt.NDArray[np.int64]:
        import numpy as np

        rows, columns = self.artifact.shape
        count = rows if self.dtype in FLOATS else max(1, min(rows, SAMPLE_VALUES // columns))
        return np.linspace(0, rows - 1, count).astype(np.int64)

    def _healthy(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | Rounding | None:
        if self.dtype in FLOATS:
            return functools.partial(float_rounded, dtype=self.dtype)
        whole = len(rows) == len(self.artifact)
        values = self.truth.values if whole else self.truth.values[rows]
        healthy = rounded(values, self.dtype, self._groups)
        if healthy is None and self._twin is not None:
            info = self._twin.tensors.get(self.name)
            if info is not None and info.dtype == self.dtype and info.shape == self.shape:
                return self._twin.read(self.name).reshape(self.artifact.shape)[rows]
        return healthy

    def _used(self, distance: Distance, twin: Distance, imatrix: bool) -> float:
        least = {"tensor": 0.0, "block": 0.0} if self.dtype in FLOATS else INTERMEDIATE
        error, block = max(twin.error, least["tensor"]), max(twin.block, least["block"])
        limit = BLOCK_FACTOR * block
        if imatrix and self.dtype not in FLOATS:
            limit = max(limit, IMATRIX_BLOCK)
        shares = (
            distance.error / (TENSOR_FACTOR * error + SLACK),
            distance.block / (limit + SLACK),
            abs(distance.gain - 1) / (GAIN_SHARE * error + abs(twin.gain - 1) + SLACK),
        )
        if self.dtype in EXACT and distance.error == 0.0:
            return 0.0
        # NaN must not lose against a number.
        return max(shares) if all(share == share for share in shares) else float("inf")
