"""A canary: what a model says and how sure it is on a few fixed prompts, kept to notice that it changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apr_qa.errors import UsageError
from apr_qa.vocabulary import Record

PROMPTS = (
    "The capital of France is",
    "2 + 2 =",
    "def add(a, b):\n    return",
    "Once upon a time there was",
)
VERSION = 1
KEPT = 16
"""Likeliest tokens of which the log-probability is kept for each prompt."""

TOLERANCE = 0.05
"""Nats that a log-probability may move: float32 on another machine moves it by about 1e-5 and bfloat16 in
another batch by up to 2e-2; a quantisation to four bits moves it by tenths."""


class Drift(Record, frozen=True, omit_defaults=False):
    """How far a model is from its canary."""

    prompts: int
    changed: tuple[str, ...]
    """Prompts of which the likeliest tokens or their probabilities moved."""
    largest: float
    """Largest change of a log-probability, in nats; a token that dropped out of the list counts as infinite."""


def snapshot(session: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the likeliest next tokens of each prompt with their log-probabilities."""
    import numpy as np

    found = []
    for prompt in params.get("prompts", PROMPTS):
        tokens = session.tokenize(prompt)
        row = session.logits(tokens)[-1].astype(np.float64)
        row -= row.max() + np.log(np.exp(row - row.max()).sum())
        best = np.argsort(-row, kind="stable")[:KEPT]
        found.append(
            {
                "prompt": prompt,
                "token_ids": [int(token) for token in tokens],
                "likeliest": [[int(token), round(float(row[token]), 6)] for token in best],
            }
        )
    return {"version": VERSION, "prompts": found}


def drift(saved: Mapping[str, Any], now: Mapping[str, Any], tolerance: float = TOLERANCE) -> Drift:
    """Compare two snapshots; raises UsageError for what is no canary, or none of the same prompts.

    The likeliest half of the saved tokens has to be among the likeliest now; the others may drop out, because
    they are nearly alike.
    """
    old, new = _by_prompt(saved), _by_prompt(now)
    if not old or set(old) != set(new):
        raise UsageError(
            "the canary was made with other prompts", fix="save a new one: apr-qa tools canary save"
        )
    changed, largest = [], 0.0
    for prompt, entry in old.items():
        far = _distance(entry["likeliest"], new[prompt]["likeliest"])
        largest = max(largest, far)
        if far > tolerance or entry["token_ids"] != new[prompt]["token_ids"]:
            changed.append(prompt)
    return Drift(prompts=len(old), changed=tuple(changed), largest=largest)


def _distance(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> float:
    known = {int(token): float(value) for token, value in new}
    kept = old[: max(1, len(old) // 2)]
    return max(abs(float(value) - known.get(int(token), float("-inf"))) for token, value in kept)


def _by_prompt(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    try:
        if content["version"] != VERSION:
            raise UsageError(
                f"this is a canary of version {content['version']}, not {VERSION}", fix="save a new one"
            )
        return {str(entry["prompt"]): dict(entry) for entry in content["prompts"] if entry["likeliest"]}
    except (KeyError, TypeError) as error:
        raise UsageError(f"this is no canary: {error}", fix="make one: apr-qa tools canary save") from error


def checked(session: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether a canary of this model stays silent on it and sings when probabilities are moved."""
    first, second = snapshot(session, params), snapshot(session, params)
    moved = {
        **second,
        "prompts": [
            {**entry, "likeliest": [[token, value - 2 * TOLERANCE] for token, value in entry["likeliest"]]}
            for entry in second["prompts"]
        ],
    }
    same, planted = drift(first, second), drift(first, moved)
    return {
        "prompts": same.prompts,
        "kept": len(first["prompts"][0]["likeliest"]),
        "changed_by_itself": list(same.changed),
        "largest_by_itself": same.largest,
        "noticed": len(planted.changed),
    }
