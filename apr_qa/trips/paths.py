"""What a conversion must not change or lose on any path: names, parts beside the weights, finite values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from apr_qa.comparison.config import config_differences
from apr_qa.comparison.names import weights
from apr_qa.conversion import architectures
from apr_qa.formats import OpenModel

FORMAT_OF = {"S": "safetensors", "A": "apr", "G": "gguf"}
LETTER_OF = {name: letter for letter, name in FORMAT_OF.items()}
SHOWN = 10


def name_faults(start: OpenModel, made: Sequence[tuple[str, OpenModel]]) -> dict[str, Any]:
    """Return names that were lost, invented or stored under another name than the format's own."""
    wanted = weights(start).keys()
    faults: list[dict[str, Any]] = []
    count = 0
    for path, model in made:
        found = weights(model)
        count += len(found)
        faults += [{"path": path, "name": name, "why": "lost"} for name in sorted(wanted - found.keys())]
        faults += [{"path": path, "name": name, "why": "invented"} for name in sorted(found.keys() - wanted)]
        expected_name = _stored_names(model)
        for name, info in found.items():
            expected = expected_name(name)
            if info.stored_name != expected:
                faults.append(
                    {"path": path, "name": name, "why": f"stored as {info.stored_name}, not {expected}"}
                )
    return {"names": count, "faults": faults[:SHOWN], "faults_count": len(faults)}


def _stored_names(model: OpenModel) -> Callable[[str], str | None]:
    """Return how the format calls a tensor; for GGUF the table of the package that llama.cpp publishes decides."""
    if model.format != "gguf":
        return str
    import gguf

    kinds = {text: kind for kind, text in gguf.MODEL_ARCH_NAMES.items()}
    kind = kinds.get(model.architecture)
    if kind is None:
        return architectures.to_gguf_name
    table = gguf.get_tensor_name_map(kind, int(model.config["num_hidden_layers"]))
    return lambda name: table.get_name(name, try_suffixes=(".weight", ".bias"))


def faults_of(start: OpenModel, made: OpenModel) -> list[dict[str, str]]:
    """Return what went wrong without an error: parts lost, fields changed, names changed, values not finite."""
    import numpy as np

    faults = [{"class": "missing", "what": f"{part} was lost"} for part in _lost(start, made)]
    for difference in config_differences(start, made)["differences"]:
        text = f"{difference['field']}: {difference['truth']!r} became {difference['artifact']!r}"
        faults.append({"class": "config", "what": text})
    wanted, found = weights(start), weights(made)
    for name in sorted(wanted.keys() ^ found.keys()):
        faults.append({"class": "tensor_names", "what": f"{name} is on one side only"})
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name].dtype in ("f32", "f16", "bf16"):
            continue  # Nothing was dequantised.
        values = made.read(name)
        if not np.isfinite(values).all() and np.isfinite(start.read(name)).all():
            faults.append({"class": "values", "what": f"{name} is no longer finite"})
    return faults


def _lost(start: OpenModel, made: OpenModel) -> list[str]:
    parts = {
        "the configuration": (start.config, made.config),
        "the tokenizer": (start.tokenizer, made.tokenizer),
        "the chat template": (start.chat_template, made.chat_template),
        "the end of generation": (_ends(start), _ends(made)),
    }
    return [name for name, (before, after) in parts.items() if before and not after]


def _ends(model: OpenModel) -> Any:
    return model.generation_config.get("eos_token_id", model.config.get("eos_token_id")) is not None
