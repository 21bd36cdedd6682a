"""How far the next-token distributions of two engines or two files are apart, and how far they may be.

Kullback-Leibler divergence in nats per token, from logits, in float64. Nothing that cannot be compared is
called equal: empty, misshapen and non-finite logits are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.errors import InferenceFailed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BUCKETS = ((0, 31), (32, 127), (128, 511), (512, None))
"""Position ranges, ends included: rotary and window defects grow with the position."""

MULTIPLE = 3.0
"""How much further than a healthy conversion an artifact may be."""

FLOORS: Mapping[str, tuple[float, float]] = {
    # Storage type: least mean KL and least KL p99 that are granted, whatever the twin shows.
    "f32": (1e-5, 1e-4),
    "f16": (1e-4, 1e-3),
    "bf16": (3e-3, 3e-2),
}
"""Noise of the engines on equal weights, with an order of magnitude above what SmolLM2-135M showed: F32 in
llama.cpp against torch 6e-7 mean, 3e-6 max; F16 2e-6 and 1.6e-5; torch in bfloat16 1.1e-3 and 7e-3."""

QUANTISED_FLOOR = (6e-3, 6e-2)
"""llama.cpp rounds activations to int8 when it multiplies by quantised weights: the same Q4_1 weights gave
1.8e-3 mean and 3.4e-2 max against torch in float32. Three times the mean, and nearly twice the maximum."""

UNCALIBRATED: Mapping[str, float] = {
    **{"f32": 1e-5, "f16": 1e-4, "bf16": 5e-3, "q8_0": 1.2e-2, "q6_k": 4e-2, "q5_k": 0.18, "q5_1": 0.18},
    **{"q5_0": 0.18, "q4_k": 0.2, "q4_1": 0.5, "q4_0": 0.9, "q3_k": 1.0, "q2_k": 2.0},
}
"""Mean KL where no twin could be made: three times what SmolLM2-135M, a small and so sensitive model,
showed (Q8_0 3.7e-3, Q6_K 1.1e-2, Q5_K_M 5.9e-2, Q4_K_M 6.3e-2, Q4_0 0.29); published values of larger
models (llama.cpp's perplexity README, Llama-3-8B: Q8_0 1.4e-3 … Q2_K 0.45) are far below."""

_SHARES = {"kl_mean": 1.0, "kl_p99": 1.0, "kl_max": 2.0}
"""The maximum of a few hundred tokens is noisy: healthy files reach KL 10 on single tokens of long texts."""


def divergence(
    reference_logits: npt.NDArray[Any],
    test_logits: npt.NDArray[Any],
    positions: Sequence[int] | None = None,
    next_tokens: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return KL(reference ‖ test) and what goes with it over logits of shape [tokens, vocabulary].

    ``positions`` (default 0, 1, …) sort the tokens into buckets; ``next_tokens`` (the token that really came
    next; fewer than logits are allowed) give a perplexity ratio. Raises InferenceFailed for logits that cannot
    be compared. A padded vocabulary is cut to the narrower one.
    """
    import numpy as np

    reference, test = _checked(reference_logits, "reference"), _checked(test_logits, "test")
    if len(reference) != len(test):
        raise InferenceFailed(f"{len(reference)} reference tokens cannot be compared with {len(test)}")
    width = min(reference.shape[1], test.shape[1])
    where = np.arange(len(reference)) if positions is None else np.asarray(positions)
    if where.shape != (len(reference),):
        raise InferenceFailed(f"{where.size} positions were given for {len(reference)} tokens")
    rows = [_row(reference[i, :width], test[i, :width]) for i in range(len(reference))]
    kl = np.array([row[0] for row in rows])
    same = np.array([row[1] for row in rows])
    return {
        "tokens": len(reference),
        "vocabulary": width,
        **_summary(kl, same),
        "max_abs_logit_difference": float(max(row[2] for row in rows)),
        "first_disagreement": None if same.all() else int(where[int(np.flatnonzero(~same)[0])]),
        "least_margin_disagreed": _margin(reference[:, :width], same),
        "buckets": _buckets(kl, same, where),
        "perplexity_ratio": _perplexity_ratio(reference, test, width, next_tokens),
    }


def budget(quantization: str, twin_divergence: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the limits for an artifact of a storage type: ``kl_mean``, ``kl_p99``, ``kl_max``, ``top1``.

    With the divergence of a healthy twin (same type, same engines, same tokens): `MULTIPLE` of each number,
    but at least the floor of the type. Without: `UNCALIBRATED` for the mean, twenty times it for p99.
    ``top1`` is the least agreement: three times the twin's disagreement and three tokens of grace.
    """
    kind = _kind(quantization)
    mean_floor, p99_floor = FLOORS.get(kind, QUANTISED_FLOOR)
    if twin_divergence is None:
        mean = max(mean_floor, UNCALIBRATED.get(kind, max(UNCALIBRATED.values())))
        limits = {"kl_mean": mean, "kl_p99": 20 * mean, "kl_max": 100 * mean, "top1": 0.0}
        return {**limits, "calibrated": False, "quantization": quantization, "multiple": MULTIPLE, "buckets": {}}
    floors = {"kl_mean": mean_floor, "kl_p99": p99_floor, "kl_max": 5 * p99_floor}
    limits = {
        key: max(floors[key], MULTIPLE * share * float(twin_divergence[key])) for key, share in _SHARES.items()
    }
    grace = 3 / max(1, int(twin_divergence["tokens"]))
    limits["top1"] = max(0.0, 1 - MULTIPLE * (1 - float(twin_divergence["top1"])) - grace)
    buckets = {
        name: max(2 * mean_floor, MULTIPLE * float(part["kl_mean"]))
        for name, part in twin_divergence.get("buckets", {}).items()
    }
    return {**limits, "calibrated": True, "quantization": quantization, "multiple": MULTIPLE, "buckets": buckets}


def overruns(measured: Mapping[str, Any], limits: Mapping[str, Any], share: float = 1.0) -> list[dict[str, Any]]:
    """Return every number that leaves its limit; ``share`` of a limit may be asked for. NaN leaves all limits."""
    found = [
        {"what": key, "measured": measured[key], "limit": share * limits[key]}
        for key in _SHARES
        if not measured[key] <= share * limits[key]
    ]
    if not measured["top1"] >= limits["top1"]:
        found.append({"what": "top1", "measured": measured["top1"], "limit": limits["top1"]})
    for name, limit in limits.get("buckets", {}).items():
        part = measured.get("buckets", {}).get(name)
        if part is not None and not part["kl_mean"] <= share * limit:
            what = f"kl_mean at positions {name}"
            found.append({"what": what, "measured": part["kl_mean"], "limit": share * limit})
    return found


def _checked(logits: npt.NDArray[Any], side: str) -> npt.NDArray[Any]:
    import numpy as np

    array = np.asarray(logits)
    if array.ndim != 2 or not array.size:
        raise InferenceFailed(f"the {side} logits have shape {array.shape}: there is nothing to compare")
    if not np.isfinite(array).all():
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise InferenceFailed(f"{bad} of the {side} logits are not finite")
    return array


def _log_softmax(row: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    import numpy as np

    shifted = row.astype(np.float64)
    shifted -= shifted.max()
    normalised: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return normalised


def _row(reference: npt.NDArray[Any], test: npt.NDArray[Any]) -> tuple[float, bool, float]:
    """Return (KL, same first choice, largest difference of logits) of one token."""
    import numpy as np

    p, q = _log_softmax(reference), _log_softmax(test)
    # Rounding may make the divergence of equal rows a tiny negative number.
    kl = max(0.0, float(np.dot(np.exp(p), p - q)))
    difference = float(np.abs(reference.astype(np.float64) - test).max())
    return kl, int(reference.argmax()) == int(test.argmax()), difference


def _summary(kl: npt.NDArray[np.float64], same: npt.NDArray[np.bool_]) -> dict[str, float]:
    import numpy as np

    return {
        "kl_mean": float(kl.mean()),
        "kl_p99": float(np.quantile(kl, 0.99)),
        "kl_max": float(kl.max()),
        "top1": float(same.mean()),
    }


def _buckets(
    kl: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], where: npt.NDArray[Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for first, last in BUCKETS:
        inside = (where >= first) & ((where <= last) if last is not None else True)
        if inside.any():
            name = f"{first}-{last}" if last is not None else f"{first}+"
            found[name] = {"tokens": int(inside.sum()), **_summary(kl[inside], same[inside])}
    return found


def _margin(reference: npt.NDArray[Any], same: npt.NDArray[np.bool_]) -> float | None:
    """Return how sure the reference was of its choice where the first choices differ: the largest lead."""
    import numpy as np

    if same.all():
        return None
    best = np.sort(reference[~same].astype(np.float64), axis=1)[:, -2:]
    return float((best[:, 1] - best[:, 0]).max())


def _perplexity_ratio(
    reference: npt.NDArray[Any], test: npt.NDArray[Any], width: int, next_tokens: Sequence[int] | None
) -> float | None:
    import numpy as np

    if next_tokens is None:
        return None
    count = min(len(next_tokens), len(reference))
    if not count or not all(0 <= token < width for token in next_tokens[:count]):
        raise InferenceFailed(f"the next tokens are not {len(reference)} ids below {width}")
    losses = [
        np.mean([-_log_softmax(side[i, :width])[next_tokens[i]] for i in range(count)])
        for side in (reference, test)
    ]
    return float(np.exp(losses[1] - losses[0]))


def _kind(quantization: str) -> str:
    name = quantization.lower()
    for suffix in ("_s", "_m", "_l"):
        name = name.removesuffix(suffix) if name.endswith(f"_k{suffix}") else name
    return name
