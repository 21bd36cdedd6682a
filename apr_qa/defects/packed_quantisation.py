"""Weights packed into several tensors (GPTQ, FP8, bitsandbytes) of which one is lost or means something else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apr_qa.defects import Plant, Specimen
from apr_qa.defects import _packing as packing
from apr_qa.defects._editing import editing, planted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_FOLDER = ("safetensors",)

_planted = functools.partial(planted, "quantisation")


def _first_words(image: Any, name: str) -> npt.NDArray[np.uint32]:
    words: npt.NDArray[np.uint32] = image.raw(name).view("<u4")
    return words


@_planted(
    "gptq-zero-off-by-one",
    _FOLDER,
    "vllm-project/vllm#38966, AutoGPTQ/AutoGPTQ#325, huggingface/text-generation-inference#2120",
)
def _zero_points(specimen: Specimen) -> None:
    """Zero points are stored as the second GPTQ format does, under the name of the first."""
    import numpy as np

    with editing(specimen) as image:
        for stem in packing.as_gptq(packing.folder(image)):
            words = _first_words(image, f"{stem}.qzeros") + np.uint32(0x11111111)
            image.replace(f"{stem}.qzeros", words.view(np.uint8))


@_planted("gptq-zero-off-by-one-in-one", _FOLDER, "vllm-project/vllm#26092")
def _one_zero_point(specimen: Specimen) -> None:
    """The zero points of one matrix are one too high."""
    import numpy as np

    with editing(specimen) as image:
        stem = packing.as_gptq(packing.folder(image))[0]
        words = _first_words(image, f"{stem}.qzeros") + np.uint32(0x11111111)
        image.replace(f"{stem}.qzeros", words.view(np.uint8))


@_planted(
    "gptq-gidx-ignored", _FOLDER, "NVIDIA/TensorRT-LLM#503, vllm-project/vllm#7374, turboderp/exllama#44"
)
def _no_order(specimen: Specimen) -> None:
    """Weights are grouped by activation, and the order of the groups is zero throughout."""
    with editing(specimen) as image:
        for stem in packing.as_gptq(packing.folder(image), ordered=True):
            image.replace(f"{stem}.g_idx", image.raw(f"{stem}.g_idx") * 0)


@_planted("gptq-gidx-shuffled", _FOLDER, "NVIDIA/TensorRT-LLM#503")
def _wrong_order(specimen: Specimen) -> None:
    """Weights are grouped by activation, and the channels are told to be in their natural groups."""
    import numpy as np

    with editing(specimen) as image:
        for stem in packing.as_gptq(packing.folder(image), ordered=True):
            natural = np.arange(len(image.raw(f"{stem}.g_idx")) // 4, dtype="<i4") // packing.GROUP
            image.replace(f"{stem}.g_idx", natural.view(np.uint8))


@_planted(
    "fp8-scale-dropped", _FOLDER, "unslothai/unsloth#6978, leejet/stable-diffusion.cpp#1898, kekzl/imp#1450"
)
def _no_scales(specimen: Specimen) -> None:
    """Eight-bit floats come without their scales, so that the codes are used as they are."""
    with editing(specimen) as image:
        for stem in packing.as_fp8(packing.folder(image)):
            image.remove(f"{stem}.weight_scale_inv")


@_planted("fp8-scale-of-another", _FOLDER, "Lightricks/LTX-2#172")
def _foreign_scales(specimen: Specimen) -> None:
    """The scales of eight-bit floats are all one."""
    import numpy as np

    with editing(specimen) as image:
        for stem in packing.as_fp8(packing.folder(image)):
            name = f"{stem}.weight_scale_inv"
            image.replace(name, np.ones(len(image.raw(name)) // 4, "<f4").view(np.uint8))


@_planted(
    "bnb-quant-state-missing",
    _FOLDER,
    "huggingface/peft#508, haotian-liu/LLaVA#1266, ggml-org/llama.cpp#12923",
)
def _no_state(specimen: Specimen) -> None:
    """Four-bit weights were saved without the peaks of their blocks."""
    with editing(specimen) as image:
        for stem in packing.as_four_bit(packing.folder(image)):
            image.remove(f"{stem}.weight.absmax")


@_planted("bnb-row-scales-missing", _FOLDER, "huggingface/peft#508")
def _no_row_scales(specimen: Specimen) -> None:
    """Eight-bit weights were saved without the scales of their rows."""
    with editing(specimen) as image:
        for stem in packing.as_eight_bit(packing.folder(image)):
            image.remove(f"{stem}.SCB")


# ---- healthy

_control = functools.partial(planted, "control", formats=_FOLDER, expected="pass")


def _packed(pack: Callable[..., Any], **how: Any) -> Plant:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            pack(packing.folder(image), **how)

    return plant


for _name, _pack, _how, _source in (
    ("packed-as-gptq", packing.as_gptq, {}, "AutoGPTQ/AutoGPTQ"),
    ("packed-as-gptq-in-order-of-activation", packing.as_gptq, {"ordered": True}, "AutoGPTQ/AutoGPTQ"),
    ("packed-as-gptq-v2", packing.as_gptq, {"version": 2}, "ModelCloud/GPTQModel"),
    ("packed-as-fp8", packing.as_fp8, {}, "deepseek-ai/DeepSeek-V3"),
    ("packed-as-nf4", packing.as_four_bit, {}, "bitsandbytes-foundation/bitsandbytes"),
    ("packed-as-int8", packing.as_eight_bit, {}, "bitsandbytes-foundation/bitsandbytes"),
):
    _control(name=_name, source=_source, description=f"weights {_name.replace('-', ' ')}")(
        _packed(_pack, **_how)
    )
