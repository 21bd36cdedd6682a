"""Rules for derived models about their tensors, files and adapters, from facts to judgements."""

from __future__ import annotations

from typing import Any

import msgspec

from apr_qa.gates import Check, Facts, corroborated, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement

MAX_NORM_DEVIATION = 0.05
LEAST_RESOLVED = 0.001
"""Of the conflicts of the naive sum: rounding alone moves a few in a million."""
MAX_DENSITY_ERROR = 0.01
MAX_SPARSITY_ERROR = 0.01
MAX_INT4_RATIO = 0.5
MAX_GAIN_ERROR = 0.05
"""Of the step that an adapter adds; a wrong alpha or rank is off by a factor."""


def measured(rule: Check) -> Check:
    """Return a rule that first looks whether anything was measured: what was not is no pass.

    Its reason tells what was made on the spot, which is no derivative of the user's.
    """

    def check(facts: Facts) -> Judgement:
        if facts.get("missing"):
            return inapplicable(str(facts["missing"]))
        if facts.get("unmeasured"):
            return inconclusive(str(facts["unmeasured"]))
        judgement = rule(facts)
        if not facts.get("made"):
            return judgement
        reason = f"{judgement.reason}; made on the spot: {facts['made']}"
        return msgspec.structs.replace(judgement, reason=reason)

    return check


def of_model(rule: Check, **wanted: Any) -> Check:
    """Return a rule that is about one kind of model only: another one is no proxy for it.

    ``wanted``: what the description of the artifact says (format, architecture, hidden_size, …).
    """

    def check(facts: Facts) -> Judgement:
        models = facts.get("models") or [{}]
        differing = {
            name: models[0].get(name) for name, value in wanted.items() if models[0].get(name) != value
        }
        if differing:
            asked = ", ".join(f"{name} {wanted[name]}" for name in differing)
            given = ", ".join(f"{name} {value}" for name, value in differing.items())
            return inapplicable(f"the criterion is about another model: {asked}; given was {given}")
        return rule(facts)

    return check


def norms_kept(facts: Facts) -> Judgement:
    worst, total = facts["worst"], facts["total"]
    if facts["copy_of"]:
        return falsified(f"it is a copy of {facts['copy_of'][0]}: nothing was merged")
    said = (
        f"the norm of {worst['name']} is {worst['norm']:.4g} beside {_range(worst['parents'])} "
        f"({worst['deviation']:.2%} outside), of all {facts['tensors']} tensors {total['norm']:.4g} beside "
        f"{_range(total['parents'])}; allowed {MAX_NORM_DEVIATION:.0%}"
    )
    return corroborated(said) if worst["deviation"] <= MAX_NORM_DEVIATION else falsified(said)


def _range(parents: Any) -> str:
    return " and ".join(f"{norm:.4g}" for norm in parents)


def conflicts_resolved(facts: Facts) -> Judgement:
    if not facts["naive_conflicts"]:
        return inconclusive("the task vectors never disagree: there was no conflict to resolve")
    said = (
        f"{facts['conflicts']} conflicts of sign, {facts['naive_conflicts']} in the naive sum, "
        f"of {facts['entries']} entries"
    )
    fewer = facts["conflicts"] < (1 - LEAST_RESOLVED) * facts["naive_conflicts"]
    return corroborated(said) if fewer else falsified(said)


def density_kept(facts: Facts) -> Judgement:
    said = (
        f"{facts['measured']:.2%} of the entries moved, trimming to {facts['promised']:.2%} moves "
        f"{facts['expected']:.2%}; allowed ± {MAX_DENSITY_ERROR:.0%}"
    )
    return (
        corroborated(said)
        if abs(facts["measured"] - facts["expected"]) <= MAX_DENSITY_ERROR
        else falsified(said)
    )


def tensors_kept(facts: Facts) -> Judgement:
    for parent in facts["parents"]:
        if parent.get("unknown_architecture"):
            return inconclusive(f"no tensor names are known for {parent['unknown_architecture']}")
        for kind in ("missing", "unexpected", "mismatched"):
            if parent[kind]:
                first = parent[kind][0]
                name = first["name"] if isinstance(first, dict) else first
                return falsified(f"beside {parent['name']}: {len(parent[kind])} tensors {kind}, {name} first")
        if not parent["compared"]:
            return inconclusive("no tensor was compared")
    return corroborated(
        f"{facts['parents'][0]['compared']} tensors, those of {len(facts['parents'])} parents"
    )


