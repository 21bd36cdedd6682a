"""Weights whose values were lost, damaged or taken from somewhere else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from apr_qa.defects import Inexpressible, Plant, Specimen
from apr_qa.defects._editing import EMBEDDING, HEAD, Image, editing, layers, patch, pick, planted, rows_of
from apr_qa.defects._editing_safetensors import SafetensorsImage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ALL = ("safetensors", "gguf", "apr")
_BITS = {"f32": (4, 12), "f16": (2, 5), "bf16": (2, 2)}
"""Type -> (bytes of a value, a bit of its mantissa that is neither the lowest nor the highest)."""
_SCALES = {
    **dict.fromkeys(("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q4"), 0),
    **{"q6_k": -2, "q3_k": -2, "q2_k": -4},
}
"""Block type -> where in a block its half-precision scale lies."""
_HALF_NAN, _HALF_HUGE = b"\x00\x7e", b"\x53\x7b"
"""NaN, and 60000."""


_planted = functools.partial(planted, "tensor-values")


def _change(
    name_of: Callable[[Image], str], change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
) -> Plant:
    """Return a plant that replaces the values of one tensor."""

    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            name = name_of(image)
            image.write(name, change(rows_of(image, name)))

    return plant


def _of_layer(suffix: str, layer: int) -> Callable[[Image], str]:
    return lambda image: pick(image, suffix, layer)


def _rare(image: Image, name: str) -> int:
    """Return a token that everyday texts do not use: from the last quarter of the vocabulary, but real."""
    return int(0.8 * rows_of(image, name).shape[0])


def _poke(image: Image, name: str, row: int, columns: slice, value: float, scale: bytes) -> None:
    """Set values of one row; in blocks, the scale of every block that holds one of them."""
    from apr_qa.containers.apr_blocks import BLOCKS

    stored = image.tensors[name]
    values = rows_of(image, name)
    if stored.dtype in ("f32", "f16", "bf16"):
        values[row, columns] = value
        image.write(name, values)
        return
    if stored.dtype not in _SCALES:
        raise Inexpressible(f"needs values or block scales that can be set, not {stored.dtype}")
    length, size = BLOCKS[stored.dtype]
    blocks = image.raw(name).reshape(*stored.shape[:-1], -1, size)
    start, at = columns.start or 0, _SCALES[stored.dtype] % size
    stop = columns.stop if columns.stop is not None else stored.shape[-1]
    blocks[row, start // length : -(-stop // length), at : at + 2] = list(scale)
    image.replace(name, blocks.reshape(-1))


@_planted(
    "nan-in-common-weight",
    _ALL,
    "liufanfanlff/C3-Context-Cascade-Compression#4, paiml/aprender#177, casper-hansen/AutoAWQ#498",
)
def _infinite_value(specimen: Specimen) -> None:
    """One weight of a busy matrix is infinite."""
    with editing(specimen) as image:
        _poke(
            image,
            pick(image, "mlp.down_proj.weight", 2),
            5,
            slice(3, 4),
            float("inf"),
            b"\x00\x7c",
        )


@_planted(
    "nan-rare-embedding-row",
    _ALL,
    "OpenRLHF/OpenRLHF#648 and the row variant of liufanfanlff/C3-Context-Cascade-Compression#4",
)
def _nan_row(specimen: Specimen) -> None:
    """The embedding of a token that tests never use is NaN."""
    with editing(specimen) as image:
        _poke(image, EMBEDDING, _rare(image, EMBEDDING), slice(None), float("nan"), _HALF_NAN)


@_planted("extreme-finite-magnitude", _ALL, "paiml/aprender#2039")
def _absurd_value(specimen: Specimen) -> None:
    """One weight is finite and absurdly large."""
    with editing(specimen) as image:
        name = pick(image, "mlp.down_proj.weight", 1)
        value = 1e20 if image.tensors[name].dtype != "f16" else 6e4
        _poke(image, name, 3, slice(7, 8), value, _HALF_HUGE)


@_planted("single-bit-flip-small", _ALL, "huggingface/diffusers#11989")
def _flipped_bit(specimen: Specimen) -> None:
    # On disk, behind the back of every checksum.
    """One bit of one weight rotted on the disk."""
    from apr_qa.defects._editing import opened

    image = opened(specimen)
    stored = image.tensors[pick(image, "mlp.up_proj.weight", 1)]
    width, bit = _BITS.get(stored.dtype, (1, 7))
    at = stored.offset + stored.size // 2 // width * width
    at += 0 if stored.dtype in _BITS else 5
    with stored.file.open("rb") as handle:
        handle.seek(at)
        value = int.from_bytes(handle.read(width), "little")
    patch(stored.file, at, (value ^ 1 << bit).to_bytes(width, "little"))


def _zero_row(name: str) -> Plant:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            if name == HEAD and (HEAD not in image.tensors or image.config.get("tie_word_embeddings")):
                raise Inexpressible("needs an output head of its own")
            values = rows_of(image, name)
            values[_rare(image, name)] = 0
            image.write(name, values)

    return plant


@_planted(
    "untrained-special-tokens",
    ("safetensors",),
    "meta-llama/llama3#77, unslothai/unsloth#1056, axolotl-ai-cloud/axolotl#1771",
)
def _untrained_tokens(specimen: Specimen) -> None:
    """The tokens that the chat template writes were never trained: all have one and the same row."""
    with editing(specimen) as image:
        ids = _template_tokens(image)
        for name in (EMBEDDING, HEAD):
            if name in image.tensors:
                values = rows_of(image, name)
                values[ids] = values.mean(axis=0)
                image.write(name, values)


def _template_tokens(image: Image) -> list[int]:
    """Return the ids of special tokens that the chat template writes."""
    if not isinstance(image, SafetensorsImage):
        raise Inexpressible("needs a folder with a chat template")
    file = image.folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.exists() else ""
    template += str(image.documents.get("tokenizer_config.json", {}).get("chat_template", ""))
    added = image.documents.get("tokenizer.json", {}).get("added_tokens", [])
    ids = [int(token["id"]) for token in added if token["content"] in template]
    if len(ids) < 2:
        raise Inexpressible("needs a chat template that writes two special tokens")
    return ids


def _shifted_norms(by: float) -> Plant:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            norms = [n for n in image.tensors if "norm" in n and n.endswith(".weight")]
            if not norms:
                raise Inexpressible("needs norms with weights")
            for name in norms:
                image.write(name, image.read(name) + by)

    return plant


@_planted("single-bias-dropped", ("safetensors", "gguf"), "variant of sbryngelson/ANEForge#253")
def _lost_bias(specimen: Specimen) -> None:
    """The bias of one key projection is lost."""
    with editing(specimen) as image:
        name = pick(image, "self_attn.k_proj.bias", 1)
        image.write(name, image.read(name) * 0)


@_planted(
    "random-init-missing-param",
    ("safetensors",),
    "huggingface/transformers#43429, huggingface/transformers#45079",
)
def _missing_parameter(specimen: Specimen) -> None:
    """A parameter is missing, which loaders fill with random numbers."""
    with editing(specimen) as image:
        image.remove(pick(image, "mlp.down_proj.weight", 3))


@_planted("stale-layer-from-other-revision", ("safetensors",), "paiml/aprender#3910, 1CatAI/1Cat-vLLM#407")
def _stale_layer(specimen: Specimen) -> None:
    """One layer comes from an earlier checkpoint of the same model."""
    import numpy as np

    noise = np.random.default_rng(40)
    with editing(specimen) as image:
        layer = min(3, layers(image) - 1)
        for name in [n for n in image.tensors if n.startswith(f"model.layers.{layer}.")]:
            values = image.read(name)
            # An earlier revision differs by a few hundredths of a typical weight.
            step = 0.03 * float(values.std()) * noise.standard_normal(values.shape)
            image.write(name, values + step.astype(np.float32))


def _negated(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    values[min(5, len(values) - 1)] *= -1
    return values


_planted(
    "all-zero-tensor",
    _ALL,
    "paiml/aprender#3910, microsoft/BitNet#608",
    description="a projection was written as zeros",
)(_change(_of_layer("self_attn.v_proj.weight", 2), lambda values: values * 0))
_planted(
    "dead-lm-head-row-rare", _ALL, "paiml/aprender#2183", description="the output row of a rare token is zero"
)(_zero_row(HEAD))
_planted(
    "dead-embed-row",
    _ALL,
    "paiml/aprender#2183, meta-llama/llama3#77",
    description="the embedding of a real token is zero",
)(_zero_row(EMBEDDING))
_planted(
    "norm-plus-one-missing",
    ("gguf", "safetensors"),
    "vllm-project/vllm#31464, sgl-project/sglang#38363",
    description="norm weights lie one below what the runtime expects",
)(_shifted_norms(-1))
_planted(
    "norm-plus-one-double",
    ("gguf", "apr"),
    "utensils/mold#1078, ml-explore/mlx-lm#1623",
    description="norm weights lie one above what the runtime expects",
)(_shifted_norms(1))
_planted(
    "norm-gamma-zeroed-or-reset",
    ("apr",),
    "paiml/apr-model-qa-playbook GH-189",
    description="the weights of one norm were zeroed by the converter",
)(_change(_of_layer("input_layernorm.weight", 1), lambda values: values * 0))
_planted(
    "final-norm-reset",
    _ALL,
    "variant of paiml/apr-model-qa-playbook GH-189",
    description="the weights of the last norm are ones again",
)(_change(lambda _: "model.norm.weight", lambda values: values * 0 + 1))
_planted(
    "sign-flipped-row", _ALL, "1bit-MONSTER/1bit-MONSTER#1268", description="one row of a matrix is negated"
)(_change(_of_layer("mlp.down_proj.weight", 2), _negated))
