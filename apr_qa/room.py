"""Room for targets: what loading one takes, and what this machine has. A target that does not fit waits.

What can never fit says nothing about the artifact: it is inapplicable here, with the numbers. Sizes are those of
files, multiplied by what an engine makes of a stored weight, or what a worker took that had loaded the same.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apr_qa import confinement, workspace
from apr_qa.line import Line
from apr_qa.plan import Batch
from apr_qa.vocabulary import Artifact, Outcome

SHARE = 0.9
"""What batches may take together of the memory that is free when a run begins."""
ENGINE_BYTES = 600 << 20
"""What an engine takes before it has loaded anything."""
BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 8.5,
    "q6_k": 6.6,
    "q5_k_m": 5.7,
    "q4_k_m": 4.9,
    "q4_0": 4.5,
}
"""Quantisation -> bits that a weight takes in the file; of others 16 are assumed."""
WIDEST_BITS = 32.0
MAPPED = ("llama_cpp",)
"""Engines that read weights where they are mapped, as they are stored."""
READING = ("inspect", "conversion", "apr_conversion", "comparison", "openai_http")
"""Engines that never hold a whole model."""
ONE_BY_ONE = ("conversion", "comparison", "trips")
"""Engines that read a model tensor by tensor, as float32."""
TENSORS_BYTES = 4 << 30
"""What that takes at most: of a model with 152,000 tokens and 3,584 dimensions, the embedding on both sides. A small
model takes less than all of it would as float32: Qwen2-0.5B 0.7 times that in a comparison, 0.8 in round trips."""
READER_BYTES = 300 << 20
"""What such an engine takes besides, most of it for a tokenizer."""
_POLL_S = 0.2


def _stored(artifact: Artifact | None) -> int:
    if artifact is None or not Path(artifact.path or "/nowhere").exists():
        return 0
    return sum(map(confinement.file_bytes, workspace.artifact_files(Path(artifact.path))))


def least(batch: Batch) -> int:
    """Return the bytes that the weights of a batch take at least, loaded as narrow as they are stored."""
    return 0 if batch.target.engine in READING else _stored(batch.artifact)


def most(batch: Batch) -> int:
    """Return the bytes that the weights of a batch take if its engine widens them to 32 bits."""
    if batch.target.engine in READING:
        return 0
    return sum(_wide(one, batch.target.engine) for one in (batch.artifact, batch.source))


def _read(batch: Batch) -> int:
    """Return the bytes that reading the values of a batch takes, one tensor after the other."""
    engine = batch.target.engine
    return min(TENSORS_BYTES, max(_wide(one, engine) for one in (batch.artifact, batch.source)))


def _wide(artifact: Artifact | None, engine: str) -> int:
    factor = WIDEST_BITS / BITS.get(artifact.quantization, 16.0) if artifact and engine not in MAPPED else 1.0
    return int(_stored(artifact) * factor)


def refusal(batch: Batch) -> str:
    """Say why a batch can never run on this machine, nothing if it can."""
    need, have = least(batch), confinement.machine_memory()
    if batch.target.engine not in MAPPED:
        have = confinement.running_limit(gpu=batch.target.backend == "gpu") or have
    return _too_much(need, have) if need > have and batch.target.backend == "cpu" else ""


def blamed(batch: Batch, outcome: Outcome, reason: str) -> tuple[Outcome, str]:
    """Return what a failed loading says: nothing about the artifact if it is honestly too large for this machine."""
    limit = confinement.running_limit(gpu=batch.target.backend == "gpu") or confinement.machine_memory()
    if outcome is Outcome.CRASHED and confinement.EXCEEDED in reason and most(batch) > limit:
        return Outcome.INAPPLICABLE, f"{_too_much(most(batch), limit)}: {reason}"
    return outcome, reason


def _too_much(need: int, have: int) -> str:
    return f"its weights take {need / 2**30:.2f} GiB of memory, this machine allows {have / 2**30:.2f} GiB"


class Room:
    """The memory that batches of one run share."""

    def __init__(self, capacity: int | None = None) -> None:
        free = confinement.free_memory()
        self._capacity = int(SHARE * free) if capacity is None else capacity
        self._taken = 0
        self._measured: dict[tuple[str, str], int] = {}
        self._changed = threading.Condition()

    def need(self, batch: Batch) -> int:
        """Return the bytes that working on a batch takes, as measured where the same was loaded before."""
        if batch.inapplicable:
            return 0
        measured = self._measured.get((batch.target.engine, batch.artifact.path))
        if measured is not None:
            return measured
        if batch.target.engine in ONE_BY_ONE:
            return _read(batch) + READER_BYTES
        return 0 if batch.target.engine in READING else most(batch) + ENGINE_BYTES

    def learned(self, batch: Batch, peak_bytes: int) -> None:
        """Note what a worker took that had loaded the artifact of a batch."""
        if not peak_bytes:
            return
        key = (batch.target.engine, batch.artifact.path)
        with self._changed:
            self._measured[key] = max(peak_bytes, self._measured.get(key, 0))

    @contextmanager
    def taken(self, batch: Batch, line: Line) -> Iterator[None]:
        """Wait until a batch fits beside those that run, or is alone, or the line stops; then hold its place."""
        need = self.need(batch)
        with self._changed:
            while self._taken and self._taken + need > self._capacity and not line.stopped():
                self._changed.wait(_POLL_S)
            self._taken += need
        try:
            yield
        finally:
            with self._changed:
                self._taken -= need
                self._changed.notify_all()
