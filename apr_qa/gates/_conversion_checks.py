"""Judging what conversions do to files: one function for each way in which they go wrong."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, corroborated, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement

_TURNED = ("transposed", "reshaped instead of transposed")
_FLOATS = ("f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2")
_SIMILAR = 0.10
_MEAN_SHARE = 0.1
_STD_FACTOR = 2.0
_FLAT = 1e-6


def known(check: Check) -> Check:
    """Return the check for architectures whose tensors have canonical names, inapplicable for others."""

    def judged(facts: Facts) -> Judgement:
        unknown = facts.get("unknown_architecture")
        if unknown:
            return inapplicable(f"no canonical tensor names are known for architecture {unknown!r}")
        return check(facts)

    return judged


# ---- files and storage


def paths_say_the_truth(facts: Facts) -> Judgement:
    if facts["outside"]:
        return falsified(f"weights lie outside of the artifact: {', '.join(facts['outside'][:5])}")
    if facts["wrong"]:
        first = next(entry for entry in facts["files"] if entry["name"] in facts["wrong"])
        return falsified(
            f"{len(facts['wrong'])} of {facts['count']} weight files are not what they are called; first: "
            f"{first['name']} holds {first['holds'] or 'no known format'}, opened as {facts['format']}"
        )
    if not facts["count"]:
        return inconclusive("there is no weight file")
    return corroborated(f"{facts['count']} weight files hold {facts['format']}, as their names say")


def sizes_follow_types(facts: Facts) -> Judgement:
    if facts["wrong"]:
        first = facts["wrong"][0]
        lawful = " or ".join(map(str, first["lawful"])) or "nothing lawful"
        return falsified(
            f"{len(facts['wrong'])} tensors have the wrong size; first: {first['name']} has {first['size']} bytes, "
            f"{first['dtype']} makes {lawful}"
        )
    if facts["overlapping"]:
        return falsified(f"payloads overlap or leave the file: {', '.join(facts['overlapping'][:5])}")
    if not facts["checked"]:
        return inconclusive("no tensor was checked")
    return corroborated(
        f"{facts['checked']} tensors ({facts['quantised']} in blocks) have the bytes that type and shape make"
    )


def header_is_aligned(facts: Facts) -> Judgement:
    if facts["unrecognised"]:
        return falsified(f"the header is not that of the format: {', '.join(facts['unrecognised'][:5])}")
    if facts["misaligned_count"]:
        return falsified(
            f"{facts['misaligned_count']} of {facts['checked']} tensors do not begin at a multiple of "
            f"{facts['alignment']} bytes, {facts['misaligned'][0]} first"
        )
    if not facts["checked"]:
        return inconclusive("no tensor was checked")
    return corroborated(f"{facts['checked']} tensors begin at multiples of {facts['alignment']} bytes")


def contract_loads(facts: Facts) -> Judgement:
    if facts["error"] or facts["gaps"]:
        return falsified(facts["error"] or f"rules without a counterpart: {', '.join(facts['gaps'][:5])}")
    if not facts["rules"]:
        return inconclusive("the contract has no rule")
    return corroborated(
        f"{facts['rules']} tensors of {facts['architecture']} have a name in every format and a shape"
    )


def types_changed_lawfully(facts: Facts) -> Judgement:
    if facts["wrong"]:
        first = facts["wrong"][0]
        return falsified(
            f"{len(facts['wrong'])} storage types should not be; first: {first['name']} as {first['dtype']}, "
            f"{first['why']}"
        )
    if not facts["checked"]:
        return inconclusive("no tensor was checked")
    shown = ", ".join(f"{change} {count} times" for change, count in sorted(facts["changes"].items())[:4])
    return corroborated(shown)


# ---- who the model is


def architecture_is_kept(facts: Facts) -> Judgement:
    one, other = facts["architecture"]
    if facts["architecture_differs"] or not one or not other:
        return falsified(f"the architecture was {one or 'not named'!r} and is {other or 'not named'!r}")
    return corroborated(f"{one} became {other}: the same architecture")


def size_is_kept(what: str, stated: str, found: str) -> Check:
    def check(facts: Facts) -> Judgement:
        (one, other), (real, kept) = facts[stated], facts[found]
        if real is None or kept is None:
            return inapplicable(f"no tensor tells the {what}")
        if real != kept:
            return falsified(f"{what}: {real} in the truth's tensors, {kept} in the artifact's")
        if one is not None and other is not None and one != other:
            return falsified(f"{what}: the truth's configuration says {one}, the artifact's {other}")
        return corroborated(f"{what} is {kept} on both sides")

    return check


def depth_and_width_are_kept(facts: Facts) -> Judgement:
    width = size_is_kept("hidden size", "hidden", "columns")(facts)
    depth = size_is_kept("number of layers", "layers", "layers_found")(facts)
    for judgement in (width, depth):
        if judgement.outcome.failed or not judgement.outcome.counted:
            return judgement
    return corroborated(f"{width.reason}; {depth.reason}")


# ---- costs


def work_is_similar(facts: Facts) -> Judgement:
    one, other = facts["truth"]["multiplications"], facts["artifact"]["multiplications"]
    if not one:
        return inconclusive("the truth multiplies nothing")
    if abs(other / one - 1) > _SIMILAR:
        return falsified(f"a token costs {other} multiplications, in the truth {one}")
    return corroborated(f"a token costs {other / one:.1%} of the truth's multiplications")


def memory_is_similar(facts: Facts) -> Judgement:
    one, other = facts["truth"]["values"], facts["artifact"]["values"]
    if not one or not facts["bytes"]:
        return inconclusive("there is no weight")
    limit = one * facts["widest_bits"] / 8
    if abs(other / one - 1) > _SIMILAR or facts["bytes"] > limit * (1 + _SIMILAR):
        return falsified(f"{other} values in {facts['bytes']} bytes are held, in the truth {one} values")
    return corroborated(
        f"{other / one:.1%} of the truth's values, in {facts['bytes'] / other:.2f} bytes each"
    )


# ---- classes of conversion bugs


def tokenizer_is_whole(facts: Facts) -> Judgement:
    if not facts["truth"]:
        return inconclusive("the ground truth has no tokenizer.json to compare with")
    if not facts["present"]:
        if facts["unreadable"]:
            return inconclusive(
                f"a tokenizer of kind {facts['unreadable']!r} is there, which cannot be read here"
            )
        return falsified("the artifact carries no tokenizer")
    if facts["lost_count"]:
        return falsified(
            f"{facts['lost_count']} of {facts['tokens']} tokens are lost, {facts['lost'][0]!r} first"
        )
    if facts["merges"][0] and not facts["merges"][1]:
        return falsified(f"the {facts['merges'][0]} merges are lost")
    if not facts["tokens"]:
        return inconclusive("the vocabulary is empty")
    return corroborated(f"all {facts['tokens']} tokens are in the artifact, with {facts['merges'][1]} merges")


def embedding_is_in_order(facts: Facts) -> Judgement:
    if facts["missing"]:
        return falsified("the artifact has no embedding")
    if facts["wrong"]:
        first = facts["wrong"][0]
        looks = first["looks_like"] or "not near the truth's rows"
        return falsified(f"{first['name']} {first['shapes'][0]} (truth {first['shapes'][1]}): {looks}")
    if not facts["compared"] or not facts["rows"]:
        return inconclusive("no embedding was compared")
    return corroborated(
        f"{facts['rows']} rows of {', '.join(facts['compared'])} are the truth's, in its order"
    )


def weights_are_intact(facts: Facts) -> Judgement:
    if facts["wrong_count"]:
        first = facts["wrong"][0]
        return falsified(
            f"{facts['wrong_count']} tensors are corrupted; first: {first['name']}, {first['cause']}"
        )
    if not facts["compared"]:
        return inconclusive("no tensor was looked at")
    return corroborated(f"{facts['compared']} tensors are finite, alive and in the right byte order and type")


def shapes_match_config(facts: Facts) -> Judgement:
    if facts["wrong_count"]:
        first = facts["wrong"][0]
        return falsified(
            f"{facts['wrong_count']} of {facts['checked']} shapes contradict the truth's configuration; first: "
            f"{first['name']} is {first['artifact']}, should be {first['expected']}"
        )
    if not facts["checked"]:
        return inconclusive("no shape was checked")
    return corroborated(f"{facts['checked']} shapes follow from the truth's configuration")


def everything_is_explained(facts: Facts) -> Judgement:
    if facts["rest_count"]:
        shown = "; ".join(f"{entry['where']}: {entry['what']}" for entry in facts["rest"][:3])
        return falsified(f"{facts['rest_count']} differences that no other class explains: {shown}")
    if not facts["compared"]:
        return inconclusive("nothing was compared")
    return corroborated(f"nothing differs in {facts['compared']} tensors and all that is beside them")


def blocks_run_along_rows(facts: Facts) -> Judgement:
    turned = [
        entry
        for entry in facts["offending"]
        if entry["looks_like"] in _TURNED and entry["dtype"] not in _FLOATS
    ]
    if turned:
        return falsified(
            f"{len(turned)} quantised tensors; first: {turned[0]['name']} looks {turned[0]['looks_like']}"
        )
    quantised = {dtype: band for dtype, band in facts["bands"].items() if dtype not in _FLOATS}
    if not quantised:
        return inapplicable("no tensor is quantised")
    count = sum(band["tensors"] for band in quantised.values())
    return corroborated(f"{count} tensors in {', '.join(sorted(quantised))} lie as in the truth")


# ---- fingerprints


def nothing_became_infinite(facts: Facts) -> Judgement:
    if facts["introduced"]:
        return falsified(
            f"{len(facts['introduced'])} tensors hold NaN or infinity where the truth does not, "
            f"{facts['introduced'][0]} first"
        )
    return _compared(facts, "no NaN and no infinity was introduced")


def fingerprints_are_finite(facts: Facts) -> Judgement:
    if facts["nonfinite"]:
        first = facts["nonfinite"][0]
        return falsified(
            f"{len(facts['nonfinite'])} tensors; first: {first['name']}, {first['count']} values"
        )
    return _compared(facts, "mean, deviation and range of every tensor are finite")


def copies_are_exact(facts: Facts) -> Judgement:
    if facts["differing_count"]:
        return falsified(
            f"{facts['differing_count']} of {facts['same_type']} tensors whose type holds every value differ, "
            f"{facts['differing'][0]} first"
        )
    if not facts["same_type"]:
        return inapplicable("no tensor is stored in a type that holds every value of the truth's")
    return corroborated(
        f"{facts['same_type']} tensors in a type that holds every value are equal to the last bit"
    )


def norm_means_are_kept(facts: Facts) -> Judgement:
    for norm in facts["furthest_norms"]:
        room = _MEAN_SHARE * (abs(norm["truth_mean"]) + norm["truth_std"]) + _FLAT
        if not abs(norm["mean"] - norm["truth_mean"]) <= room:
            return falsified(
                f"{norm['name']}: mean {norm['mean']:.4g}, in the truth {norm['truth_mean']:.4g}"
            )
    return _norms(facts, "mean")


def norm_deviations_are_kept(facts: Facts) -> Judgement:
    for norm in facts["furthest_norms"]:
        low, high = norm["truth_std"] / _STD_FACTOR, norm["truth_std"] * _STD_FACTOR
        if not low - _FLAT <= norm["std"] <= high + _FLAT:
            return falsified(
                f"{norm['name']}: deviation {norm['std']:.4g}, in the truth {norm['truth_std']:.4g}"
            )
    return _norms(facts, "standard deviation")


def _norms(facts: Facts, what: str) -> Judgement:
    if not facts["norms"]:
        return inapplicable("the model has no norm weights")
    return corroborated(f"the {what} of {facts['norms']} norms is that of the truth")


def _compared(facts: Facts, reason: str) -> Judgement:
    if not facts["compared"]:
        return inconclusive("no tensor was compared")
    return corroborated(f"{reason} ({facts['compared']} tensors)")


# ---- examples

NORM = "model.layers.3.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"
PRINTS: dict[str, Any] = {
    **{
        "compared": 272,
        "nonfinite": [],
        "introduced": [],
        "same_type": 61,
        "differing": [],
        "differing_count": 0,
    },
    **{
        "norms": 61,
        "furthest_norms": [{"name": NORM, "mean": 0.91, "std": 0.2, "truth_mean": 0.91, "truth_std": 0.2}],
    },
}
IDENTITY: dict[str, Any] = {
    **{"architecture": ["llama", "llama"], "architecture_differs": False, "vocabulary": [49152, 49152]},
    **{"rows": [49152, 49152], "hidden": [576, 576], "columns": [576, 576], "layers": [30, 30]},
    "layers_found": [30, 30],
}
COST: dict[str, Any] = {
    "truth": {"multiplications": 134_479_872, "values": 134_515_008},
    "artifact": {"multiplications": 134_479_872, "values": 134_515_008},
    **{"widest_bits": 16.0, "bytes": 269_060_544},
}
