"""Conditions as people write them into playbooks: the numbers in them are taken over, the words explain.

What a gate asks is defined by its id; of a condition like ``tokens_per_second >= 10.0 && !error`` the limit is
taken over into the gate's own measurement. A limit that belongs to nothing that is measured is told, never
dropped in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_LIMIT = re.compile(
    rf"(?P<name>[A-Za-z_][\w.]*(?:\s*/\s*[A-Za-z_]\w*)?(?:\([^()]*\))?)\s*(?P<op>>=|<=|==|>|<)\s*(?P<n>{_NUMBER})\b"
)
_DEVICE = re.compile(r"backend\s*==\s*['\"](cpu|gpu)['\"]")
_BY_DEVICE = re.compile(
    rf"(\w+)\s*<=?\s*\(\s*backend\s*==\s*['\"]cpu['\"]\s*\?\s*({_NUMBER})\s*:\s*({_NUMBER})\s*\)"
)

_FLOORS = {"tokens_per_second": "min_throughput", "tps": "min_throughput", "throughput": "min_throughput"}
_CEILINGS = {
    "ttft_ms": "max_ttft_ms",
    "ttft": "max_ttft_ms",
    "time_to_first_token_ms": "max_ttft_ms",
    "memory_peak_mb": "max_memory_mb",
    "peak_memory_mb": "max_memory_mb",
    "p99_ms": "max_p99_ms",
    "p50_ms": "max_p50_ms",
    "latency_p99_ms": "max_p99_ms",
}
_RATIOS = {"gpu_tps / cpu_tps": "min_speedup", "speedup": "min_speedup"}
_KEPT = {"perf_ratio": "min_kept", "current_tps / baseline_tps": "min_kept"}
_RELEVANCE = ("semantic_similarity", "relevance_score", "relevance")
_OURS = (
    *("diff", "max_diff", "exit_code", "nan_count", "inf_count", "validation_errors", "output.len", "tokens"),
    *("tokens_generated", "error", "concurrent_success_rate", "memory_growth_rate", "health_check"),
    *("unique_chars", "max_repetition_ratio", "output_tokens", "output.tokens"),
)
"""Quantities whose limit is part of the gate that the id names."""


@dataclass
class Limits:
    """What conditions say in numbers."""

    assertions: dict[str, float] = field(default_factory=dict)
    """Limit of the profile -> number: ``min_throughput_cpu``, ``max_ttft_ms`` …"""
    min_relevance: float | None = None
    notes: list[str] = field(default_factory=list)

    def read(self, gate_id: str, condition: str) -> None:
        """Take over the limits of one condition."""
        text = " ".join(condition.split())
        by_device = _BY_DEVICE.search(text)
        if by_device and by_device[1] in _CEILINGS:
            name = _CEILINGS[by_device[1]]
            self.assertions |= {f"{name}_cpu": float(by_device[2]), f"{name}_gpu": float(by_device[3])}
            return
        device = _DEVICE.search(text)
        suffix = f"_{device[1]}" if device else ""
        for found in _LIMIT.finditer(text):
            self._limit(gate_id, re.sub(r"\(.*\)", "", found["name"]).strip(), found, suffix)

    def _limit(self, gate_id: str, name: str, found: re.Match[str], suffix: str) -> None:
        number, upward = float(found["n"]), found["op"] in (">", ">=")
        name = re.sub(r"\s*/\s*", " / ", name)
        if name in _FLOORS and upward:
            self.assertions[_FLOORS[name] + suffix] = number
        elif name in _CEILINGS and not upward:
            self.assertions[_CEILINGS[name] + suffix] = number
        elif name in {**_RATIOS, **_KEPT} and upward:
            self.assertions[{**_RATIOS, **_KEPT}[name]] = number
        elif name in _RELEVANCE and upward:
            self.min_relevance = number
        elif name not in _OURS:
            self.notes.append(
                f"{gate_id}: {found[0].strip()!r} is not measured here; the gate's own threshold applies"
            )
