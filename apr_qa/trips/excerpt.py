"""A model cut to its first layers: every kind of tensor and all companions, at a fraction of the bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.formats import OpenModel, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


class Excerpt:
    """The first ``layers`` layers of a model as a model of its own; see ``OpenModel``."""

    def __init__(self, model: OpenModel, layers: int) -> None:
        self._model = model
        self.format: str = model.format
        self.path: Path = model.path
        self.files: tuple[Path, ...] = model.files
        self.architecture: str = model.architecture
        self.config: dict[str, Any] = {**model.config, "num_hidden_layers": layers}
        kinds = model.config.get("layer_types")
        if isinstance(kinds, list):
            self.config["layer_types"] = kinds[:layers]
        self.tensors: Mapping[str, TensorInfo] = {
            name: info for name, info in model.tensors.items() if _layer_of(name) < layers
        }
        self.quantization: str = model.quantization
        self.tokenizer: dict[str, Any] | None = model.tokenizer
        self.tokenizer_config: dict[str, Any] = model.tokenizer_config
        self.generation_config: dict[str, Any] = model.generation_config
        self.chat_template: str | None = model.chat_template
        self.metadata: dict[str, Any] = model.metadata

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor of the model as float32 in Hugging Face layout."""
        return self._model.read(name)

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the stored bytes of a tensor of the model."""
        return self._model.raw(name)


def within(model: OpenModel, values: int) -> tuple[OpenModel, int]:
    """Return the model with as many of its layers as fit into that many values, one at least, and their number."""
    layers = int(model.config["num_hidden_layers"])
    sizes = [0] * layers
    fixed = 0
    for name, info in model.tensors.items():
        layer = _layer_of(name)
        if layer < 0:
            fixed += prod(info.shape)
        elif layer < layers:
            sizes[layer] += prod(info.shape)
    kept = 1
    while kept < layers and fixed + sum(sizes[: kept + 1]) <= values:
        kept += 1
    return (model, layers) if kept == layers else (Excerpt(model, kept), kept)


def _layer_of(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else -1
