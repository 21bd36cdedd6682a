"""Right values in the wrong places: permuted, transposed, split, exchanged."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from apr_qa.defects import Inexpressible, Plant, Specimen
from apr_qa.defects._editing import Image, editing, layers, pick, planted, rows_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ALL = ("safetensors", "gguf", "apr")
_FILES = ("safetensors", "gguf")
_BLOCK_SCALES = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1")


_planted = functools.partial(planted, "tensor-layout")


def _heads(image: Image) -> tuple[int, int, int]:
    """Return heads, key-value heads and the width of one."""
    config = image.config
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int) or heads < 1:
        raise Inexpressible("needs a configuration with num_attention_heads")
    shared = config.get("num_key_value_heads") or heads
    return heads, int(shared), int(config.get("head_dim") or config["hidden_size"] // heads)


def _needs_pair_order(image: Image) -> None:
    from apr_qa.conversion.architectures import interleaved_heads

    if not interleaved_heads("model.layers.0.self_attn.q_proj.weight", image.config):
        raise Inexpressible("needs an architecture whose query and key rows are reordered in GGUF")


@_planted("rope-permutation-missing", ("gguf",), "ggml-org/llama.cpp#22611, karpathy/llama2.c#286")
def _rotary_order_missing(specimen: Specimen) -> None:
    """Query and key rows were left in the order of the source."""
    from apr_qa.conversion.architectures import separate_rows

    with editing(specimen) as image:
        _needs_pair_order(image)
        heads, shared, _ = _heads(image)
        for name in list(image.tensors):
            match = re.search(r"self_attn\.([qk])_proj\.", name)
            if match:
                # Saving interleaves, which leaves the order of the source.
                image.write(name, separate_rows(image.read(name), heads if match[1] == "q" else shared))


@_planted("rope-permute-gqa-head-count", ("gguf",), "ggml-org/llama.cpp#3364, ggml-org/llama.cpp#2376")
def _rotary_order_by_wrong_count(specimen: Specimen) -> None:
    """Key rows were reordered by the wrong number of heads."""
    from apr_qa.conversion.architectures import interleave_rows, separate_rows

    with editing(specimen) as image:
        _needs_pair_order(image)
        heads, shared, width = _heads(image)
        groups = heads // shared
        if groups == shared or shared * width % (2 * groups):
            raise Inexpressible("needs heads that share keys in groups of another size than their number")
        for layer in range(layers(image)):
            name = f"model.layers.{layer}.self_attn.k_proj.weight"
            image.write(name, separate_rows(interleave_rows(rows_of(image, name), groups), shared))


@_planted("rope-permute-single-layer-k", ("gguf",), "variant of ggml-org/llama.cpp#22611")
def _rotary_order_of_one_key(specimen: Specimen) -> None:
    """The key rows of one layer are in another rotary order."""
    from apr_qa.conversion.architectures import interleave_rows

    with editing(specimen) as image:
        _, shared, _ = _heads(image)
        name = pick(image, "self_attn.k_proj.weight", 1)
        for one in (name, name.replace("weight", "bias")):
            if one in image.tensors:
                image.write(one, interleave_rows(image.read(one), shared))


@_planted("transposed-square-matrix", _ALL, "AutoGPTQ/AutoGPTQ#139, paiml/aprender#155")
def _transposed(specimen: Specimen) -> None:
    """A square projection is transposed."""
    with editing(specimen) as image:
        square = [
            name
            for name, stored in image.tensors.items()
            if ".self_attn." in name and len(stored.shape) == 2 and stored.shape[0] == stored.shape[1]
        ]
        if not square:
            raise Inexpressible("needs a square projection")
        image.write(square[0], image.read(square[0]).T)


@_planted("reshape-instead-of-transpose", _ALL, "1bit-MONSTER/1bit-MONSTER#572")
def _reshaped(specimen: Specimen) -> None:
    """A transposed projection was stored under its old shape."""
    with editing(specimen) as image:
        name = pick(image, "mlp.down_proj.weight", 0)
        values = rows_of(image, name)
        if values.shape[0] == values.shape[1]:
            raise Inexpressible("needs a projection that is not square")
        image.write(name, values.T.reshape(values.shape))


@_planted("gguf-dims-reversed", ("gguf", "apr"), "paiml/aprender#155, ggml-org/llama.cpp#12634")
def _reversed_dimensions(specimen: Specimen) -> None:
    """The two dimensions of a projection are exchanged over the same bytes."""
    from apr_qa.containers.apr_blocks import BLOCKS

    with editing(specimen) as image:
        name = pick(image, "mlp.down_proj.weight", 0)
        stored = image.tensors[name]
        block = BLOCKS.get(stored.dtype, (1, 0))[0]
        if stored.shape[0] == stored.shape[1] or stored.shape[0] % block:
            raise Inexpressible("needs a projection that is not square and whose rows are whole blocks")
        image.relabel(name, shape=stored.shape[::-1])


@_planted("fused-qkv-split-wrong", _FILES, "lablup/mlxcel#928, EleutherAI/gpt-neox#1315")
def _split_flat(specimen: Specimen) -> None:
    """Queries, keys and values that lay side by side for each group were split as three flat parts."""
    import numpy as np

    with editing(specimen) as image:
        heads, shared, width = _heads(image)
        name = f"model.layers.{min(1, layers(image) - 1)}.self_attn."
        fused = name + "qkv_proj.weight"
        whole = rows_of(image, fused) if fused in image.tensors else None
        parts = [name + f"{part}_proj.weight" for part in "qkv"]
        if whole is None:
            whole = np.concatenate([rows_of(image, part) for part in parts])
        query, key, value = np.split(whole, [heads * width, (heads + shared) * width])
        grouped = [
            part.reshape(shared, -1, whole.shape[1]) for part in (query, key, value)
        ]  # Heads as they lie side by side in models that keep them by group.
        mixed = np.concatenate(grouped, axis=1).reshape(whole.shape)
        if fused in image.tensors:
            image.write(fused, mixed)
            return
        for part, rows in zip(parts, np.split(mixed, [len(query), len(query) + len(key)]), strict=True):
            image.write(part, rows)


def _gate_and_up(
    rearrange: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
) -> Plant:
    """Return a plant that rearranges the rows of gate and up, one above the other."""

    def plant(specimen: Specimen) -> None:
        import numpy as np

        with editing(specimen) as image:
            layer = f"model.layers.{min(1, layers(image) - 1)}.mlp."
            fused = layer + "gate_up_proj.weight"
            if fused in image.tensors:
                image.write(fused, rearrange(image.read(fused)))
                return
            names = [n for n in image.tensors if n.startswith(layer) and n.endswith("gate_proj.weight")]
            if not names:
                raise Inexpressible("needs a gated feed-forward layer")
            for gate in names:
                up = gate.replace("gate_proj", "up_proj")
                rows = np.concatenate([image.read(gate), rows_of(image, up)])
                upper, lower = np.split(rearrange(rows), 2)
                image.write(gate, upper)
                image.write(up, lower)

    return plant


def _halves_exchanged(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.concatenate(np.split(rows, 2)[::-1])


def _interleaved(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return rows.reshape(2, -1, rows.shape[1]).swapaxes(0, 1).reshape(rows.shape)


def _swap_heads(parts: str, needs: Callable[[int, int], bool], reason: str) -> Plant:
    """Return a plant that exchanges the first two heads of some projections in layer 1."""

    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            heads, shared, width = _heads(image)
            if not needs(heads, shared):
                raise Inexpressible(reason)
            for part in parts:
                weight = pick(image, f"self_attn.{part}_proj.weight", 1)
                for name in (weight, weight.replace("weight", "bias")):
                    if name in image.tensors:
                        values = image.read(name)
                        values[: 2 * width] = [*values[width : 2 * width], *values[:width]]
                        image.write(name, values)

    return plant


def _experts(image: Image, part: str) -> list[str]:
    layer = min(1, layers(image) - 1)
    names = [
        n
        for n in image.tensors
        if re.fullmatch(rf"model\.layers\.{layer}\.mlp\.experts\.\d+\.{part}\.weight", n)
    ]
    return sorted(names, key=lambda name: int(name.split(".")[5]))


def _stacked(image: Image) -> list[str]:
    """Return the stacked expert tensors of one layer, as GGUF and newer folders hold them."""
    pattern = r"(?:blk|model\.layers)\.\d+\..*(?:_exps|experts\.\w+?)(?:\.weight)?"
    return [n for n, s in image.tensors.items() if len(s.shape) == 3 and re.fullmatch(pattern, n)][:3]


@_planted("moe-experts-shuffled", _FILES, "ggml-org/llama.cpp#16464, vllm-project/vllm#36997")
def _experts_shuffled(specimen: Specimen) -> None:
    """Experts stand in another order than the rows of their router."""
    with editing(specimen) as image:
        stacked = _stacked(image)
        for name in stacked:
            values = image.read(name)
            image.write(name, values[[1, 0, *range(2, len(values))]])
        if stacked:
            return
        for part in ("gate_proj", "up_proj", "down_proj"):
            names = _experts(image, part)
            if len(names) < 2:
                raise Inexpressible("needs a mixture of experts")
            first, second = image.read(names[0]), image.read(names[1])
            image.write(names[0], second)
            image.write(names[1], first)


@_planted("moe-expert-axis-transposed", _FILES, "tinygrad/tinygrad#18103, ggml-org/llama.cpp#24502")
def _experts_transposed(specimen: Specimen) -> None:
    """Square expert matrices are transposed."""
    with editing(specimen) as image:
        stacked = [n for n in _stacked(image) if image.tensors[n].shape[1] == image.tensors[n].shape[2]]
        single = [
            n for n in _experts(image, "up_proj") if image.tensors[n].shape[0] == image.tensors[n].shape[1]
        ]
        if not stacked and not single:
            raise Inexpressible("needs a mixture of experts with square matrices")
        for name in stacked[:1] or single:
            image.write(name, image.read(name).swapaxes(-1, -2))


@_planted("row-stride-padding-misaligned", ("gguf",), "ROCm/aiter#2900")
def _scales_by_padded_stride(specimen: Specimen) -> None:
    """Scales of blocks are read with the stride of padded rows."""
    import numpy as np

    with editing(specimen) as image:
        for name, stored in image.tensors.items():
            if stored.dtype not in _BLOCK_SCALES or len(stored.shape) != 2 or stored.shape[1] % 256 == 0:
                continue
            rows, blocks = stored.shape[0], stored.shape[1] // 32
            data = image.raw(name).reshape(rows, blocks, -1)
            scales = data[:, :, :2].reshape(-1, 2).copy()
            padded = -(-blocks // 8) * 8
            read = (np.arange(rows)[:, None] * padded + np.arange(blocks)) % len(scales)
            data[:, :, :2] = scales[read]
            image.replace(name, data.reshape(-1))
            return
        raise Inexpressible("needs quantised rows that are no multiple of 256 values")


_planted(
    "fused-gate-up-swapped",
    _FILES,
    "decoderesearch/interp-engine#14, flashinfer-ai/flashinfer#4130",
    description="gate and up projections of a layer are exchanged",
)(_gate_and_up(_halves_exchanged))
_planted(
    "gate-up-interleave-vs-halves",
    ("safetensors",),
    "vllm-project/vllm#27024, Dao-AILab/sonic-moe#45",
    description="interleaved rows of gate and up were read as two halves",
)(_gate_and_up(_interleaved))
_planted(
    "gqa-head-pairing",
    ("gguf",),
    "sgl-project/sglang#38363",
    description="queries meet the keys and values of another group",
)(_swap_heads("kv", lambda _, shared: shared > 1, "needs two key-value heads"))
_planted(
    "one-head-permuted",
    _ALL,
    "variant of sgl-project/sglang#38363",
    description="two query heads of one layer are exchanged",
)(_swap_heads("q", lambda heads, _: heads > 1, "needs two heads"))
