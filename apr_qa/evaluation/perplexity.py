"""Perplexity of a model on a text: ``exp`` of the mean negative log-likelihood of its tokens.

A window slides over the tokens, ``stride`` at a time, so that each token is predicted exactly once, from at least
``window - stride`` tokens before it (fewer only at the beginning). The mean is over tokens, not over windows. The
first token, which nothing precedes, is given and not predicted. Logits are float32, as engines give them;
the normalisation is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from apr_qa.backends import Session
from apr_qa.errors import InferenceFailed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DEFAULT_WINDOW = 512


def windows(tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Iterate over (begin, end, first): tokens begin…end are read, those from ``first`` on are predicted.

    >>> list(windows(10, 4, 2))
    [(0, 4, 1), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    """
    if not 1 <= stride < window:
        raise ValueError("the stride must be at least 1 and less than the window")
    done = 1
    end = min(window, tokens)
    while done < tokens:
        yield max(0, end - window), end, done
        done, end = end, min(end + stride, tokens)


def measure(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """Return perplexity and what it was computed from; runs in a worker, on a loaded model."""
    tokens = session.tokenize(str(params["text"]))
    window = int(params.get("window") or 0) or min(session.context_size or DEFAULT_WINDOW, DEFAULT_WINDOW)
    stride = int(params.get("stride") or 0) or max(1, window // 2)
    if 0 < session.context_size < window:
        raise InferenceFailed(f"a window of {window} exceeds the context of {session.context_size}")
    if not 1 <= stride < window:
        raise InferenceFailed(f"the stride of {stride} is not less than the window of {window}")
    if len(tokens) < 2:
        raise InferenceFailed(f"a text of {len(tokens)} tokens has nothing to predict")
    losses: list[float] = []
    for begin, end, first in windows(len(tokens), window, stride):
        ids = tokens[begin:end]
        logits = session.logits(ids[:-1])
        losses += _losses(logits[first - begin - 1 :], ids[first - begin :])
    total = math.fsum(losses)
    return {
        "perplexity": _exp(total / len(losses)),
        "nll_nats": total,
        "tokens": len(tokens),
        "predicted_tokens": len(losses),
        "window": window,
        "stride": stride,
    }


def _losses(logits: npt.NDArray[np.float32], targets: list[int]) -> list[float]:
    """Return the negative log-likelihood of each target under the row of logits before it."""
    import numpy as np

    rows = logits.astype(np.float64)
    top = rows.max(axis=1, keepdims=True)
    norms = top[:, 0] + np.log(np.exp(rows - top).sum(axis=1))
    chosen = rows[np.arange(len(targets)), targets]
    return [float(loss) for loss in norms - chosen]


def _exp(mean: float) -> float | None:
    """Return ``exp(mean)``, or None where it is over the range of a float: JSON knows no infinity."""
    try:
        return math.exp(mean)
    except OverflowError:
        return None
