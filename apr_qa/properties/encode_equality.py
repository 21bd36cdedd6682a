"""Every text has the same token ids in the artifact's engine as in the ground truth's tokenizer.

Out of the promise are texts with bytes or words that the vocabulary lacks, and in GGUF texts that Unicode
normalisation would change, because llama.cpp does not normalise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from apr_qa.properties import PAIR, TEXTS, Case, Finding, OutOfPromise, Property, Subject, enter
from apr_qa.properties._texts import PIECES, texts
from apr_qa.properties._tokenizers import reference
from apr_qa.vocabulary import Severity

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def strategy(subject: Subject) -> SearchStrategy[Case]:
    """Draw a text, and whether special tokens written in it are to be read as such."""
    from hypothesis import strategies as st

    plain = st.fixed_dictionaries({"text": texts(), "special": st.just(False)})
    if not subject.controls:
        return plain
    marked = st.fixed_dictionaries({"text": texts(subject.controls), "special": st.booleans()})
    return st.one_of(plain, plain, marked)


def check(subject: Subject, case: Case) -> Finding | None:
    """Encode with both."""
    truth = reference(subject, subject.truth)
    text, special = str(case["text"]), bool(case["special"])
    if special and any(
        f" {token}" in f" {text} " or f"{token} " in f" {text} " for token in subject.controls
    ):
        raise OutOfPromise  # GGUF cannot say which tokens take the white space beside them
    truth.require_lawful(text)
    if subject.target.format == "gguf":
        truth.require_normal(text)
    expected = truth.encode(text, special=special)
    observed = subject.session.tokenize(text, add_special=False, parse_special=special)
    return Finding(observed, expected) if list(observed) != expected else None


def simplest(case: Case) -> Iterator[Case]:
    """Iterate over all texts of one and of two characters, of those that tokenizers are known to treat apart."""
    known = dict.fromkeys(char for piece in (*PIECES, str(case["text"])) for char in piece)
    for length in (1, 2):
        if len(str(case["text"])) > length:
            for characters in itertools.product(known, repeat=length):
                yield {**case, "text": "".join(characters)}


enter(
    Property(
        name="encode_equality",
        gate_id="F-PROP-ENCODE-001",
        severity=Severity.P0,
        title="Every text has the token ids that the ground truth's tokenizer gives it",
        needs=PAIR,
        modality="run",
        strategy=strategy,
        check=check,
        max_examples=TEXTS,
        shrinks="the text, to the fewest and simplest characters",
        simplest=simplest,
    )
)
