"""Every id of the vocabulary passes once through an artifact: a row that no text reaches may still be broken.

The ids go through in sequences of `LENGTH`, all logits are looked at for numbers that are none, and a few columns
are kept to compare with the ground truth.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.errors import InferenceFailed
from apr_qa.logits.readings import Probe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LENGTH = 16
ROWS = 32
"""Sequences of one pass: 512 tokens, the batch of llama.cpp."""
_COLUMNS = 64
_NAMED = 20

Found = dict[int, "npt.NDArray[np.float32]"]


class Sweep:
    """One pass over the vocabulary, chunk by chunk, until it is done or the time is up."""

    def __init__(self, probe: Probe, vocabulary: int) -> None:
        import numpy as np

        self._probe = probe
        self._vocabulary = vocabulary
        self._columns = np.unique(np.linspace(0, vocabulary - 1, _COLUMNS).astype(int))
        self.chunks = list(range(0, vocabulary, LENGTH * ROWS))
        self.kept: Found = {}
        """First id of a chunk -> logits [ids, columns] of the chosen columns."""
        self.bad_ids: list[int] = []
        self.bad_columns: set[int] = set()
        self.bad_count = 0

    def run(self, chunks: Sequence[int], deadline: float) -> int:
        """Pass the chunks that begin at these ids; return how many ids passed before the deadline."""
        import numpy as np

        passed = 0
        for begin in chunks:
            if time.monotonic() > deadline:
                break
            ids = list(range(begin, min(begin + LENGTH * ROWS, self._vocabulary)))
            logits = self._logits(ids)
            whole = np.isfinite(logits.sum(axis=-1, dtype=np.float64))
            if not whole.all():
                self._blame(ids, logits, whole)
            self.kept[begin] = logits[:, self._columns[self._columns < logits.shape[1]]]
            passed += len(ids)
        return passed

    def _logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        # The last row is filled up with its own ids again, so that all rows are of one length.
        filled = [*ids, *[ids[-1]] * (-len(ids) % LENGTH)]
        rows = [filled[at : at + LENGTH] for at in range(0, len(filled), LENGTH)]
        return self._probe.logits(rows, range(LENGTH))[: len(ids)]

    def _blame(
        self, ids: Sequence[int], logits: npt.NDArray[np.float32], whole: npt.NDArray[np.bool_]
    ) -> None:
        """Find out whether output columns or input rows are broken; a bad input spoils its whole sequence."""
        import numpy as np

        columns = np.flatnonzero(~np.isfinite(logits).any(axis=0))
        if 0 < len(columns) < logits.shape[1]:
            self.bad_columns |= {int(column) for column in columns}
            rest = np.delete(logits, columns, axis=1)
            whole = np.isfinite(rest.sum(axis=-1, dtype=np.float64))
        self.bad_count += int((~whole).sum())
        for at in np.flatnonzero(~whole):
            if len(self.bad_ids) < _NAMED and self._is_bad(ids[int(at)]):
                self.bad_ids.append(ids[int(at)])

    def _is_bad(self, token: int) -> bool:
        import numpy as np

        alone = self._probe.logits([[token]], [0])[0]
        good = [column for column in range(len(alone)) if column not in self.bad_columns]
        return not np.isfinite(alone[good]).all()


def agreement(reference: Found, test: Found) -> dict[str, Any]:
    """Compare the kept columns of two sweeps id by id: correlation of centred logits.

    ``apart`` are ids whose correlation falls below a half while that of the median id is above 0.9: a row of its
    own is broken, not the whole model. Raises InferenceFailed where nothing was passed on both sides.
    """
    import numpy as np

    shared = sorted(set(reference) & set(test))
    if not shared:
        raise InferenceFailed("no id passed through both engines")
    ids = np.concatenate([begin + np.arange(len(reference[begin])) for begin in shared])
    width = min(reference[shared[0]].shape[1], test[shared[0]].shape[1])
    ours, theirs = (
        np.concatenate([side[begin][:, :width] for begin in shared]).astype(np.float64)
        for side in (reference, test)
    )
    ours, theirs = (side - side.mean(axis=1, keepdims=True) for side in (ours, theirs))
    with np.errstate(all="ignore"):
        size = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        correlation = np.nan_to_num((ours * theirs).sum(axis=1) / size, nan=0.0)
    median = float(np.median(correlation))
    apart = ids[correlation < 0.5] if median > 0.9 else ids[:0]
    return {
        "compared": len(ids),
        "correlation_median": median,
        "correlation_least": float(correlation.min()),
        "apart": [int(token) for token in apart[:_NAMED]],
        "apart_count": len(apart),
    }
