"""Response: does the answer say what it must, and is it about the question at all?

``claim.expected`` may be a text or a list of texts that the answer must contain, or a mapping with
``contains`` (all), ``contains_any``, ``not_contains``, ``matches`` (a regular expression) and
``min_relevance``. Comparison ignores case and the width of white space. Without an expectation an answer
that is no echo of the question is enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apr_qa.oracles import ORACLES
from apr_qa.oracles._wording import corroborated, falsified, inconclusive, quote, silent
from apr_qa.vocabulary import Claim, Judgement, Response

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_KEYS = ("contains", "contains_any", "not_contains", "matches", "min_relevance")
_JUDGED_CHARACTERS = 20_000
_MATCHED_CHARACTERS = 2_000
_PATTERN_CHARACTERS = 300
_NESTED_REPETITION = re.compile(r"\((?:\\.|[^()\\])*[*+}](?:\\.|[^()\\])*\)[*+{]")
_SHORT_ANSWER_WORDS = 12
_ECHOED_SHARE = 0.8
_CONTENT_WORD = re.compile(r"[^\W\d_]{3,}")
_STOP = (
    "about also and any are can could describe did does explain for from give has have her his how into its list "
    "not one our please say sentence she tell than that the their them then there these they this those was were "
    "what when where which who why will with word would write you your"
)
_STOP_WORDS = frozenset(_STOP.split())
_QUESTIONS = (
    ("What is the capital of France?", {"contains": ["Paris"]}),
    ("Which planet is known as the red planet?", {"contains": ["Mars"]}),
    ("What colour do you get when you mix blue and yellow?", {"contains": ["green"]}),
    ("How many days does a week have?", {"contains_any": ["7", "seven"]}),
    ("Which animal says meow?", {"contains_any": ["cat", "kitten"]}),
    ("Answer with yes or no: is fire hot?", {"contains_any": ["yes"]}),
    ("What is the opposite of cold?", {"contains_any": ["hot", "warm"]}),
    ("Monday, Tuesday,", {"contains": ["Wednesday"]}),
    ("What is the capital of Germany?", {"contains": ["Berlin"]}),
    ("What is the capital of Italy?", {"contains": ["Rome"]}),
    ("What is the capital of Japan?", {"contains": ["Tokyo"]}),
    ("What is frozen water called?", {"contains": ["ice"]}),
    ("Who wrote Romeo and Juliet?", {"contains": ["Shakespeare"]}),
    ("How many legs does a spider have?", {"contains_any": ["8", "eight"]}),
    ("How many months does a year have?", {"contains_any": ["12", "twelve"]}),
    ("Which star does the Earth go around?", {"contains": ["Sun"]}),
    ("A, B, C, D,", {"contains": ["E"]}),
    ("January, February, March,", {"contains": ["April"]}),
)


class ResponseOracle:
    """Falsifies an answer that lacks what is expected, or only repeats the question."""

    name = "response"

    def __init__(self) -> None:
        self.params: dict[str, Any] = {"min_relevance": None}
        """Least share of the question's content words in the answer, usually 0.3; None: not judged."""

    def claims(self, params: dict[str, Any]) -> SearchStrategy[Claim]:
        """Return questions that every instructed model can answer, with what the answer must hold."""
        from hypothesis import strategies as st

        return st.sampled_from(_QUESTIONS).map(
            lambda drawn: Claim(
                gate_id="F-QUAL-RESPONSE",
                kind="generate",
                prompt=drawn[0],
                oracle=self.name,
                expected=dict(drawn[1]),
                params=dict(params),
            )
        )

    def check(self, claim: Claim, response: Response, params: dict[str, Any]) -> Judgement:
        """Judge expectations first, then relevance where a least share is set, else that it is no echo."""
        silence = silent(response)
        if silence:
            return silence
        text = (response.text or "")[:_JUDGED_CHARACTERS]
        wanted = _expectations(claim.expected)
        if isinstance(wanted, str):
            return inconclusive(wanted)
        least = wanted.pop("min_relevance", params.get("min_relevance"))
        if wanted:
            failure = _failure(wanted, text)
            if failure:
                return failure
        elif _is_echo(claim.question, text):
            return falsified(f"the answer repeats the question: {quote(text)}")
        if least is not None:
            return _relevance(claim.question, text, float(least))
        return corroborated(
            "holds what is expected" if wanted else "an answer that is no echo of the question"
        )


