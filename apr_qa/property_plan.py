"""What claims about properties need of a plan: the ground truth beside the loaded model, and old counterexamples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from apr_qa.plan import Batch, Stock
from apr_qa.properties import DEFAULT_BUDGET_S, PAIR, PROPERTIES, claim
from apr_qa.vocabulary import Scenario

Cases = Mapping[str, Sequence[dict[str, Any]]]


def beside_truth(batches: Sequence[Batch], stock: Stock | None, cases: Cases) -> list[Batch]:
    """Return the batches with the ground truth's file where properties look at it.

    ``cases`` (property -> counterexamples of earlier runs) are tried before anything is drawn. A batch that runs
    before the ground truth is made hands what compares with it to a batch of its own in a later wave.
    """
    return [ready for batch in batches for ready in _readied(batch, stock, cases)]


def _readied(batch: Batch, stock: Stock | None, cases: Cases) -> Iterator[Batch]:
    if batch.inapplicable or not any(_is_property(scenario) for scenario in batch.scenarios):
        yield batch
        return
    batch = msgspec.structs.replace(batch, scenarios=tuple(_with_cases(batch.scenarios, cases)))
    truth = stock.truth if stock is not None else None
    if stock is None or truth is None or batch.wave >= stock.wave(truth):
        yield msgspec.structs.replace(batch, truth=truth)
        return
    later = tuple(scenario for scenario in batch.scenarios if _is_pair(scenario))
    now = tuple(scenario for scenario in batch.scenarios if not _is_pair(scenario))
    yield msgspec.structs.replace(batch, scenarios=now)
    if later:
        yield msgspec.structs.replace(batch, scenarios=later, truth=truth, wave=stock.wave(truth))


def _with_cases(scenarios: Sequence[Scenario], cases: Cases) -> Iterator[Scenario]:
    """Put a claim for every old counterexample before the first search of its property on a target."""
    begun: set[tuple[str, str]] = set()
    for scenario in scenarios:
        name = str(scenario.claim.params.get("property", ""))
        key = (name, scenario.target.modality)
        if _is_property(scenario) and key not in begun:
            begun.add(key)
            for case in cases.get(name, ()):
                old = claim(PROPERTIES.get(name), 0, DEFAULT_BUDGET_S, examples=[case])
                yield Scenario(target=scenario.target, claim=old)
        yield scenario


def _is_property(scenario: Scenario) -> bool:
    return scenario.claim.kind == "property"


def _is_pair(scenario: Scenario) -> bool:
    return _is_property(scenario) and PROPERTIES.get(str(scenario.claim.params["property"])).needs == PAIR
