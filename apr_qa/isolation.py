"""The last questions of a run: was every file left as it was, and does nothing new lie beside it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from apr_qa.inspecting.self_description import neighbours
from apr_qa.plan import Batch, Stock
from apr_qa.vocabulary import Claim, Scenario, Severity, Target, Tier

TIERS = (Tier.QUICK, Tier.STANDARD, Tier.DEEP)
"""Tiers that ask; the others have to be cheap, and files are read once more for it."""
GATES = (("ISO-OUT-001", Severity.P1), ("ISO-OUT-002", Severity.P0))


def with_last_looks(batches: Sequence[Batch], stock: Stock, model: str, tier: Tier) -> list[Batch]:
    """Return the batches and, where the tier asks for it, a look at every artifact after all of them."""
    return [*batches, *_looks(batches, stock, model)] if tier in TIERS else list(batches)


def _looks(batches: Sequence[Batch], stock: Stock, model: str) -> Iterator[Batch]:
    last = max((batch.wave for batch in batches), default=0) + 1
    for artifact in stock.artifacts:
        target = Target(
            model=model,
            format=artifact.format,
            quantization=artifact.quantization,
            backend="cpu",
            modality="inspect",
            engine="inspect",
        )
        params = {"check": "isolation"}
        if artifact.origin != "derived":
            params |= {"sha256": artifact.sha256, "names": neighbours(Path(artifact.path))}
        claims = (
            Claim(gate_id=gate, kind="inspect", severity=weight, params=params) for gate, weight in GATES
        )
        scenarios = tuple(Scenario(target=target, claim=claim) for claim in claims)
        yield Batch(target=target, artifact=artifact, scenarios=scenarios, wave=last)
