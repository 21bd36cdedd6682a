"""Packed weights of one artifact: is everything there that decodes them, and does it follow its scheme?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apr_qa.containers import packed_weights
from apr_qa.containers.packed_weights import Packed
from apr_qa.formats import OpenModel

SHOWN = 20
_LEAST_SHARE = 0.99


def packed(model: OpenModel) -> dict[str, Any]:
    """Return the packed weights that lack a part, and those whose parts contradict their scheme."""
    stored: Any = getattr(model, "stored", model)
    found = packed_weights.find(stored) if stored.format == "safetensors" else {}
    missing = [f"{name}: {', '.join(one.missing)}" for name, one in sorted(found.items()) if one.missing]
    wrong = [fault for one in found.values() if not one.missing for fault in _faults(stored, one)]
    declared = stored.config.get("quantization_config")
    if isinstance(declared, dict) and not found and stored.format == "safetensors":
        method = str(declared.get("quant_method", ""))[:40]
        if method in ("gptq", "awq", "bitsandbytes", "fp8"):
            wrong.append(f"the configuration declares {method}, but no weight is packed")
    if found and not isinstance(declared, dict):
        wrong.append("weights are packed, but the configuration declares no quantisation")
    return {
        "packed": len(found),
        "schemes": sorted({one.scheme for one in found.values()}),
        "missing": missing[:SHOWN],
        "missing_count": len(missing),
        "wrong": wrong[:SHOWN],
        "wrong_count": len(wrong),
    }


def _faults(model: OpenModel, one: Packed) -> Iterator[str]:
    if one.scheme == "gptq":
        yield from _order(model, one)
        yield from _zero_points(model, one)
    for part in ("scales", "scale", "SCB", "absmax", "nested_absmax"):
        if part in one.parts and model.tensors[one.parts[part]].dtype.startswith(("f", "bf")):
            yield from _scale_faults(model, one, part)


def _scale_faults(model: OpenModel, one: Packed, part: str) -> Iterator[str]:
    import numpy as np

    values = model.read(one.parts[part])
    if not np.isfinite(values).all():
        yield f"{one.parts[part]}: scales are not finite"
    elif values.size and not np.any(values):
        yield f"{one.parts[part]}: all scales are zero"


def _zero_points(model: OpenModel, one: Packed) -> Iterator[str]:
    """Symmetric codes are centred: 8 of 16 levels, stored as 7 by the first format and as 8 by the second."""
    import numpy as np

    bits = one.settings.get("bits", 4)
    if one.settings.get("sym") is not True or bits not in (2, 4, 8):
        return
    centre = 1 << (bits - 1)
    wanted = centre if one.settings.get("checkpoint_format", "gptq") == "gptq_v2" else centre - 1
    stored = packed_weights.zero_points(model, one)
    share = float(np.mean(stored == wanted)) if stored.size else 1.0
    if share < _LEAST_SHARE:
        other = int(np.bincount(stored.reshape(-1)).argmax())
        yield f"{one.name}: symmetric zero points are {other}, the format asks for {wanted}"


def _order(model: OpenModel, one: Packed) -> Iterator[str]:
    import numpy as np

    if "g_idx" not in one.parts:
        return
    groups, size = packed_weights.groups_of(model, one), one.settings.get("group_size", 128)
    count = model.tensors[one.parts["scales"]].shape[0]
    if groups.size != one.shape[1] or groups.min() < 0 or groups.max() >= count:
        yield f"{one.name}: g_idx names groups that do not exist, or not one for each channel"
        return
    if not isinstance(size, int) or size <= 0:
        return
    sizes = np.bincount(groups, minlength=count)
    full = one.shape[1] // size
    if np.any(sizes[:full] != size):
        yield f"{one.name}: groups of g_idx have {int(sizes.min())} to {int(sizes.max())} channels, not {size}"
    elif one.settings.get("desc_act") is False and np.any(np.diff(groups) < 0):
        yield f"{one.name}: channels are out of order in g_idx although the weights are not ordered by activation"
