"""The arithmetic expressions of a question: found, told from dates and ranges, computed with fractions."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d{1,30})?|\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})"
RUN = re.compile(rf"(?:{NUMBER}|[-+*/()])(?:[ \t]*(?:{NUMBER}|[-+*/()]))*")
_TOKEN = re.compile(rf"{NUMBER}|[-+*/()]")
_CUE = re.compile(r"[=?]|\b(?:what is|what's|calculate|compute|how much|solve|evaluate)\b", re.IGNORECASE)
_ASKS = re.compile(
    r"(?:^|[:=(\n]|\b(?:what is|what's|whats|calculate|compute|solve|evaluate|is|of|much|does|then))\s*$",
    re.IGNORECASE,
)
_DATE = re.compile(r"\b\d{4}([-/])\d\d?\1\d\d?\b|\b\d\d?([-/])\d\d?\2\d{4}\b|\b0\d+[-/]\d|\d[-/]0\d")
_SPELLINGS = (
    (r"\\(?:times|cdot)\b", "*"),
    (r"\\div\b", "/"),
    (r"\\[()\[\]]|\\boxed\b|\\text\b|[{}`]|\*\*", " "),
    (r"[$€£]", ""),
    (r"\b(?:multiplied by|times)\b", "*"),
    (r"\bdivided by\b", "/"),
    (r"\bplus\b", "+"),
    (r"\bminus\b", "-"),
    (r"\b(?:is equal to|equals|equal to)\b|≈|==", "="),
    (r"[×·∗]|(?<=\d)[ \t]*[xX][ \t]*(?=\d)", "*"),
    (r"[÷∕]", "/"),
    (r"[−–]", "-"),
)


class Expression(NamedTuple):
    """An expression of the question: its tokens as spelt after normalisation, and its value."""

    tokens: tuple[str, ...]
    value: Fraction | None
    """None for a division by zero."""
    claimed: bool
    """True where the question itself goes on with a result: "is 2+2=5?"."""


def expressions(question: str) -> list[Expression]:
    """Return the distinct expressions of a question that asks for arithmetic."""
    text = normalise(question[:4000])
    whole = RUN.fullmatch(text.strip().rstrip("=?. "))
    if not whole and not _CUE.search(question):
        return []
    found: dict[tuple[str, ...], Expression] = {}
    for match in RUN.finditer(text):
        expression = _read(text, match)
        if expression:
            found.setdefault(expression.tokens, expression)
    return list(found.values())


def _read(text: str, match: re.Match[str]) -> Expression | None:
    """Return the expression of one run of numbers and operators, or None if it is something else."""
    run = match.group().rstrip("( \t").lstrip(") \t")
    start = match.start() + match.group().index(run)
    before, after = text[:start], text[start + len(run) :]
    tokens = tuple(_TOKEN.findall(run))
    if re.search(r"[\w.^%]$", before) or re.match(r"[\w^%]|\.\d", after) or _DATE.search(run):
        return None
    if run.startswith("- "):
        return None  # something that is no number stands on its left
    if len(tokens) > 60 or (not re.search(r"[+* ]", run) and not _asked(before, after)):
        return None  # "10-20" and "3/4" are ranges, scores or dates unless they are asked for
    try:
        value, rest = _sum(tokens)
    except (ValueError, RecursionError):
        return None
    except ZeroDivisionError:
        return Expression(tokens, None, False)
    if rest or set(tokens[1:]).isdisjoint("+-*/"):
        return None
    return Expression(tokens, value, bool(re.match(r"\s*=\s*-?\d", after)))


def _asked(before: str, after: str) -> bool:
    """Say whether the surroundings of a bare ``a-b`` or ``a/b`` make it a sum to be done."""
    return bool(_ASKS.search(before) and re.match(r"\s*(?:[=?.!)\n]|$)", after))


def _sum(tokens: tuple[str, ...]) -> tuple[Fraction, tuple[str, ...]]:
    """Evaluate terms joined by + and -; return the value and the tokens left over."""
    value, tokens = _product(tokens)
    while tokens and tokens[0] in "+-":
        right, rest = _product(tokens[1:])
        value, tokens = (value + right if tokens[0] == "+" else value - right), rest
    return value, tokens


def _product(tokens: tuple[str, ...]) -> tuple[Fraction, tuple[str, ...]]:
    """Evaluate factors joined by * and /."""
    value, tokens = _factor(tokens)
    while tokens and tokens[0] in "*/":
        right, rest = _factor(tokens[1:])
        value, tokens = (value * right if tokens[0] == "*" else value / right), rest
    return value, tokens


def _factor(tokens: tuple[str, ...]) -> tuple[Fraction, tuple[str, ...]]:
    """Evaluate a number, a negation or a parenthesis; raises ValueError on anything else."""
    if not tokens:
        raise ValueError("operand missing")
    if tokens[0] == "-":
        value, rest = _factor(tokens[1:])
        return -value, rest
    if tokens[0] == "(":
        value, rest = _sum(tokens[1:])
        if not rest or rest[0] != ")":
            raise ValueError("parenthesis not closed")
        return value, rest[1:]
    return Fraction(tokens[0].replace(",", "")), tokens[1:]


def normalise(text: str) -> str:
    """Spell operators as ``+ - * / =`` and drop the marks of Markdown and LaTeX."""
    for pattern, spelling in _SPELLINGS:
        text = re.sub(pattern, spelling, text, flags=re.IGNORECASE)
    return text
