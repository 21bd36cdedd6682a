"""The order in which batches of one wave are begun, so that the last ones to run are short."""

from __future__ import annotations

from collections.abc import Iterable

from apr_qa.plan import Batch

_RANK = {"convert": 0, "run": 1, "chat": 1, "serve": 2}
"""Conversions, which others wait for, then cells, which take longest; what only looks at files comes last."""
_TRIPS, _LOOKS = 3, 4
"""Round trips write and read every format: of what looks at files they take longest."""


def longest_first(batches: Iterable[Batch]) -> list[Batch]:
    """Sort batches by wave, in a wave by how long they take."""
    return sorted(batches, key=lambda batch: (batch.wave, _rank(batch)))


def _rank(batch: Batch) -> int:
    looks = _TRIPS if batch.target.engine == "trips" else _LOOKS
    return _RANK.get(batch.target.modality, looks)
