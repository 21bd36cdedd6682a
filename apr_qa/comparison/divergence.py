"""How far the next-token distributions of two engines or two files are apart.

Kullback-Leibler divergence in nats per token, from logits, in float64. Nothing that cannot be compared is
called equal: empty, misshapen and non-finite logits are errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.errors import InferenceFailed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BUCKETS = ((0, 31), (32, 127), (128, 511), (512, None))
"""Position ranges, ends included: rotary and window defects grow with the position."""
BUCKET_NAMES = tuple(f"{first}-{last}" if last is not None else f"{first}+" for first, last in BUCKETS)


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

    reference, test = require_logits(reference_logits, "reference"), require_logits(test_logits, "test")
    if len(reference) != len(test):
        raise InferenceFailed(f"{len(reference)} reference tokens cannot be compared with {len(test)}")
    width = min(reference.shape[1], test.shape[1])
    where = np.arange(len(reference)) if positions is None else np.asarray(positions)
    if where.shape != (len(reference),):
        raise InferenceFailed(f"{where.size} positions were given for {len(reference)} tokens")
    following = _following(next_tokens, len(reference), width)
    rows = [
        _row(reference[i, :width], test[i, :width], following[i] if i < len(following) else None)
        for i in range(len(reference))
    ]
    kl = np.array([row[0] for row in rows])
    same = np.array([row[1] for row in rows])
    return {
        "tokens": len(reference),
        "vocabulary": width,
        **_summary(kl, same),
        "logit_difference": float(max(row[2] for row in rows)),
        "logit_difference_p99": float(np.mean([row[3] for row in rows])),
        "first_disagreement": None if same.all() else int(where[int(np.flatnonzero(~same)[0])]),
        "largest_lead_lost": _lead(reference[:, :width], same),
        "lead_change": max(row[4] for row in rows),
        "commonest_choice": [_commonest(side[:, :width]) for side in (reference, test)],
        "buckets": _buckets(kl, same, where),
        "perplexity_ratio": _perplexity_ratio([row[5] for row in rows[: len(following)]]),
    }


def require_logits(logits: npt.NDArray[Any], side: str) -> npt.NDArray[Any]:
    """Return logits that can be compared; raises InferenceFailed that names the ``side`` for all others."""
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


def _row(
    reference: npt.NDArray[Any], test: npt.NDArray[Any], following: int | None
) -> tuple[float, bool, float, float, float, tuple[float, float]]:
    """Return KL, same first choice, largest difference of logits, its 99 % quantile, change of the lead, and both
    losses at the token that follows.

    The lead is that of the reference's first choice over its second and over the other side's first.
    """
    import numpy as np

    p, q = _log_softmax(reference), _log_softmax(test)
    # Rounding may make the divergence of equal rows a tiny negative number.
    kl = max(0.0, float(np.dot(np.exp(p), p - q)))
    changes = test - reference.astype(np.float64)
    differences = np.abs(changes)
    first, other = int(reference.argmax()), int(test.argmax())
    rivals = changes[[_second(reference, first), other]]
    lead_change = float(np.abs(changes[first] - rivals).max())
    losses = (0.0, 0.0) if following is None else (-float(p[following]), -float(q[following]))
    quantile = float(np.quantile(differences, 0.99))
    return kl, first == other, float(differences.max()), quantile, lead_change, losses


def _second(row: npt.NDArray[Any], first: int) -> int:
    """Return where the largest value but that at ``first`` is; ``first`` where there is no other."""
    import numpy as np

    if len(row) == 1:
        return first
    others = row.astype(np.float64)
    others[first] = -np.inf
    return int(others.argmax())


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
    for name, (first, last) in zip(BUCKET_NAMES, BUCKETS, strict=True):
        inside = (where >= first) & ((where <= last) if last is not None else True)
        if inside.any():
            found[name] = {"tokens": int(inside.sum()), **_summary(kl[inside], same[inside])}
    return found


def _lead(reference: npt.NDArray[Any], same: npt.NDArray[np.bool_]) -> float | None:
    """Return by how much logit the reference preferred its choice where the other side chose differently."""
    import numpy as np

    if same.all():
        return None
    best = np.sort(reference[~same].astype(np.float64), axis=1)[:, -2:]
    return float((best[:, -1] - best[:, 0]).max())


def _commonest(logits: npt.NDArray[Any]) -> float:
    """Return how often the commonest first choice is made: 1.0 is a flood of one token."""
    import numpy as np

    return float(np.bincount(logits.argmax(axis=1)).max() / len(logits))


def _following(next_tokens: Sequence[int] | None, count: int, width: int) -> Sequence[int]:
    """Return the tokens that really came next, none if they were not given; raises InferenceFailed for other ids."""
    if next_tokens is None:
        return ()
    following = next_tokens[:count]
    if not following or not all(0 <= token < width for token in following):
        raise InferenceFailed(f"the next tokens are not {count} ids below {width}")
    return following


def _perplexity_ratio(losses: Sequence[tuple[float, float]]) -> float | None:
    import numpy as np

    if not losses:
        return None
    reference, test = (np.mean([pair[side] for pair in losses]) for side in (0, 1))
    return float(np.exp(test - reference))
