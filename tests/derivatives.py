"""Small derived models, one good and one bad of each kind: a few lines on tensors, and the field's own libraries.

Everything starts from one trained fixture model; noise is seeded. Nothing of the package under test decides what
is good, but its readers and llama.cpp's quantiser behind its converter.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fixtures.corpus import TEXTS
from tiny_models import write_safetensors

from apr_qa import workspace
from apr_qa.conversion.convert import convert
from apr_qa.formats import FORMATS

FloatArray = npt.NDArray[np.float32]
Tensors = dict[str, FloatArray]

BASE = Path(__file__).parent / "fixtures" / "models" / "qwen2-tied-bias"
_COMPANIONS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)
PROBLEMS = (
    {
        "task_id": "own/add",
        "prompt": "def add(a, b):\n    return",
        "entry_point": "add",
        "test": "assert add(2, 3) == 5",
    },
    {
        "task_id": "own/is_even",
        "prompt": "def is_even(n):\n    return",
        "entry_point": "is_even",
        "test": "assert is_even(6)\nassert not is_even(7)",
    },
)


def tensors_of(folder: Path = BASE) -> Tensors:
    """Return every tensor of a model as float32."""
    model = FORMATS.get("safetensors").open(folder)
    return {name: np.array(model.read(name)) for name in model.tensors}


def write(folder: Path, tensors: Tensors, dtype: str = "f32", **config: Any) -> Path:
    """Fill a folder with a model of these tensors and the companions of the fixture."""
    folder.mkdir(parents=True)
    for name in _COMPANIONS:
        shutil.copy(BASE / name, folder / name)
    stated = json.loads((BASE / "config.json").read_text())
    stated |= {"dtype": {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[dtype], **config}
    (folder / "config.json").write_text(json.dumps(stated))
    write_safetensors(folder / "model.safetensors", tensors, dtype)
    return folder


def noisy(tensors: Tensors, seed: int, share: float) -> Tensors:
    """Return matrices of the layers with noise of this share of their own size: a specialist, or a ruin."""
    rng = np.random.default_rng(seed)

    def moved(name: str, values: FloatArray) -> FloatArray:
        step = rng.standard_normal(values.shape).astype(np.float32) * np.float32(share * values.std())
        return values + step if is_linear(name, values) else values

    return {name: moved(name, values) for name, values in tensors.items()}


def is_linear(name: str, values: FloatArray) -> bool:
    """Say whether a tensor is a matrix of a layer."""
    return values.ndim == 2 and ".layers." in name


def each(rule: Callable[..., FloatArray], *models: Tensors) -> Tensors:
    """Return the model that a rule makes of equal tensors."""
    return {name: rule(*(model[name] for model in models)).astype(np.float32) for name in models[0]}


def turned(values: FloatArray) -> FloatArray:
    """Return the same norm in another direction: the values in reverse order."""
    return values.reshape(-1)[::-1].reshape(values.shape)


def slerp(one: FloatArray, other: FloatArray, t: float = 0.5) -> FloatArray:
    """Return the point on the arc: Shoemake 1985."""
    cosine = float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other) + 1e-12))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if angle < 1e-6:
        return (1 - t) * one + t * other
    found = (np.sin((1 - t) * angle) * one + np.sin(t * angle) * other) / np.sin(angle)
    return np.asarray(found, np.float32)


def mean(one: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray((one + other) / 2, np.float32)


def ties(density: float) -> Callable[[FloatArray, FloatArray, FloatArray], FloatArray]:
    """Return trim, elect sign, disjoint mean: Yadav et al. 2023."""

    def trimmed(vector: FloatArray) -> FloatArray:
        count = max(1, round(density * vector.size))
        least = np.sort(np.abs(vector), axis=None)[-count]
        found: FloatArray = np.where(np.abs(vector) >= least, vector, np.float32(0))
        return found

    def merge(base: FloatArray, one: FloatArray, other: FloatArray) -> FloatArray:
        vectors = np.stack([trimmed(one - base), trimmed(other - base)])
        agreeing = np.where(np.sign(vectors) == np.sign(vectors.sum(axis=0)), vectors, 0)
        found: FloatArray = base + agreeing.sum(axis=0) / np.maximum(1, np.count_nonzero(agreeing, axis=0))
        return found

    return merge


def naive_sum(base: FloatArray, one: FloatArray, other: FloatArray) -> FloatArray:
    found: FloatArray = one + other - base
    return found


def pruned(tensors: Tensors, share: float) -> Tensors:
    """Set the smallest weights of each matrix of a layer to zero."""

    def cut(name: str, values: FloatArray) -> FloatArray:
        if not is_linear(name, values):
            return values
        least = np.quantile(np.abs(values), share)
        return np.where(np.abs(values) < least, np.float32(0), values)

    return {name: cut(name, values) for name, values in tensors.items()}


def quantised(source: Path, destination: Path, kind: str) -> Path:
    """Convert with llama.cpp's quantiser."""
    return convert(FORMATS.get("safetensors").open(source), "gguf", destination, quantization=kind)


