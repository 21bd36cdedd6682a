"""Properties: promises of a loaded model that hold for every text, conversation or request of a kind.

A property is a strategy that draws cases, a check that tries one case, and a word about what shrinks. Cases are
plain JSON objects, so that a counterexample can be stored, tried again and kept for the next run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr_qa.errors import Inapplicable
from apr_qa.formats import FORMATS, OpenModel, sniff
from apr_qa.plugins import Registry
from apr_qa.vocabulary import Claim, Severity, Target, Tier

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

PROPERTIES: Registry[Property] = Registry("properties")

Case = dict[str, Any]

SESSION, PAIR, SERVER = "session", "pair", "server"
"""What a property looks at: one loaded model, that model beside the ground truth's file, or a server."""

TEXTS: Mapping[Tier, int] = {
    Tier.MVP: 100,
    Tier.QUICK: 300,
    Tier.CI: 800,
    Tier.STANDARD: 800,
    Tier.DEEP: 10_000,
}
"""Examples of a property that only runs a tokenizer: about a millisecond each."""

TEMPLATES: Mapping[Tier, int] = {
    Tier.MVP: 25,
    Tier.QUICK: 100,
    Tier.CI: 300,
    Tier.STANDARD: 300,
    Tier.DEEP: 3000,
}
"""Examples of a property that renders chat templates: some milliseconds each."""

ANSWERS: Mapping[Tier, int] = {Tier.MVP: 1, Tier.QUICK: 3, Tier.CI: 6, Tier.STANDARD: 6, Tier.DEEP: 60}
"""Examples of a property that lets the model generate: some tokens each."""

SERVED: Mapping[Tier, int] = {tier: number for tier, number in ANSWERS.items() if tier is not Tier.MVP}
"""Examples of properties that ask a running server several times over; mvp has to stay cheap."""

BUDGET_S: Mapping[Tier, float] = {Tier.MVP: 2.0, Tier.QUICK: 4.0, Tier.DEEP: 30.0}
"""Seconds after which a search begins no further example; see `DEFAULT_BUDGET_S` for the other tiers."""

DEFAULT_BUDGET_S = 8.0


class OutOfPromise(Exception):
    """The case is one that the property promises nothing about."""


class Finding(NamedTuple):
    """What a case that breaks the promise showed, as JSON values."""

    observed: Any
    expected: Any


@dataclass(frozen=True)
class Property:
    """One promise."""

    name: str
    """Name of its file."""
    gate_id: str
    severity: Severity
    title: str
    needs: str
    """``session``, ``pair`` or ``server``."""
    modality: str
    """Which targets it is tried on: ``run``, ``chat`` or ``serve``."""
    strategy: Callable[[Subject], SearchStrategy[Case]]
    check: Callable[[Subject, Case], Finding | None]
    """Tries one case; None means that the promise was kept. Raises OutOfPromise, or Inapplicable."""
    max_examples: Mapping[Tier, int]
    shrinks: str
    """What gets smaller while a counterexample is shrunk."""
    simplest: Callable[[Case], Iterator[Case]] | None = None
    """The simplest cases of the kind of a counterexample, simplest first; they are tried before parts of it are
    left out, because what is left of a large one need not be the simplest."""


class Subject:
    """A loaded model as properties see it: its session, its own file, and the ground truth's file."""

    def __init__(
        self, session: Any, target: Target, artifact: Path | None = None, truth: Path | None = None
    ) -> None:
        self.session = session
        self.target = target
        self._artifact = artifact
        self._truth = truth

    @functools.cached_property
    def own(self) -> OpenModel:
        """The artifact's file; raises Inapplicable where there is none, as behind a server."""
        return _opened(self._artifact, "the artifact's own file is not here")

    @functools.cached_property
    def truth(self) -> OpenModel:
        """The ground truth's file; raises Inapplicable where there is none."""
        return _opened(self._truth, "there is no ground truth to compare with")

    @functools.cached_property
    def kept(self) -> dict[str, Any]:
        """What properties compute once for a subject."""
        return {}

    @functools.cached_property
    def controls(self) -> dict[str, int]:
        """Text -> id of the tokens that the ground truth, or failing that the artifact, calls special."""
        model = self.truth if self._truth is not None else self.own
        added = (model.tokenizer or {}).get("added_tokens") or []
        return {entry["content"]: int(entry["id"]) for entry in added if entry.get("special")}


def _opened(path: Path | None, missing: str) -> OpenModel:
    found = sniff(path) if path is not None else None
    if path is None or found is None:
        raise Inapplicable(missing)
    return FORMATS.get(found.name).open(path)


def enter(member: Property) -> Property:
    """Register a property under its name."""
    return PROPERTIES.register(member.name)(member)


def property_claims(
    tier: Tier, modality: str, names: Collection[str] | None = None, max_examples: int | None = None
) -> tuple[Claim, ...]:
    """Return the claims of one modality in a tier; none where the tier gives a property no examples.

    ``names`` restricts them (a name that does not exist is a UsageError), ``max_examples`` replaces the tier's
    number of examples.
    """
    chosen = PROPERTIES.items() if names is None else ((name, PROPERTIES.get(name)) for name in sorted(names))
    claims = []
    for _, member in chosen:
        count = member.max_examples.get(tier, 0) if max_examples is None else max_examples
        if member.modality == modality and count > 0:
            claims.append(claim(member, count, BUDGET_S.get(tier, DEFAULT_BUDGET_S)))
    return tuple(claims)


def claim(member: Property, max_examples: int, budget_s: float, **params: Any) -> Claim:
    """Return the claim that a property holds for ``max_examples`` cases drawn within ``budget_s`` seconds."""
    asked = {"property": member.name, "max_examples": max_examples, "budget_s": budget_s, **params}
    return Claim(gate_id=member.gate_id, kind="property", severity=member.severity, params=asked)
