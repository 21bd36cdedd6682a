"""Speed of repeated generations: tokens per second, time to the first token, time from token to token.

Warm-up generations are left out. Times between tokens of all repetitions are pooled, and percentiles are
taken of them by linear interpolation. A server that answers as a whole gives no times of single tokens: then a
repetition counts as its duration divided by its tokens, and there is no time to the first token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.vocabulary import Target

PROMPT = "Once upon a time there was a"
TOKENS = 8
"""New tokens of a repetition; the repetitions' times are pooled."""
WARMUP_TOKENS = 4
"""New tokens of a warm-up: enough to have touched every weight and chosen every kernel."""
WARMUP = 3
REPETITIONS = 10
LIMIT_S = 45.0
"""No repetition begins after this; a slow model is measured fewer times, and the facts say how many."""


@dataclass
class Times:
    """Seconds, as measured."""

    first: list[float] = field(default_factory=list)
    """Until the first token, one for each repetition."""
    between: list[float] = field(default_factory=list)
    """From token to token."""
    rates: list[float] = field(default_factory=list)
    """Tokens per second after the first token, one for each repetition."""
    tokens: int = 0


_known: dict[tuple[int, int, int, float], dict[str, Any]] = {}
"""What was measured in this process: several limits of one profile are judged by one measurement."""


def profile(session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profile of a loaded model, with the limit that ``params`` states.

    ``params``: warmup, measure, limit, device, baseline (tokens per second of an earlier run).
    """
    asked = (int(params.get("warmup", WARMUP)), int(params.get("measure", REPETITIONS)))
    key = (id(session), *asked, float(params.get("limit_s", LIMIT_S)))
    if key not in _known:
        _known[key] = _profile(session, *asked, key[3])
    if "baseline" in params and params["baseline"] is None:
        raise Inapplicable("no earlier run of this model is stored, so there is nothing to compare with")
    said = {name: params[name] for name in ("limit", "baseline") if name in params}
    return {**_known[key], **said}


def speedup(session: Session, params: Mapping[str, Any], target: Target, artifact: Path) -> dict[str, Any]:
    """Return the profile of a model on its device and, loaded a second time, on the CPU."""
    if target.backend == "cpu":
        raise Inapplicable("a CPU is not compared with itself")
    import msgspec

    other = BACKENDS.get(target.engine).load(msgspec.structs.replace(target, backend="cpu"), artifact)
    try:
        here, there = profile(session, params), profile(other, params)
    finally:
        other.close()
    return {"here": here, "cpu": there, "limit": params.get("limit")}


def _profile(session: Session, warmup: int, repetitions: int, limit_s: float) -> dict[str, Any]:
    began = time.perf_counter()
    for _ in range(warmup):
        _once(session, Times(), WARMUP_TOKENS)
        if time.perf_counter() - began > limit_s / 2:
            break
    times, done = Times(), 0
    while done < repetitions and (done == 0 or time.perf_counter() - began < limit_s):
        _once(session, times)
        done += 1
    return {
        "warmup": warmup,
        "asked": repetitions,
        "repetitions": done,
        "tokens": times.tokens,
        "tokens_per_s": round(statistics.median(times.rates), 3) if times.rates else None,
        "p50_ms": _percentile(times.between, 50),
        "p99_ms": _percentile(times.between, 99),
        "first_ms": _percentile(times.first, 50),
        "slowest_first_ms": _percentile(times.first, 100),
        # What answers elsewhere holds its memory there.
        "peak_memory_mb": None if hasattr(session, "endpoint") else peak_memory_mb(),
    }


def _once(session: Session, times: Times, tokens: int = TOKENS) -> None:
    if hasattr(session, "endpoint"):
        _answered(session, Request(PROMPT, max_tokens=tokens), times)
    else:
        _decoded(session, times, tokens)


def _decoded(session: Any, times: Times, tokens: int) -> None:
    """Decode greedily, token by token; end tokens do not end it, so every repetition is equally long."""
    prompt = session.tokenize(PROMPT)
    marks = [time.perf_counter()]
    row = session.prefill([prompt], len(prompt) + tokens)
    marks.append(time.perf_counter())
    for _ in range(tokens - 1):
        row = session.step([0], [int(row[0].argmax())])
        marks.append(time.perf_counter())
    steps = [later - earlier for earlier, later in pairwise(marks)]
    times.first.append(steps[0])
    times.between += steps[1:]
    times.tokens += len(steps)
    times.rates.append(len(steps[1:]) / sum(steps[1:]))


def _answered(session: Session, request: Request, times: Times) -> None:
    (response,) = session.generate([request])
    tokens = response.facts.get("completion_tokens") or 0
    if not tokens or not response.duration_s:
        raise InferenceFailed("the server does not say how many tokens it generated")
    times.tokens += tokens
    times.between.append(response.duration_s / tokens)
    times.rates.append(tokens / response.duration_s)


def _percentile(seconds: Sequence[float], percent: float) -> float | None:
    """Return a percentile in milliseconds, interpolated between neighbours; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return round(1000 * (ordered[low] + (ordered[high] - ordered[low]) * (place - low)), 3)


def peak_memory_mb() -> float:
    """Return the most memory that this process has held, in MB."""
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