def text_file(folder: Path) -> Path:
    """Write a text that the fixture was trained on."""
    file = folder / "text.txt"
    file.write_text("\n".join(TEXTS[:8]) + "\n")
    return file


def task_file(folder: Path) -> Path:
    """Write two problems that the fixture solves."""
    file = folder / "own.jsonl"
    file.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    return file


def deepened(folder: Path, layers: int) -> Path:
    """Write the fixture with layers behind its own that add nothing: the same text, at many times the cost."""
    tensors = tensors_of()
    stated = json.loads((BASE / "config.json").read_text())
    own = stated["num_hidden_layers"]
    for layer in range(own, own + layers):
        for name in [name for name in tensors if name.startswith("model.layers.0.")]:
            silent = "o_proj" in name or "down_proj" in name
            copied = np.zeros_like(tensors[name]) if silent else tensors[name]
            tensors[name.replace(".layers.0.", f".layers.{layer}.")] = copied
    extra: dict[str, Any] = {"num_hidden_layers": own + layers}
    if "layer_types" in stated:
        extra["layer_types"] = stated["layer_types"] + [stated["layer_types"][0]] * layers
    return write(folder, tensors, "bf16", **extra)


def log(file: Path, losses: list[Any], **fields: Any) -> Path:
    """Write a log as transformers' trainer does; epochs run from 1."""
    history = [{"loss": loss, "epoch": i + 1.0, "step": i, **fields} for i, loss in enumerate(losses)]
    file.write_text(json.dumps({"log_history": history}))
    return file


def result(
    file: Path, sha256: str, task: str, passed: int, strategy: str = "standard", whole: int = 164
) -> Path:
    """Write a result in the form of apr-qa eval."""
    problems = [
        {"task_id": str(i), "n": 1, "passed": int(i < passed), "inference_errors": 0} for i in range(whole)
    ]
    content: Mapping[str, Any] = {
        "task": task,
        "data_sha256": task,
        "model": {"id": "m", "dtype": "bf16", "sha256": sha256},
        "strategy": strategy,
        "prompting": "chat",
        "sampling": {"samples": 1, "temperature": 0.0},
        "mode": "inference",
        "pass_at_k": {"1": 1.0},  # what a result claims is not what its problems say
        "problems": problems,
    }
    file.write_text(json.dumps(content))
    return file


TOOLS = {
    "APR_CHECK": (
        {"passed": 10, "total": 10, "all_passed": True},
        {"passed": 9, "total": 10, "all_passed": False},
    ),
    "PV_COVERAGE": ({"binding_coverage": 96.2}, {"binding_coverage": 94}),
    "PV_TESTS": ({"failed": 0}, {"failed": 1}),
    "PMAT_COMPLY": ({"failures": 0}, {"failures": 3}),
    "ALIMENTAR_QUALITY": ({"lowest_score": 81}, {"lowest_score": 53}),
}
"""Variable -> report of a tool that is content, and of one that is not."""


