"""Garbage: text that no working model writes, told by the text and, where known, by its token ids.

Rules, in this order: replacement, control and private-use characters; leaked special tokens and byte-level
marks; loops; too little variety; too many scripts; token soup, which is what random or misread weights emit.

Token soup by text looks for English-looking words in which everything is missing that holds sentences
together: long words (mean >= 7 letters), hardly any repeated, short or function word, hardly any line break
or punctuation, yet typical English endings (-ing, -tion, -ed, …). From 16 words on that is enough; from 8 on
two words must be visibly glued ("EnglandcholSTART"). Token ids make it easier: a BPE vocabulary is ordered by
frequency, so ordinary text has a low median id and soup one near the middle of the vocabulary.

Calibration. SmolLM2-135M-Instruct Q4_1, 84 prompts (chat and raw, code, lists, sums, ten languages), 336 outputs
of 32 to 64 tokens, greedy and sampled: 17 falsified, each a loop that a person would reject, no false alarm.
38,726 passages of 160 to 200 characters (prose, code, documentation, program messages in 99 languages): two
false alarms of the soup and loop rules that were not a quoted usage line; the rest hold damage themselves.
Uniform tokens of its vocabulary (49,152), 1000 texts a length, share falsified:

========  =========  ==============
tokens    text only  with token ids
========  =========  ==============
8         0.04       0.04
16        0.42       0.96
32        0.90       1.00
64        0.99       1.00
========  =========  ==============

Ordinary Latin text had a median id of at most 0.06 of the vocabulary, soup of 32 tokens at least 0.26.
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from apr_qa.oracles import ORACLES
from apr_qa.vocabulary import Claim, Judgement, Outcome, Response

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_JUDGED_CHARACTERS = 20_000
_LEAKS = re.compile(
    r"<\|[A-Za-z0-9_▁]{2,40}\|>|\[/?INST\]|<</?SYS>>|<0x[0-9A-Fa-f]{2}>|<(?:pad|unk|bos|eos|mask)>"
    r"|\[(?:PAD|UNK|CLS|SEP|MASK)\]|<(?:start|end)_of_turn>|<unused\d+>|<extra_id_\d+>|<reserved_[a-z0-9_]+>"
)
_BYTE_MARKS = re.compile(r"[ĠĊ▁](?=\S)")
_LOOP = re.compile(r"(.{1,32}?)\1{4,}", re.DOTALL)
_LOOP_REPEATS = 5
_LOOP_MIN_CHARACTERS = 20
_PHRASE_WORDS = 4
_PHRASE_MIN_WORDS = 40
_PHRASE_RATIO = 0.5
_RULER_REPEATS = 8
_ENTROPY_MIN_CHARACTERS = 20
_ASKS_FOR_REPETITION = re.compile(r"\b(?:repeat|ascii|draw|pattern|binary|zeros|in a row)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_GLUED = re.compile(r"[a-zß-ÿ][A-Z]|[A-Z]{2}[a-z]{2}")
_ENGLISH_ENDING = re.compile(r"(?:ing|tions?|ed|ly|ments?|ness|ous|ity|able|ers)$")
_STRUCTURE = frozenset("(){}[]=;<>_/\\#|*&,\"'`:")
_COMMON = (
    "a about after all also an and any are as at be because been before between both but by can do does each "
    "for from had has have he her his how i if in into is it its may more most no not of on one only or other "
    "our over she should so some such than that the their then there these they this those through to two "
    "under use using was we were what when where which while who will with would you your"
)
_FUNCTION_WORDS = frozenset(_COMMON.split())
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH", "IDEOGRAPHIC")
_MAX_SCRIPTS = 3
_SCRIPTS_MAX_CHARACTERS = 400
_SOUP_MEDIAN_ID = 0.25
_SOUP_MIN_TOKENS = 12
_SOUP_MIN_VOCABULARY = 8000
_PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "Explain what a model file is.",
    "你好，请介绍一下你自己。",
    "こんにちは、元気ですか？",
    "Привет, как дела?",
    "مرحبا كيف حالك؟",
    "Schreibe einen Satz über Hunde.",
    "🙂🙂🙂",
    "'; DROP TABLE users; --",
    "<script>alert(1)</script>",
)


class _Words(NamedTuple):
    """What token soup is recognised by; shares are of the number of words or of characters."""

    number: int
    mean_length: float
    repeated: float
    short: float
    function: float
    structure: float
    line_breaks: int
    glued: int
    english: int


class Garbage:
    """Falsifies text that is damaged, loops, or is made of unrelated tokens."""

    name = "garbage"

    def __init__(self) -> None:
        self.params: dict[str, Any] = {
            "max_repetition_ratio": 0.6,
            "min_unique_chars": 5,
            "min_entropy": 1.0,
        }

    def claims(self, params: dict[str, Any]) -> SearchStrategy[Claim]:
        """Return prompts in several languages and unusual ones, all of which ask for some text."""
        from hypothesis import strategies as st

        return st.sampled_from(_PROMPTS).map(
            lambda prompt: Claim(
                gate_id="F-QUAL-GARBAGE",
                kind="generate",
                prompt=prompt,
                oracle=self.name,
                params=dict(params),
            )
        )

    def check(self, claim: Claim, response: Response, params: dict[str, Any]) -> Judgement:
        """Judge by the first rule that the text breaks; what the question itself contains is allowed."""
        text = (response.text or "")[:_JUDGED_CHARACTERS]
        if not text.strip():
            return Judgement(outcome=Outcome.FALSIFIED, reason="no text was generated")
        limits = {**self.params, **params}
        fault = (
            _damage(text, claim.question, response.finish_reason)
            or _leak(text, claim.question)
            or _repetition(text, claim.question, limits)
            or _scripts(text, claim.question)
            or _soup(text, response)
        )
        if fault:
            return Judgement(outcome=Outcome.FALSIFIED, reason=f"{fault}: {_quote(text)}")
        return Judgement(outcome=Outcome.CORROBORATED, reason="no sign of garbage")


def _damage(text: str, question: str, finish_reason: str | None) -> str:
    """Name a character that no answer holds; a last character cut in half by max_tokens is no damage."""
    if finish_reason == "length":
        text = re.sub("\ufffd{1,3}$", "", text)
    for character in set(text) - set(question) - set("\n\t\r"):
        category = unicodedata.category(character)
        if character == "\ufffd":
            return "replacement character U+FFFD"
        if character == "\x1b":
            return "terminal escape sequence"
        if category in ("Cc", "Cs", "Co"):
            kind = {"Cc": "control", "Cs": "surrogate", "Co": "private-use"}[category]
            return f"{kind} character U+{ord(character):04X}"
    return ""


def _leak(text: str, question: str) -> str:
    """Name a special token or a byte-level mark of the tokenizer that was left in the text."""
    for match in _LEAKS.finditer(text):
        if match.group() not in question:
            return f"special token {match.group()}"
    opened, closed = text.count("<s>"), text.count("</s>")
    if opened != closed and "<s>" not in question and "</s>" not in question:
        return f"special token {'<s>' if opened else '</s>'}"
    marks = [match.group() for match in _BYTE_MARKS.finditer(text) if match.group() not in question]
    spaces = sum(character.isspace() for character in text)
    if marks and len(marks) > spaces and (len(marks) > 1 or text[0] == marks[0]):
        return f"byte-level mark {marks[0]}"
    return ""


def _repetition(text: str, question: str, limits: dict[str, Any]) -> str:
    """Name a loop or a lack of variety that the question did not ask for."""
    if _ASKS_FOR_REPETITION.search(question):
        return ""
    return _loop(text, question, float(limits["max_repetition_ratio"])) or _monotony(text, limits)


def _loop(text: str, question: str, limit: float) -> str:
    """Name the unit of at most 32 characters or 8 words that is said over and over in a row."""
    flat, asked = " ".join(text.split()), " ".join(question.split()).lower()
    for match in _LOOP.finditer(flat):
        unit, length = match.group(1), len(match.group())
        share = length / len(flat)
        if any(character.isalnum() for character in unit):
            looping = length >= _LOOP_MIN_CHARACTERS and share >= limit
        else:  # rulers and leaders are legitimate beside other text
            looping = length // len(unit) >= _RULER_REPEATS and share >= 0.9
        if looping and unit.lower() * 2 not in asked:
            return f"{_quote(unit)} {length // len(unit)} times in a row, {share:.0%} of the text"
    words = re.findall(r"\w+", flat.lower())
    for size in range(1, 9):
        start, length = _longest_period(words, size)
        share, unit = length / max(1, len(words)), " ".join(words[start : start + size])
        enough = (
            length >= size * _LOOP_REPEATS
            and len(" ".join(words[start : start + length])) >= _LOOP_MIN_CHARACTERS
        )
        if enough and share >= limit and f"{unit} {unit}" not in asked:
            return f"{_quote(unit)} {length // size} times in a row, {share:.0%} of the words"
    return _phrases(words)


def _longest_period(words: list[str], size: int) -> tuple[int, int]:
    """Return start and length of the longest stretch in which every word equals the one ``size`` before."""
    best, start = (0, 0), 0
    for end in range(size, len(words) + 1):
        if end == len(words) or words[end] != words[end - size]:
            best = max(best, (end - start, start))
            start = end - size + 1
    return best[1], best[0]


def _phrases(words: list[str]) -> str:
    """Name the share of four-word phrases of a longer text that had been said before."""
    if len(words) < _PHRASE_MIN_WORDS:
        return ""
    phrases = list(zip(*(words[start:] for start in range(_PHRASE_WORDS)), strict=False))
    share = 1 - len(set(phrases)) / len(phrases)
    return (
        f"{share:.0%} of its {_PHRASE_WORDS}-word phrases had been said before"
        if share >= _PHRASE_RATIO
        else ""
    )


def _monotony(text: str, limits: dict[str, Any]) -> str:
    """Name too few different characters, or too little information a character."""
    marks = "".join(text.split())
    marks = re.sub(r"([^\w\s])\1{3,}", r"\1\1\1", marks)  # a ruler counts as three of its characters
    counts, fewest = Counter(marks), int(limits["min_unique_chars"])
    if len(marks) >= 3 * fewest > 3 * len(counts) and not re.fullmatch(r"[\d.,+-]+", marks):
        return f"only {len(counts)} different characters in {len(marks)}"
    bits = -sum(n / len(marks) * math.log2(n / len(marks)) for n in counts.values())
    if len(marks) >= _ENTROPY_MIN_CHARACTERS and bits < float(limits["min_entropy"]):
        return f"{bits:.2f} bits a character"
    return ""


def _script(letter: str) -> str:
    """Return the script of a letter by the first word of its Unicode name; the East Asian ones are one."""
    first = unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]
    return "CJK" if first in _EAST_ASIAN else first


def _scripts(text: str, question: str) -> str:
    """Name the scripts of a short text that mixes more than three the question does not use."""
    if len(text) > _SCRIPTS_MAX_CHARACTERS:
        return ""
    asked = {_script(letter) for letter in set(question) if letter.isalpha()}
    found = {_script(letter) for letter in set(text) if letter.isalpha()}
    named = sorted(name for name in found - asked if name)
    if len(found) > _MAX_SCRIPTS and len(named) >= _MAX_SCRIPTS:
        return f"{len(found)} scripts mixed ({', '.join(named)[:60]})"
    return ""


def _soup(text: str, response: Response) -> str:
    """Name the signs of unrelated tokens: those of the text alone, or weaker ones and high token ids."""
    seen = _look(text)
    if seen is None:
        return ""
    loose = seen.repeated <= 0.05 and seen.short <= 0.25 and seen.function <= 0.08 and seen.structure <= 0.08
    if loose and seen.mean_length >= 7 and seen.line_breaks <= 2:
        if seen.number >= 16 and seen.english >= 3:
            return "unrelated words without grammar"
        if seen.number >= 8 and seen.english >= 2 and seen.glued:
            return "unrelated words without grammar, some glued"
    ids, size = response.token_ids or (), response.vocab_size or 0
    if len(ids) < _SOUP_MIN_TOKENS or size < _SOUP_MIN_VOCABULARY:
        return ""
    level = statistics.median(ids) / size
    if (
        level > _SOUP_MEDIAN_ID
        and seen.function <= 0.15
        and seen.short <= 0.5
        and seen.glued + seen.english >= 1
    ):
        return f"median token id at {level:.0%} of the vocabulary, text without grammar"
    return ""


def _look(text: str) -> _Words | None:
    """Count what soup is recognised by; None for a text that is not mostly Latin words."""
    letters = [character for character in text if character.isalpha()]
    words = _WORD.findall(text)
    if len(words) < 4 or sum(ord(letter) < 0x250 for letter in letters) < 0.7 * len(letters):
        return None
    number, lowered = len(words), [word.lower() for word in words]
    return _Words(
        number=number,
        mean_length=sum(map(len, words)) / number,
        repeated=1 - len(set(lowered)) / number,
        short=sum(len(word) <= 3 for word in words) / number,
        function=sum(word in _FUNCTION_WORDS for word in lowered) / number,
        structure=sum(character in _STRUCTURE for character in text) / len(text),
        line_breaks=text.strip().count("\n"),
        glued=sum(bool(_GLUED.search(word)) for word in words),
        english=sum(bool(_ENGLISH_ENDING.search(word)) for word in lowered),
    )


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")


ORACLES.register("garbage")(Garbage())
