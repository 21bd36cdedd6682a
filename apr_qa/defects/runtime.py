"""Engines that feed the model something else than it was asked, or compute with too few digits.

Where a file makes healthy engines fail, the file is spoilt; otherwise the engine plays the fault
(`apr_qa.inference.faults`) and the file stays as it is.
"""

from __future__ import annotations

from apr_qa.defects import Defect, Inexpressible, Specimen, enter
from apr_qa.defects import _text as text
from apr_qa.defects._editing import editing, opened, planted

_ALL = ("safetensors", "gguf", "apr")
_TORCH = ("safetensors", "apr")
_LARGEST_WEIGHT = 30000.0
"""As large as float16 holds with room to spare, so that what such weights compute exceeds it."""


def _whole(specimen: Specimen) -> None:
    opened(specimen)


def _conversing(specimen: Specimen) -> None:
    text.template(opened(specimen))


def _rotating(specimen: Specimen) -> None:
    image = opened(specimen)
    length = image.config.get("max_position_embeddings")
    if not isinstance(length, int) or length <= 256:
        raise Inexpressible("needs a context beyond the whole numbers that bfloat16 holds")


for _name, _formats, _fault, _plant, _layer, _source, _said in (
    (
        "template-double-wrap",
        _ALL,
        "double-wrap",
        _conversing,
        "runtime",
        "paiml/aprender#2350",
        "a prompt that was rendered already is rendered once more",
    ),
    (
        "quantised-embedding-read-raw",
        _ALL,
        "raw-embedding",
        _whole,
        "runtime",
        "vllm-project/vllm#30424, sgl-project/sglang#38363",
        "the engine takes the bytes of the embedding for other numbers than they are",
    ),
    (
        "fp16-attention-overflow",
        _TORCH,
        "half-attention",
        _whole,
        "runtime",
        "ggml-org/llama.cpp#8412, ggml-org/llama.cpp#7805, SciSharp/LLamaSharp#786",
        "queries are multiplied by keys in float16, which does not hold the products",
    ),
    (
        "rope-in-bf16",
        _TORCH,
        "rope-bf16",
        _rotating,
        "runtime",
        "huggingface/transformers#29285, Lightning-AI/litgpt#1031",
        "rotary angles are computed in bfloat16",
    ),
    (
        "user-content-special-token-injection",
        _ALL,
        "parse-control-tokens",
        _conversing,
        "security",
        "paiml/apr-model-qa-playbook PromptInjection",
        "control tokens that a user writes are taken for control tokens",
    ),
):
    enter(Defect(_name, _layer, _formats, "reject", _said, _plant, _source, runtime=_fault))


@planted("runtime", "fp16-key-cache-overflow", ("gguf",), "ggml-org/llama.cpp#8412, ggml-org/llama.cpp#7805")
def _large_keys(specimen: Specimen) -> None:
    """Keys are as large as float16 can make them and queries as small, so that products of halves overflow."""
    with editing(specimen) as image:
        if any(".k_norm." in name for name in image.tensors):
            raise Inexpressible("needs a model that does not norm its keys")
        keys = {name: image.read(name) for name in image.tensors if ".self_attn.k_proj." in name}
        queries = [name for name in image.tensors if ".self_attn.q_proj." in name]
        if not keys or not queries:
            raise Inexpressible("needs projections of queries and keys")
        gain = _LARGEST_WEIGHT / max(float(abs(values).max()) for values in keys.values())
        for name, values in keys.items():
            image.write(name, values * gain)
        for name in queries:
            image.write(name, image.read(name) / gain)
