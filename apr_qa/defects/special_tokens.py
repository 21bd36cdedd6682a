"""Special tokens that stand for something else: where texts begin, where generation ends, what pads."""

from __future__ import annotations

import functools
from typing import Any

from apr_qa.defects import Inexpressible, Specimen
from apr_qa.defects import _text as text
from apr_qa.defects._editing import editing, planted

_ALL = ("safetensors", "gguf", "apr")
_DOCUMENTS = ("safetensors", "apr")

_planted = functools.partial(planted, "tokenizer")


@_planted("eos-id-wrong", _ALL, "oobabooga/textgen#5885, vllm-project/vllm#4180, PaddlePaddle/PaddleNLP#8351")
def _end_elsewhere(specimen: Specimen) -> None:
    """The end of generation is the token after the right one."""
    with editing(specimen) as image:
        end, known = text.special(image, "eos"), text.tokens(image)
        if end not in known:
            raise Inexpressible("needs a tokenizer that names an end of generation")
        text.state_id(image, "eos", (known[end] + 1) % len(known))


@_planted("eos-id-is-padding", _ALL, "vllm-project/vllm#4180")
def _end_is_padding(specimen: Specimen) -> None:
    """The end of generation is the padding token."""
    with editing(specimen) as image:
        end, padding, known = text.special(image, "eos"), text.special(image, "pad"), text.tokens(image)
        if padding not in known or end == padding:
            raise Inexpressible("needs a padding token that is not the end of generation")
        text.state_id(image, "eos", known[padding])


@_planted(
    "bos-missing",
    _ALL,
    "EleutherAI/lm-evaluation-harness#1465, ggml-org/llama.cpp#21500, huggingface/transformers#29250",
)
def _no_beginning(specimen: Specimen) -> None:
    """The first token is not put before texts any more."""
    with editing(specimen) as image:
        held: Any = image
        if image.format == "gguf":
            if held.keys.get("tokenizer.ggml.add_bos_token") is not True:
                raise Inexpressible("needs a tokenizer that begins texts with a token")
            held.keys.set("tokenizer.ggml.add_bos_token", False)
            return
        processor = text.document(image).get("post_processor") or {}
        step = next(
            (s for s in processor.get("processors", [processor]) if s.get("type") == "TemplateProcessing"),
            None,
        )
        if step is None or "SpecialToken" not in step["single"][0]:
            raise Inexpressible("needs a tokenizer that begins texts with a token")
        step["single"] = [part for part in step["single"] if "Sequence" in part]
        text.settings(image)["add_bos_token"] = False


@_planted("bos-missing-in-settings", _DOCUMENTS, "EleutherAI/lm-evaluation-harness#2049")
def _no_beginning_said(specimen: Specimen) -> None:
    """Only the settings say that no first token is added."""
    with editing(specimen) as image:
        settings = text.settings(image)
        if settings.get("add_bos_token") is not True:
            raise Inexpressible("needs settings that ask for a first token")
        settings["add_bos_token"] = False


@_planted("bos-id-bogus", ("gguf",), "ggml-org/llama.cpp#7898, paiml/aprender#2535")
def _foreign_beginning(specimen: Specimen) -> None:
    """A first token is to be added, but none is named, so that engines take their default."""
    with editing(specimen) as image:
        held: Any = image
        if "tokenizer.ggml.bos_token_id" in held.keys:
            held.keys.drop("tokenizer.ggml.bos_token_id")
        held.keys.set("tokenizer.ggml.add_bos_token", True, kind=7)


@_planted(
    "double-bos",
    _ALL,
    "ggml-org/llama.cpp#7332, abetlen/llama-cpp-python#1501, deepseek-ai/DeepSeek-Coder-V2#50",
)
def _two_beginnings(specimen: Specimen) -> None:
    """The chat template writes the first token, and the tokenizer adds it once more."""
    with editing(specimen) as image:
        bos = text.special(image, "bos")
        if bos is None:
            raise Inexpressible("needs a tokenizer that names a first token")
        template = text.template(image)
        starts = template.lstrip().startswith(("{{ bos_token", "{{bos_token", "{{- bos_token"))
        held: Any = image
        if image.format == "gguf":
            adds = held.keys.get("tokenizer.ggml.add_bos_token") is True
            held.keys.set("tokenizer.ggml.add_bos_token", True, kind=7)
        else:
            adds = _add_beginning(image, bos)
        if adds or not starts:
            # Where both are usual already, engines take one away; then the template has it twice.
            text.set_template(image, "{{ bos_token }}" + template)


