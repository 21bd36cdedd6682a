"""Weights that are spread over several tensors: GPTQ, AWQ, FP8 with scales, bitsandbytes.

`unpacked` presents such a model as what it stands for: one float matrix under each canonical name, decoded on
reading. The layouts are those of the packages that write them (AutoGPTQ and GPTQModel, AutoAWQ, DeepSeek's and
compressed-tensors' FP8, bitsandbytes 0.43).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apr_qa.containers.byte_layout import dominant
from apr_qa.errors import MalformedFile
from apr_qa.formats import OpenModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FP8 = ("f8_e4m3", "f8_e5m2")
BNB_STATE = ".quant_state.bitsandbytes__"
_SCALES = ("weight_scale_inv", "weight_scale", "scale_weight")
_GPTQ_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Position in a word of each of eight neighbouring columns."""


@dataclass(frozen=True)
class Packed:
    """One matrix: which scheme, which tensors by part, and what they lack (then it cannot be decoded)."""

    name: str
    scheme: str
    """gptq, awq, fp8, nf4, fp4, int8."""
    parts: Mapping[str, str]
    missing: tuple[str, ...]
    shape: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def find(model: OpenModel) -> dict[str, Packed]:
    """Return the packed matrices of a model by canonical name."""
    settings = model.config.get("quantization_config")
    settings = settings if isinstance(settings, dict) else {}
    found: dict[str, Packed] = {}
    for name in model.tensors:
        packed = _packed(name, model, settings)
        if packed is not None:
            found[packed.name] = packed
    return found


def _packed(name: str, model: OpenModel, settings: Mapping[str, Any]) -> Packed | None:
    info = model.tensors[name]
    if name.endswith((".qweight", ".qzeros", ".scales")):
        return _grouped(name.rpartition(".")[0], model, settings)
    if not name.endswith(".weight"):
        return None
    if info.dtype in FP8:
        return _eight_bit_float(name, model, settings)
    if info.dtype == "u8" or (info.dtype == "i8" and len(info.shape) == 2):
        return _bitsandbytes(name, model, settings)
    return None


