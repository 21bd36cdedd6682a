"""What is asked of a derived artifact, by the way in which it was derived."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr_qa.vocabulary import Claim, Severity

LIMIT_S = 4 * 3600.0
"""For one claim: a whole benchmark on one core takes hours."""

_INHERITED = (
    ("F-DERIV-TENSORS-001", "tensor_set", Severity.P0),
    ("F-DERIV-ARCH-001", "architecture", Severity.P0),
    ("F-DERIV-TOK-001", "tokenizer", Severity.P0),
)
_MERGED = (*_INHERITED, ("F-DERIV-MERGE-001", "score", Severity.P1))
_LORA = (
    ("F-DERIV-LORA-001", "zero_adapter", Severity.P0),
    ("F-DERIV-LORA-002", "merged_adapter", Severity.P0),
    ("F-DERIV-LORA-003", "loss", Severity.P1),
    ("F-DERIV-LORA-004", "base_unchanged", Severity.P0),
)

PROMISES: Mapping[str, tuple[tuple[str, str, Severity], ...]] = {
    "merge": _MERGED,
    "slerp": (*_MERGED, ("F-DERIV-SLERP-001", "norms", Severity.P0)),
    "ties": (
        *_MERGED,
        ("F-DERIV-TIES-001", "sign_conflicts", Severity.P0),
        ("F-DERIV-TIES-002", "density", Severity.P1),
    ),
    "prune": (
        *_INHERITED,
        ("F-DERIV-PRUNE-001", "sparsity", Severity.P0),
        ("F-DERIV-PRUNE-002", "perplexity", Severity.P0),
    ),
    "quantize": (
        ("F-DERIV-ARCH-001", "architecture", Severity.P0),
        ("F-DERIV-TOK-001", "tokenizer", Severity.P0),
        ("F-DERIV-QUANT-001", "size", Severity.P0),
        ("F-DERIV-QUANT-002", "points", Severity.P1),
    ),
    "lora": _LORA,
    "qlora": (*_LORA, ("F-DERIV-QLORA-001", "memory", Severity.P1)),
    "dpo": (("F-DERIV-DPO-001", "loss", Severity.P1), *_INHERITED),
    "distill": (("F-DERIV-DISTILL-001", "better_than_untrained", Severity.P0),),
    "speculative": (
        ("F-DERIV-SPEC-001", "speculative", Severity.P0),
        ("F-DERIV-SPEC-002", "speculative", Severity.P1),
    ),
    "compound": (("F-DERIV-COMPOUND-001", "compound", Severity.P1),),
    "import": (("F-DERIV-IMPORT-001", "perplexity", Severity.P1), *_INHERITED),
    "training": (("F-DERIV-TRAIN-001", "loss", Severity.P1),),
    "data": (("F-DERIV-DATA-001", "contamination", Severity.P0),),
    "sampling": (("F-DERIV-SAMPLE-001", "distinct", Severity.P1),),
    "reasoning": (("F-DERIV-REASON-001", "reasoning", Severity.P1),),
    "external": (("F-DERIV-TOOL-001", "tool", Severity.P1),),
}
"""Kind of derivation -> gates, the check whose facts they judge, severity."""

CRITERIA: Mapping[str, str] = {
    **dict.fromkeys(("AC-001", "AC-010", "AC-011", "AC-012", "AC-013", "AC-015"), "tool"),
    **dict.fromkeys(("AC-025", "AC-026", "AC-027", "AC-028"), "tool"),
    **dict.fromkeys(("AC-002", "AC-008", "AC-014"), "perplexity"),
    **dict.fromkeys(("AC-004", "AC-020", "AC-029"), "loss"),
    **dict.fromkeys(("AC-021", "AC-022"), "compound"),
    "AC-003": "better_than_untrained",
    "AC-005": "memory",
    "AC-006": "norms",
    "AC-007": "sign_conflicts",
    "AC-009": "size",
    "AC-016": "contamination",
    "AC-017": "distinct",
    "AC-018": "speculative",
    "AC-019": "reasoning",
    "AC-023": "points",
    "AC-024": "score",
}
"""Acceptance criterion -> the check that measures it."""


MAKEABLE = (
    *("import", "lora", "slerp", "ties", "prune", "quantize", "distill", "speculative", "dpo", "data"),
)
"""What can be made on the spot for a criterion that is given nothing."""


def derivation_claims(stated: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Return the claims about one derivation, ``{kind, parents, recipe, …}`` as the playbook has it.

    One that answers a criterion is asked that and nothing else.
    """
    criterion = str(stated.get("criterion") or "")
    if criterion:
        return (_claim(criterion, CRITERIA[criterion], Severity.P1, stated),)
    return tuple(_claim(*promise, stated) for promise in PROMISES[str(stated["kind"])])


def _claim(gate: str, check: str, severity: Severity, stated: Mapping[str, Any]) -> Claim:
    params = {"check": check, "derivation": dict(stated), "limit_s": LIMIT_S}
    return Claim(gate_id=gate, kind="inspect", severity=severity, params=params)
