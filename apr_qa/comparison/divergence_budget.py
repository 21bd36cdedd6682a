"""How far next-token distributions may be apart: a multiple of a healthy conversion of the same model.

All divergences are in nats per token, all numbers measured on SmolLM2-135M unless a source is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apr_qa.comparison.divergence import BUCKET_NAMES
from apr_qa.errors import InferenceFailed

MULTIPLE = 3.0
"""How much further than a healthy conversion an artifact may be."""

FLOORS: Mapping[str, tuple[float, float]] = {
    # Storage type: least mean KL and least KL p99 that are granted, whatever the twin shows.
    "f32": (1e-5, 1e-4),
    "f16": (1e-4, 1e-3),
    "bf16": (3e-3, 3e-2),
}
"""Noise of the engines on equal weights, with room. Seen over 91 tokens: F32 in llama.cpp against torch 6e-7
mean and 3e-6 max, F16 2e-6 and 1.6e-5, torch in bfloat16 1.1e-3 and 7e-3."""

QUANTISED_FLOOR = (1.2e-2, 0.12)
"""llama.cpp rounds activations to int8 when it multiplies by quantised weights: the same Q4_1 weights gave 1.8e-3 to
3.6e-3 mean and 2.8e-2 to 3.4e-2 max against torch in float32. Three times that."""

TOP1_FLOORS: Mapping[str, float] = {"f32": 0.995, "f16": 0.99, "bf16": 0.93}
QUANTISED_TOP1_FLOOR = 0.89
"""First choices that equal weights in two engines must share: three times the disagreement that was seen (bfloat16
2.2 %, the same Q4_1 weights 3.6 %)."""

LOGIT_NOISE: Mapping[str, float] = {
    **{
        "f32": 0.05,
        "f16": 0.15,
        "bf16": 2.2,
        "q8_0": 4.0,
        "q6_k": 8.5,
        "q5_k": 24.0,
        "q5_1": 24.0,
        "q5_0": 24.0,
    },
    **{"q4_k": 24.0, "q4_1": 24.0, "q4_0": 38.0},
}
"""Largest difference of a single logit that is granted at least: three times and more what SmolLM2-135M showed
(F32 0.015, F16 0.044, bfloat16 0.72, Q8_0 1.3, Q6_K 2.8, Q5_K_M 7.9, Q4_K_M 5.0, Q4_0 12.7)."""

PERPLEXITY_FLOOR = 1.10
"""Relative perplexity that any quantisation may cost (published: Q4_K_M of Llama-3-8B 1.03, Q3_K_M 1.11)."""

UNCALIBRATED: Mapping[str, float] = {
    **{"f32": 1e-5, "f16": 1e-4, "bf16": 5e-3, "q8_0": 1.2e-2, "q6_k": 4e-2, "q5_k": 0.18, "q5_1": 0.18},
    **{"q5_0": 0.18, "q4_k": 0.2, "q4_1": 0.5, "q4_0": 0.9, "q3_k": 1.0, "q2_k": 2.0},
}
"""Mean KL where no twin could be made. From Q8_0 on three times what SmolLM2-135M, a small and so sensitive
model, showed (Q8_0 3.7e-3, Q6_K 1.1e-2, Q5_K_M 5.9e-2, Q4_K_M 6.3e-2, Q4_0 0.29); Q5_0, Q5_1, Q4_1, Q3_K and
Q2_K lie between their neighbours or beyond them and were not measured. Published values of larger models
(llama.cpp's perplexity README, Llama-3-8B: Q8_0 1.4e-3 to Q2_K 0.45) are far below."""

NEAR = 2 / 3
"""Share of a limit beyond which a divergence is a near miss, twice the healthy twin, if that twin ran in the same
engine. A twin that ran elsewhere lacks the engine's own rounding, so beyond it only the limit itself says anything:
SmolLM2-135M showed 2.0 times such a twin in Q6_K and 1.4 times (1.9 in a bucket) in F16 with norm weights of one."""

_SHARES = {"kl_mean": 1.0, "kl_p99": 1.0, "kl_max": 2.0}
"""The maximum of a few hundred tokens is noisy: healthy files reach KL 10 on single tokens of long texts."""


def budget(
    quantization: str, twin_divergence: Mapping[str, Any] | None, *, same_engine: bool = False
) -> dict[str, Any]:
    """Return the limits for an artifact of a storage type, by the name of what they limit.

    With the divergence of a healthy twin (same type, same tokens) each is `MULTIPLE` of the twin's number, but at
    least the floor of the type. ``same_engine`` says that the twin ran where the artifact runs, so that its number
    contains the noise of the engine already and a small floor is enough. Without a twin, `UNCALIBRATED` limits
    the mean, twenty times it p99. ``top1`` is the least agreement: three times the twin's disagreement, at least the
    noise of the engines, and three tokens of grace. ``tie`` is the lead up to which two first choices are a near tie.
    """
    kind = _kind(quantization)
    noise = LOGIT_NOISE.get(kind, max(LOGIT_NOISE.values()))
    limits: dict[str, Any] = {"quantization": quantization, "multiple": MULTIPLE, "logit_difference": noise}
    limits["near"] = NEAR if same_engine else 1.0
    mean_floor, p99_floor = FLOORS.get(kind, QUANTISED_FLOOR)
    top1_floor = TOP1_FLOORS.get(kind, QUANTISED_TOP1_FLOOR)
    if twin_divergence is None:
        mean = max(mean_floor, UNCALIBRATED.get(kind, max(UNCALIBRATED.values())))
        means = {"kl_mean": mean, "kl_p99": 20 * mean, "kl_max": 100 * mean, "top1": 0.0, "tie": 2 * noise}
        return limits | means | {"calibrated": False, "perplexity_ratio": 1 + 10 * mean, "buckets": {}}
    tie_floor = LOGIT_NOISE[kind if kind in FLOORS else "q8_0"]
    if same_engine and mean_floor > FLOORS["f16"][0]:
        (mean_floor, p99_floor), tie_floor = FLOORS["f16"], LOGIT_NOISE["f16"]
        top1_floor = TOP1_FLOORS["f16"]
    floors = {"kl_mean": mean_floor, "kl_p99": p99_floor, "kl_max": 5 * p99_floor}
    limits |= {
        key: max(floors[key], MULTIPLE * share * float(twin_divergence[key]))
        for key, share in _SHARES.items()
    }
    grace = 3 / max(1, int(twin_divergence["tokens"]))
    least = min(top1_floor, 1 - MULTIPLE * (1 - float(twin_divergence["top1"])))
    limits["top1"] = max(0.0, least - grace)
    limits["tie"] = max(tie_floor, MULTIPLE * float(twin_divergence["lead_change"]))
    ratio = abs(float(twin_divergence.get("perplexity_ratio") or 1.0) - 1)
    return limits | {
        "calibrated": True,
        "logit_difference": max(noise, MULTIPLE * float(twin_divergence["logit_difference"])),
        "perplexity_ratio": max(PERPLEXITY_FLOOR, 1 + MULTIPLE * ratio),
        "buckets": {
            name: max(2 * mean_floor, MULTIPLE * float(part["kl_mean"]))
            for name, part in twin_divergence.get("buckets", {}).items()
        },
    }


def noise_budget(quantization: str) -> dict[str, Any]:
    """Return the limits for equal weights in two engines, devices or ways of computing: the floors of the type."""
    perfect = {
        **dict.fromkeys(("kl_mean", "kl_p99", "kl_max", "logit_difference", "lead_change"), 0.0),
        **{"top1": 1.0, "tokens": 30},
    }
    buckets = {name: {"kl_mean": 0.0} for name in BUCKET_NAMES}
    return {**budget(quantization, {**perfect, "buckets": buckets}), "near": NEAR}


def wider(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits that grant whatever one of two grants."""
    keys = (*_SHARES, "logit_difference", "tie", "perplexity_ratio", "near")
    return {
        **one,
        **{key: max(one[key], other[key]) for key in keys},
        "top1": min(one["top1"], other["top1"]),
        "buckets": {
            name: max(limit, other["buckets"].get(name, 0.0)) for name, limit in one["buckets"].items()
        },
    }


def combined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits for two artifacts that each keep theirs towards the same ground truth.

    The root of a small divergence is a distance, so the roots add up; so do differences of logits.
    """
    shared = set(one["buckets"]) & set(other["buckets"])
    return {
        "quantization": f"{one['quantization']} and {other['quantization']}",
        "multiple": MULTIPLE,
        "near": max(one["near"], other["near"]),
        "calibrated": one["calibrated"] and other["calibrated"],
        **{key: _added(one[key], other[key]) for key in _SHARES},
        **{key: one[key] + other[key] for key in ("logit_difference", "tie")},
        "top1": max(0.0, one["top1"] + other["top1"] - 1),
        "perplexity_ratio": one["perplexity_ratio"] * other["perplexity_ratio"],
        "buckets": {name: _added(one["buckets"][name], other["buckets"][name]) for name in sorted(shared)},
    }


def _added(one: float, other: float) -> float:
    return float((one**0.5 + other**0.5) ** 2)


def near_misses(measured: Mapping[str, Any], limits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every number over the whole text that leaves the share ``near`` of its limit; a bucket has too few tokens
    for that."""
    return overruns(measured, {**limits, "buckets": {}}, limits["near"])


def overruns(
    measured: Mapping[str, Any], limits: Mapping[str, Any], share: float = 1.0
) -> list[dict[str, Any]]:
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


def parity_facts(
    measured: Mapping[str, Any], limits: Mapping[str, Any], reference: str = ""
) -> dict[str, Any]:
    """Return the facts that the logit gates judge; ``reference`` names the engine that gave the truth."""
    return {
        "measured": dict(measured),
        "limits": dict(limits),
        "overruns": overruns(measured, limits),
        "near": near_misses(measured, limits),
        "reference": reference,
    }


def greedy_facts(
    reference: Sequence[Sequence[int]],
    test: Sequence[Sequence[int]],
    leads: Sequence[Sequence[float]],
    limits: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare greedy continuations of the same prompts up to the first token that differs.

    ``leads`` are the reference's logits of first minus second choice, one per generated token. A lead up to the
    limit ``tie`` is a near tie: there both continuations are the model's own.
    """
    if not reference or len(reference) != len(test) or not all(reference):
        raise InferenceFailed(f"{len(reference)} continuations cannot be compared with {len(test)}")
    tie = float(limits["tie"])
    equal, ties, differences = 0, 0, []
    for number, (ours, theirs, lead) in enumerate(zip(reference, test, leads, strict=True)):
        if list(ours) == list(theirs):
            equal += 1
            continue
        pairs = enumerate(zip(ours, theirs, strict=False))
        at = next((i for i, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
        margin = lead[at] if at < len(lead) else 0.0
        if margin <= tie:
            ties += 1
            continue
        differences.append(
            {
                "prompt": number,
                "at": at,
                "truth": list(ours[at : at + 5]),
                "artifact": list(theirs[at : at + 5]),
                "lead": margin,
            }
        )
    return {
        "prompts": len(reference),
        "equal": equal,
        "ties": ties,
        "tie": tie,
        "differences": differences[:20],
    }


def _kind(quantization: str) -> str:
    name = quantization.lower()
    for suffix in ("_s", "_m", "_l"):
        name = name.removesuffix(suffix) if name.endswith(f"_k{suffix}") else name
    return name
