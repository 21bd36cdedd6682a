"""Parity of next-token distributions: an artifact predicts what the ground truth predicts.

P0 is what leaves three times the divergence of a healthy conversion to the same type; a near miss (half of
that) and what costs quality without breaking anything is P1.
"""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement, Severity

_GARBAGE_RATIO = 10.0
"""Perplexity ratio of an artifact that is broken rather than coarse: Q2_K of Llama-3-8B costs 1.6 (llama.cpp's
perplexity README), one byte-swapped tensor in a tiny trained model 205."""
_FLOOD = 0.5
_SOURCE = "limits: three times a twin made on the spot, floors and published values in apr_qa/comparison/divergence.py"


def within_budget(facts: Facts) -> Judgement:
    return _judged(facts, "overruns", "")


def well_within_budget(facts: Facts) -> Judgement:
    return _judged(facts, "near", "half of ")


def _judged(facts: Facts, key: str, share: str) -> Judgement:
    measured = facts["measured"]
    if not measured.get("tokens"):
        return inconclusive("no token was compared")
    found = facts[key]
    if found:
        shown = "; ".join(f"{o['what']} {o['measured']:.3g}, limit {o['limit']:.3g}" for o in found[:4])
        return falsified(f"over {measured['tokens']} tokens: {shown}")
    limit = facts["limits"]["kl_mean"]
    return corroborated(
        f"KL {measured['kl_mean']:.2g} nats per token over {measured['tokens']} tokens, inside {share}{limit:.2g}; "
        f"first choices agree on {measured['top1']:.1%}"
    )


def first_choices_agree(facts: Facts) -> Judgement:
    measured, tie = facts["measured"], 2 * facts["limits"]["logit_difference"]
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


_MEASURED: dict[str, Any] = {
    **{"tokens": 120, "vocabulary": 49152, "kl_mean": 4e-3, "kl_p99": 1.5e-2, "kl_max": 2e-2, "top1": 0.975},
    **{
        "logit_difference": 1.3,
        "logit_difference_p99": 0.4,
        "first_disagreement": 40,
        "largest_lead_lost": 0.1,
    },
    **{"commonest_choice": [0.1, 0.1], "perplexity_ratio": 1.002, "buckets": {}},
}
_LIMITS = {
    **{"kl_mean": 1.2e-2, "kl_p99": 0.06, "kl_max": 0.3, "top1": 0.9, "logit_difference": 4.0, "buckets": {}},
    **{"perplexity_ratio": 1.1, "calibrated": True},
}
_GOOD: dict[str, Any] = {
    **{
        "measured": _MEASURED,
        "limits": _LIMITS,
        "overruns": [],
        "near": [],
        "reference": "transformers_torch",
    },
}
_OVER = [{"what": "kl_mean", "measured": 0.14, "limit": 1.2e-2}]


def _bad(**changes: Any) -> dict[str, Any]:
    return {**_GOOD, "measured": {**_MEASURED, **changes}, "overruns": _OVER, "near": _OVER}


_SAME = {"prompts": 8, "equal": 7, "ties": 1, "tie": 0.1, "differences": []}
_OTHER = {"prompt": 0, "at": 3, "truth": [19], "artifact": [28], "lead": 5.0}
_BROKEN = {**_SAME, "equal": 6, "differences": [_OTHER]}
_KL = "KL of next-token distributions (mean, p99, max, by position), first choices; same token ids on both sides"
_KL_LIMIT = "three times the healthy twin of the same type, at least the noise of the engines"
_CHOICE = "first choices of both sides at every position"
_TIE = "equal but where the truth's lead is under twice the allowed difference of a logit"
_GREEDY = "greedy continuations of the same prompts, token by token, up to the first difference"

