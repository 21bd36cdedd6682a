"""What the suites of a playbook add to the questions of every cell: claims for one target at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from apr_qa.playbooks.drawn_tests import PropertyTest
from apr_qa.playbooks.gate_names import ADDED, MEASURED, answers
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.questions import ScenarioBlock
from apr_qa.playbooks.specification import Reproduction
from apr_qa.playbooks.suites import PropertyTests
from apr_qa.properties import PROPERTIES, property_claims
from apr_qa.scenarios import GATE_OF, for_modality, listed, oracle_settings, prompted, tested
from apr_qa.suite_measures import at_the_edge, commands, concerns, measures
from apr_qa.tracing.claims import session_claims
from apr_qa.vocabulary import Claim, Target, Tier, digest

_TRACED = ("F-TRACE-PAYLOAD-001", "F-TRACE-PAYLOAD-003")
"""Asked with the prompt of the block ``trace_payload``."""


def claims_for(
    book: Playbook, tier: Tier, target: Target, baseline: Mapping[str, float] | None = None
) -> tuple[Claim, ...]:
    """Return what the suites ask of one target, each claim in the form that its modality asks for.

    ``baseline``: cell -> tokens per second of a stored run. ``dim-smoke`` is asked nothing.
    """
    if tier is Tier.DIM_SMOKE:
        return ()
    found = [*_questions(book, target), *_properties(book, tier, target)]
    if target.modality == "run" and target.format != "endpoint":
        named = {ours for gate in book.asked_gates for ours in answers(gate)} - {*ADDED, *_TRACED}
        found += session_claims(tier, named)
    if target.modality == "run" or (target.modality == "serve" and target.format == "endpoint"):
        found += measures(book, target, (baseline or {}).get(target.cell))
    return tuple(found)


class Questions:
    """Everything that is asked of inference targets: the claims of every cell and what the suites add."""

    def __init__(
        self, book: Playbook, tier: Tier, drawn: Sequence[Claim], baseline: Mapping[str, float] | None = None
    ) -> None:
        self.book = book
        self.tier = tier
        self.drawn = drawn
        self.baseline = baseline
        self._by_modality: dict[str, tuple[tuple[Claim, ...], frozenset[int]]] = {}

    def of(self, target: Target) -> Iterator[Claim]:
        """Iterate over the claims about one target, each once."""
        return chain.from_iterable(self.parts(target))

    def parts(self, target: Target) -> tuple[tuple[Claim, ...], tuple[Claim, ...]]:
        """Return the claims about one target, each once: those of every target of its modality, and its own."""
        shared, known = self._shared(target.modality)
        own = {digest(claim): claim for claim in claims_for(self.book, self.tier, target, self.baseline)}
        return shared, tuple(claim for key, claim in own.items() if int(key, 16) not in known)

    def _shared(self, modality: str) -> tuple[tuple[Claim, ...], frozenset[int]]:
        """Return the claims of every target of a modality, and the numbers of their digests."""
        if modality not in self._by_modality:
            fitted = (one for claim in self.drawn for one in for_modality(claim, modality))
            found = {int(digest(claim), 16): claim for claim in fitted}
            self._by_modality[modality] = tuple(found.values()), frozenset(found)
        return self._by_modality[modality]

    def besides(self, target: Target) -> tuple[Claim, ...]:
        """Return the measurements of a target whose modality the playbook leaves out."""
        found = claims_for(self.book, self.tier, target, self.baseline)
        return tuple(claim for claim in found if claim.kind in ("measure", "inspect"))


# ---- questions of single cells


def _questions(book: Playbook, target: Target) -> Iterator[Claim]:
    settings = oracle_settings(book)
    shared = settings.get("garbage", {})
    for claim in _placed(book, target, settings):
        params = {**shared, **settings.get(claim.oracle, {}), **claim.params}
        yield from for_modality(msgspec.structs.replace(claim, params=params), target.modality)


def _placed(book: Playbook, target: Target, settings: Mapping[str, Any]) -> Iterator[Claim]:
    """Iterate over the questions that are put to this target and not to every cell."""
    for block in book.scenarios:
        if not block.everywhere and not block.command and not block.prompt_set and _meant(block, target):
            yield listed(block)
    for row in book.mvp_matrix:
        if (row.format, row.backend, row.modality) == (target.format, target.backend, target.modality):
            yield prompted(row.prompt, settings)
    for test in book.verification_tests:
        if target.format in (test.format or target.format, *(test.formats or ())):
            yield _verified(test.prompt, test.expect, settings)
    compared = book.differential_tests.inference_compare if book.differential_tests else None
    if compared is not None and compared.enabled and compared.prompt:
        yield prompted(compared.prompt, settings, compared.max_tokens)
    if target.modality == "run":
        yield from _commanded(book, target)
        for one in _drawn_tests(book):
            yield from tested(one, book.test_matrix.seed)


def _commanded(book: Playbook, target: Target) -> Iterator[Claim]:
    """Iterate over the questions that the commands of a specification put to a target."""
    for asked, expected in commands(book):
        if asked.prompt is not None and not at_the_edge(asked) and concerns(asked, target):
            params = {"min_unique_chars": expected.min_unique_chars} if expected.min_unique_chars else {}
            claim = prompted(asked.prompt, {}, asked.max_tokens)
            yield msgspec.structs.replace(claim, params=params)
            if expected.stdout_contains:
                yield _holding(claim, [expected.stdout_contains])
    if book.reproduction is not None:
        yield from _reproduced(book.reproduction, target)


def _reproduced(seen: Reproduction, target: Target) -> Iterator[Claim]:
    """Iterate over the questions of a reproduction that say what their answers must hold."""
    for asked in seen.asked() if seen.expected_output_contains else ():
        if asked.prompt is not None and not at_the_edge(asked) and concerns(asked, target):
            claim = prompted(asked.prompt, {}, asked.max_tokens)
            yield _holding(claim, seen.expected_output_contains)


def _holding(claim: Claim, texts: Sequence[str]) -> Claim:
    """Return the claim that the answer holds some texts."""
    wanted = {"contains": list(texts)}
    return msgspec.structs.replace(claim, gate_id=GATE_OF["response"], oracle="response", expected=wanted)


def _meant(block: ScenarioBlock, target: Target) -> bool:
    return (
        target.format in (block.formats or (target.format,))
        and target.backend in (block.backends or (target.backend,))
        and target.modality in (block.modalities or (target.modality,))
    )


def _verified(prompt: str, expect: str, settings: Mapping[str, Any]) -> Claim:
    claim = prompted(prompt, settings)
    if not expect or claim.oracle == "arithmetic":
        return claim
    return msgspec.structs.replace(
        claim, gate_id=GATE_OF["response"], oracle="response", expected={"contains": [expect]}
    )


def _drawn_tests(book: Playbook) -> list[PropertyTest]:
    tests = book.property_tests
    return [] if tests is None or isinstance(tests, PropertyTests) else [t for t in tests if t.enabled]


# ---- properties


def _properties(book: Playbook, tier: Tier, target: Target) -> Iterator[Claim]:
    tests = book.property_tests
    found: list[Claim] = []
    if tests is None:
        found += property_claims(tier, target.modality)
    elif isinstance(tests, PropertyTests) and tests.enabled:
        drawn = property_claims(tier, target.modality, tests.names or None, tests.cases)
        found += [_shrunk_within(one, tests.max_shrink_iters) for one in drawn]
    yield from found
    named = {ADDED[gate] for gate in book.asked_gates if gate in ADDED and not gate.startswith("F-PERF")}
    if any(test.repeatable for test in _drawn_tests(book)):
        named |= {"greedy_determinism", "seeded_sampling"}
    asked = {claim.gate_id for claim in found}
    named |= {name for name, one in PROPERTIES.items() if one.gate_id in {*book.asked_gates} - asked}
    chosen = sorted(named - MEASURED)
    if chosen:
        yield from property_claims(tier, target.modality, chosen, PROPERTY_EXAMPLES)


def _shrunk_within(claim: Claim, most: int) -> Claim:
    """Return the claim with the limit, where that is another than the usual one, which leaves its id alone."""
    usual = PropertyTests.model_fields["max_shrink_iters"].default
    return (
        claim
        if most == usual
        else msgspec.structs.replace(claim, params={**claim.params, "max_shrinks": most})
    )


PROPERTY_EXAMPLES = 20
"""Examples of a property that a playbook asks for by the id of a gate."""
