"""Token soup: unrelated tokens, which is what random or misread weights emit.

By text it looks like English words in which everything is missing that holds sentences together: long words
(mean >= 7 letters), hardly any repeated, short or function word, hardly any line break or punctuation, yet
typical English endings (-ing, -tion, -ed, …). From 16 words on that is enough; from 8 on a word must be
visibly glued ("EnglandcholSTART"). Token ids make it easier: a BPE vocabulary is ordered by frequency, so
ordinary text has a low median id and soup one near the middle of the vocabulary.

Calibration, with the passages that ``garbage`` names. Share of 1000 texts of uniform tokens of the vocabulary
of SmolLM2 (49,152) that the garbage oracle falsifies:

========  =========  ==============
tokens    text only  with token ids
========  =========  ==============
8         0.04       0.04
16        0.42       0.96
32        0.90       1.00
64        0.99       1.00
========  =========  ==============

A second draw of 4000, after the thresholds were set: 0.04, 0.46, 0.91 and 0.99 by text, 0.04, 0.97, 1 and 1 by ids.
The median id of ordinary Latin text was at most 0.06 of the vocabulary, that of 32 soup tokens at least 0.26.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_WORD = re.compile(r"[^\W\d_]+")
_GLUED = re.compile(r"[a-zß-ÿ][A-Z]|[A-Z]{2}[a-z]{2}")
_ENGLISH_ENDING = re.compile(r"(?:ing|tions?|ed|ly|ments?|ness|ous|ity|able|ers)$")
_STRUCTURE = frozenset("(){}[]=;<>_/\\#|*&,\"'`:")
_COMMON = (
    "a about after all also an and any are as at be because been before between both but by can do does "
    "each for from had has have he her his how i if in into is it its may more most no not of on one only or "
    "other our over she should so some such than that the their then there these they this those through to "
    "two under use using was we were what when where which while who will with would you your"
)
_FUNCTION_WORDS = frozenset(_COMMON.split())
_MEDIAN_ID = 0.25
_MIN_TOKENS = 12
_MIN_VOCABULARY = 8000
_FEWEST_WORDS = 4
_LONG = 7
"""Letters of a word on average."""


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


def soup(text: str, token_ids: Sequence[int], vocab_size: int) -> str:
    """Name the signs of unrelated tokens: those of the text alone, or weaker ones and high token ids.

    Returns an empty string where there are none, and for text that is not mostly Latin words.
    """
    known = len(token_ids) >= _MIN_TOKENS and vocab_size >= _MIN_VOCABULARY
    words = _WORD.findall(text)
    long = sum(map(len, words)) >= _LONG * len(words)
    seen = _look(text, words) if len(words) >= _FEWEST_WORDS and (long or known) else None
    if seen is None:
        return ""
    loose = seen.repeated <= 0.05 and seen.short <= 0.25 and seen.function <= 0.08 and seen.structure <= 0.08
    if loose and seen.mean_length >= _LONG and seen.line_breaks <= 2:
        if seen.number >= 16 and seen.english >= 3:
            return "unrelated words without grammar"
        if seen.number >= 8 and seen.english >= 2 and seen.glued:
            return "unrelated words without grammar, some glued"
    if not known:
        return ""
    level = statistics.median(token_ids) / vocab_size
    if level > _MEDIAN_ID and seen.function <= 0.15 and seen.short <= 0.5 and seen.glued + seen.english >= 1:
        return f"median token id at {level:.0%} of the vocabulary, text without grammar"
    return ""


def _look(text: str, words: list[str]) -> _Words | None:
    """Count what soup is recognised by; None for a text that is not mostly Latin words."""
    if not text.isascii():
        letters = [character for character in text if character.isalpha()]
        if sum(ord(letter) < 0x250 for letter in letters) < 0.7 * len(letters):
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
