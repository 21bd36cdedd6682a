"""Copies of models opened for spoiling: one interface to configuration, tensors and companions of any container.

    with editing(specimen) as image:
        image.set_config("rms_norm_eps", 1e-6)
        image.write("model.norm.weight", image.read("model.norm.weight") * 2)

Leaving the block saves. Tensors are written in the type that they are stored in, in place where nothing but
payloads changed. What is written is lawful in its container (sizes, offsets and checksums follow); unlawful
headers are made by changing bytes of the saved file (`patch`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.defects import Defect, Inexpressible, Plant, Specimen, enter
from apr_qa.defects._editing_apr import AprImage
from apr_qa.defects._editing_gguf import GgufImage
from apr_qa.defects._editing_safetensors import SafetensorsImage
from apr_qa.defects._image import EMBEDDING, HEAD, Image, Stored

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "EMBEDDING",
    "HEAD",
    "Image",
    "Stored",
    "editing",
    "layers",
    "opened",
    "patch",
    "pick",
    "planted",
    "rows_of",
]

_IMAGES: dict[str, Any] = {"safetensors": SafetensorsImage, "apr": AprImage, "gguf": GgufImage}


def planted(
    layer: str,
    name: str,
    formats: tuple[str, ...],
    source: str,
    *,
    expected: str = "reject",
    description: str = "",
    alone: bool = False,
) -> Callable[[Plant], Plant]:
    """Return a decorator that enters a plant as a defect; its docstring describes it."""

    def register(plant: Plant) -> Plant:
        said = description or str(plant.__doc__).removesuffix(".")
        enter(Defect(name, layer, formats, expected, said, plant, source, alone=alone))
        return plant

    return register


def opened(specimen: Specimen) -> Image:
    """Open a specimen for editing; nothing is written until ``save``."""
    image: Image = _IMAGES[specimen.format](specimen.path)
    return image


@contextlib.contextmanager
def editing(specimen: Specimen) -> Iterator[Image]:
    """Open a specimen, and save it when the block ends without an exception."""
    image = opened(specimen)
    yield image
    image.save()


def layers(image: Image) -> int:
    """Return the number of layers; raises Inexpressible where the names do not tell."""
    import re

    found = [int(match[1]) for name in image.tensors if (match := re.match(r"model\.layers\.(\d+)\.", name))]
    if not found:
        raise Inexpressible("needs tensors that are named by layer")
    return max(found) + 1


def pick(image: Image, suffix: str, layer: int = 1) -> str:
    """Return the canonical name of a tensor in ``layer`` (the last if there are fewer); raises Inexpressible."""
    name = f"model.layers.{min(layer, layers(image) - 1)}.{suffix}"
    if name not in image.tensors:
        raise Inexpressible(f"needs a tensor {suffix}")
    return name


def rows_of(image: Image, name: str) -> npt.NDArray[np.float32]:
    """Return a tensor as float32 in Hugging Face layout; raises Inexpressible if it is not there."""
    if name not in image.tensors:
        raise Inexpressible(f"needs a tensor {name}")
    return image.read(name)


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file in place; a negative offset counts from the end."""
    with path.open("r+b") as handle:
        handle.seek(offset, 0 if offset >= 0 else 2)
        handle.write(data)
