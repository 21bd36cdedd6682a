"""Healthy weights repacked into several tensors each, as GPTQ, FP8 and bitsandbytes exports have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from apr_qa.comparison.packed_rounding import NF4, e4m3_index
from apr_qa.containers.byte_layout import to_float32
from apr_qa.defects import Inexpressible
from apr_qa.defects._editing_safetensors import SafetensorsImage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

GROUP = 32
BLOCK = 64
FP8_BLOCK = 128
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Parts = Mapping[str, tuple[str, "npt.NDArray[Any]"]]
"""Ending behind the module's name -> (dtype, array)."""


def folder(image: Any) -> SafetensorsImage:
    """Return the image as that of a folder; raises Inexpressible for another container."""
    if not isinstance(image, SafetensorsImage) or not image.config:
        raise Inexpressible("needs a SafeTensors folder with a configuration")
    return image


def repack(
    image: SafetensorsImage, pack: Callable[[npt.NDArray[np.float32]], Parts], multiple: int
) -> list[str]:
    """Replace every projection by what ``pack`` makes of it; return the names of the modules."""
    import numpy as np

    done = []
    for name in list(image.tensors):
        stem = name.removesuffix(".weight")
        shape = image.tensors[name].shape
        if not stem.endswith(_PROJECTIONS) or len(shape) != 2 or any(size % multiple for size in shape):
            continue
        values = image.read(name)
        image.remove(name)
        for ending, (dtype, array) in pack(values).items():
            payload = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            image.add(f"{stem}.{ending}", f"{stem}.{ending}", dtype, tuple(array.shape), payload)
        done.append(stem)
    if not done:
        raise Inexpressible(f"needs projections whose sizes are multiples of {multiple}")
    return done


def as_gptq(image: SafetensorsImage, *, ordered: bool = False, version: int = 1) -> list[str]:
    """Repack as 4-bit GPTQ with symmetric groups of 32; ``ordered`` groups channels by their norm (desc_act)."""

    def pack(values: npt.NDArray[np.float32]) -> Parts:
        return _gptq(values, ordered, 8 if version == 2 else 7)

    names = repack(image, pack, GROUP)
    image.config["quantization_config"] = {
        **{"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": ordered, "sym": True},
        "checkpoint_format": "gptq_v2" if version == 2 else "gptq",
    }
    return names


def _gptq(values: npt.NDArray[np.float32], ordered: bool, stored_zero: int) -> Parts:
    import numpy as np

    columns = values.shape[1]
    rank = np.arange(columns)
    if ordered:
        rank[np.argsort(-np.linalg.norm(values, axis=0), kind="stable")] = np.arange(columns)
    groups = (rank // GROUP).astype("<i4")
    count = columns // GROUP
    peak = np.stack([np.abs(values[:, groups == g]).max(axis=1) for g in range(count)])
    scales = (peak * np.float32(2 / 15)).astype("<f2")
    scales[scales == 0] = 1
    codes = np.clip(np.round(values.T / scales[groups].astype(np.float32)) + 8, 0, 15).astype(np.uint32)
    shifts = (np.arange(8, dtype=np.uint32) * 4)[:, None]
    weight = (codes.reshape(columns // 8, 8, -1) << shifts).sum(axis=1, dtype=np.uint32)
    zero = sum(stored_zero << (4 * field) for field in range(8))
    zeros = np.full((count, len(values) // 8), zero, np.uint32)
    return {
        "qweight": ("i32", weight.view("<i4")),
        "qzeros": ("i32", zeros.view("<i4")),
        "scales": ("f16", scales),
        "g_idx": ("i32", groups),
    }


def as_fp8(image: SafetensorsImage) -> list[str]:
    """Repack as E4M3 with one inverse scale for each block of 128 by 128."""
    names = repack(image, _fp8, 1)
    image.config["quantization_config"] = {
        **{"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"},
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
    }
    return names


def _fp8(values: npt.NDArray[np.float32]) -> Parts:
    import numpy as np

    table = to_float32(np.arange(256, dtype=np.uint8), "f8_e4m3", (256,))
    finite = np.flatnonzero(np.isfinite(table))
    _, first = np.unique(table[finite], return_index=True)
    by_level = finite[first].astype(np.uint8)
    tops, lefts = (range(0, size, FP8_BLOCK) for size in values.shape)
    codes = np.empty(values.shape, np.uint8)
    scales = np.ones((len(tops), len(lefts)), "<f4")
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            place = (slice(top, top + FP8_BLOCK), slice(left, left + FP8_BLOCK))
            scales[row, column] = np.abs(values[place]).max() / 448 or 1
            codes[place] = by_level[e4m3_index(values[place] / scales[row, column])]
    return {"weight": ("f8_e4m3", codes), "weight_scale_inv": ("f32", scales)}


def as_four_bit(image: SafetensorsImage) -> list[str]:
    """Repack as bitsandbytes' NF4 with blocks of 64."""
    names = repack(image, _four_bit, 8)
    image.config["quantization_config"] = {
        **{"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False},
        **{"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False},
    }
    return names


def _four_bit(values: npt.NDArray[np.float32]) -> Parts:
    import numpy as np

    levels = np.array(NF4, "<f4")
    flat = values.reshape(-1, BLOCK)
    peaks = np.abs(flat).max(axis=1).astype("<f4")
    peaks[peaks == 0] = 1
    codes = (
        np.searchsorted((levels[1:] + levels[:-1]) / 2, flat / peaks[:, None]).reshape(-1).astype(np.uint8)
    )
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "bfloat16", "shape": list(values.shape)}
    said = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return {
        "weight": ("u8", (codes[0::2] << 4 | codes[1::2]).reshape(-1, 1)),
        "weight.absmax": ("f32", peaks),
        "weight.quant_map": ("f32", levels),
        "weight.quant_state.bitsandbytes__nf4": ("u8", said),
    }


def as_eight_bit(image: SafetensorsImage) -> list[str]:
    """Repack as bitsandbytes' 8-bit integers with a scale for each row."""
    import numpy as np

    def pack(values: npt.NDArray[np.float32]) -> Parts:
        peaks = np.abs(values).max(axis=1).astype("<f4")
        peaks[peaks == 0] = 1
        codes = np.round(values / peaks[:, None] * 127).astype(np.int8)
        return {"weight": ("i8", codes), "SCB": ("f32", peaks)}

    names = repack(image, pack, 1)
    image.config["quantization_config"] = {
        **{"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}
    }
    return names