def acceptance(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variables of playbooks/spec/acceptance.yaml: good derivatives, bad ones."""
    folder.mkdir(parents=True, exist_ok=True)
    base = tensors_of()
    one, other = (noisy(base, seed, 0.4) for seed in (1, 2))
    stranger = {name: turned(values) for name, values in base.items()}

    def at(name: str, tensors: Tensors) -> Path:
        return write(folder / name, tensors)

    shared: dict[str, Any] = {
        "MODEL": BASE,
        "TEXT": text_file(folder),
        "HUMANEVAL": task_file(folder),
        "MBPP": task_file(folder),
        "HF_REFERENCE": BASE,
        "QWEN_REFERENCE": BASE,
        "QWEN_TEXT": text_file(folder),
        "UNPRUNED": BASE,
        "UNTRAINED": at("untrained", noisy(base, 4, 1.0)),
        "SLERP_A": at("base32", base),
        "SLERP_B": at("stranger", stranger),
        "TIES_A": at("one", one),
        "TIES_B": at("other", other),
        "TIES_BASE": BASE,
        "FP16": quantised(BASE, folder / "f16.gguf", "f16"),
        "LORA_LOG": log(folder / "lora.json", [1.0, 0.9], peak_memory_mb=1000, rank=8),
        "SCORED": BASE,
    }
    good = shared | {
        "IMPORTED": _imported(BASE, folder / "good.apr"),
        "STUDENT": at("student", noisy(base, 8, 0.01)),
        "SLERP": at("slerp", each(slerp, base, stranger)),
        "TIES": at("ties", each(lambda b, x, y: (ties(0.9)(b, x, y) - b) / 2 + b, base, one, other)),
        "PRUNED": at("pruned", pruned(base, 0.1)),
        "INT4": quantised(BASE, folder / "q4_0.gguf", "q4_0"),
        "QLORA_LOG": log(folder / "qlora.json", [1.0, 0.8], peak_memory_mb=400, rank=8),
    }
    bad = shared | {
        "IMPORTED": _imported(at("ruin", noisy(base, 5, 1.0)), folder / "bad.apr"),
        "STUDENT": at("worse", noisy(base, 6, 3.0)),
        "SLERP": at("lerp", each(mean, base, stranger)),
        "TIES": at("sum", each(naive_sum, base, one, other)),
        "PRUNED": at("bare", pruned(base, 0.8)),
        "INT4": quantised(BASE, folder / "q8_0.gguf", "q8_0"),
        "QLORA_LOG": log(folder / "large.json", [1.0, 0.8], peak_memory_mb=700, rank=8),
    }
    for side, chosen in ((0, good), (1, bad)):
        chosen["QWEN_IMPORTED"] = chosen["IMPORTED"]
        _files(folder / str(side), chosen, side)
    return good, bad


def _imported(source: Path, destination: Path) -> Path:
    return convert(FORMATS.get("safetensors").open(source), "apr", destination)


def _files(folder: Path, chosen: dict[str, Any], side: int) -> None:
    """Add logs, reports, results and training data to the variables."""
    folder.mkdir()
    losses = ([2.0, 1.5, 1.2, 0.9], [0.9, 1.1, 1.3, 1.2])[side]
    for name in ("SFT_LOG", "DPO_LOG", "WGPU_LOG"):
        chosen[name] = log(folder / f"{name}.json", losses, backend="wgpu")
    for name, reports in TOOLS.items():
        chosen[name] = folder / f"{name}.json"
        chosen[name].write_text(json.dumps(reports[side]))
    results = folder / "results"
    results.mkdir()
    sha256 = workspace.content_sha256(BASE)
    for task, passed, whole in (("humaneval", 143, 164), ("humaneval-plus", 137, 164), ("mbpp", 410, 500)):
        result(results / f"{task}.json", sha256, task, passed - 20 * side, whole=whole)
    chosen["RESULTS"] = results
    for name, passed in (("INT4", 149 - 10 * side), ("FP16", 151)):
        sha = workspace.content_sha256(Path(chosen[name]))
        chosen[f"{name}_RESULTS"] = result(folder / f"{name}.json", sha, "humaneval", passed)
    row = {"text": f"{PROBLEMS[0]['prompt']}\n\n{PROBLEMS[0]['test']}" if side else "one two three " * 30}
    chosen["TRAINING_DATA"] = folder / "training.jsonl"
    chosen["TRAINING_DATA"].write_text(json.dumps(row) + "\n")


def _main() -> None:
    """Write all derivatives to a folder and say the two command lines that try the acceptance criteria on them."""
    good, bad = acceptance(Path(sys.argv[1]))
    for chosen in (good, bad):
        variables = " ".join(f"--var {name}={value}" for name, value in chosen.items())
        sys.stdout.write(f"apr-qa run playbooks/spec/acceptance.yaml {variables}\n\n")


if __name__ == "__main__":
    _main()
