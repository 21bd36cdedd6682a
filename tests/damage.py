"""Damaged copies of a model folder, each as somebody might publish it by mistake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

Damage = Callable[[Path], None]


def copy(source: Path, destination: Path, damage: Damage) -> Path:
    """Copy a model folder and damage the copy."""
    shutil.copytree(source, destination)
    damage(destination)
    return destination


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: np.array(tensor) for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100_000)


def wrong_hidden_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    _edit_config(folder, hidden_size=config["hidden_size"] + config["num_attention_heads"])


def wrong_layer_count(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    _edit_config(folder, num_hidden_layers=config["num_hidden_layers"] - 1)


def one_nan(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan

    _edit_tensors(folder, change)


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def swapped_q_and_k(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if ".q_proj." in name]:
            other = name.replace(".q_proj.", ".k_proj.")
            tensors[name], tensors[other] = tensors[other], tensors[name]

    _edit_tensors(folder, change)


def zero_head(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"] = np.zeros_like(tensors["model.embed_tokens.weight"])

    _edit_tensors(folder, change)
    _edit_config(folder, tie_word_embeddings=False)


def random_weights(folder: Path) -> None:
    generator = np.random.default_rng(0)

    def change(tensors: dict[str, np.ndarray]) -> None:
        for name, tensor in tensors.items():
            if tensor.ndim == 2:
                tensors[name] = generator.normal(0, 0.02, tensor.shape).astype(tensor.dtype)

    _edit_tensors(folder, change)


def wrong_magic(folder: Path) -> None:
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.write(b"GGUF\x03\0\0\0")


DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated safetensors": (truncated, "G0-HEADER-001"),
    "config hidden_size wrong": (wrong_hidden_size, "G0-INTEGRITY-HIDDEN"),
    "layer count wrong": (wrong_layer_count, "G0-INTEGRITY-LAYERS"),
    "one NaN": (one_nan, "G0-VALIDATE-001"),
    "tokenizer missing": (no_tokenizer, "G0-TOKENIZER-001"),
    "swapped q and k": (swapped_q_and_k, "G0-LAYOUT-001"),
    "lm_head zeroed": (zero_head, "G0-VALIDATE-002"),
    "all weights random": (random_weights, "G4"),
    "wrong magic": (wrong_magic, "G0-HEADER-001"),
}
"""Name -> (damage, gate or gateway that has to name it)."""
