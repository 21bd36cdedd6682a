"""What a run says about its devices, its conversations, and itself beside the run before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from apr_qa.gates._across import across, example, example_run, verdict, where
from apr_qa.gates._questions import holder, names, turns_and_bare
from apr_qa.tally import Tally, lacked_memory, met_unknown_instruction
from apr_qa.vocabulary import EARLIER, Evidence, EvidenceHeader, GateVerdict, Outcome, Response, Severity

_P1 = Severity.P1
_OK, _NO = Outcome.CORROBORATED, Outcome.FALSIFIED
SPEEDUP = 2.0
"""Twice the speed of a CPU is what a GPU that is really used gives models of any size."""
SLACK = 0.01
"""Share of claims that two runs of the same artifact may differ by: answers near a tie go either way."""
Test = Callable[[Evidence], bool]
Judge = Callable[[EvidenceHeader, Tally], GateVerdict]


def _artifact(entry: Evidence) -> tuple[str, str]:
    return entry.scenario.target.format, entry.scenario.target.quantization


def faster_on_gpu(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge artifacts whose decoding was timed on both devices."""
    speeds: dict[tuple[str, str], dict[str, tuple[float, str]]] = defaultdict(dict)
    for entry in tally.of_gate("F-BENCH-001").entries():
        facts = entry.response.facts if entry.response is not None else {}
        if facts.get("tokens_per_s_mean"):
            place = entry.scenario.target.backend
            speeds[_artifact(entry)][place] = float(facts["tokens_per_s_mean"]), entry.id
    both = {name: found for name, found in speeds.items() if {"cpu", "gpu"} <= found.keys()}
    if not both:
        return verdict("F-GPU-002", _P1, None, "nothing was timed on both devices")
    ratios = {name: found["gpu"][0] / found["cpu"][0] for name, found in both.items()}
    worst = min(ratios, key=lambda name: (ratios[name], name))
    said = f"{' '.join(worst).rstrip()} decodes {ratios[worst]:.2f} times as fast as on the CPU"
    deciding = [name for _, name in both[worst].values()]
    return verdict("F-GPU-002", _P1, _OK if ratios[worst] >= SPEEDUP else _NO, said, deciding)


def nothing_ends_so(gate_id: str, device: str, fault: Test, words: tuple[str, str]) -> Judge:
    """Return the judge of how everything ended that was asked on one device."""

    def judge(header: EvidenceHeader, tally: Tally) -> GateVerdict:
        asked = tally.all.where(lambda e: e.scenario.target.backend == device and e.outcome.counted)
        bad = asked.where(fault)
        if bad:
            first = bad.first
            reason = f"{len(bad)} of {len(asked)} {words[1]}; first: {where(first)}: {first.reason[:200]}"
            return verdict(gate_id, _P1, _NO, reason, bad)
        ran = asked.where(lambda entry: entry.response is not None)
        if not ran:
            return verdict(gate_id, _P1, None, f"nothing ran on the {device}")
        return verdict(gate_id, _P1, _OK, f"{len(ran)} questions {words[0]}", ran)

    return judge


