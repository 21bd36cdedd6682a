"""Rotary position parameters: where each format keeps them and which scalings both sides know."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from apr_qa.errors import MalformedFile, UnsupportedArchitecture

WAY_OUT = "convert the model with its own tools and name the result: --artifact FORMAT=PATH"

ROPE_FACTORS = "rope_freqs.weight"
"""GGUF tensor of divisors of the rotation frequencies; Hugging Face keeps the formula in the config."""

_LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_SCALINGS: Mapping[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "yarn": {"factor", "original_max_position_embeddings"},
    "llama3": {"factor", *_LLAMA3_SCALING},
}


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotation parameters (``rope_type``, ``rope_theta``, …) wherever ``config`` keeps them.

    Raises UnsupportedArchitecture for a scaling that GGUF cannot express, MalformedFile for numbers that
    no model has.
    """
    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = given.pop("type", None)
    rope = {"rope_theta": config.get("rope_theta", 10000.0), "rope_type": kind or "default", **given}
    extra = {key for key, value in rope.items() if value is not None} - {"rope_theta", "rope_type"}
    if extra - _SCALINGS.get(rope["rope_type"], set()) or rope["rope_type"] not in _SCALINGS:
        raise UnsupportedArchitecture(f"rotary scaling {given or kind!r} does not convert", fix=WAY_OUT)
    numbers = {key: value for key, value in rope.items() if key != "rope_type" and value is not None}
    wrong = [
        key for key, value in numbers.items() if not isinstance(value, int | float) or not 0 < value < 1e30
    ]
    if wrong:
        raise MalformedFile(f"the config gives {wrong[0]} the impossible value {rope[wrong[0]]!r}")
    return rope


def rope_factors(rope: Mapping[str, Any], head_dim: int) -> list[float] | None:
    """Return the head_dim / 2 frequency divisors of a ``llama3`` scaling; None for other scalings."""
    if rope["rope_type"] != "llama3":
        return None
    theta = float(rope["rope_theta"])
    wavelengths = [2 * math.pi * theta ** (index / head_dim) for index in range(0, head_dim, 2)]
    return [_llama3_factor(wavelength, {**_LLAMA3_SCALING, **rope}) for wavelength in wavelengths]


def scaling_from_metadata(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the ``rope_scaling`` that the GGUF keys below ``prefix`` state; empty if they state none."""
    kind = metadata.get(prefix + "type", "none")
    if kind == "none":
        return {}
    keys = {"factor": "factor", "original_max_position_embeddings": "original_context_length"}
    found = {key: metadata[prefix + stored] for key, stored in keys.items() if prefix + stored in metadata}
    return {"rope_type": kind, **{key: plain_number(value) for key, value in found.items()}}


def scaling_from_factors(factors: Sequence[float], theta: float) -> dict[str, Any]:
    """Return the ``llama3`` scaling whose result ``factors`` are.

    The published constants alone can be recognised; other factors give a type that converts to nothing.
    """
    rope = {"rope_type": "llama3", "factor": plain_number(max(factors)), **_LLAMA3_SCALING}
    expected = rope_factors({**rope, "rope_theta": theta}, 2 * len(factors)) or []
    same = all(
        math.isclose(ours, stored, rel_tol=1e-5) for ours, stored in zip(expected, factors, strict=True)
    )
    return rope if same else {"rope_type": "unknown frequency factors"}


def plain_number(value: Any) -> Any:
    """Return a float32 as the shortest decimal that means it: 1e-05, not 9.999999747378752e-06."""
    if isinstance(value, memoryview):
        return value.tolist()
    if not isinstance(value, float) or not abs(value) < 3e38 or _as_float32(value) != value:
        return value
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if _as_float32(short) == value:
            return short
    return value


def _as_float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def _llama3_factor(wavelength: float, rope: Mapping[str, Any]) -> float:
    # Formula of the Llama 3.1 release, as in transformers' modeling_rope_utils.
    original, low, high = (
        rope["original_max_position_embeddings"],
        rope["low_freq_factor"],
        rope["high_freq_factor"],
    )
    if wavelength < original / high:
        return 1.0
    if wavelength > original / low:
        return float(rope["factor"])
    smooth = (original / wavelength - low) / (high - low)
    return float(1 / ((1 - smooth) / rope["factor"] + smooth))
