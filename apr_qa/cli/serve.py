"""``apr-qa serve``: an OpenAI-compatible server over one artifact."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from apr_qa.cli.console import note


@click.command("serve")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: one that is free."
)
@click.option("--gpu", is_flag=True, help="Load on the GPU.")
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="CPU threads; 0: the engine's default."
)
@click.option("--model-id", help="Name under /v1/models; default: the file's name.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say the address.")
def command(
    path: Path, host: str, port: int, gpu: bool, threads: int, model_id: str | None, quiet: bool
) -> None:
    """Serve PATH (safetensors folder, .apr or .gguf) under /v1/models, /v1/completions, /v1/chat/completions.

    \b
    Example:
      apr-qa serve model/ --port 8080
    """
    from apr_qa import confinement, plan, processes
    from apr_qa.backends import BACKENDS
    from apr_qa.inspecting import inspection
    from apr_qa.serving import server
    from apr_qa.vocabulary import Target

    artifact = inspection.at(path)
    target = Target(
        model=model_id or path.resolve().name,
        format=artifact.format,
        quantization="",
        backend="gpu" if gpu else "cpu",
        modality="serve",
        engine=plan.ENGINES[artifact.format],
    )
    port = port or processes.free_port()
    confinement.confine(confinement.running_limit(gpu=gpu))
    session = BACKENDS.get(target.engine).load(target, Path(artifact.path), threads=threads)
    with contextlib.closing(session):
        if not quiet:
            address = f"[{host}]" if ":" in host else host
            note(f"{target.model} on http://{address}:{port}/v1 (Ctrl-C ends)")
        server.serve(session, target.model, host, port)
    # Taking torch down takes a second of processor time; the system frees what is left faster.
    sys.stderr.flush()
    os._exit(0)