def _expectations(raw: Any) -> dict[str, Any] | str:
    """Return the expectations as a mapping of known keys, or what is wrong with them."""
    if raw is None:
        return {}
    if isinstance(raw, str):
        return {"contains": [raw]}
    if isinstance(raw, list | tuple):
        return {"contains": list(raw)}
    if not isinstance(raw, Mapping):
        return f"expectation {quote(str(raw))} is neither a text, a list nor a mapping"
    unknown = [str(key) for key in raw if key not in _KEYS]
    if unknown:
        return f"unknown expectation {quote(unknown[0])}; known are {', '.join(_KEYS)}"
    return dict(raw)


def _failure(wanted: Mapping[str, Any], text: str) -> Judgement | None:
    """Return the judgement over the first expectation that is not met, or None."""
    flat = _flat(text)
    missing = [item for item in _texts(wanted.get("contains")) if _flat(item) not in flat]
    if missing:
        return falsified(f"{_brief(missing[0])} is missing: {quote(text)}")
    choices = _texts(wanted.get("contains_any"))
    if choices and not any(_flat(item) in flat for item in choices):
        return falsified(
            f"none of {len(choices)} accepted texts is there, {_brief(choices[0])}…: {quote(text)}"
        )
    unwanted = [item for item in _texts(wanted.get("not_contains")) if _flat(item) in flat]
    if unwanted:
        return falsified(f"{_brief(unwanted[0])} must not be there: {quote(text)}")
    return _mismatch(wanted.get("matches"), text)


def _mismatch(pattern: Any, text: str) -> Judgement | None:
    """Return the judgement over a pattern that does not match or cannot be tried, or None."""
    if pattern is None:
        return None
    if (
        not isinstance(pattern, str)
        or len(pattern) > _PATTERN_CHARACTERS
        or _NESTED_REPETITION.search(pattern)
    ):
        return inconclusive("the pattern is no text, longer than 300 characters or repeats a repetition")
    try:
        found = re.search(pattern, text[:_MATCHED_CHARACTERS])
    except re.error as error:
        return inconclusive(f"the pattern is no regular expression: {error}")
    return None if found else falsified(f"pattern {_brief(pattern)} does not match: {quote(text)}")


def _relevance(question: str, text: str, least: float) -> Judgement:
    """Judge the share of the question's content words whose stem begins a word of the answer."""
    asked = {word for word in _CONTENT_WORD.findall(question.casefold()) if word not in _STOP_WORDS}
    if len(asked) < 2:
        return inconclusive("the question has too few content words to judge relevance")
    said = _CONTENT_WORD.findall(text.casefold())
    found = [word for word in asked if any(other.startswith(_stem(word)) for other in said)]
    share = f"{len(found)} of {len(asked)} content words of the question are in the answer"
    if len(found) >= least * len(asked):
        return corroborated(share)
    if len(text.split()) < _SHORT_ANSWER_WORDS:
        return inconclusive(f"{share}, which is too short to be judged by that")
    return falsified(f"{share}: {quote(text)}")


def _stem(word: str) -> str:
    """Return the beginning of a word that its inflected forms share."""
    return word if len(word) <= 4 else word[: max(4, len(word) - 3)]


def _is_echo(question: str, text: str) -> bool:
    """Say whether the answer is the question, its beginning, or the question several times."""
    asked, said = (re.sub(r"[\W_]+", "", part.casefold()) for part in (question, text))
    if not asked or not said:
        return False
    return not said.replace(asked, "") or (asked.startswith(said) and len(said) >= _ECHOED_SHARE * len(asked))


def _texts(raw: Any) -> list[str]:
    """Return one text or several as a list of texts."""
    if raw is None:
        return []
    return [str(item) for item in raw] if isinstance(raw, list | tuple) else [str(raw)]


def _flat(text: str) -> str:
    """Return a text for comparison: case folded, white space single."""
    return " ".join(text.casefold().split())


def _brief(text: str) -> str:
    """Return the name of an expectation, short enough to stand beside a quotation."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


ORACLES.register("response")(ResponseOracle())
