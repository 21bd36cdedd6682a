"""The healthy side of a drill: a model, everything that is derived from it, and what its gates say anyway.

The same plan and the same runner as in any run; only the line differs: it stops at the first catch.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from apr_qa import judge, plan, runner, workspace
from apr_qa.playbook import Playbook
from apr_qa.preparation import Prepared, Settings, Watcher, prepare
from apr_qa.vocabulary import FILE_MODALITIES, Artifact, Evidence, Model, Tier

FLOATS = ("f32", "f16", "bf16")
EXTRA_TYPES = ("q8_0", "q4_k_m")
"""GGUF types that a specimen is made in where a defect needs quantised weights."""


class Switch:
    """Turned when the person interrupts; every line of the drill looks at it."""

    interrupted = False


class Trap(runner.Line):
    """A line that keeps its entries and stops at the first one that is wanted."""

    def __init__(self, switch: Switch, wanted: Callable[[Evidence], bool]) -> None:
        self.entries: list[Evidence] = []
        self._switch = switch
        self._wanted = wanted
        super().__init__("collect_all", self.entries.append)

    def _stops(self, evidence: Evidence) -> bool:
        return self._wanted(evidence)

    def stopped(self) -> bool:
        self.interrupted = self.interrupted or self._switch.interrupted
        return super().stopped()


class Watched:
    """How batches are worked through: limits and cores of one drill."""

    def __init__(self, switch: Switch, *, timeout_s: float, jobs: int, threads: int) -> None:
        self.switch = switch
        self.jobs = jobs
        self._threads = threads
        self._timeout_s = timeout_s

    def run(
        self,
        batches: Iterable[plan.Batch],
        book: Playbook,
        wanted: Callable[[Evidence], bool],
        *,
        jobs: int = 1,
    ) -> list[Evidence]:
        """Return the entries of ``batches``; raises KeyboardInterrupt when the switch was turned."""
        limits = runner.Limits(scenario_s=self._timeout_s or book.timeout_s)
        trap = Trap(self.switch, wanted)
        runner.run(batches, trap, judge.judge, limits, jobs=jobs, threads=self._threads)
        if trap.interrupted:
            raise KeyboardInterrupt
        return trap.entries


class Healthy:
    """One model and its derivatives, unspoiled.

    Everything is made on first use and once, whichever thread asks.
    """

    def __init__(
        self, model: Model, tier: Tier, book: Playbook, settings: Settings, watched: Watched, watcher: Watcher
    ) -> None:
        self.model, self.tier, self.book = model, tier, book
        self.settings = settings
        self.watched, self.watcher = watched, watcher
        self._lock = threading.RLock()
        self._failing: dict[str, frozenset[str]] = {}
        self._cells: dict[str, frozenset[str]] = {}
        self.notes: list[str] = []
        """What the gates say against the healthy model, in words."""

    @functools.cached_property
    def _prepared(self) -> Prepared:
        return prepare(self.model, self.tier, self.book, self.settings, self.watcher)

    @functools.cached_property
    def truth(self) -> Artifact | None:
        """The ground truth, made if it has to be."""
        self._make()
        compared = [batch.source for batch in self._prepared.batches if batch.target.modality == "compare"]
        alone = [a for a in self._artifacts() if a.format == "safetensors"]
        return next(iter([*[one for one in compared if one is not None], *alone]), None)

    def specimens(self, format_name: str) -> Iterator[Artifact]:
        """Yield healthy artifacts of one format: those of the plan, then a lossless GGUF, then quantised ones."""
        with self._lock:
            truth = self.truth
            planned = [a for a in self._artifacts() if a.format == format_name and Path(a.path).exists()]
        yield from planned
        if format_name != "gguf" or truth is None:
            return
        exact = truth.quantization if truth.quantization in FLOATS else "f32"
        for kind in (exact, *EXTRA_TYPES):
            if all(artifact.quantization != kind for artifact in planned):
                made = self._derived(truth, kind)
                if made is not None:
                    yield made

    def failing(self, artifact: Artifact) -> frozenset[str]:
        """Return the gates about files that speak against the healthy artifact."""
        with self._lock:
            if artifact.path not in self._failing:
                entries = self.watched.run(
                    self.file_batches(artifact), self.book, _nothing, jobs=self.watched.jobs
                )
                self._failing[artifact.path] = self._noted(artifact, entries)
            return self._failing[artifact.path]

    def failing_anywhere(self) -> frozenset[str]:
        """Return the gates about files that speak against any artifact of the healthy plan."""
        return frozenset[str]().union(*map(self.failing, self._artifacts()))

    def failing_cells(self, format_name: str) -> frozenset[str]:
        """Return the gates that speak against the running healthy model in one format."""
        with self._lock:
            if format_name not in self._cells:
                artifact = next(self.specimens(format_name))
                batches = self.cell_batches(artifact)
                entries = self.watched.run(batches, self.book, _nothing, jobs=self.watched.jobs)
                self._cells[format_name] = self._noted(artifact, entries)
            return self._cells[format_name]

    def file_batches(self, artifact: Artifact) -> list[plan.Batch]:
        """Return what is asked of an artifact in place of the healthy one of its format, cheapest first."""
        stated = self.book.expected_dimensions
        batches = [plan.file_batch(self.model.id, artifact, 0, stated)]
        truth = self.truth
        if truth is not None and artifact.path != truth.path:
            batches += plan.pair_batches(self.model.id, truth, artifact, 0, self.tier)
        return batches

    def cell_batches(self, artifact: Artifact) -> list[plan.Batch]:
        """Return the inference cells of the plan with ``artifact`` in place of the healthy one of its format."""
        return [
            msgspec.structs.replace(batch, artifact=artifact, wave=0)
            for batch in self._prepared.batches
            if batch.target.modality not in FILE_MODALITIES and batch.target.format == artifact.format
        ]

    def _artifacts(self) -> list[Artifact]:
        inspected = [b.artifact for b in self._prepared.batches if b.target.modality == "inspect"]
        return [artifact for artifact in inspected if artifact.origin != "source"]

    def _make(self) -> None:
        """Derive what the plan derives."""
        conversions = [b for b in self._prepared.batches if b.target.modality == "convert"]
        for entry in self.watched.run(conversions, self.book, _nothing, jobs=self.watched.jobs):
            if entry.outcome.failed:
                self.notes.append(f"{entry.gate_id} {entry.scenario.target.format}: {entry.reason}")

    def _derived(self, truth: Artifact, kind: str) -> Artifact | None:
        with self._lock:
            place = workspace.derived_path(truth.sha256 or truth.path, "gguf", kind)
            wanted = Artifact(format="gguf", path=str(place), quantization=kind, origin="derived")
            if not place.exists():
                batch = plan.conversion_batch(self.model.id, truth, wanted, 0)
                self.watched.run([batch], self.book, _nothing)
            return wanted if place.exists() else None

    def _noted(self, artifact: Artifact, entries: Sequence[Evidence]) -> frozenset[str]:
        failed = [entry for entry in entries if entry.outcome.failed]
        self.notes += [f"{e.gate_id} {artifact.format} {artifact.quantization}: {e.reason}" for e in failed]
        return frozenset(entry.gate_id for entry in failed)


def unstated(book: Playbook) -> Playbook:
    """Return a playbook that says nothing about the dimensions of its model."""
    silence = {f"expected_{name}": None for name in book.expected_dimensions}
    return book.model_copy(update={"model": book.model.model_copy(update=silence)})


def _nothing(_: Evidence) -> bool:
    return False
