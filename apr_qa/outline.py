"""A playbook in outline: what it asks of loaded models, before any model is looked up."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

from apr_qa.oracles import ORACLES
from apr_qa.plan import ENGINES, cells
from apr_qa.playbooks.derivation import is_acceptance
from apr_qa.playbooks.gate_names import answers
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.remarks import remarks
from apr_qa.scenarios import GATE_OF, claims, oracle_settings
from apr_qa.suite_claims import Questions
from apr_qa.vocabulary import Claim, Outcome, Response, Target, Tier


def outline(book: Playbook, tier: Tier) -> dict[str, Any]:
    """Return what a playbook asks of loaded models, before anything is looked up: cells, claims, notes.

    Claims about files (header, tensors, comparison with the ground truth) come on top for every file.
    """
    if is_acceptance(book.derivation):
        asked_of = [one.criterion for one in book.derivation]
        return {
            "cells": [],
            "claims": {"criteria": len(asked_of)},
            "gates": asked_of,
            "notes": list(remarks(book)),
        }
    questions = Questions(book, tier, claims(book, tier))
    kinds: Counter[str] = Counter()
    gates: dict[str, None] = {}
    for format_name, device in product(book.formats, book.backends):
        if book.skipped(format_name, device):
            continue
        for modality in dict.fromkeys((*book.modalities, "run")):
            target = Target(
                model=book.model.id or book.model.hf_repo,
                format=format_name,
                quantization=book.quantizations[0],
                backend=device,
                modality=modality,
                engine=ENGINES[format_name],
            )
            asked = questions.of(target) if modality in book.modalities else questions.besides(target)
            for claim in asked:
                kinds[claim.kind] += 1
                gates[claim.gate_id] = None
    return {
        "cells": list(cells(book.formats, book.backends, book.modalities)),
        "claims": dict(kinds),
        "gates": sorted({*gates, *(name for gate in book.asked_gates for name in answers(gate))}),
        "notes": [*remarks(book), *disagreements(book), *_unasked(book, set(gates))],
    }


FILE_GATES = (
    "G0",
    "G1",
    "G2",
    "G3",
    "G4",
    "F-CON",
    "F-ROSETTA-",
    "F-LAYOUT-",
    "F-GOLDEN-",
    "F-HFP-",
    "F-PAR-",
)
SERVER_GATES = ("F-HTTP-", "F-SERVE-")
PROVENANCE = ("PROV-", "F-PROV-", "F-REGR-")


def _unasked(book: Playbook, asked: set[str]) -> list[str]:
    """Say which gates the playbook names although nothing in this run asks them."""
    always = (*FILE_GATES, *PROVENANCE, *(SERVER_GATES if "serve" in book.modalities else ()))
    return [
        f"{gate} is named, but nothing in this tier asks it"
        for gate in book.asked_gates
        for ours in answers(gate)
        if ours not in asked and not ours.startswith(always) and not ours.startswith("F-PERF-")
    ]


def disagreements(book: Playbook) -> list[str]:
    """Say which example texts of a playbook our garbage oracle sees otherwise than the playbook does."""
    params = oracle_settings(book).get("garbage", {})
    found = []
    for texts, garbage in ((book.garbage_examples, True), (book.valid_examples, False)):
        for text in texts:
            claim = Claim(
                gate_id=GATE_OF["garbage"], kind="generate", prompt="Say something.", oracle="garbage"
            )
            response = Response(text=text, finish_reason="stop")
            outcome = ORACLES.get("garbage").check(claim, response, dict(params)).outcome
            if (outcome is Outcome.FALSIFIED) != garbage:
                seen = "garbage" if outcome is Outcome.FALSIFIED else "no garbage"
                found.append(f"the garbage oracle takes {text[:40]!r} for {seen}, the playbook does not")
    return found