def template_is_applied(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge questions that were put bare and as a turn: the turn must have become a longer prompt."""
    asked = tally.texts.where(
        lambda entry: entry.response is not None and len(entry.scenario.claim.messages) <= 1
    )
    turns = asked.where(lambda entry: entry.scenario.claim.kind == "chat").by(_engine)
    bare = asked.where(lambda entry: entry.scenario.claim.kind != "chat").by(_engine)
    held, bad = list[str](), list[str]()
    total = failed = 0
    for place in sorted(bare.keys() & turns.keys()):
        longer, others = turns_and_bare(turns[place], bare[place])
        total, failed = total + len(longer) + len(others), failed + len(others)
        held += names(longer)
        bad += names(others)
    if not total:
        return verdict("F-CHAT-001", _P1, None, "no question was put both bare and as a turn")
    if failed:
        first = where(holder(asked, bad[0]))
        reason = f"{failed} of {total} turns became no longer prompt; first: {first}"
        return verdict("F-CHAT-001", _P1, _NO, reason, bad)
    said = f"the template adds tokens to all {total} questions"
    return verdict("F-CHAT-001", _P1, _OK, said, held)


def _engine(entry: Evidence) -> tuple[str, str, str, str]:
    return (*_artifact(entry), entry.scenario.target.backend, entry.scenario.target.engine)


def earlier_turns_are_known(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge conversations of several turns: where the ground truth remembers, so must the others."""
    talks = tally.texts.where(lambda e: len(e.scenario.claim.messages) > 1 and e.outcome.counted)
    held = talks.where(lambda entry: entry.outcome is _OK).by(_artifact)
    asked = talks.by(_artifact)
    truth = [name for name in asked if name[0] == "safetensors"]
    if not talks or not truth:
        return verdict(
            "F-CHAT-002", _P1, None, "no conversation of several turns was held with the ground truth"
        )
    if not any(name in held for name in truth):
        reason = "the ground truth does not answer from earlier turns either"
        return verdict("F-CHAT-002", _P1, Outcome.INCONCLUSIVE, reason, talks)
    lost = sorted(name for name in asked if name not in held)
    if lost:
        bad = asked[lost[0]]
        reason = f"{' '.join(lost[0]).rstrip()} answers none of {len(bad)} conversations from earlier turns"
        return verdict("F-CHAT-002", _P1, _NO, reason, bad)
    return verdict("F-CHAT-002", _P1, _OK, f"{len(asked)} artifacts answer from earlier turns", talks)


def no_worse_than_before(header: EvidenceHeader, tally: Tally) -> GateVerdict:
    """Judge the share of claims that hold against that of the stored run of the same tier."""
    tier, _, share = header.environment.get(EARLIER, "").partition(" ")
    counted = tally.all.where(lambda entry: entry.outcome.counted)
    if not counted or tier != header.tier.value or not share:
        return verdict("F-REGR-001", _P1, None, "no earlier run of this tier is stored")
    now = len(counted.where(lambda entry: entry.outcome is _OK)) / len(counted)
    said = f"{now:.4f} of the claims hold, {float(share):.4f} in the run before"
    if now >= float(share) - SLACK:
        return verdict("F-REGR-001", _P1, _OK, said, counted)
    return verdict("F-REGR-001", _P1, _NO, said, counted.where(lambda entry: entry.outcome is not _OK))


# ---- examples


def _timed(device: str, speed: float) -> Evidence:
    facts = {"tokens_per_s_mean": speed}
    return example("F-BENCH-001", f"gguf·{device}·run", "inspect", _OK, facts=facts)


def _asked(kind: str, tokens: int) -> Evidence:
    """Return an answer whose prompt had so many tokens."""
    entry = example("F-QUAL-001", f"gguf·cpu·{'chat' if kind == 'chat' else 'run'}", kind, _OK, " 4")
    return msgspec.structs.replace(entry, response=Response(text=" 4", prompt_tokens=tokens))


def _talk(format_name: str, outcome: Outcome) -> Evidence:
    entry = example("F-QUAL-003", f"{format_name}·cpu·chat", "chat", outcome, "banana")
    claim = msgspec.structs.replace(
        entry.scenario.claim, prompt="", messages=("It is banana.", "What is it?")
    )
    scenario = msgspec.structs.replace(entry.scenario, claim=claim)
    return msgspec.structs.replace(entry, id=scenario.id, scenario=scenario)


def _after(share: str, *entries: Evidence) -> tuple[EvidenceHeader, tuple[Evidence, ...]]:
    header, found = example_run(*entries)
    return msgspec.structs.replace(header, environment={EARLIER: f"{header.tier.value} {share}"}), found


_GPU, _CPU = "gguf·gpu·run", "gguf·cpu·run"
_HELD = example("F-QUAL-001", _GPU, "generate", _OK, " 4")
_HERE = example("F-QUAL-001", _CPU, "generate", _OK, " 4")
_ROWS: tuple[tuple[str, str, str, str, Judge, Any, Any], ...] = (
    (
        "F-GPU-002",
        "gpu",
        "The GPU decodes faster than the CPU",
        f"{SPEEDUP:g} times its speed, for every artifact timed on both",
        faster_on_gpu,
        example_run(_timed("cpu", 20.0), _timed("gpu", 90.0)),
        example_run(_timed("cpu", 20.0), _timed("gpu", 21.0)),
    ),
    (
        "F-GPU-003",
        "gpu",
        "Nothing on the GPU fails for lack of memory",
        "0 failures that speak of memory",
        nothing_ends_so("F-GPU-003", "gpu", lacked_memory, ("found memory enough", "lacked memory")),
        example_run(_HELD),
        example_run(example("F-QUAL-001", _GPU, "generate", _NO, reason="CUDA error: out of memory")),
    ),
    (
        "F-CPU-003",
        "cpu",
        "No process dies of an instruction that the CPU does not have",
        "0 deaths by SIGILL",
        nothing_ends_so(
            "F-CPU-003", "cpu", met_unknown_instruction, ("met known instructions only", "died of SIGILL")
        ),
        example_run(_HERE),
        example_run(example("F-QUAL-001", _CPU, "generate", Outcome.CRASHED, reason="signal SIGILL")),
    ),
    (
        "F-CHAT-001",
        "core inference",
        "The chat template is applied",
        "the prompt of every turn is longer than the bare question",
        template_is_applied,
        example_run(_asked("generate", 8), _asked("chat", 21)),
        example_run(_asked("generate", 8), _asked("chat", 8)),
    ),
    (
        "F-CHAT-002",
        "core inference",
        "Answers draw on earlier turns wherever the ground truth's do",
        "at least one accepted conversation of each artifact",
        earlier_turns_are_known,
        example_run(_talk("safetensors", _OK), _talk("gguf", _OK)),
        example_run(_talk("safetensors", _OK), _talk("gguf", _NO)),
    ),
    (
        "F-REGR-001",
        "regression",
        "No smaller share of claims holds than in the run before",
        f"the earlier share of the same tier, less {SLACK:.0%}",
        no_worse_than_before,
        _after("1.0", _HERE),
        _after("1.0", _HERE, example("F-QUAL-001", _GPU, "generate", _NO, " 5")),
    ),
)
for _id, _category, _hypothesis, _threshold, _judge, _holds, _fails in _ROWS:
    across(_id, _P1, _hypothesis, _threshold, _judge, _holds, _fails, category=_category)
