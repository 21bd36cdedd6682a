"""Code syntax: does the answer hold a program that parses?

Judged is the code in fences, else the continuation of a code opening (question and answer are one program
then), else code that stands in the answer without a fence. An answer that max_tokens ended may lose its
last lines and gets its open brackets closed, but must hold one complete statement of its own.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from apr_qa.oracles import ORACLES
from apr_qa.oracles._parsers import LANGUAGES, close, statements
from apr_qa.oracles._wording import corroborated, falsified, inconclusive, quote, silent
from apr_qa.vocabulary import Claim, Judgement, Response

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_JUDGED_CHARACTERS = 20_000
_JUDGED_LINES = 400
_FENCE = re.compile(
    r"^[ \t]*```[ \t]*([\w+#-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|(?=^[ \t]*```[ \t]*\w)|\Z)",
    re.DOTALL | re.MULTILINE,
)
_ALIASES = {
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "node": "javascript",
    "jsx": "javascript",
}
_ALIASES |= {"rs": "rust", "golang": "go"}
_OPENINGS = {
    "go": r"package \w+\s*$|func [\w(]|import \(|import \"",
    "java": r"(?:public|private|protected) (?:static |final |abstract )*[\w<>\[\]]+ \w|import java"
    r"|package [\w.]+;|(?:abstract |final )?class \w+ (?:extends|implements) ",
    "rust": r"(?:pub )?(?:async )?(?:fn|struct|enum|impl|trait|mod) |use \w+::|let mut |#\[\w+",
    "python": r"(?:async )?def \w+\(|class \w+(?:\([^)\n]*\))?:|(?:import|from) \w[\w.]*(?: import| as|\s*$)"
    r"|@\w+|(?:for .* in |while |if |with ).*:\s*$|print\(|if __name__",
    "javascript": r"(?:export |default )*(?:async )?function[ *(]|(?:const|let|var) \w+"
    r"|class \w+(?: extends \w+)? \{|import .* from|console\.log\(|document\.",
}
_OPENING = {
    language: re.compile(rf"^[ \t]*(?:{pattern})", re.MULTILINE) for language, pattern in _OPENINGS.items()
}
_NAMED = re.compile(r"\b(python|javascript|rust|golang|java)\b|\b(?:in|a|the|write) (Go)\b", re.IGNORECASE)
_ASKS_FOR_CODE = re.compile(
    r"\b(?:write|implement|create|complete|fix|give|show|generate|define)\b.{0,80}"
    r"\b(?:code|function|program|script|class|method|snippet|algorithm|hello world)\b",
    re.IGNORECASE | re.DOTALL,
)
_TASKS = (
    "fibonacci",
    "factorial",
    "is_prime",
    "square",
    "double",
    "count_digits",
    "is_even",
    "sum_to",
    "reverse",
)
_OPENED = {
    "python": "def {name}(n):\n",
    "javascript": "function {name}(n) {{\n",
    "rust": "fn {name}(n: u64) -> u64 {{\n",
    "go": "package main\n\nfunc {name}(n int) int {{\n",
    "java": "public class Main {{\n    public static long {name}(long n) {{\n",
}
_PROGRAMS = (
    ("python", "class Person:\n    def __init__(self, name):\n"),
    ("javascript", "async function fetchData(url) {\n"),
    ("rust", "fn main() {\n"),
    ("go", 'package main\n\nimport "fmt"\n\nfunc main() {\n'),
    ("java", "public class Main {\n    public static void main(String[] args) {\n"),
    *((language, text.format(name=name)) for name in _TASKS for language, text in _OPENED.items()),
)


class _Program(NamedTuple):
    """A piece of code to judge; ``given`` bytes of it come from the question."""

    language: str
    source: str
    given: int
    cut: bool
    """True where max_tokens ended the text inside it."""


class CodeSyntax:
    """Falsifies an answer whose code does not parse, or that holds none although code was asked for."""

    name = "code_syntax"

    def __init__(self) -> None:
        self.params: dict[str, Any] = {"language": ""}

    def claims(self, params: dict[str, Any]) -> SearchStrategy[Claim]:
        """Return openings of programs in the five languages, or in ``params["language"]`` only."""
        from hypothesis import strategies as st

        wanted = _canonical(str(params.get("language") or ""))
        programs = [drawn for drawn in _PROGRAMS if wanted in ("", drawn[0])] or list(_PROGRAMS)
        return st.sampled_from(programs).map(
            lambda drawn: Claim(
                gate_id="F-QUAL-CODE",
                kind="generate",
                prompt=drawn[1],
                oracle=self.name,
                expected=drawn[0],
                max_tokens=64,
                params=dict(params),
            )
        )

    def check(self, claim: Claim, response: Response, params: dict[str, Any]) -> Judgement:
        """Judge every program found; one that parses is enough where the text can be read in two ways."""
        silence = silent(response)
        if silence:
            return silence
        text = (response.text or "")[:_JUDGED_CHARACTERS]
        language = _language(claim, params)
        if language and language not in LANGUAGES:
            return inconclusive(f"no parser for {language}")
        cut = response.finish_reason == "length" or len(response.text or "") > _JUDGED_CHARACTERS
        readings = list(_readings(claim, text, language, cut))
        if not readings:
            return _nothing(claim, text, language)
        judgements = [_judge(reading, text) for reading in readings]
        rank = {"corroborated": 0, "inconclusive": 1, "falsified": 2}
        return min(judgements, key=lambda judgement: rank[judgement.outcome.value])


def _language(claim: Claim, params: dict[str, Any]) -> str:
    """Return the language that the playbook, the claim or the question names, or an empty string."""
    expected = claim.expected.get("language") if isinstance(claim.expected, dict) else claim.expected
    named = params.get("language") or claim.params.get("language") or expected
    if isinstance(named, str) and named:
        return _canonical(named)
    found = _opened(claim.question)
    if found:
        return found
    words = _NAMED.search(claim.question)
    return _canonical(words.group(1) or words.group(2)) if words else ""


def _canonical(name: str) -> str:
    """Return a language by the name it has here."""
    return _ALIASES.get(name.lower(), name.lower())


def _opened(text: str) -> str:
    """Return the language in which a text opens a program, or an empty string."""
    return next((language for language, pattern in _OPENING.items() if pattern.match(text.lstrip("\n"))), "")


def _nothing(claim: Claim, text: str, language: str) -> Judgement:
    """Return the judgement over an answer without code that could be parsed."""
    others = [match.group(1) for match in _FENCE.finditer(text) if match.group(1)]
    if others and language:
        return falsified(f"asked for {language}, the answer holds {others[0]}: {quote(text)}")
    if others:
        return inconclusive(f"no parser for {others[0]}")
    if language or _ASKS_FOR_CODE.search(claim.question):
        return falsified(f"no code in the answer: {quote(text)}")
    return inconclusive("the question asks for no code and the answer holds none")


def _readings(claim: Claim, text: str, language: str, cut: bool) -> Iterator[list[_Program]]:
    """Iterate over the ways to read the answer as code; each is a list of programs that must all parse."""
    question = claim.question
    if _opened(question) and language:
        body, fence, _ = text.partition("```")
        if body.strip():
            yield [_Program(language, question + body, len(question.encode()), cut and not fence)]
            if question.strip().partition("\n")[0] in body:  # the model began the program again
                yield from _unfenced(body, language, cut and not fence)
    blocks = list(_blocks(text, language, cut))
    if blocks:
        yield blocks
    elif "```" not in text and not (_opened(question) and language):
        yield from _unfenced(text, language or _opened_anywhere(text), cut)


def _opened_anywhere(text: str) -> str:
    """Return the language in which any line of a text opens a program, or an empty string."""
    return next((language for language, pattern in _OPENING.items() if pattern.search(text)), "")


def _blocks(text: str, language: str, cut: bool) -> Iterator[_Program]:
    """Iterate over the fenced programs in the wanted language, or in any known one if none is wanted.

    A fence without a language beside one that names it, or that opens no program, holds output.
    """
    fences = [match for match in _FENCE.finditer(text) if match.group(2).strip()]
    tagged = any(match.group(1) for match in fences)
    for match in fences:
        tag, source = _canonical(match.group(1)), textwrap.dedent(match.group(2))
        spoken = tag or _opened_anywhere(source) or (language if len(fences) == 1 else "")
        if spoken not in LANGUAGES or (language and spoken != language) or (tagged and not tag):
            continue
        closed = match.group().rstrip().endswith("```")
        yield _Program(spoken, source, 0, cut and not closed)


def _unfenced(text: str, language: str, cut: bool) -> Iterator[list[_Program]]:
    """Iterate over one program that begins at the first line which opens code and ends where prose begins."""
    start = _OPENING[language].search(text) if language in _OPENING else None
    if start is None:
        return
    source = textwrap.dedent(text[start.start() :])
    lines = source.splitlines(keepends=True)[:_JUDGED_LINES]
    for end in range(len(lines), 0, -1):
        rest = "".join(lines[end:])
        prose = not rest.strip() or (lines[end][:1].isupper() and not _OPENING[language].search(rest))
        if prose and statements(language, "".join(lines[:end])):
            yield [_Program(language, "".join(lines[:end]), 0, False)]
            return
    yield [_Program(language, source, 0, cut)]


def _judge(programs: list[_Program], text: str) -> Judgement:
    """Return the first judgement that is no pass, or the pass of them all."""
    for program in programs:
        judgement = _judge_one(program, text)
        if judgement.outcome.value != "corroborated":
            return judgement
    return corroborated(f"{programs[0].language} that parses")


def _judge_one(program: _Program, text: str) -> Judgement:
    """Parse a program, whole or up to the last line that max_tokens left intact."""
    language, source, given, cut = program
    found = statements(language, source)
    if found is not None and (_own(found, given, len(source.encode())) or not cut):
        if _own(found, given, len(source.encode())):
            return corroborated(f"{language} that parses")
        return falsified(f"no {language} statement in the answer, only names or text: {quote(text)}")
    if not cut:
        return falsified(f"the {language} does not parse: {quote(text)}")
    return _judge_cut(program, text)


def _judge_cut(program: _Program, text: str) -> Judgement:
    """Judge the longest beginning that ends with a line and parses, open brackets closed."""
    language, source, given, _ = program
    lines = source.splitlines(keepends=True)[:_JUDGED_LINES]
    asked_lines = source.encode()[:given].decode(errors="ignore").count("\n")
    lawful = len(lines) - asked_lines <= 1
    for end in range(len(lines), asked_lines, -1):
        beginning = "".join(lines[:end])
        for ending in ("", close(language, beginning)):
            found = statements(language, beginning + ending)
            if found is None:
                continue
            if _own(found, given, len(beginning.encode())):
                return corroborated(f"{language} that parses as far as max_tokens let it go")
            lawful = True
    if lawful:
        return inconclusive("cut off by max_tokens before one statement was complete")
    return falsified(f"the {language} does not parse: {quote(text)}")


def _own(found: list[tuple[int, int]], given: int, size: int) -> bool:
    """Say whether a statement is the answer's own: it begins in it, or ends in it."""
    return any(given < end <= size for _, end in found) if found else False


ORACLES.register("code_syntax")(CodeSyntax())
