"""The stored run of a model as a baseline: how fast it was, and how it was scored."""

from __future__ import annotations

from pathlib import Path

from apr_qa import certificate, evidence
from apr_qa.errors import AprQaError
from apr_qa.vocabulary import EARLIER, Tier

GATE = "F-PROFILE-CI-001"


def speeds(path: Path) -> dict[str, float]:
    """Return cell -> tokens per second of a stored evidence file; empty if there is none that can be read."""
    if not path.is_file():
        return {}
    found = {}
    try:
        for entry in evidence.stream(path)[1]:
            facts = entry.response.facts if entry.response is not None else {}
            if entry.gate_id == GATE and facts.get("tokens_per_s"):
                found[entry.scenario.target.cell] = float(facts["tokens_per_s"])
    except AprQaError:
        return {}
    return found


def earlier(folder: Path, tier: Tier) -> dict[str, str]:
    """Return tier and share of claims that held in the stored run of a model, as a header records them.

    Development checks are stored in folders of their own, one for each tier.
    """
    check = folder / "checks" / tier
    try:
        issued = certificate.from_json(
            ((check if check.is_dir() else folder) / "certificate.json").read_bytes()
        )
    except (OSError, AprQaError, ValueError):
        return {}
    return {} if issued.rate is None else {EARLIER: f"{issued.tier} {issued.rate:.6f}"}
