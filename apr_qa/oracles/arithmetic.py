"""Arithmetic: is the value of the one expression in the question stated by the answer?

The value is computed with fractions. Only whole numbers of the answer count (``14`` holds no 4, ``-4`` is
not 4, ``1,024`` is 1024), and an echo of the expression is no answer. Where the answer completes the
expression ("2+2=5. No, 4") or announces a result ("the answer is 5"), the first such statement counts.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from apr_qa.oracles import ORACLES
from apr_qa.oracles._expressions import NUMBER, RUN, Expression, expressions, normalise
from apr_qa.oracles._wording import corroborated, falsified, inconclusive, quote, silent
from apr_qa.vocabulary import Claim, Judgement, Response

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_WHOLE_NUMBER = rf"(?<![\w.])(?<!\d,){NUMBER}(?!\w|\.\d|,\d{{3}}(?!\d))"
_LEADING = re.compile(rf"[\s*:]*(?={_WHOLE_NUMBER}|[-(])({RUN.pattern})(?!\w|\.\d)")
_RESULT_WORDS = r"\b(?:answer|result|sum|difference|product|quotient|total|value|solution)\b"
_ANNOUNCED = re.compile(rf"{_RESULT_WORDS}[^.\n=]{{0,40}}(?:\bis|:)$", re.IGNORECASE)
_SPELT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
_WORDS = _SPELT.split()


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
        silence = silent(response)
        if silence:
            return silence
        found = expressions(claim.question)
        value = _goal(found, claim.expected)
        if isinstance(value, str):
            return inconclusive(value)
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
    answer = _without_list_markers(normalise(text[:4000]))
    asked = normalise(question).strip()
    if asked and answer.strip().startswith(asked) and len(answer.strip()) > len(asked):
        answer = answer.strip()[len(asked) - asked.endswith("=") :]
    if asked.endswith("=") and tokens:
        answer = f"{' '.join(tokens)} = {answer.lstrip().removeprefix('=')}"
    elif begun := _ANNOUNCED.search(asked):
        answer = f"{begun.group()} {answer.lstrip()}"
    stated = _stated(answer, tokens)
    wanted = _show(value)
    if stated is None:
        rest = _without_echo(answer, tokens)
        if any(abs(number - value) <= allowed for number in _numbers(rest, value)):
            return corroborated(f"the answer holds {wanted}")
    elif abs(stated - value) <= allowed:
        return corroborated(f"the answer states {wanted}")
    if response.finish_reason == "length" and _cut_short(answer, wanted):
        return inconclusive(f"cut off inside what may be {wanted}")
    instead = f", the answer states {_show(stated)}" if stated is not None else ""
    return falsified(f"expected {wanted}{instead}: {quote(text)}")


def _goal(found: list[Expression], expected: Any) -> Fraction | str:
    """Return the value to look for, or the reason why there is none."""
    if expected is not None:
        spelt = re.fullmatch(r"-?\d{0,30}(?:\.\d{1,30})?", str(expected).replace(",", "").strip())
        if spelt and spelt.group().strip("-"):
            return Fraction(spelt.group())
        return f"the expected value {quote(str(expected))} is not a number"
    if not found:
        return "the question holds no arithmetic expression"
    if len(found) > 1:
        return "the question holds several expressions and no expected value is given"
    if found[0].value is None:
        return "the expression divides by zero"
    return "the question itself names a result: that is for yes or no" if found[0].claimed else found[0].value


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
    found = [
        (said.start(), _end_of_chain(_without_echo(said.group(1), tokens)))
        for said in re.finditer(
            rf"{_RESULT_WORDS}[^.\n=]{{0,40}}?(?:\bis\b|=|:)([^\n]*)", answer, re.IGNORECASE
        )
    ]
    begun = re.search(rf"{_echo(tokens)}\s*(?:=|\bis\b|:)", answer) if tokens else None
    if begun:
        found.append((begun.start(), _end_of_chain(answer[begun.end() :])))
    return min(((start, value) for start, value in found if value is not None), default=(0, None))[1]


def _end_of_chain(text: str) -> Fraction | None:
    """Return the last plain number or fraction of the "a = b = c" that a text begins with."""
    value = None
    while match := _LEADING.match(text):
        plain = re.fullmatch(rf"\(?(-?)\s*({NUMBER})(?:\s*/\s*(\d+))?\)?", match.group(1).rstrip("+-*/( \t"))
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
    last = re.search(rf"(?<![\w.])-?{NUMBER}$", answer)
    return bool(last and wanted != last.group() and wanted.startswith(last.group().replace(",", "")))


def _show(value: Fraction) -> str:
    """Return a value as people write it: whole, or with up to six decimals."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


ORACLES.register("arithmetic")(Arithmetic())
