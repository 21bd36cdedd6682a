"""Tensors under wrong, foreign, missing or doubled names."""

from __future__ import annotations

import functools
import json
import re

from apr_qa.defects import Inexpressible, Specimen
from apr_qa.defects._editing import editing, layers, opened, pick, planted

_ALL = ("safetensors", "gguf", "apr")


_planted = functools.partial(planted, "tensor-names")


@_planted(
    "name-prefix-mismatch",
    ("apr", "safetensors", "gguf"),
    "paiml/apr-model-qa-playbook GH-190, paiml/aprender#200",
)
def _without_prefix(specimen: Specimen) -> None:
    """Attention and feed-forward tensors have another prefix than readers look for."""
    with editing(specimen) as image:
        parts = [n for n in image.tensors if re.match(r"model\.layers\.\d+\.(self_attn|mlp)\.", n)]
        if not parts:
            raise Inexpressible("needs tensors that are named by layer")
        # In GGUF these are the names of the source; elsewhere those of a reader without the outer module.
        cut = 0 if image.format == "gguf" else len("model.")
        image.rename({name: name[cut:] for name in parts})


@_planted("critical-tensor-missing", ("apr",), "paiml/aprender#194")
def _lost_norm(specimen: Specimen) -> None:
    """The last norm was dropped."""
    with editing(specimen) as image:
        image.remove("model.norm.weight")


@_planted("duplicate-tensor-key-st", ("safetensors",), "safetensors/safetensors#401, QuintinShaw/openasr#73")
def _same_key_twice(specimen: Specimen) -> None:
    """One name stands twice in the header."""
    shard = next(iter(opened(specimen).tensors.values())).file
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    entries = json.loads(header)
    name = next(key for key in entries if key != "__metadata__")
    doubled = header[:-1] + b"," + json.dumps({name: entries[name]}).encode()[1:]
    doubled += b" " * (-len(doubled) % 8)
    shard.write_bytes(len(doubled).to_bytes(8, "little") + doubled + data[8 + length :])


@_planted("duplicate-tensor-name-gguf", ("gguf",), "ggml-org/llama.cpp#19856")
def _same_name_twice(specimen: Specimen) -> None:
    """Two tensors have one name."""
    with editing(specimen) as image:
        key, query = (pick(image, f"self_attn.{part}_proj.weight", 0) for part in "kq")
        image.rename({key: image.tensors[query].name})


@_planted("lexicographic-layer-order", _ALL, "deepspeedai/DeepSpeed#3305, ollama/ollama#12015")
def _sorted_as_text(specimen: Specimen) -> None:
    """Layers were numbered in the order 0, 1, 10, 11, 2."""
    with editing(specimen) as image:
        count = layers(image)
        if count < 11:
            raise Inexpressible("needs eleven layers")
        order = sorted(range(count), key=str)
        names: dict[str, str] = {}
        for place, layer in enumerate(order):
            prefix = f"model.layers.{layer}."
            for name in [n for n in image.tensors if n.startswith(prefix)]:
                other = f"model.layers.{place}.{name[len(prefix) :]}"
                if other not in image.tensors:
                    raise Inexpressible("needs layers that are all alike")
                names[name] = image.tensors[other].name
        image.rename(names)


@_planted("k-v-names-swapped", _ALL, "name class of paiml/aprender#200")
def _keys_for_values(specimen: Specimen) -> None:
    """Keys and values of one layer are exchanged."""
    with editing(specimen) as image:
        key = pick(image, "self_attn.k_proj.weight", 1)
        names: dict[str, str] = {}
        for one in (key, key.replace("weight", "bias")):
            other = one.replace("k_proj", "v_proj")
            if one in image.tensors and other in image.tensors:
                names |= {one: image.tensors[other].name, other: image.tensors[one].name}
        image.rename(names)


@_planted("gguf-style-names-in-safetensors", ("safetensors",), "paiml/aprender#200, paiml/realizar#42")
def _names_of_gguf(specimen: Specimen) -> None:
    """Tensors kept their GGUF names."""
    from apr_qa.conversion.architectures import to_gguf_name

    with editing(specimen) as image:
        names = {name: to_gguf_name(name) for name in image.tensors}
        known = {name: stored for name, stored in names.items() if stored}
        if not known:
            raise Inexpressible("needs tensors that have a name in GGUF")
        image.rename(known)
