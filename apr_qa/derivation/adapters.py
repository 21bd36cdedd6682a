"""Low-rank adapters in the format of peft, applied by hand: W + scale·B·A, and what a merge made of them.

adapter_config.json and adapter_model.safetensors, as peft writes them. Hu et al. 2021, "LoRA: Low-Rank
Adaptation of Large Language Models" (arXiv 2106.09685); scale = alpha / r, or alpha / sqrt(r) with rslora
(Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.comparison.names import weights
from apr_qa.derivation.members import Member, Unmeasured

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

SHOWN = 10
_ROUNDOFF = {"f32": 2.0**-22, "f16": 2.0**-11, "bf16": 2.0**-8}
"""Relative error of a stored value; f32 leaves room for the order of the sums."""
_FACTOR = re.compile(
    r"^(?:base_model\.model\.)?(.+)\.lora_(A|B|embedding_A|embedding_B)(?:\.default)?(?:\.weight)?$"
)


@dataclass(frozen=True)
class Adapter:
    """The factors of each adapted module, with its scale."""

    factors: dict[str, tuple[Array, Array, float]]
    """Tensor name -> A, B, scale; embeddings are held so that B·A has the shape of the weight."""
    rank: int

    def delta(self, name: str) -> Array | None:
        """Return what is added to a weight; None for one that is not adapted."""
        if name not in self.factors:
            return None
        a, b, scale = self.factors[name]
        product: Array = scale * (b @ a)
        return product


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter; raises Unmeasured for kinds that are no plain product of two factors."""
    config_file, file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for one in (config_file, file):
        if not one.is_file():
            raise Unmeasured(f"the adapter has no {one.name}")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Unmeasured(f"adapter_config.json is no JSON: {error}") from None
    if config.get("peft_type", "LORA") != "LORA" or config.get("use_dora"):
        raise Unmeasured(
            f"an adapter of type {config.get('peft_type')} (DoRA: {config.get('use_dora')}) is no LoRA"
        )
    halves: dict[str, dict[str, Array]] = {}
    for stored, values in _tensors(file).items():
        match = _FACTOR.match(stored)
        if match is None:
            raise Unmeasured(f"the adapter holds {stored}, which is no factor of a product")
        halves.setdefault(match[1], {})[match[2]] = values
    factors = {f"{module}.weight": _factors(module, pair, config) for module, pair in halves.items()}
    if not factors:
        raise Unmeasured("the adapter holds no factors")
    return Adapter(factors, int(config.get("r", 0)))


def zero_adapter(base: Member, merged: Member, adapter: Adapter, initial: Adapter | None) -> dict[str, Any]:
    """Compare every tensor that the adapter adds nothing to with the base, value by value."""
    import numpy as np

    checked, moved = 0, []
    for name in weights(base.model):
        delta = adapter.delta(name)
        if (delta is None or not delta.any()) and name in merged.model.tensors:
            checked += 1
            if not np.array_equal(base.model.read(name), merged.model.read(name)):
                moved.append(name)
    begun = None
    if initial is not None:
        begun = [name for name in initial.factors if (d := initial.delta(name)) is not None and d.any()]
    return {
        "checked": checked,
        "adapted": len(adapter.factors),
        "moved": moved[:SHOWN],
        "begun_nonzero": begun,
    }


def merged_adapter(base: Member, merged: Member, adapter: Adapter) -> dict[str, Any]:
    """Compare the merged weights with W + scale·B·A: each within rounding, and the whole step with gain 1.

    ``gain`` is the projection of what the merge added on what it should have added; rounding averages out of it.
    """
    dtype = merged.model.quantization
    if dtype not in _ROUNDOFF:
        raise Unmeasured(f"the merged model is stored as {dtype}: rounding would hide the adapter")
    absent = [
        name for name in adapter.factors if name not in base.model.tensors or name not in merged.model.tensors
    ]
    outside, along, square = [], 0.0, 0.0
    for name in adapter.factors:
        delta = adapter.delta(name)
        if name in absent or delta is None:
            continue
        origin, found = base.model.read(name), merged.model.read(name)
        if delta.shape != origin.shape or found.shape != origin.shape:
            raise Unmeasured(f"{name}: the adapter adds {list(delta.shape)} to {list(origin.shape)}")
        share = _outside(found, origin, delta, _ROUNDOFF[dtype])
        if share:
            outside.append({"name": name, "share": share})
        along += float(((found - origin) * delta).sum(dtype="float64"))
        square += float((delta * delta).sum(dtype="float64"))
    if not square and not absent:
        raise Unmeasured("the adapter adds nothing: merged and unmerged cannot differ")
    gain = along / square if square and math.isfinite(along) else None
    return {
        "adapted": len(adapter.factors),
        "absent": absent[:SHOWN],
        "outside": outside[:SHOWN],
        "gain": gain,
    }


def unchanged(base: Member, pristine: Member | None, sha256: str) -> dict[str, Any]:
    """Compare the base with what it was before training: a copy of it, or its hash."""
    if pristine is None and not sha256:
        raise Unmeasured("the recipe names neither base_sha256 nor a pristine copy of the base")
    if pristine is None:
        return {"expected": sha256, "measured": base.sha256, "changed": [], "compared": None}
    if pristine.path.resolve() == base.path.resolve():
        raise Unmeasured("the pristine copy is the base itself: nothing is compared")
    import numpy as np

    one, other = weights(pristine.model), weights(base.model)
    changed = sorted(one.keys() ^ other.keys())
    for name in one.keys() & other.keys():
        if not np.array_equal(pristine.model.read(name), base.model.read(name)):
            changed.append(name)
    hashes = {"expected": sha256 or base.sha256, "measured": base.sha256}
    return {**hashes, "changed": sorted(changed)[:SHOWN], "compared": len(one)}


def _outside(found: Array, origin: Array, delta: Array, roundoff: float) -> float:
    """Return the share of values that rounding of sum and step does not explain; NaN is never explained."""
    import numpy as np

    wanted = origin + delta
    allowed = 2 * roundoff * (np.abs(wanted) + np.abs(delta)) + 1e-7
    return float(np.mean(~(np.abs(found - wanted) <= allowed)))


def _tensors(file: Path) -> dict[str, Array]:
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {n: np.asarray(opened.get_tensor(n).float().numpy(), np.float32) for n in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Unmeasured(f"adapter_model.safetensors cannot be read: {error}") from None


def _factors(module: str, pair: dict[str, Array], config: dict[str, Any]) -> tuple[Array, Array, float]:
    if set(pair) == {"embedding_A", "embedding_B"}:
        # delta = (B·A)ᵀ = Aᵀ·Bᵀ
        a, b, rank = pair["embedding_B"].T, pair["embedding_A"].T, len(pair["embedding_A"])
    elif set(pair) == {"A", "B"}:
        a, b, rank = pair["A"], pair["B"], len(pair["A"])
        if config.get("fan_in_fan_out"):
            a, b = b.T, a.T
    else:
        raise Unmeasured(f"{module} has only {', '.join(sorted(pair))} of its two factors")
    alpha = float(_special(config, "alpha_pattern", module, config.get("lora_alpha", rank)))
    return a, b, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _special(config: dict[str, Any], table: str, module: str, default: Any) -> Any:
    """Return the value of the first pattern that a module's name ends with, as peft matches them."""
    for pattern, value in (config.get(table) or {}).items():
        if re.match(rf"(?:.*\.)?({pattern})$", module):
            return value
    return default
