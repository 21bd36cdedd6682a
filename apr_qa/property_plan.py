"""What claims about properties need of a plan: the ground truth beside the loaded model, and old counterexamples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from apr_qa.crossing import Crossed, crossed
from apr_qa.plan import Batch, Stock
from apr_qa.properties import DEFAULT_BUDGET_S, PAIR, PROPERTIES, claim
from apr_qa.vocabulary import Claim, Target

Cases = Mapping[str, Sequence[dict[str, Any]]]


def beside_truth(batches: Sequence[Batch], stock: Stock | None, cases: Cases) -> list[Batch]:
    """Return the batches with the ground truth's file where properties look at it.

    ``cases`` (property -> counterexamples of earlier runs) are tried before anything is drawn. A batch that runs
    before the ground truth is made hands what compares with it to a batch of its own in a later wave.
    """
    return [ready for batch in batches for ready in _readied(batch, stock, cases)]


def _readied(batch: Batch, stock: Stock | None, cases: Cases) -> Iterator[Batch]:
    asked = crossed(batch.scenarios)
    if batch.inapplicable or not any(map(_is_property, asked.claims())):
        yield batch
        return
    asked = _with_cases(asked, cases)
    truth = stock.truth if stock is not None else None
    if stock is None or truth is None or batch.wave >= stock.wave(truth):
        yield msgspec.structs.replace(batch, scenarios=asked, truth=truth)
        return
    later = asked.where(_is_pair)
    yield msgspec.structs.replace(batch, scenarios=asked.where(lambda claim: not _is_pair(claim)))
    if later:
        yield msgspec.structs.replace(batch, scenarios=later, truth=truth, wave=stock.wave(truth))


def _with_cases(asked: Crossed, cases: Cases) -> Crossed:
    """Put a claim for every old counterexample before the first search of its property on a target."""
    begun: set[tuple[str, str]] = set()

    def put(target: Target, claims: Sequence[Claim]) -> Sequence[Claim]:
        found: list[Claim] = []
        for one in claims:
            key = (str(one.params.get("property", "")), target.modality)
            if _is_property(one) and key not in begun:
                begun.add(key)
                property_ = PROPERTIES.get(key[0])
                old = (
                    claim(property_, 0, DEFAULT_BUDGET_S, examples=[case]) for case in cases.get(key[0], ())
                )
                found.extend(old)
            found.append(one)
        return tuple(found)

    return asked.rewritten(put)


def _is_property(asked: Claim) -> bool:
    return asked.kind == "property"


def _is_pair(asked: Claim) -> bool:
    return _is_property(asked) and PROPERTIES.get(str(asked.params["property"])).needs == PAIR
