"""The derivation that a playbook states, as batches of claims about the artifacts that were brought or found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apr_qa.derivation.claims import derivation_claims
from apr_qa.plan import Batch
from apr_qa.vocabulary import Artifact, Scenario, Target


def derivation_batches(
    model: str, artifacts: Iterable[Artifact], stated: Sequence[Mapping[str, Any]], wave: int = 0
) -> list[Batch]:
    """Return the claims about what was derived: what the user brings, else what was found; never what we made.

    Criteria name artifacts of their own and are asked once.
    """
    candidates = [one for one in artifacts if one.origin not in ("derived", "source")]
    brought = [one for one in candidates if one.origin == "given"] or candidates
    if any(one.get("criterion") for one in stated):
        brought = brought[:1]
    if not stated:
        return []
    return [_batch(model, artifact, stated, wave) for artifact in brought]


def _batch(model: str, artifact: Artifact, stated: Sequence[Mapping[str, Any]], wave: int) -> Batch:
    target = Target(
        model=model,
        format=artifact.format,
        quantization=artifact.quantization,
        backend="cpu",
        modality="compare",
        engine="derivation",
    )
    claims = [claim for one in stated for claim in derivation_claims(one)]
    scenarios = tuple(Scenario(target=target, claim=claim) for claim in claims)
    return Batch(target=target, artifact=artifact, source=artifact, scenarios=scenarios, wave=wave)
