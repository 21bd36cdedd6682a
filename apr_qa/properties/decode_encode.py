"""Text survives encoding and decoding in the artifact's own engine.

What the tokenizer's own normaliser changes, a blank that its scheme puts before a text, and the English
punctuation clean-up that llama.cpp applies to some vocabularies may differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr_qa.properties import SESSION, TEXTS, Case, Finding, OutOfPromise, Property, Subject, enter
from apr_qa.properties._texts import texts
from apr_qa.properties._tokenizers import reference
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""What ``clean_up_tokenization_spaces`` closes up (transformers, ``tokenization_utils_base.py``)."""


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a text."""
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"text": texts()})


def check(subject: Subject, case: Case) -> Finding | None:
    """Encode, decode and compare."""
    text = str(case["text"])
    own = reference(subject, subject.own)
    own.require_lawful(text)
    if any(token in text for token in subject.controls):
        raise OutOfPromise  # decoding leaves special tokens out
    decoded = subject.session.detokenize(subject.session.tokenize(text, add_special=False))
    if _alike(decoded, text) or _alike(decoded, own.normalised(text)):
        return None
    return Finding(decoded, text)


def _alike(one: str, other: str) -> bool:
    return one == other or _loose(one) == _loose(other)


def _loose(text: str) -> str:
    for gap in _CLEANED:
        text = text.replace(gap, gap.strip())
    return text.removeprefix(" ")


enter(
    Property(
        name="decode_encode",
        gate_id="F-PROP-DECODE-001",
        severity=Severity.P1,
        title="Decoding what was encoded gives the text back",
        needs=SESSION,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=TEXTS,
        shrinks="the text, to the fewest and simplest characters",
    )
)
