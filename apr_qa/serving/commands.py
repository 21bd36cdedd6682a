"""How a server process is started for each engine: module and arguments, to be run under guard."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from apr_qa import apr_binary
from apr_qa.vocabulary import Artifact, Target

CONTEXT_TOKENS = 2048
"""Enough for every scenario; a server over the whole trained context would reserve memory for nothing."""


PACKAGES = {
    "transformers_torch": ("starlette", "uvicorn"),
    "llama_cpp": ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings"),
}
"""What the server of an engine needs besides the engine."""


def missing(target: Target) -> str:
    """Say which package the server of a target needs and this machine lacks, or nothing."""
    lacking = [name for name in PACKAGES.get(target.engine, ()) if importlib.util.find_spec(name) is None]
    return f"the server of {target.engine} needs {', '.join(lacking)}" if lacking else ""


def command(target: Target, artifact: Artifact, port: int, threads: int) -> list[str]:
    """Return the module and the arguments that serve ``artifact`` on a loopback port."""
    gpu = target.backend == "gpu"
    if target.engine == "llama_cpp":
        arguments = ["--model", artifact.path, "--host", "127.0.0.1", "--port", str(port)]
        arguments += [
            "--n_ctx",
            str(CONTEXT_TOKENS),
            "--n_threads",
            str(threads),
            "--n_threads_batch",
            str(threads),
        ]
        # Left alone, the server calls the model by its path, which is nobody's business but this machine's.
        arguments += ["--model_alias", Path(artifact.path).name]
        return ["llama_cpp.server", *arguments, "--n_gpu_layers", "-1" if gpu else "0", "--verbose", "False"]
    if target.engine == "apr_cli":
        file = str(apr_binary.weights(Path(artifact.path)))
        words = ["apr_qa.serving.apr_server", apr_binary.required(), file, str(port)]
        return [*words, *(["--gpu"] if gpu else [])]
    arguments = [artifact.path, "--port", str(port), "--threads", str(threads)]
    return ["apr_qa", "serve", *arguments, *(["--gpu"] if gpu else [])]
