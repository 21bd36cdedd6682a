"""Training logs: trainer_state.json as transformers writes it, or JSON Lines with an object a step.

Losses stand under loss, train_loss or training_loss; epochs under epoch; what computed under backend or device; peak
memory under a name that holds ``memory``, ``mem`` or ``vram`` and ends in its unit (``peak_memory_mb``). What is not
in the log is null.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from apr_qa.derivation.members import Unmeasured, hashed

_LOSSES = ("loss", "train_loss", "training_loss")
_BACKENDS = ("backend", "device")
_UNITS = {"bytes": 1, "kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}
_MEMORY = re.compile(rf"(?:^|_)(?:vram|mem|memory)(?:_\w+)?_({'|'.join(_UNITS)})$")


def entries(file: Path) -> list[dict[str, Any]]:
    """Return the records of a log; raises Unmeasured for a file that is none."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise Unmeasured(f"{file.name} is neither JSON nor JSON Lines: {error}") from None
    if isinstance(value, dict):
        history = value.get("log_history")
        value = history if isinstance(history, list) else [value]
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def loss(file: Path, promised_epochs: Any) -> dict[str, Any]:
    """Return how the loss went: mean of the first and of the last quarter of the records, and the slope a record.

    The summary that transformers writes at the end (with train_runtime) is no record.
    """
    rows = [row for row in entries(file) if "train_runtime" not in row]
    found = [float(row[name]) for row in rows for name in _LOSSES if _number(row.get(name))]
    reached = max((float(row["epoch"]) for row in rows if _number(row.get("epoch"))), default=None)
    good = [value for value in found if math.isfinite(value)]
    quarter = max(1, len(good) // 4)
    return {
        "records": len(found),
        "not_finite": len(found) - len(good),
        "negative": sum(value < 0 for value in good),
        "first": math.fsum(good[:quarter]) / quarter if good else None,
        "last": math.fsum(good[-quarter:]) / quarter if good else None,
        "slope": _slope(good),
        "epochs": reached,
        "promised_epochs": promised_epochs,
        "backends": sorted({str(row[key]) for row in rows for key in _BACKENDS if row.get(key)}),
        "log": hashed(file),
    }


def peak_memory(file: Path) -> int | None:
    """Return the largest number of bytes that a log holds; None where it was not measured."""
    found = [
        float(value) * _UNITS[match[1]]
        for row in entries(file)
        for key, value in row.items()
        if (match := _MEMORY.search(key.lower())) and _number(value) and math.isfinite(value) and value > 0
    ]
    return round(max(found)) if found else None


def rank(file: Path) -> int | None:
    """Return the rank that a log states."""
    stated = [
        row[key] for row in entries(file) for key in ("rank", "r", "lora_r") if type(row.get(key)) is int
    ]
    return stated[0] if stated else None


def memory(qlora: Path, lora: Path, qlora_rank: int | None) -> dict[str, Any]:
    """Compare the peak memory of two trainings."""
    return {
        "logs": [hashed(qlora), hashed(lora)],
        "qlora_bytes": peak_memory(qlora),
        "lora_bytes": peak_memory(lora),
        "qlora_rank": qlora_rank if qlora_rank is not None else rank(qlora),
        "lora_rank": rank(lora),
        "same_log": qlora.resolve() == lora.resolve() or qlora.read_bytes() == lora.read_bytes(),
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _slope(values: list[float]) -> float | None:
    """Return the slope of the least-squares line."""
    if len(values) < 2:
        return None
    middle, mean = (len(values) - 1) / 2, math.fsum(values) / len(values)
    along = math.fsum((i - middle) * (value - mean) for i, value in enumerate(values))
    return along / math.fsum((i - middle) ** 2 for i in range(len(values)))