def architecture_kept(facts: Facts) -> Judgement:
    for parent in facts["parents"]:
        wanted, found = parent["architecture"]
        if wanted != found:
            return falsified(
                f"{parent['name']} is {wanted or 'nameless'}, the artifact {found or 'nameless'}"
            )
        if parent["differing"]:
            key, (was, now) = next(iter(parent["differing"].items()))
            return falsified(f"{key} was {was} in {parent['name']} and is {now}")
    return corroborated(f"architecture {facts['parents'][0]['architecture'][0]} with its dimensions")


def tokenizer_kept(facts: Facts) -> Judgement:
    if not facts["present"]:
        if facts["truth"] and not facts["artifact"] and not facts["unreadable"]:
            return falsified(f"{facts['parent']} has a tokenizer, the artifact has none")
        return inconclusive(facts["unreadable"] or f"{facts['parent']} has no tokenizer to compare with")
    if facts["kinds"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(facts["kinds"].items()))
        return falsified(f"the tokenizer differs from that of {facts['parent']}: {kinds}")
    return corroborated(
        f"{facts['tokens']} tokens, {facts['merges']} merges, {facts['probes']} texts encode alike"
    )


def sparsity_reached(facts: Facts) -> Judgement:
    parent = "" if facts["parent"] is None else f" (parent {facts['parent']:.2%})"
    said = f"{facts['measured']:.2%} of {facts['weights']} weights are zero{parent}, "
    said += f"promised {facts['promised']:.2%} ± 1 %"
    return (
        corroborated(said)
        if abs(facts["measured"] - facts["promised"]) <= MAX_SPARSITY_ERROR
        else falsified(said)
    )


def half_of_sixteen_bit(facts: Facts) -> Judgement:
    if facts["reference_bytes"] <= 0 or facts["bytes"] <= 0:
        return inconclusive("a size is zero: nothing was measured")
    said = (
        f"{facts['bytes']} of {facts['reference_bytes']} bytes ({facts['reference']}): {facts['ratio']:.1%}, "
        f"allowed under {MAX_INT4_RATIO:.0%}; {facts['bits_per_weight']:.2f} bits a weight"
    )
    return (
        corroborated(said) if facts["bytes"] < MAX_INT4_RATIO * facts["reference_bytes"] else falsified(said)
    )


def zero_adds_nothing(facts: Facts) -> Judgement:
    if facts["moved"]:
        return falsified(
            f"{len(facts['moved'])} tensors that nothing is added to differ from the base: {facts['moved'][0]}"
        )
    if facts["begun_nonzero"]:
        return falsified(f"the initial adapter already changes {facts['begun_nonzero'][0]}")
    if not facts["checked"]:
        return inconclusive("the adapter adds something to every tensor, and no initial adapter was named")
    begun = "" if facts["begun_nonzero"] is None else "; the initial adapter adds nothing"
    return corroborated(
        f"{facts['checked']} tensors with a product of zero equal the base bit for bit{begun}"
    )


def merged_is_unmerged(facts: Facts) -> Judgement:
    if facts["absent"]:
        return falsified(
            f"{len(facts['absent'])} adapted tensors are not in base or merge: {facts['absent'][0]}"
        )
    gain = facts["gain"]
    if gain is None or abs(gain - 1) > MAX_GAIN_ERROR:
        shown = "no number" if gain is None else f"{gain:.3f}"
        return falsified(f"the merge added {shown} times what the adapter adds to {facts['adapted']} tensors")
    if facts["outside"]:
        first = facts["outside"][0]
        return falsified(
            f"{first['share']:.2%} of {first['name']} differs from W + scale·B·A by more than rounding"
        )
    return corroborated(f"{facts['adapted']} tensors are W + scale·B·A within rounding, gain {gain:.4f}")


def base_is_unchanged(facts: Facts) -> Judgement:
    if facts["changed"]:
        return falsified(f"{len(facts['changed'])} tensors of the base changed, {facts['changed'][0]} first")
    if facts["expected"] != facts["measured"]:
        return falsified(f"the base was {facts['expected'][:12]} and is {facts['measured'][:12]}")
    if facts["compared"] is None:
        return corroborated(f"the base still has the hash {facts['measured'][:12]}")
    if not facts["compared"]:
        return inconclusive("no tensor was compared")
    return corroborated(f"{facts['compared']} tensors of the base are as before, bit for bit")
