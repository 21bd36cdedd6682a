"""What the gates of the forward pass look at, and where their thresholds come from."""

from __future__ import annotations

from apr_qa.gates import Check, Facts, corroborated, falsified, inconclusive
from apr_qa.vocabulary import Judgement

FLOAT16_MOST = 65504.0
"""The largest finite number of IEEE 754 half precision."""

EXPLODED = 1e6
"""Eight published models have no weight beyond 1e3; SmolLM2-135M's largest activation was 2.3e4 (measured)."""

WEIGHT_SUM = 2e-2
"""bfloat16 rounds attention weights by up to 2⁻⁸; the trained test models in bfloat16 showed 2.7e-3."""

NORM_ERROR = 0.5
"""A normalised row has root mean square 1; the test models showed at most 2e-3, the rest is the epsilon of a
model with small embeddings."""

ENTROPY = (0.02, 0.98)
"""Mean over heads and positions of the entropy of attention as a share of what is possible. SmolLM2-135M showed
0.46, the test models 0.39 to 0.67; single heads may be at either end, all of them together may not."""

POSITION_CHANGE = 1e-4
CACHE_KL = (5e-3, 5e-2)
"""Mean and largest nats between one pass and token by token: bfloat16 on small models 1.5e-4 and 9.7e-4."""

LEVELS = ("basic", "layer", "none", "payload")
KEYS = {"mean", "std", "l2", "min", "max", "nan", "inf"}


def _nothing(facts: Facts) -> Judgement | None:
    return inconclusive("no layer was seen") if not facts.get("layers") else None


def all_finite(facts: Facts) -> Judgement:
    if none := _nothing(facts):
        return none
    if facts["not_finite"]:
        first = facts["not_finite"][0]
        return falsified(f"{len(facts['not_finite'])} stages hold NaN or infinity, first {first}")
    return corroborated(f"every stage of {facts['layers']} layers is finite over {facts['tokens']} tokens")


def embedding_finite(facts: Facts) -> Judgement:
    if none := _nothing(facts):
        return none
    if "embedding" in facts["not_finite"]:
        return falsified("the embedding of the prompt holds NaN or infinity")
    return corroborated("the embedding of the prompt is finite")


def not_exploded(facts: Facts) -> Judgement:
    return _bounded(facts, EXPLODED)


def fits_float16(facts: Facts) -> Judgement:
    return _bounded(facts, FLOAT16_MOST)


def _bounded(facts: Facts, limit: float) -> Judgement:
    if none := _nothing(facts):
        return none
    if facts["not_finite"] or facts["largest"] is None or not facts["largest"] <= limit:
        where = facts["largest_at"] if not facts["not_finite"] else facts["not_finite"][0]
        return falsified(f"{where} reaches {facts['largest']}, limit {limit:g}")
    return corroborated(f"the largest value is {facts['largest']:.4g}, at {facts['largest_at']}")


def attention_sums_to_one(facts: Facts) -> Judgement:
    error = facts.get("attention_sum_error")
    if error is None:
        return inconclusive("no attention weights were seen")
    if not error <= WEIGHT_SUM:
        return falsified(f"attention weights sum to one only within {error:.3g}, limit {WEIGHT_SUM:g}")
    return corroborated(f"attention weights sum to one within {error:.2g}")


def attention_is_alive(facts: Facts) -> Judgement:
    entropy = facts.get("attention_entropy")
    if entropy is None:
        return inconclusive("no attention weights were seen")
    if not ENTROPY[0] < entropy < ENTROPY[1]:
        return falsified(f"the mean entropy of attention is {entropy:.3f} of what is possible")
    return corroborated(f"the mean entropy of attention is {entropy:.2f} of what is possible")


def norms_normalise(facts: Facts) -> Judgement:
    error = facts.get("norm_error")
    if error is None:
        return inconclusive("no norm was seen")
    if not error <= NORM_ERROR:
        return falsified(f"a normalised row is {error:.3g} away from unit size")
    return corroborated(f"normalised rows have unit size within {error:.2g}")


def pass_completes(facts: Facts) -> Judgement:
    if not facts.get("tokens") or facts.get("logits") != facts["tokens"]:
        return falsified(f"{facts.get('logits')} rows of logits for {facts.get('tokens')} tokens")
    return corroborated(f"{facts['tokens']} tokens in, {facts['logits']} rows of logits out")


def logits_are_a_distribution(facts: Facts) -> Judgement:
    if "probability_sum" not in facts:
        return inconclusive("no logits were seen")
    least, most, total = facts["probability_least"], facts["probability_most"], facts["probability_sum"]
    if not (0 <= least <= most <= 1 and abs(total - 1) <= 1e-6):
        return falsified(f"probabilities from {least:g} to {most:g}, sum {total:g}")
    return corroborated(f"probabilities from {least:.2g} to {most:.2g} sum to one")


def logits_are_informed(facts: Facts) -> Judgement:
    spread = facts.get("logit_spread")
    if spread is None:
        return inconclusive("no logits were seen")
    if not spread > 1e-3:
        return falsified(f"the logits are all alike (spread {spread:.2g}): every token is equally likely")
    return corroborated(f"the logits spread by {spread:.2g}")


