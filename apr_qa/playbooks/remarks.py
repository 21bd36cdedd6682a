"""What a reader of a playbook should know: where it says more than is asked, or something else."""

from __future__ import annotations

from collections.abc import Iterator

from apr_qa.playbooks.gate_names import answers
from apr_qa.playbooks.model import Playbook
from apr_qa.vocabulary import FORMATS, Tier

JUDGED_LANGUAGES = ("python", "javascript", "rust", "go", "java")
"""Languages that the oracle of code has a parser for."""


def remarks(book: Playbook) -> tuple[str, ...]:
    """Return what a reader of the playbook should know, one line each."""
    return tuple(
        dict.fromkeys((*book.limits.notes, *_of_questions(book), *_of_cells(book), *_of_gates(book)))
    )


def _of_questions(book: Playbook) -> Iterator[str]:
    languages = [str(n) for one in book.oracles for n in one.config.get("languages", ()) or ()]
    unjudged = [name for name in languages if name not in JUDGED_LANGUAGES]
    if unjudged:
        yield f"no parser for {', '.join(unjudged)}: questions of code are put in the other languages"
    stated, listed = book.test_matrix.scenario_count, book.listed
    if stated is not None and stated < listed:
        yield f"scenario_count is {stated}, but {listed} questions are listed: all are asked"
    if isinstance(book.property_tests, tuple):
        yield from (test.remark for test in book.property_tests if test.remark)
        for test in book.property_tests:
            foreign = [name for name in test.languages if name not in JUDGED_LANGUAGES]
            if foreign:
                rest = (
                    "the other languages are asked"
                    if set(test.languages) - set(foreign)
                    else "nothing is asked"
                )
                yield f"property_tests {test.name}: no parser for {', '.join(foreign)}: {rest}"
    for asked in book.commanded:
        if asked.about_us:
            yield f"{asked.about_us!r} is about a program and not about a model: it is not run"


def _of_cells(book: Playbook) -> Iterator[str]:
    yield from (one.said for one in book.skips)
    missing = [name for name in FORMATS if name not in book.formats]
    if missing and book.tier in (Tier.MVP, Tier.STANDARD, Tier.DEEP):
        yield f"no word on {', '.join(missing)}: say why in skips"


def _of_gates(book: Playbook) -> Iterator[str]:
    compared = book.differential_tests.validate_stats if book.differential_tests else None
    if compared is not None and compared.foreign_reference:
        yield (
            f"statistics are compared with the ground truth of the run, not with {compared.reference!r}: "
            "stored values are compared by apr-qa tools canary compare"
        )
    for gate in book.asked_gates:
        ours = answers(gate)
        if gate not in ours:
            yield f"{gate} is answered by {', '.join(ours)}"
