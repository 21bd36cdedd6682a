"""One model, one task: ask, run the answers, count. Nothing but a program that ran and passed is a pass."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from apr_qa import __version__, clock
from apr_qa.errors import UsageError
from apr_qa.evaluation import completion, prompting
from apr_qa.evaluation.datasets import Dataset
from apr_qa.evaluation.estimator import mean_pass_at_k
from apr_qa.evaluation.problems import Problem
from apr_qa.evaluation.subject import Answers, Subject
from apr_qa.sandbox import Trial, Verdict
from apr_qa.sandbox.client import Sandbox
from apr_qa.vocabulary import Claim, Evidence, Record, digest

GROUP = 16
"""Questions that a worker answers together."""
COUNTERS = ("completed", "passed", "failed", "timeout", "crashed", "invalid", "inference_errors")


class Sampling(Record, frozen=True):
    """How answers are drawn."""

    samples: int = 1
    temperature: float = 0.0
    top_k: int = 1
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if self.samples > 1 and self.temperature == 0:
            raise UsageError(
                f"{self.samples} samples at temperature 0 are {self.samples} times the same answer",
                fix="give --temperature, or take one sample",
            )


class Way(Record, frozen=True):
    """How a task is asked and what is reported of it; scores of different ways are never mixed."""

    sampling: Sampling
    strategy: str = "standard"
    ks: tuple[int, ...] = (1,)


class Sample(Record, frozen=True):
    """One answer and what became of it."""

    answer: str | None
    """What the model wrote, before anything of it was taken for the program."""
    program: str | None
    """None where inference failed."""
    outcome: str
    reason: str


def evaluate(
    subject: Subject,
    data: Dataset,
    way: Way,
    sandbox: Sandbox,
    happened: Callable[[Evidence], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the result of one task as JSON-ready values; ``mode`` says whether inference took place at all."""
    chat = subject.has_template
    sampling = way.sampling
    if not chat and way.strategy not in prompting.CONTINUED:
        raise UsageError(
            f"strategy {way.strategy} asks in a chat, and {subject.model.id} is to continue a text: it has no "
            "template for a chat, or --completion was given",
            fix=f"use one of {', '.join(prompting.CONTINUED)}",
        )
    asked = [(problem, number) for problem in data.problems for number in range(sampling.samples)]
    claims = [_claim(problem, number, way, chat=chat) for problem, number in asked]
    # Half a second a token and a minute besides, for each of the questions that are answered together.
    limit_s = GROUP * (sampling.max_tokens / 2 + 60)
    begun = time.perf_counter()
    entries = Answers(subject, happened).to(claims, modality="chat" if chat else "run", limit_s=limit_s)
    speed = _speed(entries, time.perf_counter() - begun)
    answered = any(entry.response is not None for entry in entries)
    samples = _tried([problem for problem, _ in asked], entries, sandbox, chat=chat) if answered else []
    result = _counted(data.problems, samples, way) if answered else _failed(data.problems, entries, way)
    return {**_circumstances(subject, data, way, sandbox, chat=chat), **result, "generation": speed}


def _speed(entries: Sequence[Evidence], wall_s: float) -> dict[str, Any]:
    """Return how long all answers took, loading included, and tokens a second; null where no token was counted."""
    counted = [len(entry.response.token_ids) for entry in entries
               if entry.response and entry.response.token_ids is not None]  # fmt: skip
    tokens = sum(counted) if counted else None
    rate = None if tokens is None else round(tokens / wall_s, 2)
    return {"wall_s": round(wall_s, 2), "tokens": tokens, "tokens_per_s": rate}


def _claim(problem: Problem, number: int, way: Way, *, chat: bool) -> Claim:
    sampling = way.sampling
    params: dict[str, Any] = {"problem": problem.task_id, "sample": number}
    params |= {"top_k": sampling.top_k, "top_p": sampling.top_p}
    if not chat:
        params["stop"] = list(prompting.stops(problem))
    return Claim(
        gate_id="F-EVAL-CODE",
        kind="chat" if chat else "generate",
        prompt="" if chat else prompting.opening(problem, way.strategy),
        messages=(prompting.question(problem, way.strategy),) if chat else (),
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        seed=int(digest(sampling.seed, problem.task_id, number)[:7], 16),
        params=params,
    )


