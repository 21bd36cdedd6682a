"""Arithmetic: is the value of the one expression in the question stated by the answer?

The value is computed with fractions. Only whole numbers of the answer count (``14`` holds no 4, ``-4`` is
not 4, ``1,024`` is 1024), and an echo of the expression is no answer. Where the answer completes the
expression ("2+2=5. No, 4") or announces a result ("the answer is 5"), the first such statement counts.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from apr_qa.oracles import ORACLES
from apr_qa.vocabulary import Claim, Judgement, Outcome, Response

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d{1,30})?|\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})"
_WHOLE_NUMBER = rf"(?<![\w.])(?<!\d,){_NUMBER}(?!\w|\.\d|,\d{{3}}(?!\d))"
_RUN = re.compile(rf"(?:{_NUMBER}|[-+*/()])(?:[ \t]*(?:{_NUMBER}|[-+*/()]))*")
_TOKEN = re.compile(rf"{_NUMBER}|[-+*/()]")
_LEADING = re.compile(rf"[\s*:]*(?={_WHOLE_NUMBER}|[-(])({_RUN.pattern})(?!\w|\.\d)")
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
_RESULT_WORDS = r"\b(?:answer|result|sum|difference|product|quotient|total|value|solution)\b"
_SPELT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
_WORDS = _SPELT.split()


class _Expression(NamedTuple):
    """An expression of the question: its tokens as spelt after normalisation, and its value."""

    tokens: tuple[str, ...]
    value: Fraction | None
    """None for a division by zero."""
    claimed: bool
    """True where the question itself goes on with a result: "is 2+2=5?"."""


class Arithmetic:
    """Falsifies an answer that does not state the value of the question's expression."""

    name = "arithmetic"

    def __init__(self) -> None:
        self.params: dict[str, Any] = {"tolerance": 0.01}

    def claims(self, params: dict[str, Any]) -> SearchStrategy[Claim]:
        """Return questions of the form "What is a op b?" with a and b in 1..99."""
        from hypothesis import strategies as st

        number = st.integers(1, 99)
        return st.tuples(number, st.sampled_from("+-*"), number).map(
            lambda drawn: Claim(
                gate_id="F-QUAL-ARITHMETIC",
                kind="generate",
                prompt="What is {} {} {}?".format(*drawn),
                oracle=self.name,
                params=dict(params),
            )
        )

    def check(self, claim: Claim, response: Response, params: dict[str, Any]) -> Judgement:
        """Judge by ``claim.expected`` where given, else by the value of the only expression."""
        if not (response.text or "").strip():
            return Judgement(outcome=Outcome.FALSIFIED, reason="no text was generated")
        found = _expressions(claim.question)
        value = _goal(found, claim.expected)
        if isinstance(value, str):
            return Judgement(outcome=Outcome.INCONCLUSIVE, reason=value)
        tokens = found[0].tokens if len(found) == 1 else ()
        tolerance = Fraction(str(params.get("tolerance", self.params["tolerance"])))
        allowed = Fraction(0) if value.denominator == 1 else min(tolerance, abs(value) / 20)
        return _judge(claim.question, response, tokens, (value, allowed))


def _judge(
    question: str, response: Response, tokens: tuple[str, ...], goal: tuple[Fraction, Fraction]
) -> Judgement:
    """Compare the first stated result, or failing that any number outside an echo, with the goal."""
    value, allowed = goal
    text = response.text or ""
    answer = _without_list_markers(_normalise(text[:4000]))
    asked = _normalise(question).strip()
    if asked and answer.strip().startswith(asked) and len(answer.strip()) > len(asked):
        answer = answer.strip()[len(asked) - asked.endswith("=") :]
    if asked.endswith("=") and tokens:
        answer = f"{' '.join(tokens)} = {answer.lstrip().removeprefix('=')}"
    stated = _stated(answer, tokens)
    wanted = _show(value)
    if stated is None:
        rest = _without_echo(answer, tokens)
        if any(abs(number - value) <= allowed for number in _numbers(rest, value)):
            return Judgement(outcome=Outcome.CORROBORATED, reason=f"the answer holds {wanted}")
    elif abs(stated - value) <= allowed:
        return Judgement(outcome=Outcome.CORROBORATED, reason=f"the answer states {wanted}")
    if response.finish_reason == "length" and _cut_short(answer, wanted):
        return Judgement(outcome=Outcome.INCONCLUSIVE, reason=f"cut off inside what may be {wanted}")
    instead = f", the answer states {_show(stated)}" if stated is not None else ""
    reason = f"expected {wanted}{instead}: {_quote(text)}"
    return Judgement(outcome=Outcome.FALSIFIED, reason=reason)


def _goal(found: list[_Expression], expected: Any) -> Fraction | str:
    """Return the value to look for, or the reason why there is none."""
    if expected is not None:
        spelt = re.fullmatch(r"-?\d{0,30}(?:\.\d{1,30})?", str(expected).replace(",", "").strip())
        if spelt and spelt.group().strip("-"):
            return Fraction(spelt.group())
        return f"the expected value {_quote(str(expected))} is not a number"
    if not found:
        return "the question holds no arithmetic expression"
    if len(found) > 1:
        return "the question holds several expressions and no expected value is given"
    if found[0].value is None:
        return "the expression divides by zero"
    return "the question itself names a result: that is for yes or no" if found[0].claimed else found[0].value


