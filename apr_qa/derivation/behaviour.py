"""What models do: perplexity, solved problems, samples, plans before code. Each model is loaded, asked and let go."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apr_qa.backends import Request, Session
from apr_qa.derivation.members import Member, Unmeasured, file_of, hashed
from apr_qa.errors import AprQaError, InferenceFailed
from apr_qa.evaluation import completion, datasets, perplexity, prompting
from apr_qa.evaluation.datasets import Dataset
from apr_qa.evaluation.estimator import mean_pass_at_k
from apr_qa.evaluation.problems import problems
from apr_qa.sandbox import Trial
from apr_qa.sandbox.client import Sandbox

DEFAULT_PROMPTS = ("The capital of France is", "Once upon a time there was", "def add(a, b):")
_FENCE = re.compile(r"```|^(?:def|class|import|from) ", re.MULTILINE)
_WORDS = re.compile(r"[^\W\d_]{2,}")
_TASKS = (
    ("own/1", "Return the number of vowels in a text.", "assert vowels('banana') == 3"),
    ("own/2", "Return the second largest of a list of different numbers.", "assert second([3, 9, 5]) == 5"),
    ("own/3", "Say whether a text reads the same backwards.", "assert same_backwards('level') == True"),
)
"""Questions where the recipe names no task and nothing is scored: id, text, assertion."""
PLAN_WORDS = 8
"""Words before the code from which on they are a plan and no mere heading."""


def perplexity_of(member: Member, text: str) -> float:
    """Return the perplexity of a text; infinity where it is over the range of a float."""
    if text not in member.perplexities:
        with member.running() as session:
            found = perplexity.measure(session, {"text": text})["perplexity"]
        known = found is not None and math.isfinite(found)
        member.perplexities[text] = float(found) if known else math.inf
    return member.perplexities[text]


def perplexities(child: Member, parents: Sequence[Member], text: Any) -> dict[str, Any]:
    """Measure the perplexity of one text under the artifact and its first parent; null: beyond any number."""
    if not parents:
        raise Unmeasured("the playbook names no parent to compare with")
    if parents[0].sha256 == child.sha256:
        raise Unmeasured("the parent is the artifact itself: nothing is compared")
    file = file_of(text, "text")
    content = file.read_text(encoding="utf-8", errors="replace")
    if not content.strip():
        raise Unmeasured(f"{file.name} is empty")
    with parents_fault():
        theirs = _finite(perplexity_of(parents[0], content))
    own = _finite(perplexity_of(child, content))
    return {
        "text": file.name,
        "text_sha256": hashed(file)["sha256"],
        "characters": len(content),
        "artifact": own,
        "parent": theirs,
        "vocabulary": vocabulary(parents[0]),
    }


def vocabulary(member: Member) -> int | None:
    """Return the number of tokens, which is the perplexity of a guess; None where the file does not say."""
    size = member.model.config.get("vocab_size")
    return size if isinstance(size, int) else None


@contextlib.contextmanager
def parents_fault() -> Iterator[None]:
    """Turn the failure of a parent to run into Unmeasured: it says nothing about the artifact."""
    try:
        yield
    except InferenceFailed as error:
        raise Unmeasured(f"a parent cannot be run: {error.what}") from None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def scores(child: Member, parents: Sequence[Member], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Measure artifact and parents on a text (perplexity, lower is better) and on coding problems (passed)."""
    if not parents:
        raise Unmeasured("the playbook names no parent to compare with")
    if any(parent.sha256 == child.sha256 for parent in parents):
        raise Unmeasured("a parent is the artifact itself: nothing is compared")
    rows = []
    if recipe.get("text"):
        text = file_of(recipe["text"], "text").read_text(encoding="utf-8", errors="replace")
        with parents_fault():
            found = {parent.name: perplexity_of(parent, text) for parent in parents}
        found[child.name] = perplexity_of(child, text)
        sizes = [size for parent in parents if (size := vocabulary(parent))]
        row = _row("perplexity", child, parents, found)
        rows.append({**row, "vocabulary": max(sizes, default=None)})
    if recipe.get("task"):
        data = tasks(recipe)
        with parents_fault():
            solved = {parent.name: float(solve(parent, data, recipe)["passed"]) for parent in parents}
        solved[child.name] = float(solve(child, data, recipe)["passed"])
        rows.append({**_row("passed", child, parents, solved), "problems": len(data.problems)})
    if not rows:
        raise Unmeasured("the recipe names neither a text nor a task to measure with")
    return {"benchmarks": rows}


