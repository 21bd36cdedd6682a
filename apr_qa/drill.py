"""Plant catalogued defects into copies of a model and see which gate notices: a qualification, qualified.

Every copy goes through the plan of the model's own playbook in place of the healthy artifact of its format: first
the claims about the file, then the comparison with the ground truth, then the running cells, until a gate that
the healthy copy passes has failed. Healthy controls go the whole way and must pass.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from apr_qa import forked, plan, workspace
from apr_qa.defects import DEFECTS, Defect, Inexpressible, Specimen
from apr_qa.drill_models import Healthy, Switch, unstated
from apr_qa.drill_verdict import ERROR, NOT, ORDER, Trial, about_files, catches, judged
from apr_qa.drill_verdict import trial as trial_of
from apr_qa.errors import AprQaError, EnvironmentFault, UsageError
from apr_qa.inference.faults import FAULT_VARIABLE
from apr_qa.interrupts import interruptible
from apr_qa.preparation import prepare
from apr_qa.vocabulary import FILE_MODALITIES, FORMATS, Artifact, Evidence

_FILES = {"safetensors": "model", "apr": "model.apr", "gguf": "model.gguf"}
"""Names without a meaning: a file name may promise a quantisation."""


Told = Callable[[Trial], None]


def chosen(pattern: str = "*", layer: str = "", format_name: str = "") -> list[tuple[Defect, str]]:
    """Return (defect, container) of what is asked for; raises UsageError if that is nothing."""
    found = [
        (defect, container)
        for name, defect in DEFECTS.items()
        if fnmatch.fnmatchcase(name, pattern) and layer in ("", defect.layer)
        for container in containers(defect)
        if format_name in ("", container)
    ]
    if not found:
        layers = ", ".join(sorted({defect.layer for _, defect in DEFECTS.items()}))
        raise UsageError(
            f"no defect fits {pattern!r} {layer} {format_name}".rstrip(),
            fix=f"layers: {layers}; see --only '*'",
        )
    return found


def containers(defect: Defect) -> list[str]:
    """Return the formats that a defect is planted into; one of the engine is tried on every format."""
    named = [name for name in FORMATS if name in defect.formats]
    return named or (list(FORMATS) if defect.runtime else ["safetensors"])


class Drill:
    """One drill: healthy models in the order in which they are tried, and how far each trial goes."""

    def __init__(
        self, models: Sequence[Healthy], switch: Switch, *, exhaustive: bool = False, static: bool = False
    ) -> None:
        self.models = models
        self.switch = switch
        self.exhaustive = exhaustive
        self.static = static
        """Leave the running cells out."""

    def run(self, wanted: Sequence[tuple[Defect, str]], told: Told, *, jobs: int) -> list[Trial]:
        """Return one trial for each defect and container, missed ones first; raises KeyboardInterrupt."""
        from joblib import Parallel, delayed

        def attempt(defect: Defect, container: str) -> Trial | None:
            if self.switch.interrupted:
                return None
            trial = self.trial(defect, container)
            told(trial)
            return trial

        # A fault of the engine is told to all workers by the environment, so nothing else may run meanwhile.
        together = [one for one in wanted if not one[0].runtime]
        with interruptible(self.switch), forked.sharing():
            trials = Parallel(n_jobs=jobs, backend="threading")(delayed(attempt)(*one) for one in together)
            trials += [attempt(*one) for one in wanted if one[0].runtime]
        if self.switch.interrupted:
            raise KeyboardInterrupt
        done = [trial for trial in trials if trial is not None]
        return sorted(done, key=lambda t: (ORDER.index(t.verdict), t.layer, t.defect, t.container))

    def trial(self, defect: Defect, container: str) -> Trial:
        """Plant a defect into the first model that can express it, and watch."""
        reasons: dict[str, None] = {}
        for healthy in self.models:
            try:
                trial = self._on_model(defect, container, healthy, reasons)
            except AprQaError as refusal:
                trial = trial_of(defect, container, ERROR, model=healthy.model.id, reason=refusal.what)
            if trial is not None:
                return trial
        return trial_of(defect, container, NOT, reason="; ".join(reasons) or "no artifact in this format")

    def _on_model(
        self, defect: Defect, container: str, healthy: Healthy, reasons: dict[str, None]
    ) -> Trial | None:
        for artifact in healthy.specimens(container):
            excused = healthy.failing_anywhere() if defect.alone else healthy.failing(artifact)
            with _copy_of(artifact) as copy:
                try:
                    defect.plant(Specimen(Path(copy.path), container))
                except Inexpressible as refusal:
                    reasons[str(refusal)] = None
                    continue
                started = time.monotonic()
                entries = self._watched(defect, healthy, copy, excused)
            trial = judged(defect, container, healthy.model.id, artifact, entries, excused)
            return msgspec.structs.replace(trial, seconds=round(time.monotonic() - started, 2))
        return None

    def _watched(
        self, defect: Defect, healthy: Healthy, copy: Artifact, excused: frozenset[str]
    ) -> list[Evidence]:
        """Return the entries about a spoiled copy, stage by stage until one of them is a catch."""
        entries: list[Evidence] = []

        def wanted(entry: Evidence) -> bool:
            return not self.exhaustive and catches(defect, entry, excused)

        if defect.alone:
            with _alone(healthy, copy) as batches:
                return healthy.watched.run(batches, healthy.book, wanted)
        for batch in healthy.file_batches(copy):
            with _fault(defect):
                entries += healthy.watched.run([batch], healthy.book, wanted)
            if any(map(wanted, entries)):
                return entries
        if not self.static:
            cells = excused | healthy.failing_cells(copy.format)
            batches = healthy.cell_batches(copy)
            with _fault(defect):
                entries += healthy.watched.run(
                    batches,
                    healthy.book,
                    lambda entry: not self.exhaustive and catches(defect, entry, cells),
                )
            entries = [e for e in entries if about_files(e) or e.gate_id not in cells]
        return entries


@contextlib.contextmanager
def _fault(defect: Defect) -> Iterator[None]:
    """Let the workers play a defect of the engine for as long as the block runs."""
    if not defect.runtime:
        yield
        return
    os.environ[FAULT_VARIABLE] = defect.runtime
    try:
        yield
    finally:
        del os.environ[FAULT_VARIABLE]


@contextlib.contextmanager
def _alone(healthy: Healthy, copy: Artifact) -> Iterator[list[plan.Batch]]:
    """Plan a copy that is a model of its own: its file, what is derived from it, and the comparison of both.

    What the playbook says about the healthy model's dimensions is not about this one.
    """
    model = msgspec.structs.replace(healthy.model, path=copy.path)
    settings = msgspec.structs.replace(healthy.settings, given={})
    prepared = prepare(model, healthy.tier, unstated(healthy.book), settings, healthy.watcher)
    batches = [batch for batch in prepared.batches if batch.target.modality in FILE_MODALITIES]
    try:
        yield batches
    finally:
        for batch in batches:
            if batch.target.modality == "convert":
                workspace.remove(Path(batch.artifact.path))


@contextlib.contextmanager
def _copy_of(artifact: Artifact) -> Iterator[Artifact]:
    """Copy an artifact into our own folder for as long as the block runs; raises EnvironmentFault."""
    source = Path(artifact.path)
    files = workspace.artifact_files(source)
    root = workspace.root() / "drill"
    root.mkdir(parents=True, exist_ok=True)
    needed = 2 * sum(file.stat().st_size for file in files)
    if shutil.disk_usage(root).free < needed:
        raise EnvironmentFault(
            f"a copy needs {needed >> 20} MiB", where=str(root), fix="free some, or set APR_QA_CACHE"
        )
    with TemporaryDirectory(dir=root, prefix=f"{os.getpid()}-") as folder:
        place = Path(folder) / _FILES[artifact.format]
        if artifact.format == "safetensors":
            place.mkdir()
            for file in files:
                shutil.copyfile(file, place / file.name)
        else:
            shutil.copyfile(source, place)
        yield msgspec.structs.replace(
            artifact, path=str(place), origin="given", sha256="", source="a spoiled copy"
        )