def _expressions(question: str) -> list[_Expression]:
    """Return the distinct expressions of a question that asks for arithmetic."""
    text = _normalise(question[:4000])
    whole = _RUN.fullmatch(text.strip().rstrip("=?. "))
    if not whole and not _CUE.search(question):
        return []
    found: dict[tuple[str, ...], _Expression] = {}
    for match in _RUN.finditer(text):
        expression = _read(text, match)
        if expression:
            found.setdefault(expression.tokens, expression)
    return list(found.values())


def _read(text: str, match: re.Match[str]) -> _Expression | None:
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
        return _Expression(tokens, None, False)
    if rest or set(tokens[1:]).isdisjoint("+-*/"):
        return None
    return _Expression(tokens, value, bool(re.match(r"\s*=\s*-?\d", after)))


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


def _normalise(text: str) -> str:
    """Spell operators as ``+ - * / =`` and drop the marks of Markdown and LaTeX."""
    for pattern, spelling in _SPELLINGS:
        text = re.sub(pattern, spelling, text, flags=re.IGNORECASE)
    return text


def _without_list_markers(text: str) -> str:
    """Drop "1." and "2." at line starts where both are there: they count steps, not results."""
    marker = r"^\s*{}[.)]\s+(?=\S)"
    if all(re.search(marker.format(number), text, re.MULTILINE) for number in (1, 2)):
        return re.sub(marker.format(r"\d+"), "", text, flags=re.MULTILINE)
    return text


def _echo(tokens: tuple[str, ...]) -> str:
    """Return a pattern of the expression as the answer may repeat it."""
    return r"(?<![\w.])" + r"\s*".join(re.escape(token) for token in tokens) + r"(?![\w]|\.\d)"


def _without_echo(answer: str, tokens: tuple[str, ...]) -> str:
    """Put an ellipsis in the place of each echo."""
    return re.sub(_echo(tokens), " … ", answer) if tokens else answer


def _stated(answer: str, tokens: tuple[str, ...]) -> Fraction | None:
    """Return the first result that the answer gives to the expression or announces."""
    begun = re.search(rf"{_echo(tokens)}\s*(?:=|\bis\b|:)", answer) if tokens else None
    if begun:
        value = _end_of_chain(answer[begun.end() :])
        if value is not None:
            return value
    for said in re.finditer(rf"{_RESULT_WORDS}[^.\n=]{{0,40}}?(?:\bis\b|=|:)([^\n]*)", answer, re.IGNORECASE):
        value = _end_of_chain(_without_echo(said.group(1), tokens))
        if value is not None:
            return value
    return None


def _end_of_chain(text: str) -> Fraction | None:
    """Return the last plain number or fraction of the "a = b = c" that a text begins with."""
    value = None
    while match := _LEADING.match(text):
        plain = re.fullmatch(rf"\(?(-?)\s*({_NUMBER})(?:\s*/\s*(\d+))?\)?", match.group(1).rstrip("+-*/( \t"))
        if plain and plain.group(3) != "0":
            sign, top, under = plain.groups()
            value = Fraction(f"{sign}{top.replace(',', '')}") / int(under or 1)
        text = text[match.end() :].lstrip()
        if not text.startswith("="):
            break
        text = text[1:]
    return value


def _numbers(text: str, value: Fraction) -> list[Fraction]:
    """Return the whole numbers of a text that are no operands, spelt ones and fractions a/b included."""
    found: list[Fraction] = []
    for match in re.finditer(_WHOLE_NUMBER, text):
        before, after = text[: match.start()], text[match.end() :]
        if re.search(r"[\d)]\s*[-+*/]\s*$", before) or re.match(r"\s*[-+*/]\s*[\d(]", after):
            continue
        number = Fraction(match.group().replace(",", ""))
        found.append(-number if re.search(r"(?:^|[^\w)])-$", before) else number)
    if value.denominator != 1:
        pairs = re.finditer(r"(?<![\w./])(-?\d{1,15})\s*/\s*(\d{1,15})(?![\w/]|\.\d)", text)
        found += [Fraction(int(top), int(under)) for top, under in (p.groups() for p in pairs) if int(under)]
    elif 0 <= value <= 100 and re.search(_spelt(int(value)), text, re.IGNORECASE):
        found.append(value)
    return found


def _spelt(number: int) -> str:
    """Return a pattern of a number from 0 to 100 in English words; "one" needs "is" before it."""
    if number == 1:
        return r"(?:\b(?:is|=)\s+|^\W*)one\b(?!\s+of)"
    if number == 100:
        return r"\b(?:one |a )hundred\b"
    if number < 20:
        return rf"(?<![\w-]){_WORDS[number]}\b(?!-)"
    tens, unit = _WORDS[18 + number // 10], number % 10
    return rf"\b{tens}[- ]?{_WORDS[unit]}\b" if unit else rf"\b{tens}\b(?![- ](?:{'|'.join(_WORDS[1:10])})\b)"


def _cut_short(answer: str, wanted: str) -> bool:
    """Say whether the answer ends inside a number that is the beginning of the wanted one."""
    last = re.search(rf"(?<![\w.])-?{_NUMBER}$", answer)
    return bool(last and wanted != last.group() and wanted.startswith(last.group().replace(",", "")))


def _show(value: Fraction) -> str:
    """Return a value as people write it: whole, or with up to six decimals."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")


ORACLES.register("arithmetic")(Arithmetic())
