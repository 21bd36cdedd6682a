"""Rows, biases and norm weights that training would not have left as they are.

Healthy exceptions: rows beyond the vocabulary or of reserved, unused and padding tokens may be zero; all biases
may be zero and all norms one, as at initialisation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from apr_qa.comparison.generation import stated_ids, token_ids
from apr_qa.conversion.architectures import EMBEDDING, HEAD
from apr_qa.formats import OpenModel, TensorInfo
from apr_qa.inspecting import matrix_rows, template_scan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SHOWN = 20
_SPARE = re.compile(
    r"reserved|unused|extra|pad|dummy|placeholder|special|^<0x..>$|^<.*>$|^\[.*\]$", re.IGNORECASE
)
"""Texts of tokens that nothing was trained on, perhaps."""
_ONE_MORE = ("gemma", "gemma2", "gemma3_text")
"""Families that multiply by one more than the stored weight (outside of GGUF)."""
_PLAIN = (
    *(
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "phi3",
        "smollm3",
        "granite",
    ),
    *("olmo2", "gemma3", "qwen2moe", "qwen3moe"),
)
MOST_NEGATIVE = 0.25
"""Share of norm weights that may be zero or less: 0.008 in SmolLM2-135M, 0 in the trained test models."""
_CHUNK = 1 << 24
_SAMPLED = 4096
_AVERAGE_SHARE = 0.02
"""How far from the average of all rows, in its own length, a row counts as that average."""
_BIAS = re.compile(r"\.(\d+)\.(.+\.bias)$")


def rows(model: OpenModel) -> dict[str, Any]:
    """Return the ordinary tokens whose row of the embedding or of the head is all zero."""
    ordinary = _ordinary(model)
    if not ordinary:
        return {"tokens": 0, "dead": []}
    dead: list[dict[str, Any]] = []
    for name in (EMBEDDING, HEAD):
        info = model.tensors.get(name)
        if info is None or len(info.shape) != 2 or 0 in info.shape:
            continue
        zero = [row for row in _zero_rows(model, name) if row in ordinary]
        # A vocabulary that was never trained is a state, a few lost rows in a trained one are a fault.
        if zero and 2 * len(zero) < len(ordinary):
            first = [f"{row} {ordinary[row]!r}" for row in zero[:3]]
            dead.append({"name": name, "count": len(zero), "first": first})
    return {"tokens": len(ordinary), "dead": dead}


def _ordinary(model: OpenModel) -> dict[int, str]:
    """Return id -> text of the tokens that texts are made of."""
    tokenizer = model.tokenizer or {}
    added = {entry.get("id") for entry in tokenizer.get("added_tokens") or []}
    padding = stated_ids(model, "pad")
    return {
        int(number): text
        for text, number in token_ids(model).items()
        if number not in added and number not in padding and not _SPARE.search(text)
    }


def _zero_rows(model: OpenModel, name: str) -> Iterator[int]:
    import numpy as np

    info = model.tensors[name]
    if info.dtype in ("f16", "bf16", "f32"):
        bits = model.raw(name).view("<u4" if info.dtype == "f32" else "<u2").reshape(info.shape[0], -1)
        magnitude = 0x7FFFFFFF if info.dtype == "f32" else 0x7FFF
        # One value tells of nearly all rows that they are not empty.
        suspects = np.flatnonzero((bits[:, 0] & magnitude) == 0)
        step = max(1, _CHUNK // bits.shape[1])
        for start in range(0, len(suspects), step):
            part = suspects[start : start + step]
            yield from (int(row) for row in part[~(bits[part] & magnitude).any(axis=1)])
        return
    blocks = matrix_rows.first_blocks(model, info)
    if blocks is None:
        values = model.read(name)
        yield from (int(row) for row in np.flatnonzero(~values.any(axis=1)))
        return
    suspects = np.flatnonzero(~blocks.any(axis=1))
    values = matrix_rows.decoded(model, info, suspects)
    yield from (int(row) for row in suspects[~values.any(axis=1)])


def template_tokens(model: OpenModel) -> dict[str, Any]:
    """Return the special tokens that the chat template writes and that were never trained."""
    written = template_scan.literals(model.chat_template) if model.chat_template else []
    special = {
        entry["content"]: int(entry["id"])
        for entry in (model.tokenizer or {}).get("added_tokens") or []
        if len(entry["content"]) > 2
    }
    used = {text: number for text, number in special.items() if any(text in one for one in written)}
    info = model.tensors.get(EMBEDDING)
    if info is None or len(info.shape) != 2:
        return {"tokens": 0, "untrained": []}
    used = {text: number for text, number in used.items() if number < info.shape[0]}
    if not used:
        return {"tokens": 0, "untrained": []}
    return {"tokens": len(used), "untrained": _untrained(model, info, used)[:SHOWN]}


def _untrained(model: OpenModel, info: TensorInfo, used: Mapping[str, int]) -> list[str]:
    """Return what is wrong with the rows of tokens: all zero, one for two tokens, or the average of all rows."""
    import numpy as np

    texts = list(used)
    picked = matrix_rows.decoded(model, info, np.array(list(used.values())))
    lengths = np.linalg.norm(picked, axis=1)
    average = _near_average(model, info, picked, _AVERAGE_SHARE * lengths)
    found = []
    for number, text in enumerate(texts):
        apart = np.linalg.norm(picked - picked[number], axis=1)
        apart[number] = np.inf
        if lengths[number] == 0:
            found.append(f"{text}: all zero")
        elif apart.min() == 0:
            found.append(f"{text}: the row of {texts[int(apart.argmin())]}")
        elif average[number]:
            found.append(f"{text}: the average of all rows")
    return found


def _near_average(
    model: OpenModel,
    info: TensorInfo,
    picked: npt.NDArray[np.float32],
    limits: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_]:
    """Say which rows are within ``limits`` of the average of all rows.

    A sample of rows settles it unless a row is within the sample's error of the limit; only then all are read.
    """
    import numpy as np

    count = info.shape[0]
    some = np.linspace(0, count - 1, min(count, _SAMPLED)).astype(np.int64)
    sample = matrix_rows.decoded(model, info, some).astype(np.float64)
    with np.errstate(all="ignore"):
        mean = sample.mean(axis=0)
        error = np.sqrt(np.sum(sample.var(axis=0)) / len(sample))
        distances = np.linalg.norm(picked - mean, axis=1)
        if count > _SAMPLED and not np.all(distances > limits + 8 * error):
            parts = (np.arange(start, min(count, start + _SAMPLED)) for start in range(0, count, _SAMPLED))
            sums = [matrix_rows.decoded(model, info, part).sum(axis=0, dtype=np.float64) for part in parts]
            distances = np.linalg.norm(picked - np.sum(sums, axis=0) / count, axis=1)
    near: npt.NDArray[np.bool_] = distances < limits
    return near


def vectors(model: OpenModel) -> dict[str, Any]:
    """Return biases that lost their values while those of other layers have some, and norms that cannot be."""
    faults = list(_lost_biases(model))
    norms = {
        n: model.read(n)
        for n, i in model.tensors.items()
        if _is_norm(n) and len(i.shape) == 1 and 0 not in i.shape
    }
    more = 1.0 if model.architecture in _ONE_MORE and model.format != "gguf" else 0.0
    known = model.architecture in (*_PLAIN, *_ONE_MORE)
    if known:
        faults += [
            f"{name} lets nothing through" for name, values in norms.items() if not (values + more).any()
        ]
    total = sum(values.size for values in norms.values())
    negative = sum(int((values + more <= 0).sum()) for values in norms.values())
    share = negative / total if total else 0.0
    if known and share > MOST_NEGATIVE:
        faults.append(f"{share:.0%} of all norm weights are not positive")
    return {"vectors": sum(len(i.shape) == 1 for i in model.tensors.values()), "faults": faults[:SHOWN]}


def _is_norm(name: str) -> bool:
    return "norm" in name and name.endswith(".weight")


def _lost_biases(model: OpenModel) -> Iterator[str]:
    kinds: Mapping[str, dict[str, bool]] = defaultdict(dict)
    for name, info in model.tensors.items():
        match = _BIAS.search(name)
        if match and 0 not in info.shape:
            kinds[match[2]][name] = bool(model.read(name).any())
    for alive in kinds.values():
        lost = [name for name, living in alive.items() if not living]
        if lost and len(lost) < len(alive):
            yield from (f"{name} is all zero, unlike those of other layers" for name in lost)
