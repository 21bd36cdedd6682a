"""The worker's side of a conversion claim: make the file or find it made, and count what came out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from apr_qa.backends import Mute
from apr_qa.conversion.convert import convert
from apr_qa.errors import MalformedFile
from apr_qa.formats import FORMATS, OpenModel, sniff
from apr_qa.vocabulary import Artifact

_HEADS = ("lm_head.weight",)


class Conversion(Mute):
    """Answers the one claim that ``wanted`` can be made from ``source``."""

    def __init__(self, source: Artifact, wanted: Artifact) -> None:
        self.source = source
        self.wanted = wanted
        self._model = opened(source)

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Convert unless the result is there already, and read its header back."""
        started = time.perf_counter()
        destination = Path(self.wanted.path)
        cached = destination.exists()
        if not cached:
            destination.parent.mkdir(parents=True, exist_ok=True)
            convert(
                self._model,
                self.wanted.format,
                destination,
                quantization=self.wanted.quantization,
                source_sha256=self.source.sha256,
            )
        made = FORMATS.get(self.wanted.format).open(destination)
        return {
            "tensors": counted(made),
            "source_tensors": counted(self._model),
            "quantization": made.quantization,
            "cached": cached,
            "seconds": round(time.perf_counter() - started, 3),
        }


def opened(artifact: Artifact) -> OpenModel:
    """Open an artifact as the format that it claims to be, or as what it is; raises MalformedFile."""
    path = Path(artifact.path)
    format_ = FORMATS.get(artifact.format) if artifact.format else sniff(path)
    if format_ is None:
        raise MalformedFile("this is none of the known formats", where=str(path))
    return format_.open(path)


def counted(model: OpenModel) -> int:
    """Count the tensors that carry information: a head tied to the embedding may be stored or not."""
    tied = bool(model.config.get("tie_word_embeddings", False))
    return sum(not (tied and name in _HEADS) for name in model.tensors)
