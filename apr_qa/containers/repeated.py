"""Does a long list of texts hold one twice?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_FEW = 1 << 18
"""Texts of which a set is small, and faster."""


def repeated(texts: Sequence[str]) -> str | None:
    """Return a text that is there twice, or None; takes 16 bytes a text where a set takes up to 64."""
    import numpy as np

    if len(texts) < _FEW and len(set(texts)) == len(texts):
        return None

    hashes = np.fromiter(map(hash, texts), np.int64, len(texts))
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return None
    suspects = [texts[int(place)] for place in np.flatnonzero(np.isin(hashes, twice))]
    (text, count) = Counter(suspects).most_common(1)[0]
    return text if count > 1 else None
