"""Healthy conversions: the same weights in every type that is published, within what rounding costs."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from apr_qa.containers.gguf_writing import LINEAGE
from apr_qa.defects import Inexpressible, Plant, Specimen
from apr_qa.defects._editing import Image, editing, opened, planted
from apr_qa.defects._editing_gguf import GgufImage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_GGUF = ("gguf",)
_FLOATS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_control = functools.partial(planted, "control", expected="pass")


def _retyped(dtype: str) -> Plant:
    def plant(specimen: Specimen) -> None:
        import numpy as np

        with editing(specimen) as image:
            if dtype == "f16" and any(_out_of_range(image.read(name)) for name in image.tensors):
                raise Inexpressible("needs weights in the range of half precision")
            for name, stored in image.tensors.items():
                if stored.dtype not in _FLOATS or (len(stored.shape) < 2 and image.format == "gguf"):
                    continue
                values = image.read(name)
                image.relabel(name, dtype=dtype)
                image.write(name, np.asarray(values, np.float32))
            for key in [key for key in ("dtype", "torch_dtype") if key in image.config]:
                if image.format != "gguf":
                    image.set_config(key, _FLOATS[dtype])

    return plant


def _out_of_range(values: npt.NDArray[np.float32]) -> bool:
    return bool(abs(values).max(initial=0) > 65000)


for _dtype in _FLOATS:
    _control(
        f"healthy-conversion-{_dtype}",
        ("safetensors", "apr"),
        "equivalence",
        description=f"the same weights, rounded to {_dtype}",
    )(_retyped(_dtype))


def _converted(quantization: str) -> Plant:
    def plant(specimen: Specimen) -> None:
        from apr_qa.conversion.convert import convert
        from apr_qa.errors import EngineMissing, UnsupportedArchitecture
        from apr_qa.formats import FORMATS

        source = FORMATS.get("gguf").open(specimen.path)
        if source.quantization not in _FLOATS:
            raise Inexpressible("needs weights in a float type")
        if source.quantization == "f16" and quantization in ("f32", "bf16"):
            raise Inexpressible("needs weights that did not pass through half precision before")
        with TemporaryDirectory(dir=specimen.path.parent) as folder:
            try:
                made = convert(source, "gguf", Path(folder) / "model.gguf", quantization=quantization)
            except (EngineMissing, UnsupportedArchitecture) as refusal:
                raise Inexpressible(f"needs a converter: {refusal.what}") from refusal
            keys = _lineage(opened(specimen))
            made.replace(specimen.path)
        # Quantisers copy what a file says of its origin; our converter would name the copy instead.
        with editing(specimen) as image:
            if isinstance(image, GgufImage):
                own = [key for key in image.keys.values if key not in keys and key.startswith(LINEAGE)]
                for key in own:
                    image.keys.drop(key)
                image.keys.values |= keys
                image.keys.changed = True

    return plant


def _lineage(image: Image) -> dict[str, tuple[int, bytes]]:
    if not isinstance(image, GgufImage):
        return {}
    return {key: value for key, value in image.keys.values.items() if key.startswith(LINEAGE)}


for _kind in ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"):
    _control(
        f"healthy-conversion-{_kind}-gguf",
        _GGUF,
        "ggml-org/llama.cpp tools/quantize",
        description=f"the same weights as {_kind}, by llama.cpp's quantiser where ours does not write it",
    )(_converted(_kind))
