"""Coding problems: rows of HumanEval and of MBPP, and of files shaped like them, brought to one form."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from apr_qa.errors import UsageError
from apr_qa.vocabulary import Record

MBPP_ROWS = 974
MBPP_TEST = range(11, 511)
"""Task ids of the test split, in a file that holds all splits."""


class Problem(Record, frozen=True):
    """One problem: what is asked, and the test that an answer has to pass."""

    task_id: str
    prompt: str
    """HumanEval: the head of a program. MBPP: a sentence."""
    entry_point: str
    test: str
    helpers: str = ""
    """What the data set defines for answer and test alike."""
    examples: str = ""
    """Assertions that are shown with the question."""
    solution: str = ""

    @property
    def is_program(self) -> bool:
        """True where an answer continues the prompt."""
        return not self.examples

    @property
    def text(self) -> str:
        """Everything of it that a training set must not hold."""
        return "\n".join((self.prompt, self.solution, self.test))


def problems(rows: Iterable[Mapping[str, Any]], where: str) -> list[Problem]:
    """Return the problems of a data set; raises UsageError with the number of the first bad row."""
    held = list(rows)
    if len(held) == MBPP_ROWS and all(type(row.get("task_id")) is int for row in held):
        held = [row for row in held if row["task_id"] in MBPP_TEST]
    found: dict[str, Problem] = {}
    for number, row in enumerate(held, 1):
        place = f"{where}, row {number}"
        problem = _problem(row, place)
        if problem.task_id in found:
            raise UsageError(f"the task id {problem.task_id!r} is there twice", where=place)
        found[problem.task_id] = problem
    if not found:
        raise UsageError("holds no problem", where=where, fix="give a file with a JSON object a line")
    return list(found.values())


def _problem(row: Mapping[str, Any], where: str) -> Problem:
    task_id = row.get("task_id")
    if type(task_id) not in (int, str) or task_id == "":
        raise UsageError("has no task_id", where=where, fix="a text or a number that is unique in the file")
    if "test_list" in row:
        problem = _like_mbpp(str(task_id), row, where)
    elif {"prompt", "entry_point", "test"} <= row.keys():
        problem = _like_humaneval(str(task_id), row, where)
    else:
        raise UsageError(
            "is no coding problem",
            where=where,
            fix="it needs prompt, entry_point and test (as HumanEval), or text and test_list (as MBPP)",
        )
    _check_test(problem, where)
    return problem


def _like_humaneval(task_id: str, row: Mapping[str, Any], where: str) -> Problem:
    prompt, entry, test = (_text(row, name, where) for name in ("prompt", "entry_point", "test"))
    if not entry.isidentifier():
        raise UsageError(f"entry_point {entry!r} is no name", where=where)
    call = f"\ncheck({entry})\n" if "def check(" in test else ""
    return Problem(
        task_id=task_id,
        prompt=prompt,
        entry_point=entry,
        test=test + call,
        helpers=_helpers(prompt, entry),
        solution=str(row.get("canonical_solution") or ""),
    )


def _like_mbpp(task_id: str, row: Mapping[str, Any], where: str) -> Problem:
    tests = row["test_list"]
    if type(tests) is not list or not tests or not all(type(line) is str for line in tests):
        raise UsageError("test_list is no list of assertions", where=where)
    prompt = _text(row, "text" if "text" in row else "prompt", where)
    imports = row.get("test_imports") or []
    setup = "\n".join([*map(str, imports), str(row.get("test_setup_code") or "")]).strip()
    code = str(row.get("code") or "")
    entry = _entry_point(tests, code)
    if not entry:
        raise UsageError("its assertions call nothing", where=where)
    return Problem(
        task_id=task_id,
        prompt=prompt,
        entry_point=entry,
        test="\n".join(tests),
        helpers=setup,
        examples="\n".join(tests),
        solution=code,
    )


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if type(value) is not str or not value.strip():
        raise UsageError(f"{name} is no text", where=where)
    return value


def _helpers(prompt: str, entry: str) -> str:
    """Return what a prompt defines besides the function that is asked for."""
    try:
        tree = ast.parse(prompt)
    except SyntaxError:
        return ""
    others = [node for node in tree.body if getattr(node, "name", "") != entry]
    return "\n".join(ast.get_source_segment(prompt, node) or "" for node in others)


def _entry_point(tests: Iterable[str], code: str) -> str:
    """Return the function that the assertions call: one that the solution defines, else the outermost."""
    defined: set[str] = set()
    with contextlib.suppress(SyntaxError):
        defined = {getattr(node, "name", "") for node in ast.parse(code).body}
    called: list[str] = []
    for test in tests:
        with contextlib.suppress(SyntaxError):
            nodes = ast.walk(ast.parse(test))
            calls = [node.func for node in nodes if isinstance(node, ast.Call)]
            called += [function.id for function in calls if isinstance(function, ast.Name)]
    import builtins

    own = [name for name in called if name in defined] or [n for n in called if not hasattr(builtins, n)]
    return (own or called or [""])[0]


def _check_test(problem: Problem, where: str) -> None:
    """Refuse a test that nothing could fail."""
    try:
        nodes = list(ast.walk(ast.parse(problem.test)))
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"its test is no Python: {error}", where=where) from None
    if not any(isinstance(node, ast.Assert | ast.Raise) for node in nodes):
        raise UsageError("its test asserts nothing, so that every answer would pass", where=where)
