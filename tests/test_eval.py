"""An evaluation reports what was run and nothing else: pass@k, failures of inference, data sets, answers."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr_qa import errors
from apr_qa.__main__ import main
from apr_qa.errors import ModelUnavailable, UsageError
from apr_qa.evaluation import completion, datasets, prompting
from apr_qa.evaluation.coding import COUNTERS, Sampling, Way, evaluate
from apr_qa.evaluation.datasets import Dataset, load
from apr_qa.evaluation.estimator import mean_pass_at_k, pass_at_k
from apr_qa.evaluation.problems import MBPP_ROWS, Problem, problems
from apr_qa.evaluation.subject import Subject, subject
from apr_qa.registry import select
from apr_qa.sandbox import Limits, Trial
from apr_qa.sandbox.client import Sandbox

CASES = Path(__file__).parent / "cases" / "eval"
MBPP = CASES / "mbpp_like.jsonl"
HUMANEVAL = CASES / "humaneval_like.jsonl"
FILES = [MBPP, HUMANEVAL, *map(Path, filter(None, [os.environ.get("APR_QA_HUMANEVAL")]))]
"""HumanEval itself is not ours to bring along: the variable says where it lies."""
GREEDY = Way(sampling=Sampling(max_tokens=6))


@pytest.fixture(scope="module")
def sandbox() -> Any:
    with Sandbox(Limits(wall_s=5.0)) as running:
        yield running


@pytest.fixture(scope="module")
def broken(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without its tokenizer."""
    folder = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(tiny_llama, folder)
    for path in (*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")):
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def truncated(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose file ends in the middle of its weights."""
    path = tmp_path_factory.mktemp("truncated") / "model.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[: -(1 << 15)])
    return path


def subject_of(path: Path, format_name: str = "", *, chat: bool = False) -> Subject:
    found = subject(select([str(path)], None, False)[0], format_name, lambda _: None)
    return Subject(model=found.model, artifact=found.artifact, has_template=found.has_template and chat)


def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["apr-qa", *arguments])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


# ---- pass@k


@given(st.data())
def test_pass_at_k_is_the_share_of_all_subsets_that_hold_a_pass(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert math.isclose(pass_at_k(n, c, k), share, rel_tol=1e-12, abs_tol=1e-15)


@pytest.mark.parametrize(
    ("n", "c", "k", "value"), [(10, 0, 1, 0.0), (10, 10, 1, 1.0), (10, 5, 1, 0.5), (10, 5, 10, 1.0)]
)
def test_pass_at_k_gives_the_published_values(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == value


def test_pass_at_k_of_many_samples_neither_overflows_nor_rounds_to_nothing() -> None:
    exact = 1 - math.comb(9_999, 100) / math.comb(10_000, 100)
    assert math.isclose(pass_at_k(10_000, 1, 100), exact, rel_tol=1e-9)
    assert math.isclose(pass_at_k(10_000, 1, 2), 2e-4, rel_tol=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0), (0, 0, 1)])
def test_pass_at_k_is_not_defined_beyond_its_samples(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(n, c, k)


def test_a_k_over_the_number_of_samples_is_not_reported() -> None:
    assert mean_pass_at_k([(5, 1), (5, 0)], [1, 5, 10]) == {"1": 0.1, "5": 0.5}
    assert mean_pass_at_k([(5, 1), (2, 0)], [1, 5]) == {"1": 0.1}
    assert mean_pass_at_k([], [1]) == {}


# ---- problems


def test_rows_of_both_kinds_become_problems() -> None:
    mine = load(str(MBPP)).problems
    assert [problem.entry_point for problem in mine][:3] == ["reversed_words", "frequencies", "sort_in_place"]
    assert mine[3].entry_point == "longest"
    theirs = load(str(HUMANEVAL)).problems
    assert "def poly" in theirs[1].helpers
    assert "def zero" not in theirs[1].helpers
    assert theirs[0].test.endswith("check(add)\n")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_solution_passes_and_no_empty_answer_does(sandbox: Sandbox, file: Path) -> None:
    trials, expected = [], []
    for problem in load("humaneval", file).problems:
        chat = not problem.is_program
        for answer, passes in ((problem.solution, True), ("", False), ("    pass\n", False)):
            written = f"```python\n{answer}```" if chat else answer
            program = completion.program(problem, written, chat=chat)
            trials.append(Trial(program, problem.test, problem.entry_point, problem.helpers))
            expected.append((problem.task_id, answer, passes))
    for verdict, (task_id, answer, passes) in zip(sandbox.try_all(trials), expected, strict=True):
        assert verdict.passed is passes, (task_id, answer, verdict)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "has no task_id"),
        ({"task_id": 1, "text": "x"}, "is no coding problem"),
        ({"task_id": 1, "text": "x", "test_list": []}, "no list of assertions"),
        ({"task_id": 1, "text": "", "test_list": ["assert f(1)"]}, "text is no text"),
        ({"task_id": 1, "text": "x", "test_list": ["f(1) == 2"]}, "asserts nothing"),
        ({"task_id": 1, "text": "x", "test_list": ["assert f("]}, "calls nothing|call nothing"),
        ({"task_id": 1, "prompt": "def f():\n", "entry_point": "f", "test": "def check(c):\n    c()"}, "asserts"),
        ({"task_id": 1, "prompt": "def f():\n", "entry_point": "f g", "test": "assert f()"}, "is no name"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_problem_is_refused_with_its_number(row: dict[str, Any], words: str) -> None:
    good = {"task_id": 0, "text": "x", "test_list": ["assert f(1) == 1"]}
    with pytest.raises(UsageError, match=words) as refused:
        problems([good, row], "file.jsonl")
    assert refused.value.where == "file.jsonl, row 2"


def test_the_same_id_twice_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    row = {"task_id": 0, "text": "x", "test_list": ["assert f(1) == 1"]}
    with pytest.raises(UsageError, match="there twice"):
        problems([row, row], "file.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no problem"):
        load(str(empty))


def test_of_all_splits_of_mbpp_only_the_test_split_is_used() -> None:
    rows = [{"task_id": i, "text": "x", "test_list": ["assert f(1) == 1"]} for i in range(1, MBPP_ROWS + 1)]
    found = problems(rows, "mbpp")
    assert (len(found), found[0].task_id, found[-1].task_id) == (500, "11", "510")
    assert len(problems(rows[:20], "mbpp")) == 20


# ---- data sets


def test_a_gzipped_file_holds_the_same_problems(tmp_path: Path) -> None:
    packed = tmp_path / "mbpp.jsonl.gz"
    packed.write_bytes(gzip.compress(MBPP.read_bytes()))
    assert load("mbpp", packed).problems == load(str(MBPP)).problems
    assert load("mbpp", packed).name == "mbpp"
    assert len(load(str(MBPP), limit=2).problems) == 2


def test_the_hub_cache_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    snapshot = tmp_path / "hub" / "datasets--openai--openai_humaneval" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(HUMANEVAL, snapshot / "test.jsonl")
    assert load("humaneval").problems == load(str(HUMANEVAL)).problems


def test_a_data_set_that_is_nowhere_names_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match="mbpp could not be found") as refused:
        load("mbpp")
    assert "HF_HUB_OFFLINE is set" in refused.value.where
    assert "datasets--google-research-datasets--mbpp" in refused.value.where
    assert "--data" in refused.value.fix


def test_a_hub_that_does_not_answer_is_one_of_the_places() -> None:
    with pytest.raises(ModelUnavailable, match="humaneval could not be found") as refused:
        load("humaneval")
    assert "Hugging Face hub (" in refused.value.where


@pytest.mark.parametrize("content", [b"{", b"[1]\n", b"\xff\xfe{}", b"[" * 100_000])
def test_what_is_no_json_lines_is_refused_with_its_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"task_id": 0, "text": "x", "test_list": ["assert f(1)"]}\n' + content)
    with pytest.raises(UsageError) as refused:
        list(datasets.read_rows(path))
    assert refused.value.where.endswith("bad.jsonl:2")


# ---- from answers to programs


ADD = Problem(
    task_id="a", prompt='def add(a, b):\n    """Sum."""\n', entry_point="add", test="assert add(1, 2) == 3\n"
)
SAY = Problem(
    task_id="s",
    prompt="Add.",
    entry_point="add",
    test="assert add(1, 2) == 3",
    examples="assert add(1, 2) == 3",
)
BODY = "return a + b"
WHOLE = f"def add(a, b):\n    {BODY}\n"


@pytest.mark.parametrize("problem", [ADD, SAY])
@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{WHOLE}```",
        f"```py\n{WHOLE}```\nThis adds.",
        f"Sure! Here it is:\n\n```\n{WHOLE}```",
        f"```python\n{WHOLE}",
        f"<think>maybe ```python\ndef add(a, b):\n    return 0\n```</think>\n```python\n{WHOLE}```",
        f"it is a sum</think>```python\n{WHOLE}```".replace("</think>", "</think>\n"),
        f"First some shell:\n```bash\npip install x\n```\n```python\n{WHOLE}```",
        f"```python\nimport os\n```\nand\n```python\n{WHOLE}```",
        WHOLE,
        f"Here you go:\n{WHOLE}\nThis function adds a and b!",
        f"{WHOLE}<|im_end|>\n<|im_start|>user",
        f"{WHOLE}\n### Explanation\nIt adds.",
        f"   ```python\n   {WHOLE.replace(chr(10), chr(10) + '   ')}\n   ```",
    ],
)
def test_the_code_is_found_in_what_a_chat_model_writes(sandbox: Sandbox, problem: Problem, text: str) -> None:
    program = completion.program(problem, text, chat=True)
    verdict = sandbox.try_out(Trial(program, problem.test, "add"))
    assert verdict.passed, (program, verdict)


@pytest.mark.parametrize("text", [f"```python\n{BODY}\n```", f"```python\n    {BODY}\n```", f"    {BODY}\n"])
def test_the_body_of_a_function_completes_it(sandbox: Sandbox, text: str) -> None:
    verdict = sandbox.try_out(Trial(completion.program(ADD, text, chat=True), ADD.test, "add"))
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "\ndef other():\n    broken(",
        "\n# next",
        "\nprint(add(1",
        "\nassert x",
        "\n```\nDone",
        "\nif __name__ ==",
        "<|endoftext|>more",
    ],
)
def test_a_continuation_ends_where_something_else_begins(sandbox: Sandbox, rest: str) -> None:
    program = completion.program(ADD, f"    {BODY}\n{rest}", chat=False)
    assert sandbox.try_out(Trial(program, ADD.test, "add")).passed, program


@pytest.mark.parametrize(
    "text", ["", "I cannot do that.", "<think>return a + b", "```python\n```", "    return a - b\n"]
)
@pytest.mark.parametrize("chat", [True, False])
def test_what_is_no_solution_does_not_pass(sandbox: Sandbox, text: str, chat: bool) -> None:
    for problem in (ADD, SAY):
        program = completion.program(problem, text, chat=chat)
        assert not sandbox.try_out(Trial(program, problem.test, "add")).passed, program


@given(st.text(alphabet=st.characters(codec="utf-8")), st.booleans())
def test_any_answer_becomes_some_program(text: str, chat: bool) -> None:
    for problem in (ADD, SAY):
        assert isinstance(completion.program(problem, text, chat=chat), str)


def test_strategies_ask_differently_and_show_the_task() -> None:
    for problem in (ADD, SAY):
        asked = {strategy: prompting.question(problem, strategy) for strategy in prompting.STRATEGIES}
        assert len(set(asked.values())) == len(asked)
        assert all("add" in text for text in asked.values())
        assert prompting.opening(problem, "few-shot").endswith(prompting.opening(problem, "standard"))
    assert prompting.opening(ADD, "standard") == ADD.prompt.rstrip()


# ---- evaluation


def test_random_weights_solve_nothing_and_that_is_a_result(
    sandbox: Sandbox, tiny_llama: Path, tiny_gguf: Path
) -> None:
    for path in (tiny_llama, tiny_gguf):
        result = evaluate(subject_of(path), load(str(HUMANEVAL)), GREEDY, sandbox)
        assert result["mode"] == "inference"
        assert result["inference_error"] is None
        assert result["pass_at_k"] == {"1": 0.0}
        assert result["totals"]["samples"] == result["totals"]["completed"] == 2
        assert result["totals"]["passed"] == 0
        assert all(row["n"] == 1 and row["samples"][0]["program"] for row in result["problems"])
        assert result["model"]["dtype"] == "f32"
        assert len(result["model"]["sha256"]) == 64


def test_ft_eval_failure_001_a_broken_model_scores_zero(sandbox: Sandbox, broken: Path) -> None:
    result = evaluate(subject_of(broken), load(str(HUMANEVAL)), GREEDY, sandbox)
    assert result["mode"] == "inference_failed"
    assert "tokenizer" in result["inference_error"]
    assert result["pass_at_k"] == {"1": 0.0}
    assert result["totals"] == {"problems": 0, "samples": 0, **dict.fromkeys(COUNTERS, 0)}


def test_ft_eval_failure_002_a_healthy_model_gets_a_real_score(sandbox: Sandbox, smollm2: Path) -> None:
    result = evaluate(subject_of(smollm2), load(str(HUMANEVAL), limit=1), GREEDY, sandbox)
    assert result["mode"] == "inference"
    assert result["pass_at_k"] == {"1": 1.0}
    assert result["problems"][0]["samples"][0]["program"].startswith("def add(a, b):")


def test_ft_eval_failure_003_every_task_fails_alike(
    truncated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox.", encoding="utf-8")
    tasks = (
        ("--task", "humaneval", "--data", str(HUMANEVAL)),
        ("--task", "mbpp", "--data", str(MBPP)),
        ("--task", str(MBPP)),
        ("--task", "perplexity", "--text", str(text)),
    )
    shapes, reasons = [], set()
    for arguments in tasks:
        code, out, _ = call(monkeypatch, capfd, "eval", str(truncated), *arguments, "--json", "-q")
        result = json.loads(out)
        assert code == errors.EXIT_INFERENCE_FAILED == 8
        assert result["mode"] == "inference_failed"
        assert set(result["totals"].values()) == {0}
        reasons.add(result["inference_error"])
        shapes.append((result["totals"], result.get("pass_at_k"), set(result)))
    assert shapes[0] == shapes[1] == shapes[2]
    assert len(reasons) == 1


def test_ft_eval_failure_004_the_data_set_marks_nothing_as_passed(
    sandbox: Sandbox, truncated: Path, tiny_gguf: Path
) -> None:
    data = load(str(MBPP))
    bare = Dataset(
        name=data.name,
        sha256=data.sha256,
        problems=tuple(
            Problem(**{f: getattr(p, f) for f in Problem.__struct_fields__ if f != "solution"})
            for p in data.problems
        ),
    )
    for model in (truncated, tiny_gguf):
        with_solutions, without = (evaluate(subject_of(model), d, GREEDY, sandbox) for d in (data, bare))
        assert with_solutions["totals"] == without["totals"]
        assert with_solutions["totals"]["passed"] == 0


def test_a_question_that_kills_the_engine_is_counted_and_the_others_are_run(
    sandbox: Sandbox, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APR_QA_FAULT", "crash:square root")
    result = evaluate(subject_of(tiny_gguf), load(str(MBPP)), GREEDY, sandbox)
    assert result["mode"] == "inference"
    assert result["totals"]["inference_errors"] == 1
    assert result["totals"]["completed"] == 5
    assert "died" in result["inference_error"]
    hit = next(row for row in result["problems"] if row["inference_errors"])
    assert (hit["task_id"], hit["n"], hit["passed"]) == ("own/5", 1, 0)


def test_samples_differ_by_seed_and_repeat_with_it(sandbox: Sandbox, tiny_gguf: Path) -> None:
    data = load(str(HUMANEVAL), limit=1)

    def programs(seed: int) -> list[str]:
        sampling = Sampling(samples=4, temperature=1.0, top_k=40, seed=seed, max_tokens=8)
        result = evaluate(subject_of(tiny_gguf), data, Way(sampling=sampling, ks=(1, 4)), sandbox)
        assert set(result["pass_at_k"]) == {"1", "4"}
        return [sample["program"] for sample in result["problems"][0]["samples"]]

    first = programs(1)
    assert len(set(first)) > 1
    assert programs(1) == first
    assert programs(2) != first


def test_a_chat_model_is_asked_and_a_continuing_one_cannot_be_asked_for_a_plan(
    sandbox: Sandbox, tiny_gguf: Path
) -> None:
    data = load(str(HUMANEVAL), limit=1)
    result = evaluate(subject_of(tiny_gguf, chat=True), data, Way(sampling=Sampling(max_tokens=4)), sandbox)
    assert (result["mode"], result["prompting"], result["strategy"]) == ("inference", "chat", "standard")
    with pytest.raises(UsageError, match="asks in a chat"):
        evaluate(subject_of(tiny_gguf), data, Way(sampling=Sampling(), strategy="scot"), sandbox)


def test_many_samples_at_temperature_0_are_refused() -> None:
    with pytest.raises(UsageError, match="5 times the same answer"):
        Sampling(samples=5)


# ---- command line


def test_the_command_prints_the_score_and_writes_the_result(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "result.json"
    arguments = ("eval", str(tiny_gguf), "--task", str(HUMANEVAL), "--completion", "--max-tokens", "4")
    code, out, _ = call(monkeypatch, capfd, *arguments, "--output", str(output), "-q")
    assert code == 0
    assert "pass@1 0.0000" in out
    assert "2 problems, 2 samples: 0 passed, 2 failed" in out
    assert json.loads(output.read_text(encoding="utf-8"))["prompting"] == "completion"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "humanevil"), "there is no such file"),
        (("--task", str(MBPP), "--text", "x"), "--text belongs to --task perplexity"),
        (("--task", "perplexity"), "needs a text"),
        (("--task", "perplexity", "--text", str(MBPP), "--limit", "1"), "--limit belongs to a coding task"),
        (
            ("--task", "perplexity", "--text", str(MBPP), "--window", "8", "--stride", "8"),
            "less than --window",
        ),
        (("--task", str(MBPP), "--k", "10"), "no pass@k can be reported"),
        (("--task", str(MBPP), "--k", "0"), "is no list of numbers"),
        (("--task", str(MBPP), "--samples", "3"), "times the same answer"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    code, _, err = call(monkeypatch, capfd, "eval", str(tiny_gguf), *arguments, "-q")
    assert code == errors.EXIT_USAGE
    assert words in err
