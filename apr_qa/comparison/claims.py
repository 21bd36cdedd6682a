"""What is asked of every artifact in comparison with the ground truth."""

from __future__ import annotations

from apr_qa.vocabulary import Artifact, Claim, Severity, Tier

FILE_PARITY: tuple[tuple[str, str, Severity], ...] = (
    ("G0-CONFIG-EQUAL", "config_equal", Severity.P0),
    ("G0-GENERATION-EQUAL", "generation_equal", Severity.P0),
    ("G0-TEMPLATE-EQUAL", "template_equal", Severity.P0),
    ("F-CONTRACT-I5-001", "tokenizer_equal", Severity.P0),
    ("F-CONTRACT-I2-001", "tensor_set_equal", Severity.P0),
    ("F-ROSETTA-DIFF-002", "tensor_set_equal", Severity.P0),
    ("F-LAYOUT-CONTRACT-001", "tensor_set_equal", Severity.P0),
    ("F-LAYOUT-CONTRACT-002", "tensor_set_equal", Severity.P0),
    ("F-LAYOUT-CONTRACT-003", "tensor_set_equal", Severity.P0),
    ("F-CONTRACT-I4-001", "tensor_error", Severity.P0),
    ("F-ROSETTA-DIFF-001", "tensor_error", Severity.P0),
    ("F-LAYOUT-002", "tensor_error", Severity.P0),
    ("F-ROSETTA-STATS-001", "tensor_error", Severity.P0),
    ("F-ROSETTA-STATS-002", "tensor_error", Severity.P0),
    ("F-ROSETTA-STATS-003", "tensor_error", Severity.P0),
    ("F-HFP-005", "tensor_error", Severity.P0),
    ("F-ROSETTA-STATS-004", "tensor_error", Severity.P1),
    ("F-ROSETTA-FP-003", "tensor_error", Severity.P1),
    ("G0-ROWS-EQUAL", "zero_rows", Severity.P0),
    ("F-CONTRACT-I3-001", "quantization_declared", Severity.P0),
    ("F-ROSETTA-FMT-001", "quantization_declared", Severity.P1),
    ("PROV-001", "lineage", Severity.P0),
)
"""Gate, check of the comparison, severity; the cheapest come first."""

_LETTERS = {"safetensors": "S", "apr": "A", "gguf": "G"}


def pair_gate(truth_format: str, artifact_format: str) -> str:
    """Return the gate of the pair as a whole (check ``parity``); empty where both are in one format."""
    letters = [_LETTERS.get(name, "") for name in (truth_format, artifact_format)]
    return f"F-CONV-{'-'.join(letters)}" if all(letters) and letters[0] != letters[1] else ""


def file_claims(truth: Artifact, artifact: Artifact, tier: Tier) -> tuple[Claim, ...]:
    """Return what the engine ``comparison`` is asked; the same in every tier, for it is cheap."""
    pair = pair_gate(truth.format, artifact.format)
    asked = (*FILE_PARITY, *(((pair, "parity", Severity.P0),) if pair else ()))
    return tuple(_claim(truth, artifact, *one) for one in asked)


def _claim(truth: Artifact, artifact: Artifact, gate: str, check: str, severity: Severity) -> Claim:
    params = {"check": check}
    if check == "lineage":
        params["truth_sha256"] = truth.sha256
        if artifact.origin != "derived":
            # Others may have made the file from another copy of the same model; that is worth a word, not a stop.
            severity = Severity.P1
    return Claim(gate_id=gate, kind="inspect", severity=severity, params=params)
