"""Healthy things that look broken: a gate that alarms on one of them is wrong.

Controls of formats that are planted into SafeTensors and change values are looked at as models of their own:
there is nothing that they would have to equal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apr_qa.defects import Inexpressible, Plant, Specimen
from apr_qa.defects._editing import EMBEDDING, HEAD, Image, editing, layers, opened, planted, rows_of
from apr_qa.defects._editing_gguf import STRING, GgufImage
from apr_qa.defects._editing_safetensors import INDEX, SafetensorsImage

if TYPE_CHECKING:
    pass

_SAFETENSORS, _GGUF, _APR = ("safetensors",), ("gguf",), ("apr",)
_FLOATS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_control = functools.partial(planted, "control", expected="pass")


@_control("third-gguf-version", _GGUF, "paiml/aprender#178")
def _third_version(specimen: Specimen) -> None:
    """A GGUF file of version 3."""
    with editing(specimen) as image:
        if isinstance(image, GgufImage):
            image.version, image.restructured = 3, True


@_control("tied-head-placeholder", _APR, "paiml/aprender#3903, paiml/aprender#2309")
def _placeholder(specimen: Specimen) -> None:
    """An output head of no bytes, which stands for the embedding that it is tied to."""
    import numpy as np

    with editing(specimen) as image:
        _needs_tied(image)
        like = image.tensors[EMBEDDING]
        image.add(HEAD, HEAD, like.dtype, like.shape, np.empty(0, np.uint8))


@_control(
    "tied-head-stored-too", ("safetensors", "gguf", "apr"), "google-deepmind/gemma#8, vllm-project/vllm#6758"
)
def _copied_head(specimen: Specimen) -> None:
    """A tied head that is stored all the same, bit for bit the embedding."""
    with editing(specimen) as image:
        _needs_tied(image)
        like = image.tensors[EMBEDDING]
        image.add(HEAD, image.stored_name(HEAD), like.dtype, like.shape, like.bytes())


def _needs_tied(image: Image) -> None:
    if HEAD in image.tensors or not image.config.get("tie_word_embeddings") or EMBEDDING not in image.tensors:
        raise Inexpressible("needs a tied head that is not stored")


@_control("tensors-in-another-order", ("safetensors", "gguf"), "equivalence")
def _reordered(specimen: Specimen) -> None:
    """Tensors stored in reverse order."""
    with editing(specimen) as image:
        image.reorder(list(reversed(image.tensors)))


@_control("keys-in-another-order", _SAFETENSORS, "equivalence")
def _reordered_keys(specimen: Specimen) -> None:
    """JSON files whose keys stand in reverse order."""
    with editing(specimen) as image:
        documents = _documents(image)
        documents |= {name: dict(reversed(document.items())) for name, document in documents.items()}
        for name, document in documents.items():
            whole = _documents(image)[name]
            whole.clear()
            whole |= document


def _documents(image: Image) -> dict[str, Any]:
    if not isinstance(image, SafetensorsImage):
        raise Inexpressible("needs a folder")
    return {
        name: value for name, value in image.documents.items() if isinstance(value, dict) and name != INDEX
    }


def _sharded(count: int, promised: int) -> Plant:
    def plant(specimen: Specimen) -> None:
        image = opened(specimen)
        if not isinstance(image, SafetensorsImage) or len(image.shards) != 1 or not specimen.path.is_dir():
            raise Inexpressible("needs a folder with one weight file")
        names = [f"model-{n + 1:05d}-of-{promised:05d}.safetensors" for n in range(count)]
        image.split([image.folder / name for name in names])

    return plant


_control(
    "another-number-of-shards",
    _SAFETENSORS,
    "equivalence",
    description="the same tensors in three files with an index",
)(_sharded(3, 3))
_control(
    "shards-named-by-an-old-count",
    _SAFETENSORS,
    "Neph0s/CoSER#3",
    description="file names that promise more shards than there are, while every tensor is found",
)(_sharded(2, 30))


def _header_metadata(value: dict[str, str] | None) -> Plant:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            if isinstance(image, SafetensorsImage):
                image.header_metadata = dict.fromkeys(image.shards, value)
                image.restructured = True

    return plant


for _name, _value in (("missing", None), ("empty", {})):
    _control(
        f"header-metadata-{_name}",
        _SAFETENSORS,
        "huggingface/accelerate#1151",
        description=f"__metadata__ is {_name}",
    )(_header_metadata(_value))


@_control("merges-in-the-other-form", _SAFETENSORS, "ggml-org/llama.cpp#9692")
def _merges_rewritten(specimen: Specimen) -> None:
    """Merges as texts where they were pairs, or the other way round."""
    with editing(specimen) as image:
        model = _documents(image).get("tokenizer.json", {}).get("model", {})
        merges = model.get("merges")
        if not merges:
            raise Inexpressible("needs a tokenizer with merges")
        if any(" " in part for pair in merges if isinstance(pair, list) for part in pair):
            raise Inexpressible("needs merges without spaces")
        model["merges"] = [" ".join(m) if isinstance(m, list) else m.split(" ", 1) for m in merges]


@_control("large-arrays", _GGUF, "ggml-org/llama.cpp#19856")
def _large_arrays(specimen: Specimen) -> None:
    """Arrays of 200,000 texts, as large vocabularies have them."""
    with editing(specimen) as image:
        if isinstance(image, GgufImage):
            image.keys.set("example.texts", [f"text {n}" for n in range(200_000)], item=STRING)


def _alone(name: str, source: str) -> Callable[[Plant], Plant]:
    return planted("control", name, _SAFETENSORS, source, expected="pass", alone=True)


_READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
}


@_alone("norm-weights-far-from-one", "paiml/aprender#194, OpenNMT/CTranslate2#1956")
def _wide_norms(specimen: Specimen) -> None:
    """Norm weights around 4 and a few around 64, made up for by the matrices that follow."""
    import numpy as np

    with editing(specimen) as image:
        if str(image.config.get("model_type")) not in ("llama", "mistral", "qwen2", "qwen3", "phi3"):
            raise Inexpressible("needs norms that are followed by projections only")
        for layer in range(layers(image)):
            for norm, readers in _READERS.items():
                prefix = f"model.layers.{layer}."
                values = rows_of(image, f"{prefix}{norm}.weight")
                # Powers of two, so that nothing is rounded.
                factors = np.full(values.shape, 4, np.float32)
                factors[:: max(1, len(factors) // 2)] = 64
                image.write(f"{prefix}{norm}.weight", values * factors)
                for name in (f"{prefix}{reader}.weight" for reader in readers):
                    if name in image.tensors:
                        image.write(name, image.read(name) / factors)


@_alone("weights-with-odd-statistics", "paiml/aprender#175, paiml/aprender#3910")
def _odd_statistics(specimen: Specimen) -> None:
    """Matrices whose mean is 0.15 and others with a deviation of 0.4."""
    with editing(specimen) as image:
        names = [n for n in image.tensors if n.endswith(("o_proj.weight", "down_proj.weight"))]
        for number, name in enumerate(names):
            values = image.read(name)
            image.write(
                name, values + 0.15 if number % 2 else values * (0.4 / max(float(values.std()), 1e-6))
            )


@_alone("large-weights", "paiml/aprender#2039")
def _large_weights(specimen: Specimen) -> None:
    """One channel of each layer with weights of several hundred, made up for by the matrix that follows."""
    import numpy as np

    with editing(specimen) as image:
        names = [n for n in image.tensors if n.endswith("mlp.up_proj.weight")]
        if not names:
            raise Inexpressible("needs gated feed-forward layers")
        for name in names:
            values, down = image.read(name), rows_of(image, name.replace("up_proj", "down_proj"))
            factor = 2.0 ** np.floor(np.log2(1000 / max(float(abs(values[3]).max()), 1e-3)))
            values[3] *= factor
            down[:, 3] /= factor
            image.write(name, values)
            image.write(name.replace("up_proj", "down_proj"), down)


@_alone("reserved-rows-of-zeros", "meta-llama/llama3#77, b4rtaz/distributed-llama#282")
def _reserved_rows(specimen: Specimen) -> None:
    """More embedding rows than tokens, the spare ones and those of reserved tokens all zero."""
    import numpy as np

    with editing(specimen) as image:
        rows = rows_of(image, EMBEDDING).shape[0]
        tokenizer = _documents(image).get("tokenizer.json")
        if tokenizer is None:
            raise Inexpressible("needs a tokenizer.json")
        for name in (EMBEDDING, HEAD):
            if name in image.tensors:
                values = image.read(name)
                image.write(name, np.concatenate([values, np.zeros((32, values.shape[1]), np.float32)]))
        image.set_config("vocab_size", rows + 32)
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        tokenizer.setdefault("added_tokens", []).extend(
            {"id": rows + n, "content": f"<|reserved_special_token_{n}|>", **flags} for n in range(4)
        )


@_alone("biases-of-zeros", "paiml/aprender#3933, paiml/aprender#2004")
def _zero_biases(specimen: Specimen) -> None:
    """All biases zero, and all norm weights one, as at initialisation."""
    with editing(specimen) as image:
        biases = [n for n in image.tensors if n.endswith(".bias")]
        norms = [n for n in image.tensors if n.endswith("layernorm.weight")]
        for name in biases:
            image.write(name, image.read(name) * 0)
        gemma = str(image.config.get("model_type")).startswith("gemma")
        for name in norms:
            image.write(name, image.read(name) * 0 + (0 if gemma else 1))


@planted(
    "control",
    "heads-permuted-together",
    _SAFETENSORS,
    "measured: KL 0 with all tensors changed",
    expected="warn",
)
def _joint_permutation(specimen: Specimen) -> None:
    """Feed-forward channels permuted consistently: the same function, other tensors; provenance must say so."""
    with editing(specimen) as image:
        gates = [n for n in image.tensors if n.endswith("mlp.gate_proj.weight")]
        if not gates:
            raise Inexpressible("needs gated feed-forward layers")
        for name in gates:
            up, down = name.replace("gate_proj", "up_proj"), name.replace("gate_proj", "down_proj")
            image.write(name, image.read(name)[::-1])
            image.write(up, rows_of(image, up)[::-1])
            image.write(down, rows_of(image, down)[:, ::-1])


@planted("control", "bytes-after-the-last-tensor", _SAFETENSORS, "Comfy-Org/ComfyUI#15602", expected="warn")
def _trailing_bytes(specimen: Specimen) -> None:
    """Sixteen bytes follow the last tensor: harmless in use, but no longer the file that its header describes."""
    with next(iter(opened(specimen).tensors.values())).file.open("ab") as handle:
        handle.write(bytes(16))
