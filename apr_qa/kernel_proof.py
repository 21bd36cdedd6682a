"""Proofs of kernel classes: the stored run of a model that exercises the same operations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from apr_qa import evidence, resources
from apr_qa.errors import AprQaError
from apr_qa.families.kernels import KernelClass, members_of
from apr_qa.mqs import CERTIFIED, PROVISIONAL
from apr_qa.vocabulary import Model, Tier

PROVING = (Tier.MVP, Tier.QUICK, Tier.STANDARD, Tier.DEEP)


def find(one: KernelClass, folders: Iterable[str], only: str = "") -> dict[str, Any] | None:
    """Return what proves a class: model, tier, status and hash of the evidence of a member's run; or None.

    ``only``: the one member whose run counts. A certificate counts if it passed in a tier that infers and its
    evidence file is the one it speaks of.
    """
    for member in (name for name in members_of(one) if only in ("", name)):
        for folder in _folders(folders):
            found = _proof(folder / Model(id=member).slug)
            if found is not None:
                return found
    return None


def command(one: KernelClass) -> str:
    """Return the command line that would prove a class."""
    return f"apr-qa certify {one.representative} --tier mvp"


def _folders(given: Iterable[str]) -> Iterator[Path]:
    yield from map(Path, given)
    yield from (place / "certifications" for _, place in resources.places())


def _proof(folder: Path) -> dict[str, Any] | None:
    try:
        issued = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
        found = evidence.sha256(evidence.stored(folder))
    except (OSError, ValueError, AprQaError):
        return None
    said = {name: issued.get(name) for name in ("model_id", "tier", "status", "evidence_sha256")}
    sound = said["tier"] in list(PROVING) and said["status"] in (CERTIFIED, PROVISIONAL)
    return said if sound and said["evidence_sha256"] == found else None