def _add_beginning(image: Any, bos: str) -> bool:
    document, settings = text.document(image), text.settings(image)
    processor = document.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    if any(s.get("type") == "TemplateProcessing" and "SpecialToken" in s["single"][0] for s in steps):
        return True
    settings["add_bos_token"] = True
    index = text.tokens(image)[bos]
    single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
    }
    return False


@_planted("pad-equals-eos", _ALL, "unsloth.ai/blog/phi4, huggingface/trl#3091", expected="warn")
def _padding_ends(specimen: Specimen) -> None:
    """Padding is the end of generation, which training then masks."""
    with editing(specimen) as image:
        end, padding, known = text.special(image, "eos"), text.special(image, "pad"), text.tokens(image)
        if end not in known or padding in (None, end):
            raise Inexpressible("needs a padding token that is not the end of generation")
        text.state_id(image, "pad", known[end])
        if image.format != "gguf":
            text.settings(image)["pad_token"] = end


@_planted("bos-eos-pad-same-string", _DOCUMENTS, "unsloth.ai/blog/phi4")
def _one_for_all(specimen: Specimen) -> None:
    """One token begins, ends and pads, while the chat template ends a turn with another."""
    with editing(specimen) as image:
        end, known = text.special(image, "eos"), text.tokens(image)
        template = text.template(image)
        others = (text.special(image, role) for role in ("pad", "bos", "unk"))
        other = next((token for token in others if token in known and token != end), None)
        if other is None or end is None or end not in template:
            raise Inexpressible(
                "needs a chat template that ends turns with the end of generation, and a further token"
            )
        text.settings(image).update(bos_token=other, eos_token=other, pad_token=other)
        for role in ("bos", "eos", "pad"):
            text.state_id(image, role, known[other])


@_planted("eos-string-contradicts-template", _DOCUMENTS, "unsloth.ai/blog/phi4")
def _end_renamed(specimen: Specimen) -> None:
    """The settings name another end of generation than configuration and chat template."""
    with editing(specimen) as image:
        end, known = text.special(image, "eos"), text.tokens(image)
        others = (text.special(image, role) for role in ("pad", "bos", "unk"))
        other = next((token for token in others if token in known and token != end), None)
        if other is None:
            raise Inexpressible("needs two special tokens")
        text.settings(image)["eos_token"] = other


# ---- healthy

_control = functools.partial(planted, "control", expected="pass")


@_control(
    "generation-config-missing", ("safetensors",), "facebook/opt", description="no generation_config.json"
)
def _no_generation_config(specimen: Specimen) -> None:
    with editing(specimen) as image:
        held: Any = image
        if held.documents.pop("generation_config.json", None) is None:
            raise Inexpressible("needs a generation_config.json")


@_control("further-eos-ids", ("safetensors",), "meta-llama/llama3", alone=True)
def _several_ends(specimen: Specimen) -> None:
    """Generation ends at several tokens, one of them the end of a turn."""
    with editing(specimen) as image:
        held: Any = image
        end, known = text.special(image, "eos"), text.tokens(image)
        others = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eom_id|>", "</s>")
        other = next((token for token in others if token in known and token != end), None)
        generated = held.documents.get("generation_config.json")
        if end not in known or other is None or not generated:
            raise Inexpressible("needs two tokens that end something, and generation settings")
        generated["eos_token_id"] = [known[end], known[other]]


@_control("padding-is-unknown", ("safetensors",), "mistralai", alone=True)
def _padding_is_unknown(specimen: Specimen) -> None:
    """Padding is the unknown token."""
    with editing(specimen) as image:
        unknown = text.special(image, "unk")
        if unknown is None or unknown == text.special(image, "eos"):
            raise Inexpressible("needs an unknown token")
        text.settings(image)["pad_token"] = unknown
        text.state_id(image, "pad", text.tokens(image)[unknown])


@_control("normaliser-written-as-sequence", ("safetensors",), "huggingface/tokenizers")
def _nested_normaliser(specimen: Specimen) -> None:
    """The normaliser as a sequence of one."""
    with editing(specimen) as image:
        document = text.document(image)
        if not document.get("normalizer") or document["normalizer"].get("type") == "Sequence":
            raise Inexpressible("needs a normaliser")
        document["normalizer"] = {"type": "Sequence", "normalizers": [document["normalizer"]]}
