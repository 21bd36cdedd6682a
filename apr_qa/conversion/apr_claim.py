"""The external ``apr`` program as a converter under test: its file takes the place of the one we would make."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from apr_qa import apr_binary, workspace
from apr_qa.backends import Mute
from apr_qa.conversion.claim import counted, opened
from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.formats import FORMATS
from apr_qa.vocabulary import Artifact

SCHEMES = {"f16": "fp16", "q8_0": "int8", "q4_0": "int4", "q4_k": "q4k", "q4_k_m": "q4k"}
"""Storage type -> what the program calls it; f32 and the type that the source has need no word."""


class AprConversion(Mute):
    """Answers the one claim that the program can make ``wanted`` from ``source``."""

    def __init__(self, source: Artifact, wanted: Artifact) -> None:
        apr_binary.required()
        self.source = source
        self.wanted = wanted
        self._model = opened(source)

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Convert unless the result is there already, and read its header back with our own reader."""
        started = time.perf_counter()
        destination = Path(self.wanted.path)
        cached = destination.exists()
        if not cached:
            self._convert(destination)
        made = FORMATS.get(self.wanted.format).open(destination)
        return {
            "tensors": counted(made),
            "source_tensors": counted(self._model),
            "quantization": made.quantization,
            "cached": cached,
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _convert(self, destination: Path) -> None:
        quantization = self.wanted.quantization
        words = []
        if quantization not in ("", "f32", self._model.quantization):
            if quantization not in SCHEMES:
                raise Inapplicable(f"apr has no word for the storage type {quantization}")
            words = ["--quantize", SCHEMES[quantization]]
        destination.parent.mkdir(parents=True, exist_ok=True)
        # The program tells formats by suffixes; a draft that is left behind is never taken for a result.
        draft = destination.with_name(f"draft-{destination.name}")
        source = apr_binary.weights(Path(self.source.path))
        try:
            apr_binary.ask(["rosetta", "convert", str(source), str(draft), *words])
            if not draft.exists():
                raise InferenceFailed("apr rosetta convert says that it succeeded and wrote no file")
            draft.rename(destination)
        finally:
            workspace.remove(draft)
