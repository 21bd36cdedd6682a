"""Judgements of predictions, and the facts that the gates about them are tried on."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Facts, corroborated, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement, Outcome

_GARBAGE_RATIO = 10.0
"""Perplexity ratio of an artifact that is broken rather than coarse: Q2_K of Llama-3-8B costs 1.6 (llama.cpp's
perplexity README), one byte-swapped tensor in a tiny trained model 205."""
_FLOOD = 0.5


def within_budget(facts: Facts) -> Judgement:
    return _judged(facts, "overruns", 1.0)


def well_within_budget(facts: Facts) -> Judgement:
    return _judged(facts, "near", facts["limits"]["near"])


def _judged(facts: Facts, key: str, share: float) -> Judgement:
    measured = facts["measured"]
    if not measured.get("tokens"):
        return inconclusive("no token was compared")
    found = facts[key]
    if found:
        shown = "; ".join(f"{o['what']} {o['measured']:.3g}, limit {o['limit']:.3g}" for o in found[:4])
        return falsified(f"over {measured['tokens']} tokens: {shown}")
    limit = share * facts["limits"]["kl_mean"]
    return corroborated(
        f"KL {measured['kl_mean']:.2g} nats per token over {measured['tokens']} tokens, inside {limit:.2g}; "
        f"first choices agree on {measured['top1']:.1%}"
    )


def first_choices_agree(facts: Facts) -> Judgement:
    measured, tie = facts["measured"], facts["limits"]["tie"]
    if not measured.get("tokens"):
        return inconclusive("no token was compared")
    lead = measured["largest_lead_lost"]
    if lead is not None and not lead <= tie:
        return falsified(
            f"a first choice that led by {lead:.3g} was lost (near ties end at {tie:.3g}), first at position "
            f"{measured['first_disagreement']}"
        )
    return corroborated(
        f"{measured['top1']:.1%} of {measured['tokens']} first choices agree, the others are near ties"
    )


def logits_agree(facts: Facts) -> Judgement:
    measured, limit = facts["measured"], facts["limits"]["logit_difference"]
    if not measured.get("tokens"):
        return inconclusive("no token was compared")
    if facts.get("reference") not in ("", "transformers_torch"):
        return inapplicable(f"the reference engine is {facts['reference']}, not transformers")
    if not measured["logit_difference_p99"] <= limit:
        return falsified(
            f"more than 1 % of the logits differ by {measured['logit_difference_p99']:.3g}, limit {limit:.3g}"
        )
    return corroborated(f"99 % of the logits differ by less than {measured['logit_difference_p99']:.3g}")


def no_flood(facts: Facts) -> Judgement:
    if not facts["measured"].get("tokens"):
        return inconclusive("no token was compared")
    reference, test = facts["measured"]["commonest_choice"]
    if test > _FLOOD and test > 2 * reference:
        return falsified(
            f"one token is the first choice at {test:.0%} of the positions, in the truth at {reference:.0%}"
        )
    return corroborated(f"the commonest first choice is made at {test:.0%} of the positions")


def perplexity_is_kept(facts: Facts) -> Judgement:
    return _perplexity(facts, facts["limits"]["perplexity_ratio"])


def output_is_no_garbage(facts: Facts) -> Judgement:
    return _perplexity(facts, _GARBAGE_RATIO)


def _perplexity(facts: Facts, limit: float) -> Judgement:
    ratio = facts["measured"].get("perplexity_ratio")
    if ratio is None:
        return inconclusive("no perplexity was measured")
    if not ratio <= limit:
        return falsified(f"perplexity is {ratio:.3g} times that of the truth, limit {limit:.3g}")
    return corroborated(f"perplexity is {ratio:.4g} times that of the truth")


def continuations_agree(facts: Facts) -> Judgement:
    if facts["differences"]:
        first = facts["differences"][0]
        return falsified(
            f"{len(facts['differences'])} of {facts['prompts']} greedy continuations differ; first: prompt "
            f"{first['prompt']} at token {first['at']}, where the truth's choice led by {first['lead']:.3g} "
            f"(near ties end at {facts['tie']:.3g})"
        )
    if not facts["prompts"]:
        return inconclusive("nothing was generated")
    return corroborated(
        f"{facts['equal']} of {facts['prompts']} continuations are equal, {facts['ties']} part at near ties"
    )


def conversion_completes(facts: Facts) -> Judgement:
    if not facts.get("tensors") or facts["tensors"] != facts["source_tensors"]:
        return falsified(f"{facts.get('source_tensors')} tensors went in, {facts.get('tensors')} came out")
    return corroborated(f"all {facts['tensors']} tensors were converted")


def converted_file_loads(facts: Facts) -> Judgement:
    if facts.get("load_s") is None:
        return falsified("the engine did not say that it was ready")
    return corroborated(f"loaded in {facts['load_s']:.1f} s")


def the_same_on_both(facts: Facts) -> Judgement:
    """Two devices or engines: inapplicable where one of them is missing."""
    if facts.get("missing"):
        return inapplicable(facts["missing"])
    return within_budget(facts)


def siblings_agree(facts: Facts) -> Judgement:
    """Two conversions of one model: distributions and greedy continuations."""
    within = within_budget(facts)
    if within.outcome is not Outcome.CORROBORATED:
        return within
    said = continuations_agree(facts["greedy"])
    if said.outcome is not Outcome.CORROBORATED:
        return said
    return corroborated(f"{within.reason}; {said.reason}")


def hidden_states_agree(facts: Facts) -> Judgement:
    return _inner_agrees(facts, "hidden", "hidden states", "relative error")


def attention_agrees(facts: Facts) -> Judgement:
    if facts["engine"] == "llama_cpp":
        return inapplicable("llama.cpp does not give out attention weights")
    return _inner_agrees(facts, "attention", "layers of attention", "total variation")


def _inner_agrees(facts: Facts, key: str, what: str, unit: str) -> Judgement:
    found, limit = facts[key], facts["limits"][key]
    if not found or not facts["tokens"]:
        return inapplicable(f"{facts['engine']} gives out no {what} of this model")
    wrong = [number for number, distance in enumerate(found) if not distance <= limit]
    if wrong:
        return falsified(
            f"{len(wrong)} of {len(found)} {what} differ, first number {wrong[0]}: {unit} {found[wrong[0]]:.3g}, "
            f"limit {limit:.3g}"
        )
    only = " (the last, behind the final norm)" if key == "hidden" and len(found) == 1 else ""
    return corroborated(
        f"{len(found)} {what}{only} over {facts['tokens']} tokens: {unit} {max(found):.2g} at most, limit {limit:.2g}"
    )


def every_id_passes(facts: Facts) -> Judgement:
    if facts["bad_count"]:
        named = ", ".join(map(str, facts["bad_ids"][:10])) or "found in company only"
        return falsified(f"{facts['bad_count']} predictions are not finite; ids that cause it: {named}")
    if facts["bad_columns"]:
        named = ", ".join(map(str, facts["bad_columns"][:10]))
        return falsified(f"ids whose own logit is never finite: {named}")
    if facts["apart_count"]:
        named = ", ".join(map(str, facts["apart"][:10]))
        return falsified(f"{facts['apart_count']} ids lead to other predictions than in the truth: {named}")
    if not facts["vocabulary"]:
        return inconclusive("the vocabulary is empty")
    if facts["passed"] < facts["vocabulary"]:
        return inapplicable(f"{facts['passed']} of {facts['vocabulary']} ids pass in the time that is given")
    return corroborated(
        f"all {facts['passed']} ids pass with finite predictions, {facts['compared']} were compared with the truth"
    )


MEASURED: dict[str, Any] = {
    **{"tokens": 120, "vocabulary": 49152, "kl_mean": 4e-3, "kl_p99": 1.5e-2, "kl_max": 2e-2, "top1": 0.975},
    **{
        "logit_difference": 1.3,
        "logit_difference_p99": 0.4,
        "first_disagreement": 40,
        "largest_lead_lost": 0.1,
    },
    **{"commonest_choice": [0.1, 0.1], "perplexity_ratio": 1.002, "buckets": {}},
}
LIMITS = {
    **{"kl_mean": 1.2e-2, "kl_p99": 0.06, "kl_max": 0.3, "top1": 0.9, "logit_difference": 4.0, "buckets": {}},
    **{"tie": 4.0},
    **{"perplexity_ratio": 1.1, "calibrated": True, "near": 2 / 3},
}
GOOD: dict[str, Any] = {
    **{
        "measured": MEASURED,
        "limits": LIMITS,
        "overruns": [],
        "near": [],
        "reference": "transformers_torch",
    },
}
OVER = [{"what": "kl_mean", "measured": 0.14, "limit": 1.2e-2}]


def bad(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "measured": {**MEASURED, **changes}, "overruns": OVER, "near": OVER}


SAME = {"prompts": 8, "equal": 7, "ties": 1, "tie": 0.1, "differences": []}
OTHER = {"prompt": 0, "at": 3, "truth": [19], "artifact": [28], "lead": 5.0}
BROKEN = {**SAME, "equal": 6, "differences": [OTHER]}

INNER: dict[str, Any] = {
    **{"hidden": [0.0, 1e-4, 3e-4], "attention": [1e-5, 2e-4], "tokens": 32, "engine": "transformers_torch"},
    "limits": {"hidden": 1e-3, "attention": 1e-3},
}
EVERY: dict[str, Any] = {
    **{"vocabulary": 49152, "passed": 49152, "bad_ids": [], "bad_count": 0, "bad_columns": []},
    **{"compared": 8192, "apart": [], "apart_count": 0},
}
