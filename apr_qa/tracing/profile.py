"""Where the time of a forward pass goes: shares by stage, and the stacks that flame graphs are drawn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from apr_qa.errors import UsageError

FOCUS = ("attention", "mlp", "norm", "embedding", "logits")


def shares(stages: Sequence[Mapping[str, Any]], focus: str = "") -> list[dict[str, Any]]:
    """Return seconds and share of each kind of stage, the largest first; ``focus`` keeps one kind, by layer."""
    if focus and focus not in FOCUS:
        raise UsageError(f"there is no stage {focus!r} to focus on", fix=f"one of {', '.join(FOCUS)}")
    total = sum(stage["seconds"] or 0.0 for stage in stages if stage["stage"] in FOCUS)
    spent: defaultdict[str, float] = defaultdict(float)
    for stage in stages:
        if stage["stage"] in FOCUS and (not focus or stage["stage"] == focus):
            spent[stage["name"] if focus else stage["stage"]] += stage["seconds"] or 0.0
    rows = [
        {"stage": name, "seconds": round(seconds, 6), "share": round(seconds / total, 4) if total else None}
        for name, seconds in spent.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def folded(stages: Sequence[Mapping[str, Any]], focus: str = "") -> str:
    """Return the stacks with their microseconds, a line each: what flame graph tools read."""
    lines = []
    for stage in stages:
        if stage["stage"] in FOCUS and (not focus or stage["stage"] == focus):
            frames = [
                "forward",
                *([f"layer {stage['layer']}"] if stage["layer"] >= 0 else []),
                stage["stage"],
            ]
            lines.append(f"{';'.join(frames)} {max(1, round(1e6 * (stage['seconds'] or 0.0)))}")
    return "\n".join(lines) + "\n"
