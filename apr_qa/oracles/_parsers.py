"""Parsers of the five languages whose syntax is judged: the statements of a program, or None if it has none.

Python is parsed by ``ast``; JavaScript, Rust, Go and Java by their tree-sitter grammars, which build a tree
for any text and mark what they had to skip (ERROR) or to invent (MISSING).
"""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

Span = tuple[int, int]
"""First byte and the byte after the last one, in UTF-8."""

LANGUAGES = ("python", "javascript", "rust", "go", "java")

_BARE = (ast.Pass, ast.Break, ast.Continue)
_DOING = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
_STATEMENT = re.compile(r".*(?:_statement|_declaration|_item|_definition|_clause)$|macro_invocation$")
_EMPTY = frozenset(["empty_statement", "package_clause"])
_EFFECTS = re.compile(
    r"(?:call|assignment|augmented_assignment|compound_assignment|update|await|return|new|object_creation|if|for"
    r"|while|loop|match)_expr(?:ession)?$|macro_invocation$|method_invocation$|arrow_function$"
)
_SCAN = re.compile(
    r'"""|\'\'\'|/\*|//[^\n]*|#[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|`(?:\\.|[^`\\])*`|[`()\[\]{}]',
    re.DOTALL,
)
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


def statements(language: str, source: str) -> list[Span] | None:
    """Return the spans of all statements that do something, inner ones included; None for a syntax error.

    Bare names, strings, numbers and comments do nothing: prose of one word is no program.
    """
    try:
        if language == "python":
            return _python(source)
        return _tree_sitter(language, source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def close(language: str, source: str) -> str:
    """Return what closes the brackets, block comment or long string that a cut-off source leaves open."""
    open_brackets: list[str] = []
    position = 0
    while match := _SCAN.search(source, position):
        mark, position = match.group(), match.end()
        if (mark.startswith("#") and language != "python") or (
            mark.startswith("//") and language == "python"
        ):
            position = match.start() + 1
        elif mark in ('"""', "'''", "/*", "`"):
            ending = "*/" if mark == "/*" else mark
            end = source.find(ending, position)
            if end < 0:
                return "\n" + ending + "".join(reversed(open_brackets))
            position = end + len(ending)
        elif mark in _CLOSERS:
            open_brackets.append(_CLOSERS[mark])
        elif open_brackets and mark == open_brackets[-1]:
            open_brackets.pop()
    return "".join(reversed(open_brackets))


def _python(source: str) -> list[Span]:
    """Return the spans of the statements that do something; raises SyntaxError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    starts = [0]
    for line in source.encode(errors="replace").splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return [
        (
            starts[node.lineno - 1] + node.col_offset,
            starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0),
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and not isinstance(node, _BARE) and _does_something(node)
    ]


def _does_something(statement: ast.stmt) -> bool:
    """Say whether a statement is more than an expression without effect."""
    if not isinstance(statement, ast.Expr):
        return True
    return any(isinstance(node, _DOING) for node in ast.walk(statement))


def _tree_sitter(language: str, source: str) -> list[Span] | None:
    """Return the spans of the statements that do something, None where the grammar had to skip or invent."""
    from tree_sitter import Language, Parser

    grammar = importlib.import_module(f"tree_sitter_{language}")
    root = Parser(Language(grammar.language())).parse(source.encode(errors="replace")).root_node
    nodes = list(_walk(root))
    if any(node.is_error or node.is_missing for node in nodes):
        return None
    return [(node.start_byte, node.end_byte) for node in nodes if _is_statement(node)]


def _walk(root: Node) -> Iterator[Node]:
    """Iterate over a tree without recursion: hostile nesting must not exhaust the stack."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


def _is_statement(node: Node) -> bool:
    """Say whether a node is a statement or declaration that does something."""
    if not node.is_named or node.type in _EMPTY or not _STATEMENT.match(node.type):
        return False
    if node.type != "expression_statement":
        return True
    return any(_EFFECTS.match(inner.type) for inner in _walk(node))
