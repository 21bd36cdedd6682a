"""Logits against a stored corpus: ``<hash>.json`` with the prompt, ``<hash>.safetensors`` with its logits.

The corpus is made once from a model that is trusted. An element agrees when its difference is at most
``atol + rtol * |golden|``; a share of elements may disagree, by storage type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from apr_qa.backends import Session
from apr_qa.errors import Inapplicable, MalformedFile
from apr_qa.golden.tolerance import LEVELS
from apr_qa.vocabulary import Artifact

MOST_PROMPTS = 50


def compare(session: Session, params: Mapping[str, Any], artifact: Artifact) -> dict[str, Any]:
    """Return the share of logits that disagree for every stored prompt; raises Inapplicable without a corpus."""
    folder = Path(str(params["corpus"]))
    stored = list(_stored(folder))[:MOST_PROMPTS]
    if not stored:
        raise Inapplicable(f"{folder} holds no stored logits")
    atol, rtol, share = _tolerance(params.get("tolerance"), artifact.quantization)
    rows = [_row(session, prompt, golden, atol, rtol) for prompt, golden in stored]
    return {"prompts": rows, "atol": atol, "rtol": rtol, "allowed": share}


def _stored(folder: Path) -> Iterator[tuple[str, Any]]:
    from safetensors.numpy import load_file

    for described in sorted(folder.rglob("*.json")) if folder.is_dir() else ():
        logits = described.with_suffix(".safetensors")
        if not logits.is_file():
            continue
        try:
            prompt = json.loads(described.read_text(encoding="utf-8"))["prompt"]
            yield str(prompt), load_file(logits)["logits"]
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedFile(f"no stored logits: {error}", where=str(described)) from None


def _row(session: Session, prompt: str, golden: Any, atol: float, rtol: float) -> dict[str, Any]:
    import numpy as np

    found = session.logits(session.tokenize(prompt))
    if found.shape != golden.shape or not golden.size:
        return {"prompt": prompt, "shapes": [list(found.shape), list(golden.shape)]}
    wrong = ~(np.abs(found - golden) <= atol + rtol * np.abs(golden))
    return {
        "prompt": prompt,
        "disagreeing": float(wrong.mean()),
        "largest": float(np.nanmax(np.abs(found - golden))),
    }


def _tolerance(said: Any, quantization: str) -> tuple[float, float, float]:
    level = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "q8_0": "int8"}.get(quantization, "int4")
    if isinstance(said, str) and said in LEVELS:
        level = said
    if isinstance(said, Mapping) and not {"atol", "rtol"} & set(said):
        said = said.get(level, said.get("quantized") if level in ("int8", "int4") else None)
    known = LEVELS[level]
    if isinstance(said, Mapping):
        return float(said.get("atol", known.atol)), float(said.get("rtol", known.rtol)), known.mismatched
    return known.atol, known.rtol, known.mismatched
