"""Checks that look inside a loaded model: one traced pass, and repeated timed generations."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from apr_qa.backends import Session
from apr_qa.errors import Inapplicable, UsageError
from apr_qa.golden import session as golden
from apr_qa.tracing import behaviour, canary
from apr_qa.tracing.stages import LEVELS, Seen, Sink, summary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TEXT = "The quick brown fox jumps over the lazy dog. 2 + 2 = 4, and water boils at 100 degrees."
ROUND_TRIPS = ("Hello, world!", " 2 + 2 = 4", "def f(x):\n    return x", "naïve café", "日本語", "a\n\nb\tc")


class Observed(Session, Protocol):
    """A session that shows what happens inside a pass."""

    def observe(self, token_ids: Sequence[int], sink: Sink) -> npt.NDArray[np.float32]: ...

    def prefill(self, prompts: Sequence[Sequence[int]], positions: int) -> npt.NDArray[np.float32]: ...

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]: ...


class SessionChecks:
    """The checks of one loaded model; gates that judge the same measurement share it."""

    def __init__(self, session: Observed) -> None:
        self._session = session
        self._known: dict[bytes, dict[str, Any]] = {}

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of one check; raises Inapplicable for a check that is asked of servers."""
        if check not in CHECKS:
            raise Inapplicable(f"{check!r} is asked of servers, and this model is loaded in process")
        key = msgspec.json.encode((check, params), order="deterministic")
        if key not in self._known:
            self._known[key] = CHECKS[check](self._session, params)
        return self._known[key]


def trace(session: Observed, params: dict[str, Any]) -> dict[str, Any]:
    """Return what one forward pass shows: statistics of every stage, and what follows from them.

    ``params``: ``level`` (one of `LEVELS`, default ``layer``), ``text``, ``stages`` (names; default all).
    """
    level, text = str(params.get("level", "layer")), str(params.get("text", TEXT))
    if level not in LEVELS:
        raise UsageError(f"no trace level is called {level!r}", fix=f"one of {', '.join(LEVELS)}")
    tokens = session.tokenize(text)
    started = time.perf_counter()
    plain = session.logits(tokens)
    basic = {"level": level, "tokens": len(tokens), "seconds": round(time.perf_counter() - started, 4)}
    if level == "none":
        return {"level": level, "tokens": len(tokens)}
    if level == "basic":
        return basic
    eyes = _Eyes(payload=level == "payload")
    logits = session.observe(tokens, eyes.see)
    return basic | eyes.facts(params.get("stages")) | _outcome(plain, logits)


class _Eyes:
    """Keeps statistics of what a pass shows, and never the values."""

    def __init__(self, *, payload: bool) -> None:
        self.seen: list[Seen] = []
        self.sums: list[float] = []
        self.entropies: list[float] = []
        self.norms: list[float] = []
        self._payload = payload

    def see(self, stage: str, layer: int, values: npt.NDArray[np.float32], seconds: float) -> None:
        import numpy as np

        if stage == "attention_weights":
            self._weigh(values)
        if stage == "norm":
            rms = np.sqrt(np.mean(np.square(values.astype(np.float64)), axis=-1))
            self.norms.append(float(np.max(np.abs(rms - 1.0))))
        self.seen.append(summary(stage, layer, values, round(seconds, 6), payload=self._payload))

    def _weigh(self, weights: npt.NDArray[np.float32]) -> None:
        """Note how far the weights are from summing to one, and their entropy over what may be attended to."""
        import numpy as np

        rows = weights.astype(np.float64)
        self.sums.append(float(np.max(np.abs(rows.sum(axis=-1) - 1.0))))
        entropy = -np.sum(np.where(rows > 0, rows * np.log(np.maximum(rows, 1e-300)), 0.0), axis=-1)
        places = np.log(np.arange(2, rows.shape[-2] + 1))
        self.entropies.append(float(np.mean(entropy[..., 1:] / places)) if places.size else 0.0)

    def facts(self, wanted: Any) -> dict[str, Any]:
        shown = [s for s in self.seen if wanted is None or s.stage in wanted]
        layers = {s.layer for s in self.seen if s.stage == "layer"}
        bounded = [s for s in self.seen if s.min is not None and s.max is not None]
        largest = max(bounded, key=lambda s: max(abs(s.min or 0.0), abs(s.max or 0.0)), default=None)
        return {
            "layers": len(layers),
            "stages": [{**msgspec.to_builtins(s), "name": s.name, "values": list(s.values)} for s in shown],
            "not_finite": [s.name for s in self.seen if not s.finite],
            "largest": None if largest is None else max(abs(largest.min or 0.0), abs(largest.max or 0.0)),
            "largest_at": largest.name if largest else "",
            "attention_sum_error": max(self.sums, default=None),
            "attention_entropy": sum(self.entropies) / len(self.entropies) if self.entropies else None,
            "norm_error": max(self.norms, default=None),
        }


