"""Rules for derived models about what they do, about logs and about reports, from facts to judgements."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, corroborated, falsified, inconclusive
from apr_qa.vocabulary import Judgement, Outcome

MAX_PERPLEXITY_LOSS = 0.05
MAX_POINTS_LOST = 2.0
"""Percentage points of pass@1."""
MAX_QLORA_RATIO = 0.5
MIN_SPEEDUP = 1.5
MAX_CONTAMINATION = 0.01
MIN_PLANS = 0.5
"""Of the answers that hold code: a structured prompt that works shows in most of them."""
MIN_LOGGED = 2
LARGE = 1e6
"""From here on the digits of a number say nothing."""


def best_parent_reached(facts: Facts) -> Judgement:
    said, kept, blind = [], False, 0
    for row in facts["benchmarks"]:
        own, theirs = row["artifact"], [value for value in row["parents"].values() if value is not None]
        if row["metric"] == "perplexity":
            best = min(theirs, default=None)
            if _is_guess(best, row):
                blind += 1
                said.append(_guess(best, row))
                continue
            kept |= own is not None and best is not None and own <= best
        else:
            best = max(theirs, default=None)
            if not best and not own:
                return inconclusive(
                    f"no model solves any of {row['problems']} problems: nothing could be lost"
                )
            kept |= own is not None and best is not None and own >= best
        said.append(f"{row['metric']} {_number(own)}, best parent {_number(best)}")
    if kept:
        return corroborated("; ".join(said))
    return (inconclusive if blind == len(facts["benchmarks"]) else falsified)("; ".join(said))


def _is_guess(perplexity: float | None, facts: Facts) -> bool:
    """Say whether a model predicts a text no better than a die with a face for each token."""
    return perplexity is not None and bool(facts.get("vocabulary")) and perplexity >= facts["vocabulary"]


def _guess(perplexity: float | None, facts: Facts) -> str:
    return (
        f"the parent's perplexity {_number(perplexity)} is no better than a guess among {facts['vocabulary']} tokens: "
        "name a text that it knows"
    )


def _number(value: Any) -> str:
    if value is None:
        return "beyond any number"
    return f"{value:.3e}" if value >= LARGE else f"{value:.4f}".rstrip("0").rstrip(".")


def _fixed(value: float) -> str:
    return f"{value:.3e}" if value >= LARGE else f"{value:.4f}"


def perplexity_within(limit: float, *, either_way: bool = False) -> Check:
    """Return the rule that the perplexity is at most ``limit`` worse, or with ``either_way`` not further away."""

    def check(facts: Facts) -> Judgement:
        own, theirs = facts["artifact"], facts["parent"]
        if theirs is None:
            return inconclusive("the parent's perplexity is beyond any number")
        if _is_guess(theirs, facts):
            return inconclusive(f"{_guess(theirs, facts)} ({facts['text']})")
        if own is None or own <= 0:
            return falsified(f"perplexity {_number(own)}, the parent's is {theirs:.4f}")
        change = own / theirs - 1
        shown = f"{change:+.2%}" if change < LARGE / 100 else f"{own / theirs:.3g} times"
        said = f"perplexity {_fixed(own)}, parent {_fixed(theirs)}: {shown}, allowed {limit:.0%} ({facts['text']})"
        lost = abs(change) if either_way else change
        return corroborated(said) if lost < limit else falsified(said)

    return check


def student_better(facts: Facts) -> Judgement:
    own, before = facts["artifact"], facts["parent"]
    said = f"perplexity {_number(own)}, untrained {_number(before)} ({facts['text']})"
    better = own is not None and own > 0 and (before is None or own < before)
    return corroborated(said) if better else falsified(said)


def few_points_lost(facts: Facts) -> Judgement:
    if facts["parent"] is None or facts["artifact"] is None or not facts["problems"]:
        return inconclusive("nothing was solved or tried")
    if not facts["parent"]:
        return inconclusive(f"the parent solves none of {facts['problems']} problems: nothing could be lost")
    lost = facts["parent"] - facts["artifact"]
    said = (
        f"pass@1 {facts['artifact']:.2f} %, parent {facts['parent']:.2f} %: {lost:+.2f} points lost, allowed under "
        f"{MAX_POINTS_LOST:g} ({facts['task']}, {facts['problems']} problems, {facts['strategy']})"
    )
    return corroborated(said) if lost < MAX_POINTS_LOST else falsified(said)


def few_points_lost_on(task: str, problems: int) -> Check:
    """Return the rule for one whole benchmark; a part of it, or another one, decides nothing."""

    def check(facts: Facts) -> Judgement:
        if facts["task"] != task or facts["problems"] != problems:
            return inconclusive(
                f"measured on {facts['problems']} problems of {facts['task']}, not on {task} ({problems})"
            )
        return few_points_lost(facts)

    return check


def loss_falls(facts: Facts) -> Judgement:
    if facts["not_finite"]:
        return falsified(f"{facts['not_finite']} of {facts['records']} losses are not finite")
    if facts["records"] < MIN_LOGGED:
        return inconclusive(f"the log holds {facts['records']} losses: no trend can be seen")
    promised, reached = facts["promised_epochs"], facts["epochs"]
    if promised is not None and reached is None:
        return inconclusive(f"the log does not say that it covers {promised:g} epochs")
    if promised is not None and reached < promised - 0.01:
        return inconclusive(f"the log covers {reached:g} of {promised:g} epochs")
    said = f"loss {facts['first']:.4f} → {facts['last']:.4f}, slope {facts['slope']:.3g}, {facts['records']} records"
    return corroborated(said) if facts["last"] < facts["first"] and facts["slope"] < 0 else falsified(said)


def preference_loss_falls(facts: Facts) -> Judgement:
    if facts["negative"]:
        return falsified(f"{facts['negative']} losses are negative, which -log(sigmoid) never is")
    return loss_falls(facts)


def memory_halved(facts: Facts) -> Judgement:
    own, lora = facts["qlora_bytes"], facts["lora_bytes"]
    if own is None or lora is None:
        return inconclusive(f"the peak memory of {'QLoRA' if own is None else 'LoRA'} was not measured")
    if facts["same_log"]:
        return inconclusive("both logs are the same")
    ranks = (facts["qlora_rank"], facts["lora_rank"])
    if None in ranks or ranks[0] != ranks[1]:
        return inconclusive(f"the ranks are not known to be equal: {ranks[0]} and {ranks[1]}")
    said = f"peak memory {own / 1e6:.1f} MB, LoRA {lora / 1e6:.1f} MB at rank {ranks[0]}: "
    said += f"{own / lora:.1%}, asked under {MAX_QLORA_RATIO:.0%}"
    return corroborated(said) if own < MAX_QLORA_RATIO * lora else falsified(said)


def same_greedy_text(facts: Facts) -> Judgement:
    if not facts["tokens"]:
        return inconclusive("no token was generated")
    said = f"{facts['same']} of {facts['prompts']} continuations, {facts['tokens']} tokens, are the same"
    return corroborated(said) if facts["same"] == facts["prompts"] else falsified(said)


def speculation_pays(facts: Facts) -> Judgement:
    if not facts["tokens"]:
        return inconclusive("no token was generated")
    if facts["same"] != facts["prompts"]:
        return falsified(
            f"only {facts['same']} of {facts['prompts']} continuations are the same: the speed is of another text"
        )
    said = (
        f"{facts['speculative_tokens_per_s']:.1f} tokens/s, {facts['plain_tokens_per_s']:.1f} without the draft: "
        f"{facts['speedup']:.2f} ×, asked {MIN_SPEEDUP} ×"
    )
    return corroborated(said) if facts["speedup"] >= MIN_SPEEDUP else falsified(said)


def over_epochs(rule: Check, epochs: float) -> Check:
    """Return the rule for a log that has to cover so many epochs, whatever the recipe says."""

    def check(facts: Facts) -> Judgement:
        return rule({**facts, "promised_epochs": epochs})

    return check


def on_backend(rule: Check, backend: str) -> Check:
    """Return the rule for a log that says that this backend did the work; another one is no proxy for it."""

    def check(facts: Facts) -> Judgement:
        if not any(backend in said.lower() for said in facts["backends"]):
            said = ", ".join(facts["backends"]) or "nothing"
            return inconclusive(f"the log does not say that {backend} computed it (it says {said})")
        return rule(facts)

    return check


def compound_reached(*tasks: str, least: tuple[float, ...] = ()) -> Check:
    """Return the rule that one model under one strategy and sampling reaches every score.

    With ``tasks`` and ``least`` the scores are those of a criterion, whatever the recipe says.
    """

    def check(facts: Facts) -> Judgement:
        wanted = dict(zip(tasks, least, strict=True)) or facts["least"]
        if not facts["groups"]:
            others = f"; there are results of {', '.join(facts['left_out'][:3])}" if facts["left_out"] else ""
            return inconclusive(f"no result is of this file under strategy {facts['strategy']}{others}")
        judged = [_compound(group, wanted) for group in facts["groups"]]
        worst = next((one for one in judged if one.outcome.failed), None)
        return worst or next((one for one in judged if one.outcome is Outcome.INCONCLUSIVE), judged[0])

    return check


def _compound(group: Facts, wanted: Facts) -> Judgement:
    said, short, unknown = [f"strategy {group['strategy']}"], False, False
    for task, least in wanted.items():
        score = group["scores"].get(task)
        if score is None or score["percent"] is None or not score["whole"]:
            shown = (
                "not measured"
                if score is None
                else f"{score['mode']}, {score['problems']} problems, not the whole set"
            )
            said.append(f"{task} {shown} (≥ {least:g})")
            unknown = True
        else:
            said.append(f"{task} {score['percent']:.2f} % (≥ {least:g})")
            short |= score["percent"] < least
    text = "; ".join(said)
    if short:
        return falsified(text)
    return inconclusive(text) if unknown else corroborated(text)


def clean(facts: Facts) -> Judgement:
    if not facts["documents"] or not facts["benchmark_texts"]:
        return inconclusive("nothing was compared")
    said = (
        f"{facts['contaminated']} of {facts['documents']} documents ({facts['rate']:.2%}) share {facts['n']}-grams "
        f"with {facts['benchmark_texts']} benchmark texts, allowed under {MAX_CONTAMINATION:.0%}"
    )
    first = (
        f"; {facts['pairs'][0]['document']} and {facts['pairs'][0]['benchmark']}" if facts["pairs"] else ""
    )
    return corroborated(said) if facts["rate"] < MAX_CONTAMINATION else falsified(said + first)


def samples_differ(facts: Facts) -> Judgement:
    if facts["empty"]:
        return falsified(f"{facts['empty']} samples are empty")
    said = (
        f"{', '.join(map(str, facts['distinct']))} distinct of {facts['samples']} samples each at temperature "
        f"{facts['temperature']:g}"
    )
    return corroborated(said) if min(facts["distinct"], default=0) >= 2 else falsified(said)


def plan_comes_first(facts: Facts) -> Judgement:
    said = f"{facts['plan_before_code']} of {facts['answers']} answers plan before their code, "
    said += f"{facts['with_code']} hold code"
    if not facts["answers"]:
        return inconclusive("nothing was answered")
    return corroborated(said) if facts["plan_before_code"] > MIN_PLANS * facts["answers"] else falsified(said)


def tool_says_so(facts: Facts) -> Judgement:
    value, said = facts["value"], f"{facts['tool']} reports {facts['field']} = {facts['value']!r}"
    if facts["wants_true"]:
        if not isinstance(value, bool):
            return inconclusive(f"{said}, which is neither true nor false")
        return corroborated(said) if value else falsified(said)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return inconclusive(f"{said}, which is no number")
    least, most = facts.get("least"), facts.get("most")
    if least is None and most is None:
        return inconclusive(f"{said}, and the recipe states no bound")
    kept = (least is None or value >= least) and (most is None or value <= most)
    bounds = " and ".join(
        f"{word} {n:g}" for word, n in (("at least", least), ("at most", most)) if n is not None
    )
    return (corroborated if kept else falsified)(f"{said}, asked {bounds}")


def tool_reports(**bounds: Any) -> Check:
    """Return the rule with the bounds of a criterion: ``wants_true``, ``least``, ``most``."""

    def check(facts: Facts) -> Judgement:
        return tool_says_so({**facts, "wants_true": False, "least": None, "most": None, **bounds})

    return check
