"""Judging the facts of round trips: one function for each relation that must hold."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, corroborated, falsified, inconclusive
from apr_qa.gates import _parity_checks as parity
from apr_qa.vocabulary import Judgement, Outcome


def comes_back(facts: Facts) -> Judgement:
    """Judge a trip as a whole: values, configuration, tokenizer, template and generation settings."""
    wrong = _values_fault(facts["tensors"])
    if wrong:
        return falsified(f"{facts.get('path', 'the two ways')}: {wrong}")
    judged = {
        "configuration": parity.config_equals(facts["config"]),
        "tokenizer": _tokenizer(facts["tokenizer"]),
        "template": parity.template_equals(facts["template"]),
        "generation": parity.generation_equals(facts["generation"]),
    }
    failed = [f"{name}: {j.reason}" for name, j in judged.items() if j.outcome is Outcome.FALSIFIED]
    if failed:
        return falsified("; ".join(failed))
    if not facts["tensors"]["values"]:
        return inconclusive("no value was compared")
    rounding = "" if facts["coarsest"] == "f32" else f" after one rounding to {facts['coarsest']}"
    unsaid = [name for name, j in judged.items() if j.outcome is not Outcome.CORROBORATED]
    silent = f"; not there to compare: {', '.join(unsaid)}" if unsaid else ""
    return corroborated(
        f"{facts['tensors']['values']} values of {facts['tensors']['compared']} tensors are equal{rounding}, and so is "
        f"everything beside them{silent}{_basis(facts)}"
    )


def _tokenizer(facts: Facts) -> Judgement:
    if not facts["present"] and not facts.get("truth") and not facts.get("artifact"):
        return inconclusive("no tokenizer on either side")
    return parity.tokenizer_equals(facts)


def _values_fault(tensors: Facts) -> str:
    for what in ("missing", "unexpected", "reshaped"):
        if tensors[what]:
            return f"{len(tensors[what])} tensors are {what}: {', '.join(tensors[what][:5])}"
    if tensors["differing_count"]:
        first = tensors["differing"][0]
        return (
            f"{tensors['differing_count']} of {tensors['compared']} tensors changed; first: {first['name']}, "
            f"{first['count']} values, by up to {first['worst']:.3g}"
        )
    return ""


def payloads_are_equal(facts: Facts) -> Judgement:
    short, long = facts["paths"]
    if facts["differing_count"]:
        first = facts["differing"][0]
        return falsified(
            f"{facts['differing_count']} of {facts['compared']} tensors of {long} are not those of {short}; first: "
            f"{first['name']} ({first['why']})"
        )
    if not facts["bytes"]:
        return inconclusive("no byte was compared")
    return corroborated(
        f"{facts['compared']} tensors, {facts['bytes']} bytes: {long} equals {short}{_basis(facts)}"
    )


def files_are_identical(facts: Facts) -> Judgement:
    wrong = [name for name, (first, second) in facts["files"].items() if not first or first != second]
    if wrong:
        return falsified(f"converting twice gave other bytes: {', '.join(sorted(wrong))}")
    if not facts["files"]:
        return inconclusive("nothing was converted")
    return corroborated(f"{len(facts['files'])} files are byte for byte the same both times{_basis(facts)}")


def nothing_is_lost_or_invented(facts: Facts) -> Judgement:
    start = facts["start"]
    for path, found in facts["made"].items():
        if found != start:
            return falsified(
                f"{path}: {start['tensors']} tensors with {start['values']} values went in, {found['tensors']} with "
                f"{found['values']} came out"
            )
    if not facts["made"] or not start["tensors"]:
        return inconclusive("nothing was converted")
    return corroborated(
        f"{start['tensors']} tensors with {start['values']} values in each of {', '.join(facts['made'])}{_basis(facts)}"
    )


def names_are_kept(facts: Facts) -> Judgement:
    if facts["faults_count"]:
        first = facts["faults"][0]
        return falsified(
            f"{facts['faults_count']} names; first ({first['path']}): {first['name']} {first['why']}"
        )
    if not facts["names"]:
        return inconclusive("no name was compared")
    return corroborated(f"{facts['names']} names are those of their format{_basis(facts)}")


def checksums_agree(facts: Facts) -> Judgement:
    if not facts["start"] or facts["start"] != facts["end"]:
        return falsified(f"{facts['path']}: {facts['start'][:12] or 'nothing'} became {facts['end'][:12]}")
    return corroborated(f"sha256 {facts['start'][:12]} before and after {facts['path']}{_basis(facts)}")


def no_failure_of(kind: str, what: str) -> Check:
    def check(facts: Facts) -> Judgement:
        found = [entry for entry in (*facts["failures"], *facts["faults"]) if entry["class"] == kind]
        if found:
            return falsified(f"{len(found)} times; first ({found[0]['path']}): {found[0]['what']}")
        stopped = {entry["path"] for entry in facts["failures"]}
        went = [path for path in facts["attempted"] if path not in stopped]
        if not went:
            return inconclusive("every conversion failed, for other reasons")
        return corroborated(f"{what} on {', '.join(went)}{_basis(facts)}")

    return check


def _basis(facts: Facts) -> str:
    """Say how much of the model has travelled, where that was not all of it."""
    layers, total = facts.get("layers"), facts.get("of_layers")
    return f" ({layers} of {total} layers travelled)" if layers != total else ""


# ---- examples

_WHOLE: dict[str, Any] = {"layers": 30, "of_layers": 30, "type": "f32"}
FAILURES = {**_WHOLE, "attempted": ["SA", "SAG"], "failures": [], "faults": []}


def failed(kind: str, what: str) -> dict[str, Any]:
    """Return the facts of conversions of which one failed in a class."""
    return {**FAILURES, "failures": [{"path": "SAG", "class": kind, "what": what}]}


VALUES = {
    **{"compared": 272, "values": 134_515_008, "differing": [], "differing_count": 0},
    **{"missing": [], "unexpected": [], "reshaped": []},
}
CHANGED = {
    **VALUES,
    "differing": [{"name": "model.layers.0.self_attn.q_proj.weight", "count": 331_776, "worst": 0.8}],
    "differing_count": 60,
}
SHA = "ab" * 32
