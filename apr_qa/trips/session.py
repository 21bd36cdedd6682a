"""The worker's side of round trips: convert along a path, compare with the start, clean up.

Paths are written as letters: ``SAGS`` is SafeTensors to APR to GGUF to SafeTensors. What two paths have in
common is converted once. Files live in a temporary folder of the workspace and are gone afterwards.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from apr_qa import workspace
from apr_qa.backends import Mute
from apr_qa.comparison.names import weights
from apr_qa.comparison.session import Comparison, open_model
from apr_qa.conversion import architectures
from apr_qa.conversion.convert import FLOATS, convert
from apr_qa.conversion.failures import failure_class
from apr_qa.errors import AprQaError, EnvironmentFault, Inapplicable, UsageError
from apr_qa.formats import FORMATS, OpenModel
from apr_qa.trips import excerpt, sameness
from apr_qa.trips.paths import FORMAT_OF, LETTER_OF, faults_of, name_faults
from apr_qa.vocabulary import Artifact

WHOLE_LIMIT = 200_000_000
"""Values up to which a model travels whole: half a minute for the longest chain on a slow machine."""
LARGEST = 700_000_000
"""Values beyond which even one layer with its embedding is too much for the time of one claim."""
_ALIVE_FILES = 7
_FOLDER = "trips"


class Trips(Mute):
    """Answers what becomes of ``start`` on its way through the formats.

    ``start`` is the ground truth, or the artifact itself where that is the GGUF file.
    """

    def __init__(self, start: OpenModel, sha256: str) -> None:
        self.letter = LETTER_OF[start.format]
        self._whole = start
        self._sha256 = sha256
        self._layers = 0
        self._made: dict[str, OpenModel] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._sameness = sameness.Sameness()
        self.type = "f32"

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make one check; ``params`` hold the paths and, as ``values``, how much of the model travels."""
        checks: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "trip": self._trip,
            "payloads": self._payloads,
            "identical_files": self._twice,
            "commute": self._commute,
            "cardinality": self._cardinality,
            "names": self._names,
            "checksum": self._checksum,
            "pair": self._pair,
            "failures": self._failures,
        }
        if check not in checks:
            raise UsageError(f"no trip is called {check!r}", fix=f"one of {', '.join(checks)}")
        self._begin(int(params.get("values") or WHOLE_LIMIT))
        try:
            found = checks[check](params)
        except EnvironmentFault as fault:  # a full disk is no fault of the artifact
            raise Inapplicable(fault.what) from fault
        self._drop(params.get("last", []))
        total = int(self._whole.config["num_hidden_layers"])
        return {**found, "layers": self._layers, "of_layers": total, "type": self.type}

    def close(self) -> None:
        """Remove every file that was made."""
        self._made.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # ---- checks

    def _trip(self, params: dict[str, Any]) -> dict[str, Any]:
        path = str(params["path"])
        start, coarsest = self.make(path[0]), str(params.get("through") or "f32")
        end = self.make(path) if coarsest == "f32" else self._through(path, coarsest)
        return {"path": path, **self._sameness.facts(start, end, coarsest=coarsest)}

    def _payloads(self, params: dict[str, Any]) -> dict[str, Any]:
        short, long = params["paths"]
        return {"paths": [short, long], **sameness.payloads(self.make(short), self.make(long))}

    def _twice(self, params: dict[str, Any]) -> dict[str, Any]:
        files: dict[str, list[str]] = {}
        for path in params["paths"]:
            first = sameness.file_hashes(self.make(path))
            second = sameness.file_hashes(self.make(path, again=True))
            self._drop([f"{path}+"])
            for name in first.keys() | second.keys():
                files[f"{path}/{name}"] = [first.get(name, ""), second.get(name, "")]
        return {"files": files}

    def _commute(self, params: dict[str, Any]) -> dict[str, Any]:
        one, other = params["paths"]
        return {"paths": [one, other], **self._sameness.facts(self.make(one), self.make(other))}

    def _cardinality(self, params: dict[str, Any]) -> dict[str, Any]:
        counted = {path: _counted(self.make(path)) for path in (self.letter, *params["paths"])}
        start = counted.pop(self.letter)
        return {"start": start, "made": counted}

    def _names(self, params: dict[str, Any]) -> dict[str, Any]:
        made = [(path, self.make(path)) for path in params["paths"]]
        return name_faults(self.make(self.letter), made)

    def _checksum(self, params: dict[str, Any]) -> dict[str, Any]:
        path = str(params["path"])
        sums = [sameness.checksum(self.make(one)) for one in (path[0], path)]
        return {"path": path, "start": sums[0], "end": sums[1]}

    def _pair(self, params: dict[str, Any]) -> dict[str, Any]:
        one, other = params["paths"]
        return Comparison(self.make(one), self.make(other)).parity()

    def _failures(self, params: dict[str, Any]) -> dict[str, Any]:
        attempted, failures, parts = [], [], []
        for path in params["paths"]:
            attempted.append(path)
            try:
                made = self.make(path)
            except AprQaError as error:
                kind = failure_class(error)
                if not kind:
                    raise
                failures.append({"path": path, "class": kind, "what": error.what})
                continue
            parts += [{"path": path, **fault} for fault in faults_of(self.make(path[0]), made)]
        return {"attempted": attempted, "failures": failures, "faults": parts}

    # ---- making files

    def make(self, path: str, *, again: bool = False) -> OpenModel:
        """Return the model at the end of a path, converted along it hop by hop."""
        key = f"{path}+" if again else path
        if key not in self._made:
            source, format_name = self.make(path[:-1]), FORMAT_OF[path[-1]]
            self._made[key] = self._convert(source, format_name, key, self.type)
        return self._made[key]

    def _through(self, path: str, coarsest: str) -> OpenModel:
        model = self.make(path[0])
        for count in range(2, len(path) + 1):
            key = f"{path[:count]}-{coarsest}"
            if key not in self._made:
                self._made[key] = self._convert(model, FORMAT_OF[path[count - 1]], key, coarsest)
            model = self._made[key]
        self._drop([f"{path[:count]}-{coarsest}" for count in range(2, len(path))])
        return model

    def _convert(self, source: OpenModel, format_name: str, key: str, stored: str) -> OpenModel:
        destination = self._place(key) / f"model{workspace.SUFFIXES[format_name]}"
        # Every hop records the hash of the start: a derived file has one source, whatever lay between.
        convert(source, format_name, destination, quantization=stored, source_sha256=self._sha256)
        return FORMATS.get(format_name).open(destination)

    def _begin(self, values: int) -> None:
        if self._made:
            return
        architectures.require(self._whole.config)
        total = sum(prod(info.shape) for info in self._whole.tensors.values())
        start, self._layers = excerpt.within(self._whole, values) if total > values else (self._whole, 0)
        self._layers = self._layers or int(self._whole.config["num_hidden_layers"])
        travelling = sum(prod(info.shape) for info in start.tensors.values())
        if travelling > LARGEST:
            raise Inapplicable(
                f"one layer with the embedding has {travelling} values, too many for a round trip"
            )
        types = {info.dtype for info in start.tensors.values()}
        self.type = types.pop() if len(types) == 1 and types <= set(FLOATS) else "f32"
        self._room(travelling * (4 if self.type == "f32" else 2))
        self._made[self.letter] = start

    def _room(self, size: int) -> None:
        """Make the folder; raises Inapplicable where the disk cannot hold the files."""
        root = workspace.root() / _FOLDER
        root.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(root)
        free = shutil.disk_usage(root).free
        if free < _ALIVE_FILES * size:
            raise Inapplicable(
                f"round trips need {_ALIVE_FILES * size >> 20} MiB of disk, {free >> 20} are free"
            )
        self._folder = TemporaryDirectory(dir=root, prefix=f"{os.getpid()}-")

    def _place(self, key: str) -> Path:
        return Path(self._folder.name if self._folder else "") / key

    def _drop(self, paths: list[str]) -> None:
        for path in paths:
            if self._made.pop(path, None) is not None:
                shutil.rmtree(self._place(path), ignore_errors=True)


def start(truth: Artifact, artifact: Artifact) -> Trips:
    """Open where the trips begin: the GGUF file itself, else the ground truth."""
    chosen = artifact if artifact.format == "gguf" else truth
    model = open_model(Path(chosen.path), chosen.format)
    architectures.require(model.config)
    return Trips(model, chosen.sha256 or "0" * 64)


def _counted(model: OpenModel) -> dict[str, int]:
    tensors = weights(model)
    return {"tensors": len(tensors), "values": sum(prod(info.shape) for info in tensors.values())}


def _remove_left_behind(root: Path) -> None:
    """Remove what workers that were killed could not."""
    for folder in root.iterdir():
        owner = folder.name.partition("-")[0]
        if owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    with suppress(ProcessLookupError):
        try:
            os.kill(process, 0)
        except PermissionError:
            return True
        return True
    return False
