"""An artifact against the ground truth: one session that answers every check with facts.

Both files are open at once; tensors are read one by one, and the one pass over them is shared by the
checks that need it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apr_qa.backends import Mute
from apr_qa.comparison import fault_classes, layout, tensors
from apr_qa.comparison.config import config_differences
from apr_qa.comparison.generation import generation
from apr_qa.comparison.names import tensor_set
from apr_qa.comparison.storage import lineage, quantization
from apr_qa.comparison.template import template_differences
from apr_qa.comparison.tokenizer import tokenizer_differences
from apr_qa.containers.packed_weights import unpacked
from apr_qa.errors import MalformedFile, UsageError
from apr_qa.formats import FORMATS, OpenModel, sniff
from apr_qa.vocabulary import Artifact

_SHORT = {"safetensors": "S", "apr": "A", "gguf": "G"}


class Comparison(Mute):
    """Answers what is asked about ``artifact`` in comparison with ``truth``.

    ``twin`` is the truth in the artifact's quantisation, made by a healthy quantiser; it is looked at for
    types that cannot be rounded to on this machine.
    """

    def __init__(self, truth: OpenModel, artifact: OpenModel, twin: OpenModel | None = None) -> None:
        self.truth = truth
        self.artifact = artifact
        self.twin = twin

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of one check; raises UsageError for a check that does not exist.

        ``params``: ``origin`` and ``truth_sha256`` for lineage, ``twin`` (path of a file) for tensor_error,
        zero_rows and parity.
        """
        if params.get("twin") and self.twin is None:
            self.twin = open_model(Path(str(params["twin"])))
        if check == "lineage":
            origin, expected = str(params.get("origin", "")), str(params.get("truth_sha256", ""))
            return lineage(self.truth, self.artifact, origin, expected)
        checks: dict[str, Callable[[], dict[str, Any]]] = {
            **self._faults(),
            "config_equal": lambda: self._config,
            "tensor_set_equal": lambda: self._tensor_set,
            "tensor_error": lambda: self._errors,
            "zero_rows": lambda: tensors.dead(self._sweep),
            "tokenizer_equal": lambda: self._tokenizer,
            "template_equal": lambda: self._template,
            "generation_equal": lambda: generation(self.truth, self.artifact),
            "quantization_declared": lambda: quantization(self.artifact),
            "parity": self.parity,
        }
        if check not in checks:
            raise UsageError(f"no comparison is called {check!r}", fix=f"one of {', '.join(checks)}")
        return checks[check]()

    def _faults(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return the checks that look for one way each in which a conversion goes wrong."""
        truth, artifact = self.truth, self.artifact
        return {
            "paths": lambda: layout.paths(artifact),
            "byte_sizes": lambda: layout.byte_sizes(artifact),
            "alignment": lambda: layout.alignment(artifact),
            "contract": lambda: layout.contract(truth, artifact),
            "types": lambda: layout.types(truth, artifact),
            "footprint": lambda: layout.footprint(truth, artifact),
            "identity": lambda: layout.identity(truth, artifact, self._config["differences"]),
            "fingerprints": lambda: fault_classes.fingerprints(self._sweep),
            "tokenizer_whole": lambda: fault_classes.tokenizer_whole(truth, artifact),
            "embedding_rows": lambda: fault_classes.embedding_rows(truth, artifact, self._sweep),
            "corrupted": lambda: fault_classes.corrupted(self._sweep),
            "shapes_against_config": lambda: fault_classes.shapes_against_config(truth, artifact),
            "unclassified": lambda: fault_classes.unclassified(self._sweep, self.parity()),
        }

    def parity(self) -> dict[str, Any]:
        """Return the facts of all checks that make two models the same one, and which formats they are in."""
        return {
            "pair": f"{_SHORT.get(self.truth.format, '?')}-{_SHORT.get(self.artifact.format, '?')}",
            "config": self._config,
            "tensor_set": self._tensor_set,
            "tensor_error": self._errors,
            "tokenizer": self._tokenizer,
            "template": self._template,
            "generation": generation(self.truth, self.artifact),
        }

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        return config_differences(self.truth, self.artifact)

    @functools.cached_property
    def _tensor_set(self) -> dict[str, Any]:
        return tensor_set(self.truth, self.artifact)

    @functools.cached_property
    def _sweep(self) -> tensors.Sweep:
        return tensors.sweep(self.truth, self.artifact, self.twin)

    @functools.cached_property
    def _errors(self) -> dict[str, Any]:
        return tensors.errors(self._sweep)

    @functools.cached_property
    def _tokenizer(self) -> dict[str, Any]:
        return tokenizer_differences(self.truth, self.artifact)

    @functools.cached_property
    def _template(self) -> dict[str, Any]:
        return template_differences(self.truth, self.artifact)


def compare(truth: Artifact, artifact: Artifact, twin: Path | None = None) -> Comparison:
    """Open both artifacts; raises MalformedFile or ModelUnavailable."""
    opened = [open_model(Path(one.path), one.format) for one in (truth, artifact)]
    return Comparison(opened[0], opened[1], open_model(twin) if twin else None)


def open_model(path: Path, format_name: str = "") -> OpenModel:
    """Open a model file as what it is said to be, or as what its content shows."""
    found = FORMATS.get(format_name) if format_name in FORMATS.names() else sniff(path)
    if found is None:
        raise MalformedFile("this is none of the known formats", where=str(path))
    return unpacked(found.open(path))
