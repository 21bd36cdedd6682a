"""Quantised weights whose codes, scales, zero points or types are read in another way than they were written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from apr_qa.containers.byte_layout import to_bf16
from apr_qa.defects import Inexpressible, Plant, Specimen
from apr_qa.defects._editing import Image, editing, layers, patch, pick, planted
from apr_qa.defects._editing_apr import AprImage
from apr_qa.defects._editing_gguf import GgufImage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ALL = ("safetensors", "gguf", "apr")
_GGUF, _APR = ("gguf",), ("apr",)
_WIDTHS = {"f32": 4, "f16": 2, "bf16": 2}
_BLOCK_BYTES = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34, "q4_k": 144, "q5_k": 176}
"""Types whose blocks begin with their scale."""
_BAD_BLOCK = 48

_planted = functools.partial(planted, "quantisation")


def requantised(image: Image, name: str, dtype: str) -> npt.NDArray[np.uint8]:
    """Store a matrix of a GGUF file in another type, healthily, and return its blocks for spoiling, one a row."""
    import numpy as np

    from apr_qa.comparison.healthy_rounding import gguf_blocks
    from apr_qa.containers.ggml_types import BLOCKS

    values = image.read(name)
    blocks = gguf_blocks(values.reshape(-1, values.shape[-1]), dtype)
    if blocks is None:
        raise Inexpressible(f"needs rows that {dtype} can hold, and its quantiser")
    size = BLOCKS[dtype][1]
    image.relabel(name, dtype=dtype)
    return np.ascontiguousarray(blocks).reshape(-1, size)


def _spoilt(dtype: str, spoil: Callable[[npt.NDArray[np.uint8]], None]) -> Plant:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            name = pick(image, "mlp.down_proj.weight", 2)
            blocks = requantised(image, name, dtype)
            spoil(blocks)
            image.replace(name, blocks.reshape(-1))

    return plant


def _nan_scales(specimen: Specimen) -> None:
    import numpy as np

    with editing(specimen) as image:
        quantised = [n for n, s in image.tensors.items() if s.dtype in _BLOCK_BYTES and len(s.shape) == 2]
        if quantised:
            name = quantised[len(quantised) // 2]
            blocks = image.raw(name).reshape(-1, _BLOCK_BYTES[image.tensors[name].dtype])
        else:
            name = pick(image, "mlp.down_proj.weight", 2)
            blocks = requantised(image, name, "q4_0")
        blocks[min(_BAD_BLOCK, len(blocks) - 1), :2] = np.array([0x7E00], "<u2").view(np.uint8)
        image.replace(name, blocks.reshape(-1))


_planted(
    "imatrix-nan-blocks",
    _GGUF,
    "ggml-org/llama.cpp#8661, ggml-org/llama.cpp#12439, ikawrakow/ik_llama.cpp#735",
    description="the scale of one block is not a number, as an importance matrix with empty entries gives",
)(_nan_scales)


def _four_bit_scales(blocks: npt.NDArray[np.uint8]) -> None:
    """Clip the sixteen 6-bit scales of each Q3_K block to what four bits hold."""
    import numpy as np

    packed = blocks[:, 96:108].astype(np.int32)
    low = np.concatenate((packed[:, :8] & 15, packed[:, :8] >> 4), axis=1)
    high = np.concatenate([packed[:, 8:12] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales = np.clip((low | high << 4) - 32, -8, 7) + 32
    blocks[:, 96:104] = (scales[:, :8] & 15) | (scales[:, 8:] & 15) << 4
    tops = (scales >> 4).reshape(-1, 4, 4)
    blocks[:, 104:108] = tops[:, 0] | tops[:, 1] << 2 | tops[:, 2] << 4 | tops[:, 3] << 6


def _neighbouring_nibbles(blocks: npt.NDArray[np.uint8]) -> None:
    import numpy as np

    codes = np.concatenate((blocks[:, 2:] & 15, blocks[:, 2:] >> 4), axis=1)
    blocks[:, 2:] = codes[:, 0::2] | codes[:, 1::2] << 4


def _two_s_complement(blocks: npt.NDArray[np.uint8]) -> None:
    blocks[:, 2:] ^= 0x88


for _name, _dtype, _spoil, _source, _said in (
    (
        "q3k-scales-as-4bit",
        "q3_k",
        _four_bit_scales,
        "paiml/aprender#2115, paiml/aprender#1924",
        "six-bit scales of Q3_K are cut to four bits in one matrix",
    ),
    (
        "q4-nibble-order",
        "q4_0",
        _neighbouring_nibbles,
        "kekzl/imp#722, 1bit-MONSTER/1bit-MONSTER#572",
        "neighbouring codes share a byte in one matrix, where codes sixteen apart have to",
    ),
    (
        "q4-twos-complement",
        "q4_0",
        _two_s_complement,
        "1bit-MONSTER/1bit-MONSTER#572, 1bit-MONSTER/1bit-MONSTER#1268",
        "codes of one matrix are two's complement, where they have to exceed by eight",
    ),
):
    _planted(_name, _GGUF, _source, description=_said)(_spoilt(_dtype, _spoil))


# ---- types


@_planted("unknown-dtype-as-f32", ("apr", "gguf"), "paiml/aprender#208")
def _taken_for_floats(specimen: Specimen) -> None:
    """Blocks of bytes are declared as a shorter row of float32."""
    import numpy as np

    from apr_qa.comparison.healthy_rounding import gguf_blocks

    with editing(specimen) as image:
        name = pick(image, "mlp.up_proj.weight", 1)
        values = image.read(name)
        blocks = gguf_blocks(np.ascontiguousarray(values), "q8_0")
        if blocks is None:
            raise Inexpressible("needs rows that are multiples of 32")
        payload = blocks.reshape(-1)[: blocks.size // 4 * 4]
        image.relabel(name, dtype="f32", shape=(payload.size // 4,))
        image.replace(name, payload)


@_planted("unknown-dtype-code", _APR, "paiml/aprender#208")
def _foreign_code(specimen: Specimen) -> None:
    """The type of one tensor is a code that some readers lack and take for float32."""
    with editing(specimen) as image:
        if isinstance(image, AprImage):
            stored = image.tensors[pick(image, "mlp.up_proj.weight", 1)]
            image.codes[stored.name] = 12
            image.restructured = True


def _as_half(names: Callable[[Image], list[str]]) -> Plant:
    def plant(specimen: Specimen) -> None:
        import numpy as np

        with editing(specimen) as image:
            chosen = [n for n in names(image) if image.tensors[n].dtype in _WIDTHS]
            if not chosen:
                raise Inexpressible("needs weights in a float type")
            for name in chosen:
                stored = image.tensors[name]
                if stored.dtype != "bf16":
                    values = image._decode(stored)
                    image.replace(name, to_bf16(values).reshape(-1).view(np.uint8))
                image.relabel(name, dtype="f16")

    return plant


def _projection(image: Image, part: str) -> str:
    """Return a projection of attention, the second layer's; where they are fused, any matrix of a layer."""
    name = f"model.layers.{min(1, layers(image) - 1)}.self_attn.{part}.weight"
    inside = [n for n in _matrices(image) if ".layers." in n]
    if name not in image.tensors and not inside:
        raise Inexpressible("needs a matrix in a layer")
    return name if name in image.tensors else inside[len(inside) // 2]


def _matrices(image: Image) -> list[str]:
    return [name for name, stored in image.tensors.items() if len(stored.shape) == 2]


_planted(
    "bf16-read-as-f16",
    _ALL,
    "1bit-MONSTER/1bit-MONSTER#946",
    description="one matrix of bfloat16 is declared as float16",
)(_as_half(lambda image: [_projection(image, "q_proj")]))
_planted(
    "bf16-read-as-f16-everywhere",
    _ALL,
    "1bit-MONSTER/1bit-MONSTER#946",
    description="all matrices of bfloat16 are declared as float16",
)(_as_half(_matrices))


@_planted("f16-read-as-bf16", _ALL, "1bit-MONSTER/1bit-MONSTER#946")
def _as_brain(specimen: Specimen) -> None:
    """One matrix of float16 is declared as bfloat16."""
    import numpy as np

    with editing(specimen) as image:
        name = _projection(image, "q_proj")
        stored = image.tensors[name]
        if stored.dtype not in _WIDTHS:
            raise Inexpressible("needs weights in a float type")
        with np.errstate(all="ignore"):
            halves = image._decode(stored).astype("<f2")
        image.replace(name, halves.reshape(-1).view(np.uint8))
        image.relabel(name, dtype="bf16")


@_planted(
    "byte-swapped-tensor", _ALL, "ggml-org/llama.cpp#13943, ollama/ollama#17826, containers/ramalama#1454"
)
def _swapped(specimen: Specimen) -> None:
    """The bytes of one matrix are in the order of another machine."""
    import numpy as np

    with editing(specimen) as image:
        name = _projection(image, "v_proj")
        width = _WIDTHS.get(image.tensors[name].dtype, 2)
        raw = image.raw(name)
        image.replace(name, np.ascontiguousarray(raw.reshape(-1, width)[:, ::-1]).reshape(-1))


@_planted("byte-swapped-header", _GGUF, "ggml-org/llama.cpp#13943")
def _swapped_version(specimen: Specimen) -> None:
    """The version of the file is in the byte order of another machine."""
    patch(specimen.path, 4, specimen.path.read_bytes()[4:8][::-1])


@_planted(
    "requantised-from-quantised",
    _GGUF,
    "ggml-org/llama.cpp tools/quantize --allow-requantize",
    expected="warn",
)
def _twice(specimen: Specimen) -> None:
    """Eight-bit weights that were made from four-bit ones."""
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    with editing(specimen) as image:
        names = [n for n in _matrices(image) if image.tensors[n].shape[-1] % 32 == 0 and ".layers." in n]
        if not names or any(image.tensors[n].dtype not in (*_WIDTHS, "q8_0") for n in names):
            raise Inexpressible("needs weights that are finer than four bits, in rows of 32")
        for name in names:
            coarse = requantised(image, name, "q4_0")
            values = dequantize(coarse, GGMLQuantizationType.Q4_0).reshape(image.tensors[name].shape)
            image.replace(name, coarse.reshape(-1))
            stored = image.tensors[name]
            stored.replace(_eight_bits(np.asarray(values, np.float32)))
            image.relabel(name, dtype="q8_0")
        if isinstance(image, GgufImage):
            image.keys.set("general.file_type", 7)


def _eight_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return np.ascontiguousarray(quantize(values, GGMLQuantizationType.Q8_0)).reshape(-1)