def positions_matter(facts: Facts) -> Judgement:
    if facts.get("tokens", 0) < 4:
        return inconclusive("too few tokens to change their order")
    if not facts["change"] > POSITION_CHANGE:
        return falsified(
            f"attention changes by {facts['change']:.2g} when the order of tokens does: positions are lost"
        )
    return corroborated(f"attention changes by {facts['change']:.2g} when the order of tokens does")


def cache_is_exact(facts: Facts) -> Judgement:
    if not facts.get("tokens"):
        return inconclusive("no position was compared")
    mean, most = facts["kl_mean"], facts["kl_max"]
    if not (mean <= CACHE_KL[0] and most <= CACHE_KL[1]):
        return falsified(
            f"token by token differs from one pass by {mean:.3g} nats a token, at most {most:.3g}"
        )
    return corroborated(f"{facts['tokens']} positions token by token are as in one pass ({mean:.2g} nats)")


def tokens_come_back(facts: Facts) -> Judgement:
    if not facts.get("texts"):
        return inconclusive("no text was tried")
    if facts["changed"]:
        first = facts["changed"][0]
        return falsified(
            f"{len(facts['changed'])} of {facts['texts']} texts change; first: {first['text']!r} to {first['back']!r}"
        )
    return corroborated(f"{facts['texts']} texts come back from the tokenizer")


def levels_answer(facts: Facts) -> Judgement:
    missing = sorted(set(LEVELS) - set(facts["answered"]))
    if missing:
        return falsified(f"no answer at level {', '.join(missing)}")
    return corroborated(f"all {len(LEVELS)} levels answer")


def statistics_are_whole(facts: Facts) -> Judgement:
    missing = sorted(KEYS - set(facts["keys"]))
    if missing or not facts["stages"]:
        return falsified(f"{facts['stages']} stages; missing: {', '.join(missing) or 'all'}")
    return corroborated(f"{facts['stages']} stages with {', '.join(sorted(KEYS))}")


def payload_shows_values(facts: Facts) -> Judgement:
    if not facts["stages"] or facts["stages_with_values"] != facts["stages"]:
        return falsified(f"{facts['stages_with_values']} of {facts['stages']} stages show values")
    return corroborated(f"{facts['stages']} stages show values")


def planted(name: str) -> Check:
    def check(facts: Facts) -> Judgement:
        reported, where = facts["reported"][name], facts["planted_at"]
        noticed = where in reported["not_finite"] or (name == "explosion" and reported["largest_at"] == where)
        if not noticed:
            return falsified(f"{name} planted at {where} was not reported")
        return corroborated(f"{name} planted at {where} was reported there")

    return check


def tracing_changes_nothing(facts: Facts) -> Judgement:
    change, spread = facts.get("tracing_changes"), facts.get("logit_spread")
    if change is None or not spread:
        return inconclusive("no logits were compared")
    if not change <= spread:
        return falsified(f"with tracing the logits differ by {change:.3g}, their spread is {spread:.3g}")
    return corroborated(f"with tracing the logits differ by at most {change:.2g}")


def canary_is_kept(facts: Facts) -> Judgement:
    if not facts.get("prompts") or not facts.get("kept"):
        return falsified("the canary holds nothing")
    return corroborated(f"{facts['prompts']} prompts, the {facts['kept']} likeliest tokens of each")


def canary_notices(facts: Facts) -> Judgement:
    if not facts.get("prompts") or facts["noticed"] != facts["prompts"]:
        return falsified(
            f"drift planted into {facts.get('prompts')} prompts was noticed in {facts['noticed']}"
        )
    return corroborated(f"drift planted into {facts['prompts']} prompts was noticed in all")


def canary_is_silent(facts: Facts) -> Judgement:
    if facts["changed_by_itself"]:
        return falsified(f"the unchanged model drifts by {facts['largest_by_itself']:.3g} nats")
    return corroborated(f"the unchanged model stays within {facts['largest_by_itself']:.2g} nats")


def mlps_are_alive_and_bounded(facts: Facts) -> Judgement:
    """What a feed-forward part adds is a number, is not always zero, and does not explode."""
    stages = [stage for stage in facts.get("stages", ()) if stage["stage"] == "mlp"]
    if not stages:
        return inconclusive("no feed-forward part was seen")
    for stage in stages:
        if stage["min"] is None or stage["max"] is None:
            return falsified(f"{stage['name']} gives no number")
        most = max(abs(stage["min"]), abs(stage["max"]))
        if not 0 < most <= EXPLODED:
            said = "nothing but zeros" if not most else f"values up to {most:.3g}, limit {EXPLODED:g}"
            return falsified(f"{stage['name']} gives {said}")
    return corroborated(f"{len(stages)} feed-forward parts give bounded values")


def focus_limits(facts: Facts) -> Judgement:
    for part, shown in sorted(facts["shown"].items()):
        foreign = sorted(set(shown) - set(facts["asked"][part]))
        if foreign:
            return falsified(f"asked for {part}, it shows {', '.join(foreign)}")
    if not any(facts["shown"].values()):
        return inconclusive("nothing was shown")
    return corroborated(f"{len(facts['shown'])} parts, each with its own stages only")


def focus_finds(facts: Facts) -> Judgement:
    blind = sorted(part for part, shown in facts["shown"].items() if not shown)
    if blind or not facts["shown"]:
        return falsified(f"asked for {', '.join(blind) or 'anything'}, it shows nothing")
    return corroborated(f"it shows {', '.join(sorted(facts['shown']))} when asked for them")
