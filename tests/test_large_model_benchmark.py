"""The benchmark of a large model: what it makes is a model, and what it measures is what processes have."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tokenizers import Tokenizer

from apr_qa import workspace
from apr_qa.comparison.session import open_model
from apr_qa.inspecting import tensor_scan

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALL = {"hidden_size": 56, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 640}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the maker of models, set to a small one."""
    made = script("qwen_sized")
    monkeypatch.setattr(made, "CONFIG", {**made.CONFIG, **SMALL, "bos_token_id": 600, "eos_token_id": 602})
    monkeypatch.setattr(made, "TOKENS", 600)
    monkeypatch.setattr(made, "_LEARNED", 400)
    return made


def test_the_dimensions_are_those_of_the_published_model() -> None:
    maker = script("qwen_sized")
    assert sum(math.prod(shape) for shape in maker.shapes(maker.CONFIG).values()) == 494_032_768
    assert maker.TOKENS + len(maker.SPECIAL) <= maker.CONFIG["vocab_size"] == 151_936


def test_what_is_made_is_a_model_that_predicts_and_is_the_same_each_time(
    maker: ModuleType, tmp_path: Path
) -> None:
    folder = maker.make(tmp_path / "one")
    opened = open_model(folder)
    found = tensor_scan.scan(opened)
    assert not found.nonfinite and not found.all_zero and not found.constant and not found.extreme
    assert {info.dtype for info in opened.tensors.values()} == {"bf16"}
    assert workspace.content_sha256(folder) == workspace.content_sha256(maker.make(tmp_path / "two"))
    from apr_qa.logits.torch_probe import TorchProbe

    probe = TorchProbe(opened)
    logits = probe.logits([[1, 2, 3]], [2])
    probe.close()
    assert logits.shape == (1, 640) and np.isfinite(logits).all() and logits.std() > 0.1


def test_every_token_can_be_reached_from_the_bytes_of_a_text(maker: ModuleType, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(maker.make(tmp_path) / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 603
    assert [tokenizer.token_to_id(text) for text in maker.SPECIAL] == [600, 601, 602]
    for text in ("The capital of France is Paris.\n", "größer than 一丁 🙂", "x = 3\n    y"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    content = maker.tokenizer(600, 0)["model"]
    assert all(left in content["vocab"] and right in content["vocab"] for left, right in content["merges"])
    assert all(left + right in content["vocab"] for left, right in content["merges"])


def test_memory_is_that_of_a_process_and_all_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = script("large_model")
    taker = "import time; kept = bytearray(b'x') * (64 << 20); print(flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {taker!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        family = benchmark.descendants(process.pid)
        peaks = benchmark.memory_of(family)
        for one in family:
            subprocess.run(["kill", str(one)], check=False)
    assert len(family) == 2
    assert 64 << 20 < peaks.private <= peaks.together < 200 << 20
    assert 64 << 20 < peaks.largest < peaks.together + (50 << 20)
    assert benchmark.memory_of([2**22 - 1]) == benchmark.Peaks(0, 0, 0), (
        "a process that has ended has nothing"
    )


def test_the_peak_of_a_command_is_that_of_its_children_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = script("large_model")
    taker = "import time; kept = bytearray(b'x') * (96 << 20); time.sleep(1.5)"
    start = f"subprocess.Popen([sys.executable, '-c', {taker!r}])"
    both = f"import subprocess, sys; [one.wait() for one in ({start}, {start})]"
    peaks = benchmark.watched([sys.executable, "-c", both], {})
    assert 192 << 20 < peaks.private <= peaks.together < 300 << 20
    assert 96 << 20 < peaks.largest < 150 << 20
    with pytest.raises(SystemExit, match="no such thing"):
        benchmark.watched([sys.executable, "-c", "import os; os.write(2, b'no such thing'); os._exit(3)"], {})
