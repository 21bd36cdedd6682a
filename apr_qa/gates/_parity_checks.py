"""Judging the facts of a comparison with the ground truth: one function for each question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr_qa.gates import Check, Facts, corroborated, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement, Outcome


def config_equals(facts: Facts) -> Judgement:
    differences = facts["differences"]
    if differences:
        shown = "; ".join(f"{d['field']}: {d['truth']!r} became {d['artifact']!r}" for d in differences[:3])
        return falsified(f"{len(differences)} of {facts['compared']} fields differ: {shown}")
    if not facts["compared"]:
        return inconclusive("no field was compared")
    return corroborated(f"{facts['compared']} fields mean the same on both sides")


def tensor_set_equals(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return _unknown(facts)
    for what in ("missing", "unexpected"):
        if facts[what]:
            return falsified(f"{len(facts[what])} tensors are {what}: {', '.join(facts[what][:5])}")
    if facts["mismatched"]:
        return _mismatched(facts["mismatched"])
    if not facts["compared"]:
        return inconclusive("no tensor was compared")
    return corroborated(f"{facts['compared']} tensors have the same names and shapes")


def names_agree(facts: Facts) -> Judgement:
    return tensor_set_equals({**facts, "mismatched": []})


def shapes_agree(facts: Facts) -> Judgement:
    return tensor_set_equals({**facts, "missing": [], "unexpected": []})


def shapes_of(what: str, dimensions: int, counted: str) -> Check:
    def check(facts: Facts) -> Judgement:
        if facts.get("unknown_architecture"):
            return _unknown(facts)
        wrong = [entry for entry in facts["mismatched"] if min(len(entry["truth"]), 2) == dimensions]
        if wrong:
            return _mismatched(wrong)
        if not facts[counted]:
            return inconclusive(f"no {what} was compared")
        return corroborated(f"{facts[counted]} {what} have the truth's shape")

    return check


def head_has_its_shape(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return _unknown(facts)
    parts = ("lm_head", "embed_tokens")
    wrong = [entry for entry in facts["mismatched"] if any(part in entry["name"] for part in parts)]
    lost = [name for name in facts["missing"] if any(part in name for part in parts)]
    if wrong or lost:
        return _mismatched(wrong) if wrong else falsified(f"missing: {', '.join(lost)}")
    if not facts["compared"]:
        return inconclusive("no tensor was compared")
    return corroborated("embedding and output head have the truth's shape")


def nothing_is_transposed(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return _unknown(facts)
    if facts["transposed"]:
        return falsified(
            f"{len(facts['transposed'])} tensors are transposed: {', '.join(facts['transposed'][:5])}"
        )
    if not facts["compared"]:
        return inconclusive("no tensor was compared")
    return corroborated(f"none of {facts['compared']} tensors is transposed")


def values_agree(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return _unknown(facts)
    if facts["offending_count"]:
        first = facts["offending"][0]
        guess = f" (it looks {first['looks_like']})" if first["looks_like"] else ""
        return falsified(
            f"{facts['offending_count']} of {facts['compared']} tensors are further from the truth than their type "
            f"explains; worst: {first['name']}, error {first['error']:.3g} where {first['dtype']} costs "
            f"{first['twin_error']:.3g}, worst block {first['block']:.3g} instead of {first['twin_block']:.3g}{guess}"
        )
    if facts["uncompared_count"]:
        return inconclusive(
            f"{facts['uncompared_count']} tensors have a type that cannot be rounded to here, "
            f"{facts['uncompared'][0]} first; pip install 'apr-qa[llama]' brings the quantiser"
        )
    if not facts["compared"]:
        return inconclusive("no tensor was compared")
    return corroborated(
        f"{facts['compared']} tensors are as close to the truth as their types allow ({facts['used']:.0%} of the "
        "budget at most)"
    )


def group_agrees(*groups: str) -> Check:
    def check(facts: Facts) -> Judgement:
        if facts.get("unknown_architecture"):
            return _unknown(facts)
        found = [facts["groups"][name] for name in groups if name in facts["groups"]]
        wrong = [name for group in found for name in group["offending"]]
        if wrong:
            return falsified(f"{len(wrong)} {groups[0]} tensors leave their band: {', '.join(wrong[:5])}")
        count = sum(int(group["compared"]) for group in found)
        if not count:
            return inconclusive(f"no {groups[0]} tensor was compared")
        return corroborated(f"{count} {groups[0]} tensors are inside their bands")

    return check


def all_were_compared(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return _unknown(facts)
    if facts["uncompared_count"] or not facts["compared"]:
        return falsified(f"{facts['uncompared_count']} tensors could not be compared")
    return corroborated(f"all {facts['compared']} tensors, {facts['values']} values, were compared")


def rows_are_alive(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return _unknown(facts)
    if facts["dead_count"]:
        first = facts["dead"][0]
        return falsified(
            f"{facts['dead_count']} rows are zero that are not in the truth; first: {first['name']}, "
            f"rows {', '.join(map(str, first['first'][:5]))}"
        )
    if not facts["rows"]:
        return inconclusive("no row was compared")
    return corroborated(f"none of {facts['rows']} rows lost its values")


def tokenizer_equals(facts: Facts) -> Judgement:
    if not facts["present"]:
        return _tokenizer_absent(facts)
    if facts["kinds"]:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(facts["kinds"].items()))
        first = facts["differences"][0]
        return falsified(f"the tokenizers differ ({counts}); first: {_shown(first)}")
    if not facts["tokens"]:
        return inconclusive("the vocabulary is empty")
    spelt = f"; {', '.join(facts['by_probes'])} compared by encoding alone" if facts["by_probes"] else ""
    return corroborated(
        f"{facts['tokens']} tokens, {facts['merges']} merges, {facts['added']} added tokens and the encoding of "
        f"{facts['probes']} texts are equal{spelt}"
    )


def _tokenizer_absent(facts: Facts) -> Judgement:
    if not facts["truth"]:
        return inconclusive("the ground truth has no tokenizer.json to compare with")
    if not facts["unreadable"]:
        return falsified("the artifact has no tokenizer, the ground truth has one")
    if facts["expected_pre"]:
        return falsified(
            f"{facts['unreadable']}; the ground truth splits text as {facts['expected_pre']!r} does"
        )
    return inconclusive(facts["unreadable"])


def template_equals(facts: Facts) -> Judgement:
    if facts["truth"] != facts["artifact"]:
        has, lacks = ("ground truth", "artifact") if facts["truth"] else ("artifact", "ground truth")
        return falsified(f"the {has} has a chat template, the {lacks} has none")
    if not facts["truth"]:
        return inapplicable("neither side has a chat template")
    if facts["differences"]:
        first = facts["differences"][0]
        return falsified(
            f"{len(facts['differences'])} of {facts['compared']} conversations render differently; first "
            f"({first['conversation']}): {first['truth']!r} became {first['artifact']!r}"
        )
    if facts["foreign_text"]:
        return falsified(
            f"the template can render words that the truth's cannot: {', '.join(facts['foreign_text'])}"
        )
    if not facts["compared"]:
        return inconclusive("nothing was rendered")
    return corroborated(f"{facts['compared']} renderings are equal")


def generation_equals(facts: Facts) -> Judgement:
    if facts["foreign"]:
        shown = "; ".join(f"{role} {ids}" for role, ids in sorted(facts["foreign"].items()))
        return falsified(f"token ids that the ground truth does not use so: {shown}")
    if facts["lost_stops"]:
        return falsified(f"generation no longer stops at {facts['lost_stops']}")
    if facts["lost_begin"]:
        return falsified(f"the artifact names no first token, the truth names {facts['lost_begin']}")
    if not facts["truth_stops"]:
        return inconclusive("the ground truth names no token to stop at")
    return corroborated(f"generation stops at {facts['truth_stops']} on both sides")


def types_are_as_declared(facts: Facts) -> Judgement:
    stored = ", ".join(f"{dtype} {share:.0%}" for dtype, share in sorted(facts["stored"].items()))
    if facts["wrong"]:
        shown = ", ".join(f"{source} says {name}" for source, name in sorted(facts["wrong"].items()))
        return falsified(f"{shown}, but the weights are stored as {stored}")
    if not facts["stored"]:
        return inconclusive("no matrix is stored")
    if not facts["declared"]:
        return inapplicable("the artifact declares no storage type")
    return corroborated(f"{stored}, as {' and '.join(facts['declared'])} say")


def lineage_names_the_truth(facts: Facts) -> Judgement:
    if facts["same"]:
        return corroborated(f"made from {facts['recorded'][:12]} by {facts['tool'] or 'an unnamed tool'}")
    if facts["recorded"]:
        return falsified(f"made from {facts['recorded'][:12]}, which is not the ground truth")
    if facts["origin"] == "derived":
        return falsified("a derived file must record what it was made from")
    return inapplicable("the artifact does not say what it was made from")


_PARTS: Mapping[str, Check] = {
    "config": config_equals,
    "tensor_set": tensor_set_equals,
    "tensor_error": values_agree,
    "tokenizer": tokenizer_equals,
    "template": template_equals,
    "generation": generation_equals,
}


def is_the_same_model(pair: str) -> Check:
    def check(facts: Facts) -> Judgement:
        if facts["pair"] != pair:
            return inapplicable(f"this is the pair {facts['pair']}")
        judged = {name: check(facts[name]) for name, check in _PARTS.items()}
        for outcome in (Outcome.FALSIFIED, Outcome.INCONCLUSIVE):
            found = [f"{name}: {j.reason}" for name, j in judged.items() if j.outcome is outcome]
            if found:
                return Judgement(outcome=outcome, reason="; ".join(found))
        if judged["tensor_error"].outcome is Outcome.INAPPLICABLE:
            return judged["tensor_error"]
        return corroborated(f"{', '.join(judged)} are equal")

    return check


def _unknown(facts: Facts) -> Judgement:
    return inapplicable(
        f"no canonical tensor names are known for architecture {facts['unknown_architecture']!r}"
    )


def _mismatched(wrong: list[Mapping[str, Any]]) -> Judgement:
    first = wrong[0]
    return falsified(
        f"{len(wrong)} tensors have another shape; first: {first['name']} is {first['artifact']}, "
        f"in the truth {first['truth']}"
    )


def _shown(difference: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {str(value)[:80]!r}" for key, value in sorted(difference.items()))
