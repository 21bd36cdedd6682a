"""What works without any extra, and what the rest says: ``python tests/bare_install.py``, exit 1 if anything is off.

``--hide`` hides the extras of an environment that has them, and tries what needs some.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

MOST_PACKAGES = 20
NOT_OURS = {"pip", "setuptools", "wheel"}
FIXTURE = Path(__file__).parent / "fixtures" / "models" / "llama-untied-gqa8x2"
_HIDDEN = """
import sys
from apr_qa.extras import EXTRAS
names = {name for modules in EXTRAS.values() for name in modules}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
"""


@dataclass(frozen=True)
class Expected:
    """A command, how it ends, and words that it says."""

    arguments: tuple[str, ...]
    code: int
    says: str = ""
    hidden: bool = False
    """Whether it is tried where the extras are there, but cannot be imported."""


def commands(folder: Path) -> list[Expected]:
    """Return what is tried; ``folder`` takes what is written."""
    lock = str(folder / "lock.yaml")
    model = "HuggingFaceTB/SmolLM2-135M-Instruct"
    return [
        Expected(("--help",), 0, "certify"),
        Expected(("list-models",), 0, "Qwen"),
        Expected(("gates", "--json"), 0, "G0-HEADER-001"),
        Expected(("generate", model, "--tier", "mvp"), 0, "oracle"),
        Expected(
            ("inspect", str(FIXTURE)), 0, "tokenizers is not installed: pip install 'apr-qa[tokenizers]'"
        ),
        Expected(("inspect", str(FIXTURE), "--tensors", "--json"), 0, "values are finite"),
        Expected(("cache", "--json"), 0, "limit_bytes"),
        Expected(("doctor",), 3, "pip install"),
        Expected(("convert", str(FIXTURE), str(folder / "x.gguf")), 3, "pip install 'apr-qa[gguf]'", True),
        Expected(
            ("certify", model, "--artifact", f"safetensors={FIXTURE}", "--output", lock), 3, "pip install"
        ),
        Expected(("serve", str(FIXTURE)), 3, "pip install"),
    ]


def stored(folder: Path) -> list[Expected]:
    """Return what is tried with the evidence that comes with the package."""
    from apr_qa import resources

    name = "HuggingFaceTB--SmolLM2-135M-Instruct"
    evidence = resources.find(f"certifications/{name}/evidence.jsonl")
    return [
        Expected(("score", str(evidence)), 0, "G0"),
        Expected(("report", str(evidence), "--output", str(folder / "reports")), 0, "report.xml"),
    ]


def main() -> int:
    """Print what differs from what is expected; return the exit code."""
    faults = [] if "--hide" in sys.argv else packages()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "APR_QA_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        if "--hide" in sys.argv:
            (folder / "sitecustomize.py").write_text(_HIDDEN)
            path = os.pathsep.join([name, os.environ.get("PYTHONPATH", "")])
            environment["PYTHONPATH"] = path.rstrip(os.pathsep)
        for expected in (*commands(folder), *stored(folder)):
            if expected.hidden or "--hide" not in sys.argv:
                faults += tried(expected, environment, folder)
    print("\n".join(faults) or "everything works, or says what it lacks")  # noqa: T201
    return 1 if faults else 0


def packages() -> list[str]:
    """Say whether too much is installed."""
    names = {found.metadata["Name"].lower() for found in importlib.metadata.distributions()} - NOT_OURS
    print(f"{len(names)} packages: {', '.join(sorted(names))}")  # noqa: T201
    return [f"{len(names)} packages, {MOST_PACKAGES} are allowed"] if len(names) > MOST_PACKAGES else []


def tried(expected: Expected, environment: dict[str, str], folder: Path) -> list[str]:
    """Run one command; return what was not expected of it."""
    command = [sys.executable, "-m", "apr_qa", *expected.arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    if done.returncode == expected.code and expected.says in said and "Traceback" not in said:
        return []
    return [
        json.dumps([*expected.arguments]) + f": exit {done.returncode}, not {expected.code}: {said[-1500:]}"
    ]


if __name__ == "__main__":
    sys.exit(main())