def _row(metric: str, child: Member, parents: Sequence[Member], found: Mapping[str, float]) -> dict[str, Any]:
    finite = {name: _finite(value) for name, value in found.items()}
    return {
        "metric": metric,
        "artifact": finite[child.name],
        "parents": {parent.name: finite[parent.name] for parent in parents},
    }


def tasks(recipe: Mapping[str, Any]) -> Dataset:
    """Return the coding problems that a recipe names."""
    task = str(recipe.get("task") or "")
    if not task:
        raise Unmeasured("the recipe names no task")
    try:
        return datasets.load(task, limit=int(recipe.get("limit") or 0))
    except AprQaError as error:
        raise Unmeasured(f"the task {task} cannot be read: {error.what}") from None


def solve(member: Member, data: Dataset, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Let a model solve problems greedily; what cannot be answered is unsolved, and counted.

    It is asked in a chat where it has a template, unless the recipe says ``completion``.
    """
    strategy, tokens = str(recipe.get("strategy") or "standard"), int(recipe.get("max_tokens") or 256)
    if strategy not in prompting.STRATEGIES:
        raise Unmeasured(f"the strategy {strategy} is none of {', '.join(prompting.STRATEGIES)}")
    chat = bool(member.model.chat_template) and not recipe.get("completion")
    if not chat and strategy not in prompting.CONTINUED:
        raise Unmeasured(f"the strategy {strategy} asks in a chat, and {member.name} is to continue a text")
    with member.running() as session, Sandbox() as sandbox:
        requests = [_request(session, problem, strategy, tokens, chat=chat) for problem in data.problems]
        answers = session.generate(requests)
        trials = [
            Trial(completion.program(p, answer.text or "", chat=chat), p.test, p.entry_point, p.helpers)
            for p, answer in zip(data.problems, answers, strict=True)
        ]
        verdicts = sandbox.try_all(trials)
    passes = [int(verdict.passed) for verdict in verdicts]
    return {
        "passed": sum(passes),
        "problems": len(passes),
        "pass_at_1": mean_pass_at_k([(1, c) for c in passes], (1,))["1"],
        "errors": sum(answer.finish_reason == "error" for answer in answers),
        "strategy": strategy,
    }


def _request(session: Session, problem: Any, strategy: str, tokens: int, *, chat: bool) -> Request:
    if not chat:
        stop = prompting.stops(problem)
        return Request(prompting.opening(problem, strategy), tokens, stop=stop)
    messages = [{"role": "user", "content": prompting.question(problem, strategy)}]
    return Request(session.render_chat(messages), tokens, templated=True)


def distinct(child: Member, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Draw several continuations of each prompt and count the different ones; the seed of each is its number."""
    prompts = [str(prompt) for prompt in recipe.get("prompts") or DEFAULT_PROMPTS]
    samples, tokens = int(recipe.get("samples") or 5), int(recipe.get("tokens") or 24)
    temperature = float(recipe.get("temperature") or 0.8)
    if samples < 2:
        raise Unmeasured("one sample cannot differ from another")
    asked = [
        Request(prompt, tokens, temperature, seed, top_k=40)
        for prompt in prompts
        for seed in range(1, samples + 1)
    ]
    with child.running() as session:
        texts = [answer.text or "" for answer in session.generate(asked)]
    groups = [texts[begin : begin + samples] for begin in range(0, len(texts), samples)]
    return {
        "samples": samples,
        "temperature": temperature,
        "prompts": len(prompts),
        "distinct": [len(set(group)) for group in groups],
        "empty": sum(not text.strip() for text in texts),
    }


def reasoning(child: Member, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for a structured plan before code (strategy scot) and look at what stands before the first code."""
    if not child.model.chat_template:
        raise Unmeasured("the model has no chat template to be asked in")
    own = [{"task_id": name, "text": text, "test_list": [test]} for name, text, test in _TASKS]
    asked = tasks(recipe).problems if recipe.get("task") else problems(own, "own")
    tokens = int(recipe.get("max_tokens") or 256)
    with child.running() as session:
        requests = [_request(session, problem, "scot", tokens, chat=True) for problem in asked]
        texts = [answer.text or "" for answer in session.generate(requests)]
    planned = coded = 0
    for text in texts:
        match = _FENCE.search(text)
        coded += match is not None
        planned += match is not None and len(_WORDS.findall(text[: match.start()])) >= PLAN_WORDS
    return {"answers": len(texts), "with_code": coded, "plan_before_code": planned, "first": texts[0][:400]}


def named(path: Path) -> str:
    """Return the name of a data set: that of its file without what says how it is packed."""
    return re.sub(r"\.(?:jsonl|json|gz|parquet)", "", path.name.lower())
