"""What is asked about the predictions of every artifact, by tier."""

from __future__ import annotations

from apr_qa.vocabulary import Artifact, Claim, Severity, Tier

_P0, _P1 = Severity.P0, Severity.P1

_ANY: tuple[tuple[str, str, Severity], ...] = (
    ("F-CONTRACT-I1-001", "logits", _P0),
    ("F-GOLDEN-RULE-002", "completes", _P0),
    ("F-GOLDEN-RULE-003", "loads", _P0),
    ("F-ROSETTA-INF-001", "logits", _P0),
    ("F-ROSETTA-INF-002", "logits", _P1),
    ("F-ROSETTA-INF-003", "logits", _P0),
    ("F-HFP-001", "logits", _P0),
    ("F-CONV-015", "logits", _P0),
    ("F-CONV-INF-EQ", "logits", _P1),
    ("F-PAR-003", "logits", _P1),
    ("F-LAYOUT-CONTRACT-005", "logits", _P0),
    ("F-GOLDEN-RULE-001", "greedy", _P0),
    ("F-HFP-002", "greedy", _P0),
    ("F-HFP-003", "inner", _P0),
    ("F-HFP-004", "inner", _P0),
    ("F-HFP-006", "incremental", _P0),
    ("F-PAR-001", "devices", _P1),
    ("F-CONV-BE-001", "devices", _P0),
    ("F-CONV-BE-002", "wasm", _P0),
    ("F-CONV-BE-003", "wasm", _P0),
)
"""Gate, check, severity: asked of every artifact against the ground truth."""

_PAIRS: dict[tuple[str, str], tuple[tuple[str, str, Severity], ...]] = {
    ("safetensors", "gguf"): (
        ("F-CONV-INF-002", "logits", _P0),
        ("F-PARITY-001", "logits", _P0),
        ("F-PAR-002", "greedy", _P1),
    ),
    ("safetensors", "apr"): (("F-CONV-INF-003", "logits", _P0),),
}
_SIBLINGS: tuple[tuple[str, str, Severity], ...] = (
    ("F-CONV-INF-001", "siblings", _P0),
    ("F-CONV-G-A-INF-001", "siblings", _P0),
)
EVERY_ID = ("F-PARITY-VOCAB-001", "every_id", _P0)
_THOROUGH = (Tier.STANDARD, Tier.DEEP)
_NONE = (Tier.DIM_SMOKE, Tier.SMOKE)
_SURFACE_PARAMS = {"limit_s": 300.0}
"""The first claim waits for what is cached afterwards: reference, twins, and what the artifact predicts."""
_THOROUGH_PARAMS = {"limit_s": 900.0, "tokens": 1024}
"""A pass of a vocabulary of 49k ids through 135M parameters takes two minutes on two cores."""


def logit_claims(truth: Artifact, artifact: Artifact, tier: Tier) -> tuple[Claim, ...]:
    """Return what the engine ``logits`` is asked about a pair; two conversions are asked to be alike."""
    if tier in _NONE:
        return ()
    params = _THOROUGH_PARAMS if tier in _THOROUGH else _SURFACE_PARAMS
    if truth.format == "apr":
        return tuple(_claim(one, params) for one in _SIBLINGS)
    asked = (*_ANY, *_PAIRS.get((truth.format, artifact.format), ()))
    every = (EVERY_ID,) if tier in _THOROUGH else ()
    return tuple(_claim(one, params) for one in (*asked, *every))


def _claim(asked: tuple[str, str, Severity], params: dict[str, float]) -> Claim:
    gate, check, severity = asked
    return Claim(gate_id=gate, kind="inspect", severity=severity, params={"check": check, **params})
