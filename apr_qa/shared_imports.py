"""What the processes of a run import, in common: imported once by a zygote, and forked from there.

Only names are held here. What a process needs besides, it imports itself; what is not installed is left out.
"""

from __future__ import annotations

from apr_qa.vocabulary import Target

LIGHT = (
    "apr_qa.worker",
    "apr_qa.guard",
    "apr_qa.formats.apr",
    "apr_qa.formats.gguf",
    "apr_qa.formats.safetensors",
    "apr_qa.backends.inspect",
    "apr_qa.backends.llama_cpp",
    "apr_qa.backends.openai_http",
    "apr_qa.conversion.claim",
    "apr_qa.comparison.session",
    "apr_qa.logits.session",
    "apr_qa.trips.session",
    "apr_qa.property_search",
    "apr_qa.tracing.session_checks",
    "numpy",
    "jinja2.sandbox",
    "yaml",
    "tokenizers",
    "gguf",
    "hypothesis",
    "llama_cpp",
)
"""Of workers that hold no torch model."""
TORCH = (
    *LIGHT,
    "apr_qa.backends.transformers_torch",
    "apr_qa.serving.server",
    "starlette.applications",
    "uvicorn",
    "torch",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.masking_utils",
    "transformers.modeling_layers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_tokenizers",
)
_TORCH_ENGINES = ("transformers_torch", "logits")


def needed(target: Target) -> tuple[str, ...] | None:
    """Return the modules that a process for ``target`` needs; None where it must not be forked.

    A GPU is opened by whoever first asks for it, and cannot be used behind a fork.
    """
    if target.backend == "gpu":
        return None
    return TORCH if target.engine in _TORCH_ENGINES else LIGHT