def _tried(
    problems: Sequence[Problem], entries: Sequence[Evidence], sandbox: Sandbox, *, chat: bool
) -> list[Sample]:
    """Run every answer in the sandbox; a question without an answer has failed without being run."""
    programs = [
        completion.program(problem, entry.response.text or "", chat=chat) if entry.response else None
        for problem, entry in zip(problems, entries, strict=True)
    ]
    trials = [
        Trial(program, problem.test, problem.entry_point, problem.helpers)
        for problem, program in zip(problems, programs, strict=True)
        if program is not None
    ]
    verdicts = iter(sandbox.try_all(trials))
    return [
        _sample(entry, program, next(verdicts))
        if program is not None
        else Sample(answer=None, program=None, outcome="inference_errors", reason=entry.reason)
        for program, entry in zip(programs, entries, strict=True)
    ]


def _sample(entry: Evidence, program: str, verdict: Verdict) -> Sample:
    answer = entry.response.text if entry.response else None
    return Sample(answer=answer, program=program, outcome=verdict.outcome, reason=verdict.reason)


def _counted(problems: Sequence[Problem], samples: Sequence[Sample], way: Way) -> dict[str, Any]:
    counts = Counter(sample.outcome for sample in samples)
    counts["completed"] = sum(sample.program is not None for sample in samples)
    errors = [sample.reason for sample in samples if sample.program is None]
    n = way.sampling.samples
    own = [samples[begin : begin + n] for begin in range(0, len(samples), n)]
    passes = [sum(sample.outcome == "passed" for sample in group) for group in own]
    return {
        "mode": "inference",
        "inference_error": errors[0] if errors else None,
        "totals": {
            "problems": len(problems),
            "samples": len(samples),
            **{name: counts[name] for name in COUNTERS},
        },
        "pass_at_k": mean_pass_at_k([(n, c) for c in passes], way.ks),
        "problems": [
            _row(problem, group, c) for problem, group, c in zip(problems, own, passes, strict=True)
        ],
    }


def _row(problem: Problem, group: Sequence[Sample], passes: int) -> dict[str, Any]:
    return {
        "task_id": problem.task_id,
        "n": len(group),
        "passed": passes,
        "inference_errors": sum(sample.program is None for sample in group),
        "samples": [
            {name: getattr(sample, name) for name in ("outcome", "reason", "answer", "program")}
            for sample in group
        ],
    }


def _failed(problems: Sequence[Problem], entries: Sequence[Evidence], way: Way) -> dict[str, Any]:
    """Return the result of a task in which no question was answered: nothing of it is a number but 0."""
    return {
        "mode": "inference_failed",
        "inference_error": entries[0].reason,
        "totals": {"problems": 0, "samples": 0, **dict.fromkeys(COUNTERS, 0)},
        "pass_at_k": {str(k): 0.0 for k in sorted(set(way.ks))},
        "problems": [
            {"task_id": problem.task_id, "n": 0, "passed": 0, "inference_errors": 0, "samples": []}
            for problem in problems
        ],
    }


def _circumstances(
    subject: Subject, data: Dataset, way: Way, sandbox: Sandbox, *, chat: bool
) -> dict[str, Any]:
    standing = sandbox.isolation
    return {
        "apr_qa": __version__,
        "timestamp": clock.now(),
        "task": data.name,
        "data_sha256": data.sha256,
        "model": subject.to_json(),
        "strategy": way.strategy,
        "prompting": "chat" if chat else "completion",
        "sampling": {name: getattr(way.sampling, name) for name in Sampling.__struct_fields__},
        "sandbox": {
            "limits": {
                name: getattr(sandbox.limits, name) for name in ("wall_s", "cpu_s", "memory_mb", "disk_mb")
            },
            "mechanisms": [
                name
                for name in (
                    "bubblewrap",
                    "user_namespace",
                    "mounts",
                    "network",
                    "processes",
                    "landlock",
                    "seccomp",
                )
                if standing[name]
            ],
            "not_isolated": standing["missing"],
            "refused": standing["refusals"],
        },
    }
