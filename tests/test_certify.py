"""The main job from model to exit code, through the command line, with real engines and no hub."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import children
from damage import DAMAGES, copy
from tiny_models import make_qwen2

from apr_qa.conversion.convert import convert
from apr_qa.formats import FORMATS

QWEN = "Qwen/Qwen2.5-Coder-0.5B-Instruct"


def apr_qa(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "apr_qa", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def processes_about(folder: Path) -> list[str]:
    """Return the command lines of living processes that work in or on a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in words or (process / "cwd").resolve() == folder:
                found.append(words)
        except OSError:
            continue
    return found


def certificate(cwd: Path, slug: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((cwd / "certifications" / slug / "certificate.json").read_text())
    return loaded


def entries(cwd: Path, slug: str, name: str = "evidence.jsonl") -> list[dict[str, Any]]:
    lines = (cwd / "certifications" / slug / name).read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def in_cache(folder: Path, cache: Path, model_id: str) -> None:
    """Put a model folder into a Hugging Face cache layout under a model id."""
    repository = cache / f"models--{model_id.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


@pytest.fixture(scope="session")
def smollm2_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default model as a safetensors folder."""
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    return convert(FORMATS.get("gguf").open(smollm2), "safetensors", folder, quantization="f16")


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The embedded default model, certified once in a folder of its own."""
    cwd = tmp_path_factory.mktemp("certified")
    return cwd, apr_qa("certify", "HuggingFaceTB/SmolLM2-135M-Instruct", "--tier", "mvp", cwd=cwd)


SMOLLM2 = "HuggingFaceTB--SmolLM2-135M-Instruct"


def test_the_embedded_model_is_certified_without_a_hub(
    certified: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, done = certified
    assert done.returncode == 0, done.stdout + done.stderr
    issued = certificate(cwd, SMOLLM2)
    assert (issued["status"], issued["score"], issued["grade"]) == ("PROVISIONAL", 800, "B")
    assert issued["coverage"]["text"].startswith("9/18")
    assert "Traceback" not in done.stderr


def test_nine_cpu_cells_hold_generated_text_and_nine_gpu_cells_say_why_not(
    certified: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    spoken, inapplicable = set(), set()
    for entry in entries(certified[0], SMOLLM2):
        target = entry["scenario"]["target"]
        cell = (target["format"], target["backend"], target["modality"])
        if entry["scenario"]["claim"]["kind"] in ("generate", "chat"):
            if entry["outcome"] == "inapplicable":
                assert entry["reason"]
                inapplicable.add(cell)
            elif (entry["response"] or {}).get("text"):
                spoken.add(cell)
    assert len(spoken) == 9 and {cell[1] for cell in spoken} == {"cpu"}
    assert len(inapplicable) == 9 and {cell[1] for cell in inapplicable} == {"gpu"}


def test_what_was_certified_verifies_and_any_edited_number_is_named(
    certified: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(certified[0], cwd)
    markers = "<!-- CERTIFICATION_TABLE_START -->\n<!-- CERTIFICATION_TABLE_END -->\n"
    (cwd / "README.md").write_text(markers)
    assert apr_qa("readme-sync", cwd=cwd).returncode == 0
    verified = apr_qa("verify", cwd=cwd)
    assert verified.returncode == 0, verified.stdout + verified.stderr

    places = {
        cwd / "certifications" / SMOLLM2 / "certificate.json": ('"score": 800', '"score": 801'),
        cwd / "certifications" / "models.csv": (",800,", ",810,"),
        cwd / "README.md": ("| 800 |", "| 900 |"),
    }
    for path, (old, new) in places.items():
        text = path.read_text()
        assert old in text, path
        path.write_text(text.replace(old, new))
        spoiled = apr_qa("verify", cwd=cwd)
        assert spoiled.returncode == 1 and path.name in spoiled.stdout, spoiled.stdout
        path.write_text(text)


def test_edited_evidence_does_not_verify(
    certified: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(certified[0], cwd)
    path = cwd / "certifications" / SMOLLM2 / "evidence.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"outcome":"falsified"', '"outcome":"corroborated"', 1))
    assert path.read_text() != text, "the run has a finding about a runtime, which this test turns around"
    done = apr_qa("verify", cwd=cwd)
    assert done.returncode == 1 and "evidence.jsonl" in done.stdout


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_copy_is_blocked_and_the_gate_is_named(
    name: str, smollm2_folder: Path, tmp_path: Path
) -> None:
    damage, gate = DAMAGES[name]
    folder = copy(smollm2_folder, tmp_path / "damaged", damage)
    done = apr_qa("certify", str(folder), "--tier", "mvp", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    issued = certificate(tmp_path, "damaged")
    assert issued["status"] == "BLOCKED" and issued["score"] == 0
    named = {finding["gate_id"] for finding in issued["findings"]}
    named |= {gateway["id"] for gateway in issued["gateways"] if gateway["outcome"] == "falsified"}
    assert gate in named, named


@pytest.mark.parametrize(("damage", "size"), [("truncated", -100_000), ("wrong magic", 0)])
def test_a_damaged_gguf_is_blocked(damage: str, size: int, smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    data = smollm2.read_bytes()
    path.write_bytes(data[:size] if size else b"GGML" + data[4:])
    done = apr_qa("certify", str(path), "--tier", "mvp", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    issued = certificate(tmp_path, "damaged")
    assert issued["status"] == "BLOCKED" and issued["score"] == 0
    assert "G0-HEADER-001" in {finding["gate_id"] for finding in issued["findings"]}


@pytest.mark.parametrize(("fault", "outcome"), [("crash", "crashed"), ("hang", "timeout")])
def test_a_worker_that_crashes_or_hangs_blocks_through_g3_and_costs_one_scenario(
    fault: str, outcome: str, smollm2: Path, tmp_path: Path
) -> None:
    shutil.copy(smollm2, tmp_path / "smol.gguf")
    done = apr_qa(
        *("certify", "smol.gguf", "--tier", "smoke", "--timeout", "20", "--failure-policy", "collect_all"),
        cwd=tmp_path,
        APR_QA_FAULT=f"{fault}:capital of France",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    issued = certificate(tmp_path, "smol/checks/smoke")
    assert issued["status"] == "BLOCKED" and issued["score"] == 0
    hit = [entry for entry in entries(tmp_path, "smol/checks/smoke") if entry["outcome"] == outcome]
    assert len(hit) == 1 and "capital of France" in json.dumps(hit[0]["scenario"])
    assert {g["id"]: g["outcome"] for g in issued["gateways"]}["G3"] == outcome
    assert not children()


def test_a_family_without_weights_names_each_missing_model_and_its_cure(tmp_path: Path) -> None:
    done = apr_qa("certify", "--family", "qwen-coder", "--tier", "mvp", "--offline", cwd=tmp_path)
    assert done.returncode == 3
    for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B"):
        name = f"Qwen/Qwen2.5-Coder-{size}-Instruct"
        assert done.stderr.count(f"hf download {name}") == 1, done.stderr
    assert not (tmp_path / "certifications").exists()


def test_a_model_in_the_hugging_face_cache_is_run_from_there_and_its_garbage_is_blocked(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "hub"
    model = make_qwen2(tmp_path / "made")
    in_cache(model, cache, QWEN)
    before = sorted((p, p.stat().st_mtime_ns) for p in cache.rglob("*"))
    done = apr_qa(
        "certify",
        "--family",
        "qwen-coder",
        "--tier",
        "mvp",
        "--offline",
        "--failure-policy",
        "collect_all",
        cwd=tmp_path,
        HF_HUB_CACHE=str(cache),
    )
    assert done.returncode == 3, "five of six models are missing"
    issued = certificate(tmp_path, QWEN.replace("/", "--"))
    assert issued["ground_truth"] == "safetensors"
    assert issued["status"] == "BLOCKED" and issued["score"] == 0, "random weights talk garbage"
    failed = {g["id"]: g["reason"] for g in issued["gateways"] if g["outcome"] == "falsified"}
    assert "G4" in failed and "G0-EXPECTED-001" in failed["G0"], "it is not the size that the model has"
    assert sorted((p, p.stat().st_mtime_ns) for p in cache.rglob("*")) == before, "sources are read-only"
    row = next(
        line for line in (tmp_path / "certifications" / "models.csv").read_text().splitlines() if QWEN in line
    )
    assert ",BLOCKED,0,F,mvp," in row


def test_an_interrupted_run_is_resumed_without_doing_anything_twice(smollm2: Path, tmp_path: Path) -> None:
    shutil.copy(smollm2, tmp_path / "smol.gguf")
    command = [sys.executable, "-m", "apr_qa", "certify", "smol.gguf", "--tier", "mvp"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    partial = tmp_path / "certifications" / "smol" / "evidence.partial.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (partial.exists() and partial.read_text().count("\n") > 20):
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=30) == 130
    assert not processes_about(tmp_path)
    done_before = {entry["id"]: entry["timestamp"] for entry in entries(tmp_path, "smol", partial.name)}
    assert done_before
    resumed = apr_qa("certify", "smol.gguf", "--tier", "mvp", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    after = entries(tmp_path, "smol")
    assert len(after) == len({entry["id"] for entry in after})
    assert {entry["id"]: entry["timestamp"] for entry in after}.items() >= done_before.items()
    assert apr_qa("verify", "certifications/smol", cwd=tmp_path).returncode == 0


def test_what_our_converter_cannot_make_is_inapplicable_and_the_way_out_is_named(tmp_path: Path) -> None:
    folder = make_qwen2(tmp_path / "words")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [tokenizer["pre_tokenizer"], {"type": "Digits"}],
    }
    tokenizer["pre_tokenizer"]["pretokenizers"][1]["individual_digits"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = apr_qa("certify", str(folder), "--tier", "mvp", cwd=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    about_gguf = [e for e in entries(tmp_path, "words") if e["scenario"]["target"]["format"] == "gguf"]
    assert {entry["outcome"] for entry in about_gguf} == {"inapplicable"}
    assert any("--artifact gguf=PATH" in entry["reason"] for entry in about_gguf)
    gateways = {gateway["id"]: gateway["outcome"] for gateway in certificate(tmp_path, "words")["gateways"]}
    assert gateways["G0"] == gateways["G1"] == "corroborated", "the other formats are judged all the same"
