"""What a merge kept of its parents: norms (SLERP), signs and density (TIES), tensors and architecture.

SLERP: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985. TIES: Yadav et al. 2023,
"TIES-Merging: Resolving Interference When Merging Models" (arXiv 2306.01708). One tensor of each model is in
memory at a time; sums are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.comparison.names import comparable, tensor_set, weights
from apr_qa.derivation.members import Member, Unmeasured

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ROUNDING = {"f32": 2.0**-22, "f16": 2.0**-11, "bf16": 2.0**-8}
_WIDEST = 2.0**-8


def shared_tensors(members: Sequence[Member]) -> list[str]:
    """Return the tensors that all have in one shape; raises Unmeasured for none."""
    tables = [weights(member.model) for member in members]
    names = [
        name
        for name, info in tables[0].items()
        if all(name in other and other[name].shape == info.shape for other in tables[1:])
    ]
    if not names:
        raise Unmeasured("the models have no tensor in common")
    return names


def norms(child: Member, parents: Sequence[Member]) -> dict[str, Any]:
    """Compare the L2 norm of every merged tensor with the range between those of its parents.

    ``deviation`` is how far a norm lies outside of the range, in shares of the end that it passed.
    """
    _several(parents)
    names = shared_tensors([child, *parents])
    worst = {"name": "", "deviation": -1.0, "norm": 0.0, "parents": [0.0]}
    copied = {parent.name for parent in parents}
    total = [0.0] * (1 + len(parents))
    for name in names:
        values = child.model.read(name)
        theirs = [parent.model.read(name) for parent in parents]
        copied -= {p.name for p, tensor in zip(parents, theirs, strict=True) if not _equal(tensor, values)}
        found = [_norm(tensor) for tensor in (values, *theirs)]
        total = [one + norm**2 for one, norm in zip(total, found, strict=True)]
        deviation = _outside(found[0], found[1:])
        if not deviation <= worst["deviation"]:  # type: ignore[operator]
            worst = {"name": name, "deviation": deviation, "norm": found[0], "parents": found[1:]}
    whole = [math.sqrt(one) for one in total]
    return {
        "tensors": len(names),
        "worst": _plain(worst),
        "total": _plain({"deviation": _outside(whole[0], whole[1:]), "norm": whole[0], "parents": whole[1:]}),
        "copy_of": sorted(copied),
    }


def sign_conflicts(child: Member, parents: Sequence[Member], base: Member) -> dict[str, Any]:
    """Count entries that point against a parent's task vector, in the merge and in the naive sum of the vectors.

    The sum is rounded to the artifact's type. Where that leaves no step, or one within rounding, nothing is counted
    in either of them: only what a merge resolved can make a difference.
    """
    _several(parents)
    import numpy as np

    merged = naive = disagreeing = entries = 0
    for name in shared_tensors([child, base, *parents]):
        origin = base.model.read(name)
        values = child.model.read(name)
        rounding = np.float32(_ROUNDING.get(child.model.quantization, _WIDEST))
        dead = rounding * (np.abs(origin) + np.abs(values))
        vectors = [parent.model.read(name) - origin for parent in parents]
        signs = [np.sign(vector) for vector in vectors]
        summed = _signs(_stored(origin + np.sum(vectors, axis=0), child.model.quantization) - origin, dead)
        own = np.where(summed != 0, _signs(values - origin, dead), np.float32(0))
        entries += origin.size
        disagreeing += int(np.count_nonzero(np.min(signs, axis=0) * np.max(signs, axis=0) < 0))
        merged += sum(int(np.count_nonzero(own * sign < 0)) for sign in signs)
        naive += sum(int(np.count_nonzero(summed * sign < 0)) for sign in signs)
    return {"entries": entries, "disagreeing": disagreeing, "conflicts": merged, "naive_conflicts": naive}


def density(child: Member, parents: Sequence[Member], base: Member, promised: float) -> dict[str, Any]:
    """Measure the share of entries that the merge moved, and that of the union of trimmed task vectors.

    A vector is trimmed tensor by tensor to the ``promised`` share of largest entries.
    """
    _several(parents)
    import numpy as np

    moved = union = entries = 0
    for name in shared_tensors([child, base, *parents]):
        origin = base.model.read(name)
        moved += int(np.count_nonzero(child.model.read(name) != origin))
        kept = np.zeros(origin.shape, bool)
        for parent in parents:
            kept |= _largest(np.abs(parent.model.read(name) - origin), promised)
        union += int(np.count_nonzero(kept))
        entries += origin.size
    return {
        "entries": entries,
        "promised": promised,
        "measured": moved / entries,
        "expected": union / entries,
    }


def tensor_sets(child: Member, parents: Sequence[Member]) -> dict[str, Any]:
    """Compare names and shapes with those of each parent."""
    if not parents:
        raise Unmeasured("the playbook names no parent")
    return {"parents": [{"name": p.name, **tensor_set(p.model, child.model)} for p in parents]}


def architectures(child: Member, parents: Sequence[Member]) -> dict[str, Any]:
    """Compare the architecture, and every dimension that the configurations state."""
    if not parents:
        raise Unmeasured("the playbook names no parent")
    unknown = next((name for one in (child, *parents) if (name := comparable(one.model))), "")
    if unknown:
        raise Unmeasured(f"the configuration of architecture {unknown} is not known")
    rows = []
    for parent in parents:
        stated = parent.model.config
        differing = {
            key: [stated[key], child.model.config.get(key)]
            for key in _DIMENSIONS
            if key in stated and stated[key] != child.model.config.get(key)
        }
        named = [parent.model.architecture, child.model.architecture]
        rows.append({"name": parent.name, "architecture": named, "differing": differing})
    return {"parents": rows}


_DIMENSIONS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "vocab_size",
)


def _several(parents: Sequence[Member]) -> None:
    if len(parents) < 2:
        raise Unmeasured(f"a merge has two parents or more, the playbook names {len(parents)}")
    if len({parent.sha256 for parent in parents}) < len(parents):
        raise Unmeasured("two parents are the same file: a merge of them could not fail")


def _norm(values: npt.NDArray[np.float32]) -> float:
    import numpy as np

    return float(np.linalg.norm(values.astype(np.float64)))


def _signs(steps: npt.NDArray[np.float32], dead: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.where(np.abs(steps) > dead, np.sign(steps), np.float32(0))


def _stored(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32]:
    """Return values as a file of this type gives them back."""
    import numpy as np

    if dtype == "f16":
        return values.astype(np.float16).astype(np.float32)
    if dtype != "bf16":
        return values
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (nearest & np.uint32(0xFFFF0000)).view(np.float32)


def _outside(norm: float, parents: Sequence[float]) -> float:
    low, high = min(parents), max(parents)
    if not math.isfinite(norm) or (high == 0.0 and norm > 0.0):
        return math.inf
    if low <= norm <= high:
        return 0.0
    return (low - norm) / low if norm < low else (norm - high) / high


def _equal(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    import numpy as np

    return bool(np.array_equal(one, other))


def _largest(sizes: npt.NDArray[np.float32], share: float) -> npt.NDArray[np.bool_]:
    """Return the mask of the largest entries; zeros are never among them."""
    import numpy as np

    count = max(1, min(sizes.size, round(share * sizes.size)))
    least = np.partition(sizes.reshape(-1), sizes.size - count)[sizes.size - count]
    mask: npt.NDArray[np.bool_] = (sizes >= least) & (sizes > 0)
    return mask


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Write infinity, which JSON has not, as a large number."""
    return {key: 1e9 if value == math.inf else value for key, value in row.items()}
