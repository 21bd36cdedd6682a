"""How a server process is started for each engine: module and arguments, to be run under guard."""

from __future__ import annotations

from apr_qa.vocabulary import Artifact, Target

CONTEXT_TOKENS = 2048
"""Enough for every scenario; a server over the whole trained context would reserve memory for nothing."""


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
        return ["llama_cpp.server", *arguments, "--n_gpu_layers", "-1" if gpu else "0", "--verbose", "False"]
    arguments = [artifact.path, "--port", str(port), "--threads", str(threads)]
    return ["apr_qa", "serve", *arguments, *(["--gpu"] if gpu else [])]
