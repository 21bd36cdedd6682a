"""Model files on their way into an engine: their content's hash, the engine of their format, the memory it takes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from apr_qa import workspace
from apr_qa.comparison.session import open_model
from apr_qa.comparison.storage import declared_types
from apr_qa.containers.packed_weights import Unpacked
from apr_qa.errors import EngineMissing, Inapplicable, InferenceFailed
from apr_qa.formats import OpenModel
from apr_qa.inference import faults
from apr_qa.logits.llama_probe import LlamaProbe
from apr_qa.logits.readings import Probe
from apr_qa.logits.torch_probe import Recast, TorchProbe
from apr_qa.vocabulary import Artifact

ENGINES = {"safetensors": "transformers_torch", "apr": "transformers_torch", "gguf": "llama_cpp"}
"""Format -> engine whose predictions count."""
_LETTERS = {"safetensors": "S", "apr": "A", "gguf": "G"}
_FULL_NAMES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
_ROOM = 1.3
"""Memory that a model in float32 takes, over the bytes of its weights."""


@dataclass(frozen=True)
class Side:
    """A model file and the hash of its content."""

    model: OpenModel
    sha256: str

    @property
    def engine(self) -> str:
        return ENGINES[self.model.format]

    @property
    def letter(self) -> str:
        return _LETTERS[self.model.format]

    @property
    def stored_type(self) -> str:
        """Return the type that the file declares for its weights, or the one most of them have."""
        declared = declared_types(self.model).get("general.file_type") or self.model.quantization
        return _FULL_NAMES.get(declared, declared)


def side_of(artifact: Artifact) -> Side:
    """Open and hash an artifact; raises MalformedFile or ModelUnavailable."""
    path = Path(artifact.path)
    return Side(open_model(path, artifact.format), workspace.content_sha256(path))


def own_probe(side: Side, device: str = "cpu") -> Probe:
    """Load an artifact in its own engine and type."""
    if side.model.format == "gguf":
        probe: Probe = LlamaProbe(side.model.path, device)
    else:
        _require_memory(side)
        probe = TorchProbe(side.model, device)
    faults.played(probe)
    return probe


def reference_probe(truth: Side) -> Probe:
    """Load the ground truth in float32; raises Inapplicable, for what keeps it from running is no finding."""
    _require_memory(truth)
    try:
        packed = isinstance(truth.model, Unpacked)
        return TorchProbe(_plain(truth.model) if packed else Recast(truth.model, "f32"))
    except (EngineMissing, InferenceFailed) as failure:
        raise Inapplicable(f"the ground truth cannot be run: {failure.what}") from failure


def _plain(model: OpenModel) -> Recast:
    return Recast(model, "f32", lambda _, values: values)


def _require_memory(side: Side) -> None:
    wanted = _ROOM * 4 * sum(math.prod(info.shape) for info in side.model.tensors.values())
    free = free_bytes()
    if wanted > free:
        raise Inapplicable(
            f"the model in float32 takes {wanted / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        )


def free_bytes() -> int:
    """Return the memory that can be had without swapping; all there is where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
