"""From what a model wrote to the program that is run: thinking, fences and chatter fall away."""

from __future__ import annotations

import ast
import re
import textwrap

from apr_qa.evaluation import prompting
from apr_qa.evaluation.problems import Problem

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_THOUGHT_END = re.compile(r".*</think(?:ing)?>", re.DOTALL)
_THOUGHT_OPEN = re.compile(r"<think(?:ing)?>.*", re.DOTALL)
_FENCE = re.compile(
    r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|(?=^[ \t]*```[ \t]*\w)|\Z)",
    re.DOTALL | re.MULTILINE,
)
_MARKER = re.compile(
    r"<\|(?:im_end|im_start|endoftext|eot_id|end|assistant|user)\|>|</s>|<end_of_turn>"
    r"|^(?:#{2,6} |\*\*|Human:|User:|Assistant:|Explanation:|Note:)",
    re.MULTILINE,
)
_CODE_LINE = re.compile(r"^(?:def |async def |class |import |from \w+ import |@\w)", re.MULTILINE)
_PYTHON = ("", "python", "py", "python3")


def program(problem: Problem, text: str, *, chat: bool) -> str:
    """Return the program that an answer stands for; what is no code stays what it is and fails."""
    answer = _without_thinking(text)
    if not chat:
        return _continued(problem, _cut(answer, prompting.stops(problem)))
    code = textwrap.dedent(_code(answer, problem.entry_point)).strip("\n")
    if _defines(code, problem.entry_point) or not problem.is_program:
        return f"{problem.helpers}\n\n{code}\n"
    indented = textwrap.indent(code, "    ")
    return (
        f"{problem.prompt}\n{indented}\n"
        if _parses(problem.prompt + indented)
        else f"{problem.prompt}{code}\n"
    )


def _without_thinking(text: str) -> str:
    """Drop reasoning; one that never ended has no answer after it."""
    rest = _THOUGHT.sub("", text)
    if _THOUGHT_END.match(rest):  # opened by the chat template
        rest = _THOUGHT_END.sub("", rest, count=1)
    return _THOUGHT_OPEN.sub("", rest)


def _continued(problem: Problem, text: str) -> str:
    if problem.is_program:
        return f"{problem.prompt}{text}\n"
    return f"{problem.helpers}\n\n{text}\n"


def _cut(text: str, marks: tuple[str, ...]) -> str:
    ends = [position for mark in marks if (position := text.find(mark)) >= 0]
    marker = _MARKER.search(text)
    return text[: min([*ends, *([marker.start()] if marker else []), len(text)])]


def _code(text: str, entry_point: str) -> str:
    """Return the fenced block that defines the function, else the first fenced one, else the lines of code."""
    fences = [(match.group(1).lower(), match.group(2)) for match in _FENCE.finditer(text)]
    blocks = [content for language, content in fences if language in _PYTHON]
    defining = [block for block in blocks if f"def {entry_point}(" in block]
    if defining or blocks:
        return (defining or blocks)[0]
    start = _CODE_LINE.search(text)
    plain = text[start.start() :] if start else text
    marker = _MARKER.search(plain)
    return _longest_program(plain[: marker.start()] if marker else plain)


def _longest_program(text: str) -> str:
    """Drop lines at the end until the rest parses; prose after code is no part of it."""
    lines = text.splitlines()
    for end in range(len(lines), 0, -1):
        candidate = "\n".join(lines[:end])
        if _parses(textwrap.dedent(candidate)):
            return candidate
    return text


def _defines(code: str, name: str) -> bool:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return f"def {name}(" in code
    named = {getattr(node, "name", "") for node in tree.body}
    assigned = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return name in named | assigned


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
