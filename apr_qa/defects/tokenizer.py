"""Tokenizers that cut text into other tokens than the model was trained with, or begin and end it elsewhere."""

from __future__ import annotations

import functools
import random
from typing import Any

from apr_qa.defects import Inexpressible, Plant, Specimen
from apr_qa.defects import _text as text
from apr_qa.defects._editing import EMBEDDING, HEAD, editing, planted

_ALL = ("safetensors", "gguf", "apr")
_FILES = ("safetensors", "gguf")
_DOCUMENTS = ("safetensors", "apr")
_PRE = "tokenizer.ggml.pre"
_NORMAL, _USER_DEFINED, _UNUSED = 1, 4, 5

_planted = functools.partial(planted, "tokenizer")


@_planted("digit-splitting-changed", _ALL, "ggml-org/llama.cpp#6920")
def _digits(specimen: Specimen) -> None:
    """Digits are cut one by one where they were cut in groups, or the other way round."""
    with editing(specimen) as image:
        held: Any = image
        if image.format == "gguf":
            present = held.keys.get(_PRE)
            if present is None:
                raise Inexpressible("needs a tokenizer with a pre-tokenizer")
            held.keys.set(_PRE, "gpt-2" if present in ("smollm", "qwen2", "starcoder") else "smollm")
            return
        document = text.document(image)
        steps = _steps(document)
        digits = [step for step in steps if step.get("type") == "Digits"]
        if digits:
            steps.remove(digits[0])
        else:
            steps.insert(0, {"type": "Digits", "individual_digits": True})
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        if image.format == "apr":
            held.metadata.pop("tokenizer.pre_type", None)


def _steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    stage = document.get("pre_tokenizer")
    if stage is None:
        return []
    return list(stage["pretokenizers"]) if stage.get("type") == "Sequence" else [stage]


@_planted("merges-truncated", _ALL, "Integral2u/SharpMind#4, paiml/aprender#3803")
def _merges_cut(specimen: Specimen) -> None:
    """The last tenth of the merges is lost."""
    with editing(specimen) as image:
        merges = text.merges(image)
        text.set_merges(image, merges[: len(merges) * 9 // 10])


@_planted("merges-rank-off-by-one", _ALL, "variant of ggml-org/llama.cpp#9692")
def _merges_swapped(specimen: Specimen) -> None:
    """Two neighbouring merges are exchanged."""
    with editing(specimen) as image:
        merges = text.merges(image)
        merges[50], merges[51] = merges[51], merges[50]
        text.set_merges(image, merges)


@_planted("merges-rank-off-by-one-shifted", _ALL, "variant of ggml-org/llama.cpp#9692")
def _merges_rotated(specimen: Specimen) -> None:
    """The first merge comes last, so that every rank is one too low."""
    with editing(specimen) as image:
        merges = text.merges(image)
        text.set_merges(image, [*merges[1:], merges[0]])


@_planted("embedding-row-shift", _ALL, "lm-sys/FastChat#153")
def _rows_shifted(specimen: Specimen) -> None:
    """Embedding and head are one row further down than the vocabulary."""
    import numpy as np

    with editing(specimen) as image:
        for name in (EMBEDDING, HEAD):
            if name == EMBEDDING or name in image.tensors:
                image.write(name, np.roll(image.read(name), 1, axis=0))


@_planted("added-tokens-missing", _ALL, "ggml-org/llama.cpp#15842, paiml/aprender#3803, lm-sys/FastChat#153")
def _added_lost(specimen: Specimen) -> None:
    """The tokens that the chat template writes are not carried over; their rows remain."""
    with editing(specimen) as image:
        markers = _markers(image)
        held: Any = image
        if image.format == "gguf":
            known, tokens = text.tokens(image), held.keys.get("tokenizer.ggml.tokens")
            types = held.keys.get("tokenizer.ggml.token_type")
            for marker in markers:
                tokens[known[marker]], types[known[marker]] = f"[PAD{known[marker]}]", _UNUSED
            held.keys.set("tokenizer.ggml.tokens", tokens)
            held.keys.set("tokenizer.ggml.token_type", types)
            return
        document = text.document(image)
        document["added_tokens"] = [e for e in document["added_tokens"] if e["content"] not in markers]
        vocab = document["model"].get("vocab")
        for marker in markers:
            if isinstance(vocab, dict):
                vocab.pop(marker, None)


def _markers(image: Any) -> list[str]:
    """Return the tokens that the chat template names; raises Inexpressible if it names none."""
    template, known = text.template(image), text.tokens(image)
    found = [token for token in known if token[:1] in "<[" and len(token) > 4 and token in template]
    if not found:
        raise Inexpressible("needs a chat template that writes special tokens")
    return found


def _typed(kind: int) -> Plant:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            held: Any = image
            markers, known = _markers(image), text.tokens(image)
            types = held.keys.get("tokenizer.ggml.token_type")
            if types is None:
                raise Inexpressible("needs token types")
            for marker in markers:
                types[known[marker]] = kind
            held.keys.set("tokenizer.ggml.token_type", types)

    return plant


for _name, _kind, _said in (
    ("special-token-type-normal", _NORMAL, "the tokens of the chat template are typed as ordinary text"),
    (
        "special-token-type-user-defined",
        _USER_DEFINED,
        "the tokens of the chat template are typed as user-defined",
    ),
):
    _planted(_name, ("gguf",), "unslothai/unsloth#5070, unslothai/unsloth#5080", description=_said)(
        _typed(_kind)
    )


def _listed(change: int) -> Plant:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            held: Any = image
            columns = {"tokens": "<unk{}>", "token_type": _USER_DEFINED, "scores": 0.0}
            for name, filler in columns.items():
                key = f"tokenizer.ggml.{name}"
                values = held.keys.get(key)
                if values is None:
                    continue
                more = [filler.format(n) if isinstance(filler, str) else filler for n in range(change)]
                held.keys.set(key, values[:change] if change < 0 else [*values, *more])

    return plant


for _name, _change, _said in (
    ("vocab-padding-mismatch", -3, "the vocabulary lists three tokens less than there are embedding rows"),
    ("vocab-padding-beyond", 3, "the vocabulary lists three tokens more than there are embedding rows"),
):
    _planted(_name, ("gguf",), "ggml-org/llama.cpp#4958, b4rtaz/distributed-llama#282", description=_said)(
        _listed(_change)
    )


@_planted("tokenizer-from-other-model", _ALL, "paiml/aprender#2441")
def _foreign_tokenizer(specimen: Specimen) -> None:
    """The vocabulary of another training run, of the same size: the same texts under other ids."""
    with editing(specimen) as image:
        held: Any = image
        generator = random.Random(0)  # noqa: S311 - the same foreign vocabulary every time
        if image.format == "gguf":
            tokens, types = (held.keys.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
            if not tokens or not types:
                raise Inexpressible("needs a tokenizer")
            free = [index for index, kind in enumerate(types) if kind == _NORMAL]
            shuffled = generator.sample(free, len(free))
            moved = list(tokens)
            for one, other in zip(free, shuffled, strict=True):
                moved[one] = tokens[other]
            held.keys.set("tokenizer.ggml.tokens", moved)
            return
        document = text.document(image)
        vocab = document["model"].get("vocab")
        if not isinstance(vocab, dict):
            raise Inexpressible("needs a vocabulary of texts and ids")
        fixed = {entry["content"] for entry in document.get("added_tokens") or []}
        names = [token for token in vocab if token not in fixed]
        ids = generator.sample([vocab[token] for token in names], len(names))
        vocab |= dict(zip(names, ids, strict=True))
