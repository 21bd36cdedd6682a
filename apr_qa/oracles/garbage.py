"""Garbage: text that no working model writes, told by the text and, where known, by its token ids.

Rules, in this order: replacement, control and private-use characters; leaked special tokens and byte-level
marks; loops; too little variety; too many scripts; token soup, which is what random or misread weights emit.

Calibration. SmolLM2-135M-Instruct Q4_1, 84 prompts (chat and raw; code, lists, sums, nine languages), 336
outputs of 32 to 64 tokens, greedy and sampled: 16 falsified, each a loop that a person would reject, no
false alarm. 38,726 passages of 160 to 200 characters (prose, code, documentation, program messages in 99
languages): 125 falsified, 121 of which hold the escape, control or replacement characters they are
falsified for; of the other four two are lists of options, one quotes a special token, one is Estonian.
Another draw of 38,636 passages, after the thresholds were set: seven false alarms, six of them on
repetitive code or lists of options and one on the same Estonian message.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any

from apr_qa.oracles import ORACLES
from apr_qa.oracles._soup import soup
from apr_qa.oracles._wording import corroborated, falsified, quote, silent
from apr_qa.vocabulary import Claim, Judgement, Response

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_JUDGED_CHARACTERS = 20_000
_LEAKS = re.compile(
    r"<\|[A-Za-z0-9_▁]{2,40}\|>|\[/?INST\]|<</?SYS>>|<0x[0-9A-Fa-f]{2}>|<(?:pad|unk|bos|eos|mask)>"
    r"|\[(?:PAD|UNK|CLS|SEP|MASK)\]|<(?:start|end)_of_turn>|<unused\d+>|<extra_id_\d+>|<reserved_[a-z0-9_]+>"
)
_BYTE_MARKS = re.compile(r"(?<=[^\sA-ZĠĊ▁])(?:[ĠĊ]|▁(?=\w))|^[ĠĊ▁](?=\w+$)")  # Ġ is a letter of Maltese
_BLANKS = frozenset("\n\t\r")
_LOOP = re.compile(r"(.{1,32}?)\1{4,}", re.DOTALL)
_LOOP_REPEATS = 5
_WORDS = re.compile(r"\w+")
_RULER = re.compile(r"([^\w\s])\1{3,}")
_LOOP_MIN_CHARACTERS = 20
_PHRASE_WORDS = 4
_PHRASE_MIN_WORDS = 40
_PHRASE_RATIO = 0.5
_RULER_REPEATS = 8
_ENTROPY_MIN_CHARACTERS = 20
_ASKS_FOR_REPETITION = re.compile(r"\b(?:repeat|ascii|draw|pattern|binary|zeros|in a row)\b", re.IGNORECASE)
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH", "IDEOGRAPHIC")
_MAX_SCRIPTS = 3
_SCRIPTS_MAX_CHARACTERS = 400
_PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "The meaning of life is",
    "In the year 1969,",
    "My favourite recipe begins with",
    "今天天气很好，",
    "日本の首都は",
    "Москва — это",
    "مرحبا كيف حالك؟",
    "La capitale de la France est",
    "Die Hauptstadt von Deutschland ist",
    "🙂🙂🙂",
    "'; DROP TABLE users; --",
    "<script>alert(1)</script>",
)
_TOPICS = (
    "the sea",
    "a small town",
    "photosynthesis",
    "music",
    "trains",
    "the moon",
    "bread",
    "winter",
    "history",
)
_FRAMES = (
    "The most interesting thing about {} is",
    "A short introduction to {}:\n",
    "Dear reader, today I write about {}",
)


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

        prompts = [*_PROMPTS, *(frame.format(topic) for frame in _FRAMES for topic in _TOPICS)]
        return st.sampled_from(prompts).map(
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
        silence = silent(response)
        if silence:
            return silence
        text = (response.text or "")[:_JUDGED_CHARACTERS]
        limits = {**self.params, **params}
        fault = (
            _damage(text, claim.question, response.finish_reason)
            or _leak(text, claim.question)
            or _repetition(text, claim.question, limits)
            or _scripts(text, claim.question)
            or soup(text, response.token_ids or (), response.vocab_size or 0)
        )
        if fault:
            return falsified(f"{fault}: {quote(text)}")
        return corroborated("no sign of garbage")


def _damage(text: str, question: str, finish_reason: str | None) -> str:
    """Name a character that no answer holds; a last character cut in half by max_tokens is no damage."""
    if finish_reason == "length":
        text = re.sub("\ufffd{1,3}$", "", text)
    unasked = set(text) - set(question) - _BLANKS
    if "\ufffd" not in unasked and "".join(unasked).isprintable():
        return ""
    for character in sorted(unasked):
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
    mark = _BYTE_MARKS.search(text)
    return f"byte-level mark {mark.group()}" if mark and mark.group() not in question else ""


def _repetition(text: str, question: str, limits: dict[str, Any]) -> str:
    """Name a loop or a lack of variety that the question did not ask for."""
    if _ASKS_FOR_REPETITION.search(question):
        return ""
    loop = _loop(text, question, float(limits["max_repetition_ratio"]))
    dull = "" if loop else _monotony(text, limits)
    return loop or ("" if dull and _monotony(question, limits) else dull)


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
            return f"{len(unit)} characters {length // len(unit)} times in a row, {share:.0%} of the text"
    words = _WORDS.findall(flat.lower())
    sizes = range(1, 9) if _most_said(words) >= _LOOP_REPEATS else ()  # a loop says its words so often
    for size in sizes:
        start, length = _longest_period(words, size)
        share, unit = length / max(1, len(words)), " ".join(words[start : start + size])
        enough = (
            length >= size * _LOOP_REPEATS
            and len(" ".join(words[start : start + length])) >= _LOOP_MIN_CHARACTERS
        )
        if enough and share >= limit and f"{unit} {unit}" not in asked:
            return f"{size} words {length // size} times in a row, {share:.0%} of the words"
    return _phrases(words)


def _most_said(words: list[str]) -> int:
    """Return how often the word that is said most often is said, for short texts an upper bound."""
    different = len(set(words))
    bound = len(words) - different + 1
    return bound if bound < _LOOP_REPEATS else max(Counter(words).values(), default=0)


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
    marks = _RULER.sub(r"\1\1\1", marks)  # a ruler counts as three of its characters
    different, fewest = len(set(marks)), int(limits["min_unique_chars"])
    if len(marks) >= 3 * fewest > 3 * different and not re.fullmatch(r"[\d.,+-]+", marks):
        return f"{different} different characters among {len(marks)}"
    if len(marks) < _ENTROPY_MIN_CHARACTERS:
        return ""
    counts, least = Counter(marks), float(limits["min_entropy"])
    if -math.log2(max(counts.values()) / len(marks)) > least:  # the entropy is at least that of the commonest
        return ""
    bits = -sum(n / len(marks) * math.log2(n / len(marks)) for n in counts.values())
    if bits < least:
        return f"{bits:.2f} bits a character"
    return ""


@functools.lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """Return the script of a letter by the first word of its Unicode name; the East Asian ones are one."""
    first = unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]
    return "CJK" if first in _EAST_ASIAN else first


def _scripts(text: str, question: str) -> str:
    """Name the scripts of a short text that mixes more than three the question does not use."""
    if len(text) > _SCRIPTS_MAX_CHARACTERS:
        return ""
    if text.isascii():  # one script
        return ""
    asked = {_script(letter) for letter in set(question) if letter.isalpha()}
    found = {_script(letter) for letter in set(text) if letter.isalpha()}
    named = sorted(name for name in found - asked if name)
    if len(found) > _MAX_SCRIPTS and len(named) >= _MAX_SCRIPTS:
        return f"{len(found)} scripts mixed ({', '.join(named)[:60]})"
    return ""


ORACLES.register("garbage")(Garbage())