def _grouped(stem: str, model: OpenModel, settings: Mapping[str, Any]) -> Packed:
    parts = {part: f"{stem}.{part}" for part in _GPTQ_PARTS if f"{stem}.{part}" in model.tensors}
    awq = settings.get("quant_method") == "awq"
    needed = ["qweight", "qzeros", "scales"]
    if not awq and settings.get("desc_act") is True:
        needed.append("g_idx")
    missing = tuple(part for part in needed if part not in parts)
    shape: tuple[int, ...] = ()
    bits = _bits(settings)
    if "qweight" in parts and len(model.tensors[parts["qweight"]].shape) == 2:
        rows, columns = model.tensors[parts["qweight"]].shape
        shape = (columns * 32 // bits, rows) if awq else (columns, rows * 32 // bits)
    return Packed(f"{stem}.weight", "awq" if awq else "gptq", parts, missing, shape, settings)


def _bits(settings: Mapping[str, Any]) -> int:
    bits = settings.get("bits", settings.get("w_bit", 4))
    return bits if bits in (2, 4, 8) else 4


def _eight_bit_float(name: str, model: OpenModel, settings: Mapping[str, Any]) -> Packed:
    stem = name.removesuffix("weight")
    scale = next((stem + end for end in _SCALES if stem + end in model.tensors), None)
    parts = {"weight": name} | ({"scale": scale} if scale else {})
    missing = () if scale else ("weight_scale_inv or weight_scale",)
    return Packed(name, "fp8", parts, missing, model.tensors[name].shape, settings)


def _bitsandbytes(name: str, model: OpenModel, settings: Mapping[str, Any]) -> Packed | None:
    info, tensors = model.tensors[name], model.tensors
    stem = name.removesuffix("weight")
    if info.dtype == "i8" or settings.get("load_in_8bit") is True:
        scale = next((n for n in (f"{stem}SCB", f"{name}.SCB") if n in tensors), None)
        parts = {"weight": name} | ({"SCB": scale} if scale else {})
        return Packed(name, "int8", parts, () if scale else ("SCB",), info.shape)
    state = next((n for n in tensors if n.startswith(name + BNB_STATE)), None)
    keys = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    parts = {"weight": name} | {key: f"{name}.{key}" for key in keys if f"{name}.{key}" in tensors}
    if not (state or len(parts) > 1 or settings):
        return None
    parts |= {"quant_state": state} if state else {}
    content = _state(model, state) if state else {}
    needed = ["absmax", "quant_map", "quant_state"]
    needed += ["nested_absmax", "nested_quant_map"] if "nested_blocksize" in content else []
    shape = tuple(content.get("shape", ()))
    scheme = str(content.get("quant_type", settings.get("bnb_4bit_quant_type", "nf4")))
    return Packed(name, scheme, parts, tuple(k for k in needed if k not in parts), shape, content)


def _state(model: OpenModel, name: str) -> dict[str, Any]:
    try:
        content = json.loads(bytes(model.raw(name)))
    except ValueError as error:
        raise MalformedFile(f"the quantisation state is no JSON: {error}", where=name) from None
    shape = content.get("shape") if isinstance(content, dict) else None
    if not isinstance(shape, list) or not all(type(item) is int and 0 < item < 1 << 32 for item in shape):
        raise MalformedFile("the quantisation state names no shape", where=name)
    return dict(content)


class Unpacked:
    """A model whose packed matrices are decoded; everything else is as in the file."""

    def __init__(self, model: OpenModel, packed: Mapping[str, Packed]) -> None:
        self.stored = model
        """The model as the file has it."""
        self.config = {key: value for key, value in model.config.items() if key != "quantization_config"}
        self.packed = {name: one for name, one in packed.items() if not one.missing and one.shape}
        hidden = {stored for one in self.packed.values() for stored in one.parts.values()}
        self.tensors = {name: info for name, info in model.tensors.items() if name not in hidden}
        for name, one in self.packed.items():
            first = model.tensors[next(iter(one.parts.values()))]
            size = sum(model.tensors[stored].size for stored in one.parts.values())
            self.tensors[name] = dataclasses.replace(
                first, name=name, dtype=dtype_of(one), shape=one.shape, size=size
            )
        self.quantization = dominant({name: (info.dtype, info.shape) for name, info in self.tensors.items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stored, name)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32, decoded if it is packed."""
        if name not in self.packed:
            return self.stored.read(name)
        return decode(self.stored, self.packed[name])

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the stored bytes of a tensor; of a packed one, those of its codes."""
        if name in self.packed:
            return self.stored.raw(next(iter(self.packed[name].parts.values())))
        return self.stored.raw(name)


def unpacked(model: OpenModel) -> OpenModel:
    """Return the model as what its packed weights stand for; itself if it has none."""
    if model.format != "safetensors":
        return model
    found = find(model)
    presented: Any = Unpacked(model, found) if found else model
    return presented  # type: ignore[no-any-return]


def groups(model: OpenModel, name: str) -> npt.NDArray[np.int64] | None:
    """Return the group of each input channel of a matrix whose file states them; None for all others."""
    packed = model.packed.get(name) if isinstance(model, Unpacked) else None
    return groups_of(model.stored, packed) if packed is not None and "g_idx" in packed.parts else None


def dtype_of(packed: Packed) -> str:
    """Return the storage type of a packed matrix in words: gptq4, awq4, fp8, nf4, fp4, int8, groups named."""
    if packed.scheme in ("gptq", "awq"):
        size = packed.settings.get("group_size", packed.settings.get("q_group_size", 128))
        return f"{packed.scheme}{_bits(packed.settings)}g{size}"
    return packed.scheme


def decode(model: OpenModel, packed: Packed) -> npt.NDArray[np.float32]:
    """Return a packed matrix as float32, [out, in]; raises MalformedFile where its parts do not fit."""
    decoders = {"gptq": _decoded_gptq, "awq": _decoded_awq, "fp8": _decoded_fp8, "int8": _decoded_int8}
    try:
        return decoders.get(packed.scheme, _decoded_four_bit)(model, packed)
    except (ValueError, IndexError) as error:
        raise MalformedFile(f"the parts of a packed weight do not fit: {error}", where=packed.name) from None


def words(model: OpenModel, name: str) -> npt.NDArray[np.uint32]:
    """Return a tensor of 32-bit words in its shape."""
    return model.raw(name).view("<u4").reshape(model.tensors[name].shape)


def fields(packed: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.int32]:
    """Return the fields of words as a further dimension, lowest first."""
    import numpy as np

    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    found: npt.NDArray[np.int32] = ((packed[..., None] >> shifts) & np.uint32((1 << bits) - 1)).astype(
        np.int32
    )
    return found


def groups_of(model: OpenModel, packed: Packed) -> npt.NDArray[np.int64]:
    """Return the group of each input channel: stated by g_idx, else in order."""
    import numpy as np

    columns = packed.shape[1]
    if "g_idx" in packed.parts:
        return model.raw(packed.parts["g_idx"]).view("<i4").astype(np.int64)
    size = packed.settings.get("group_size", packed.settings.get("q_group_size", 128))
    size = size if isinstance(size, int) and size > 0 else columns
    return np.arange(columns) // size


def zero_points(model: OpenModel, packed: Packed) -> npt.NDArray[np.int32]:
    """Return the zero points as stored, [groups, out]."""
    bits = _bits(packed.settings)
    stored = fields(words(model, packed.parts["qzeros"]), bits)
    return stored.reshape(len(stored), -1)


def _decoded_gptq(model: OpenModel, packed: Packed) -> npt.NDArray[np.float32]:
    import numpy as np

    bits = _bits(packed.settings)
    codes = fields(words(model, packed.parts["qweight"]), bits)
    codes = np.moveaxis(codes, 2, 1).reshape(packed.shape[1], packed.shape[0])
    zeros = zero_points(model, packed)
    if packed.settings.get("checkpoint_format", "gptq") != "gptq_v2":
        zeros = (zeros + 1) & ((1 << bits) - 1)  # The first format stores one less.
    scales, groups = model.read(packed.parts["scales"]), groups_of(model, packed)
    values = (codes - zeros[groups]).astype(np.float32) * scales[groups]
    return np.ascontiguousarray(values.T)


def _decoded_awq(model: OpenModel, packed: Packed) -> npt.NDArray[np.float32]:
    import numpy as np

    order = np.array(_AWQ_ORDER)
    codes, zeros = (fields(words(model, packed.parts[part]), 4)[..., order] for part in ("qweight", "qzeros"))
    codes, zeros = (part.reshape(len(part), -1) for part in (codes, zeros))
    scales, groups = model.read(packed.parts["scales"]), groups_of(model, packed)
    values = (codes - zeros[groups]).astype(np.float32) * scales[groups]
    return np.ascontiguousarray(values.T)


def _decoded_fp8(model: OpenModel, packed: Packed) -> npt.NDArray[np.float32]:
    import numpy as np

    values, scale = model.read(packed.parts["weight"]), model.read(packed.parts["scale"])
    if scale.ndim == 2 and scale.shape[1] > 1:
        rows, columns = _block_shape(packed, scale.shape)
        scale = np.repeat(np.repeat(scale, rows, 0), columns, 1)[: values.shape[0], : values.shape[1]]
    elif scale.ndim == 2 and 1 < scale.shape[0] < values.shape[0]:
        scale = np.repeat(scale, _block_shape(packed, scale.shape)[0], 0)[: values.shape[0]]
    elif scale.size == values.shape[0]:
        scale = scale.reshape(-1, 1)
    return np.asarray(values * scale, np.float32)


def _block_shape(packed: Packed, counts: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns of one scale: stated, else the power of two that gives these counts."""
    stated = packed.settings.get("weight_block_size")
    if isinstance(stated, list) and len(stated) == 2 and all(type(n) is int and n > 0 for n in stated):
        return stated[0], stated[1]
    sizes = [math.ceil(size / count) for size, count in zip(packed.shape, counts, strict=True)]
    rows, columns = (1 << (size - 1).bit_length() for size in sizes)
    return rows, columns


def _decoded_int8(model: OpenModel, packed: Packed) -> npt.NDArray[np.float32]:
    import numpy as np

    scale = model.read(packed.parts["SCB"]).reshape(-1, 1)
    return np.asarray(model.read(packed.parts["weight"]) * scale / np.float32(127), np.float32)


def _decoded_four_bit(model: OpenModel, packed: Packed) -> npt.NDArray[np.float32]:
    import numpy as np

    state, parts = packed.settings, packed.parts
    raw = model.raw(parts["weight"])
    codes = np.stack((raw >> 4, raw & 15), axis=1).reshape(-1)[: math.prod(packed.shape)]
    scale = model.read(parts["absmax"]).reshape(-1)
    if "nested_absmax" in parts:
        nested = model.read(parts["nested_quant_map"])[model.raw(parts["absmax"])]
        blocks = np.repeat(model.read(parts["nested_absmax"]), int(state["nested_blocksize"]))[: nested.size]
        scale = nested * blocks + np.float32(state.get("nested_offset", 0.0))
    block = int(state.get("blocksize", 64))
    values = model.read(parts["quant_map"])[codes] * np.repeat(scale, block)[: codes.size]
    return np.asarray(values, np.float32).reshape(packed.shape)
