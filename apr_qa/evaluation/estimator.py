"""pass@k: the chance that at least one of k samples of a problem passes, estimated from n of which c passed.

Unbiased estimator of Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.1:
``1 - C(n-c, k) / C(n, k)``, here as a sum of logarithms so that no factorial overflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the estimate for one problem, a fraction; raises ValueError unless 0 <= c <= n and 1 <= k <= n.

    >>> pass_at_k(10, 5, 1)
    0.5
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} passes in {n} samples is not defined")
    if c == 0:
        return 0.0
    if n - c < k:
        return 1.0
    if k == 1:
        return c / n
    none = math.fsum(math.log1p(-k / i) for i in range(n - c + 1, n + 1))
    return -math.expm1(none)


def mean_pass_at_k(counts: Sequence[tuple[int, int]], ks: Iterable[int]) -> dict[str, float]:
    """Return k -> mean over problems of (n, c), for each k that no problem has fewer samples than.

    Empty where there is no problem: nothing tried is no score.
    """
    if not counts:
        return {}
    fewest = min(n for n, _ in counts)
    return {
        str(k): math.fsum(pass_at_k(n, c, k) for n, c in counts) / len(counts)
        for k in sorted(set(ks))
        if 1 <= k <= fewest
    }