_GATES: tuple[tuple[str, Severity, str, str, str, Check, Facts, Facts], ...] = (
    (
        "F-CONTRACT-I1-001",
        Severity.P0,
        "Inference survives conversion: the artifact predicts what the ground truth predicts",
        *(_KL, _KL_LIMIT, within_budget, _GOOD, _bad(kl_mean=0.14)),
    ),
    (
        "F-ROSETTA-INF-001",
        Severity.P0,
        "The first choice is the same token at every position, near ties aside",
        *(_CHOICE, _TIE, first_choices_agree, _GOOD, _bad(largest_lead_lost=9.0)),
    ),
    (
        "F-ROSETTA-INF-002",
        Severity.P1,
        "The difference of distributions is small, not merely inside the limit",
        *(_KL, "half of the limit of F-CONTRACT-I1-001", well_within_budget, _GOOD, _bad(kl_mean=0.14)),
    ),
    (
        "F-ROSETTA-INF-003",
        Severity.P0,
        "No token floods the predictions",
        _CHOICE,
        "the commonest at half of the positions at most, or twice the truth's share",
        *(no_flood, _GOOD, _bad(commonest_choice=[0.1, 0.97])),
    ),
    (
        "F-HFP-001",
        Severity.P0,
        "Final logits equal those of transformers",
        *("all logits at all positions", "at most 1 % beyond the noise of engine and type", logits_agree),
        *(_GOOD, _bad(logit_difference_p99=9.0)),
    ),
    (
        "F-HFP-002",
        Severity.P0,
        "Greedy tokens equal those of transformers",
        *(_GREEDY, _TIE, continuations_agree, _SAME, _BROKEN),
    ),
    (
        "F-HFP-006",
        Severity.P0,
        "Token-by-token decoding with its cache predicts what one pass over the whole text predicts",
        *(_KL, "noise of one engine in float32", within_budget, _GOOD, _bad(kl_mean=0.14)),
    ),
    (
        "F-PAR-001",
        Severity.P1,
        "CPU and GPU predict the same",
        *(_KL, "noise of the engines for the type", within_budget, _GOOD, _bad(kl_mean=0.14)),
    ),
    (
        "F-PAR-002",
        Severity.P1,
        "GGUF and SafeTensors generate the same tokens",
        *(_GREEDY, _TIE, continuations_agree, _SAME, _BROKEN),
    ),
    (
        "F-PAR-003",
        Severity.P1,
        "Quantisation costs no more perplexity than it must",
        "perplexity ratio on the reference text",
        "1.10, or three times what the twin costs",
        *(perplexity_is_kept, _GOOD, _bad(perplexity_ratio=1.4)),
    ),
    (
        "F-GOLDEN-RULE-001",
        Severity.P0,
        "The converted model says what the original says",
        *(_GREEDY, _TIE, continuations_agree, _SAME, _BROKEN),
    ),
    (
        "F-GOLDEN-RULE-002",
        Severity.P0,
        "The conversion completes",
        "tensors read back from the result, tied heads counted once",
        "as many as went in",
        conversion_completes,
        {"tensors": 272, "source_tensors": 272},
        {"tensors": 0, "source_tensors": 272},
    ),
    (
        "F-GOLDEN-RULE-003",
        Severity.P0,
        "The converted model loads",
        "load in a process of its own",
        "the engine says ready",
        converted_file_loads,
        {"load_s": 1.5},
        {"load_s": None},
    ),
    (
        "F-LAYOUT-CONTRACT-005",
        Severity.P0,
        "Inference gives no garbage after conversion",
        "perplexity ratio on the reference text",
        "10",
        *(output_is_no_garbage, _GOOD, _bad(perplexity_ratio=200.0)),
    ),
)
for _id, _severity, _hypothesis, _measure, _threshold, _check, _corroborates, _falsifies in _GATES:
    enter(
        Gate(
            id=_id,
            category="parity",
            severity=_severity,
            hypothesis=_hypothesis,
            measure=_measure,
            threshold=_threshold,
            source=_SOURCE,
            check=_check,
            corroborates=_corroborates,
            falsifies=_falsifies,
        )
    )