def _outcome(plain: npt.NDArray[np.float32], traced: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return what the logits say: whether tracing changed them, and whether they are a distribution."""
    import numpy as np

    last = traced[-1].astype(np.float64)
    shares = np.exp(last - last.max())
    shares /= shares.sum()
    return {
        "logits": int(traced.shape[0]),
        "vocabulary": int(traced.shape[1]),
        "tracing_changes": float(np.max(np.abs(plain - traced))),
        "logit_spread": float(np.std(last)),
        "probability_sum": float(shares.sum()),
        "probability_least": float(shares.min()),
        "probability_most": float(shares.max()),
    }


def benchmark(session: Observed, params: dict[str, Any]) -> dict[str, Any]:
    """Return measured speeds of repeated greedy decodings, after warm-ups that are not counted.

    ``params``: ``tokens`` (new tokens, default 16; end tokens do not end it), ``repetitions`` (5), ``warmup``
    (1), ``text``. A latency is the time between two tokens, the first one's is the time to the first token.
    """
    tokens, repetitions = int(params.get("tokens", 16)), int(params.get("repetitions", 5))
    prompt = session.tokenize(str(params.get("text", TEXT)))
    for _ in range(int(params.get("warmup", 1))):
        _timed(session, prompt, tokens)
    runs = [_timed(session, prompt, tokens) for _ in range(repetitions)]
    speeds = [(len(run) - 1) / sum(run[1:]) for run in runs if len(run) > 1]
    if not speeds:
        return {"repetitions": repetitions, "tokens": tokens, "tokens_per_s": []}
    mean = sum(speeds) / len(speeds)
    spread = math.sqrt(sum((speed - mean) ** 2 for speed in speeds) / len(speeds))
    gaps = sorted(gap for run in runs for gap in run[1:])
    return {
        "repetitions": repetitions,
        "tokens": tokens,
        "prompt_tokens": len(prompt),
        "tokens_per_s": [round(speed, 3) for speed in speeds],
        "tokens_per_s_mean": round(mean, 3),
        "coefficient_of_variation": round(spread / mean, 4),
        "time_to_first_token_s": round(_percentile(sorted(run[0] for run in runs), 0.50), 5),
        "latency_p50_ms": round(1000 * _percentile(gaps, 0.50), 3),
        "latency_p99_ms": round(1000 * _percentile(gaps, 0.99), 3),
    }


def _timed(session: Observed, prompt: Sequence[int], tokens: int) -> list[float]:
    """Return the seconds to each of ``tokens`` greedy tokens, counted from the one before."""
    marks = [time.perf_counter()]
    row = session.prefill([prompt], len(prompt) + tokens)
    marks.append(time.perf_counter())
    for _ in range(tokens - 1):
        row = session.step([0], [int(row[0].argmax())])
        marks.append(time.perf_counter())
    return [end - begin for begin, end in pairwise(marks)]


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Return the least value that at least ``share`` of the sorted values do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def round_trips(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """Return the texts that do not come back from the tokenizer, a leading blank aside."""
    changed = []
    for text in params.get("texts", ROUND_TRIPS):
        back = session.detokenize(session.tokenize(text, add_special=False))
        if back.lstrip(" ") != text.lstrip(" "):
            changed.append({"text": text, "back": back})
    return {"texts": len(params.get("texts", ROUND_TRIPS)), "changed": changed}


def positions(session: Observed, params: dict[str, Any]) -> dict[str, Any]:
    """Return how much the first layer's attention depends on the order of tokens, not only on which they are.

    Attention over the same keys gives the last position the same result in any order, unless positions are
    rotated or added; so an unchanged result means that positions are ignored.
    """
    import numpy as np

    tokens = session.tokenize(str(params.get("text", TEXT)))
    seen: list[npt.NDArray[np.float32]] = []

    def keep(stage: str, layer: int, values: npt.NDArray[np.float32], _: float) -> None:
        if stage == "attention" and layer == 0:
            seen.append(values[-1].copy())

    first, *middle, last = tokens
    for order in (middle, middle[::-1]):
        session.observe([first, *order, last], keep)
    if len(seen) != 2:
        raise Inapplicable("the attention of the first layer cannot be seen")
    scale = float(np.linalg.norm(seen[0])) or 1.0
    return {"tokens": len(tokens), "change": float(np.linalg.norm(seen[0] - seen[1])) / scale}


def cache(session: Observed, params: dict[str, Any]) -> dict[str, Any]:
    """Return how far decoding token by token is from one pass over all of them, in nats at each position."""
    import numpy as np

    tokens = session.tokenize(str(params.get("text", TEXT)))
    whole = session.logits(tokens)
    begin = max(1, len(tokens) // 2)
    rows = [session.prefill([tokens[:begin]], len(tokens) + 1)[0]]
    rows += [session.step([0], [token])[0] for token in tokens[begin:-1]]
    pairs = zip(whole[begin - 1 : -1], rows, strict=True)
    kl = [_divergence(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    return {"tokens": len(kl), "kl_mean": sum(kl) / len(kl) if kl else None, "kl_max": max(kl, default=None)}


def _divergence(reference: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    import numpy as np

    p, q = (row - row.max() - np.log(np.exp(row - row.max()).sum()) for row in (reference, other))
    return float(np.sum(np.exp(p) * (p - q)))


def planted(session: Observed, params: dict[str, Any]) -> dict[str, Any]:
    """Return what tracing reports when a stage of this model shows NaN, infinity and an explosion.

    The values are planted into what is seen and not into the model: it is the tracing that is tested.
    """
    import numpy as np

    tokens = session.tokenize(str(params.get("text", TEXT)))
    reported = {}
    for name, value in (("nan", np.nan), ("inf", np.inf), ("explosion", 1e30)):
        eyes = _Eyes(payload=False)

        session.observe(tokens, _spoiling(eyes, value))
        found = eyes.facts(())
        reported[name] = {"not_finite": found["not_finite"], "largest_at": found["largest_at"]}
    return {"planted_at": "layers.0.layer", "reported": reported}


def _spoiling(eyes: _Eyes, value: float) -> Sink:
    def see(stage: str, layer: int, values: Any, seconds: float) -> None:
        if stage == "layer" and layer == 0:
            values = values.copy()
            values[0, 0] = value
        eyes.see(stage, layer, values, seconds)

    return see


def levels(session: Observed, params: dict[str, Any]) -> dict[str, Any]:
    """Return which trace levels answer, and which keys the statistics of a stage have."""
    answered = {level: trace(session, {**params, "level": level}) for level in LEVELS}
    stages = answered["layer"]["stages"]
    shown = [stage for stage in answered["payload"]["stages"] if stage["values"]]
    return {
        "answered": sorted(answered),
        "keys": sorted(set.intersection(*(set(stage) for stage in stages))) if stages else [],
        "stages": len(stages),
        "stages_with_values": len(shown),
    }


FOCUS = {
    "embedding": ("embedding",),
    "attention": ("attention", "attention_weights"),
    "mlp": ("mlp",),
    "head": ("final_norm", "logits"),
}
"""Part of a model -> its stages."""


def focused(session: Observed, params: dict[str, Any]) -> dict[str, Any]:
    """Return which stages a profile shows that is asked for one part of the model at a time."""
    tokens = session.tokenize(str(params.get("text", TEXT)))
    eyes = _Eyes(payload=False)
    session.observe(tokens, eyes.see)
    shown = {part: eyes.facts(stages)["stages"] for part, stages in FOCUS.items()}
    return {
        "asked": {part: list(stages) for part, stages in FOCUS.items()},
        "shown": {part: sorted({stage["stage"] for stage in found}) for part, found in shown.items()},
    }


CHECKS = {
    "trace": trace,
    "trace_focus": focused,
    "trace_levels": levels,
    "trace_planted": planted,
    "positions": positions,
    "key_value_cache": cache,
    "benchmark": benchmark,
    "tokenizer_round_trip": round_trips,
    **behaviour.CHECKS,
    "canary": canary.checked,
    "canary_snapshot": canary.snapshot,
    "golden_generate": golden.generate,
    "golden_compare": golden.compare,
    "golden_manifest": golden.manifest,
}
"""Check of a loaded model -> what makes it."""
