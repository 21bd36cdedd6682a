"""What is asked of every artifact in comparison with the ground truth."""

from __future__ import annotations

from apr_qa.vocabulary import Artifact, Claim, Severity, Tier

FILE_PARITY: tuple[tuple[str, str, Severity], ...] = (
    ("G0-CONFIG-EQUAL", "config_equal", Severity.P0),
    ("G0-GENERATION-EQUAL", "generation_equal", Severity.P0),
    ("G0-TEMPLATE-EQUAL", "template_equal", Severity.P0),
    ("G0-TEMPLATE-TEXT", "template_equal", Severity.P2),
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

CONVERSION: tuple[tuple[str, str, Severity], ...] = (
    ("F-PATH-EXT", "paths", Severity.P1),
    ("F-CONTRACT-LOAD-001", "contract", Severity.P0),
    ("F-LAYOUT-CONTRACT-004", "byte_sizes", Severity.P0),
    ("F-ROSETTA-FMT-002", "alignment", Severity.P0),
    ("F-CONV-007", "types", Severity.P0),
    ("F-CONV-009", "identity", Severity.P0),
    ("F-CONV-010", "identity", Severity.P0),
    ("F-CONV-011", "identity", Severity.P0),
    ("F-CONV-016", "footprint", Severity.P2),
    ("F-CONV-017", "footprint", Severity.P2),
    ("F-CONV-TOK-001", "tokenizer_whole", Severity.P0),
    ("F-CONV-SHAPE-001", "shapes_against_config", Severity.P0),
    ("F-CONV-TRANSPOSE", "tensor_error", Severity.P1),
    ("F-CONV-EMBED-001", "embedding_rows", Severity.P0),
    ("F-CONV-WEIGHT-001", "corrupted", Severity.P0),
    ("F-CONV-008", "fingerprints", Severity.P0),
    ("F-ROSETTA-FP-001", "fingerprints", Severity.P0),
    ("F-ROSETTA-FP-002", "fingerprints", Severity.P0),
    ("F-ROSETTA-STATS-005", "fingerprints", Severity.P0),
    ("F-ROSETTA-STATS-006", "fingerprints", Severity.P0),
    ("F-CONV-UNKNOWN-001", "unclassified", Severity.P0),
)
"""The ways in which conversions go wrong, each by a measure of its own, and what no other class explains."""

PAIR_NUMBERS = {
    "G-A": "F-CONV-001",
    "A-G": "F-CONV-002",
    "G-S": "F-CONV-003",
    "S-G": "F-CONV-004",
    "A-S": "F-CONV-005",
    "S-A": "F-CONV-006",
}
"""Direction -> the number under which the catalogue lists it a second time."""
_LETTERS = {"safetensors": "S", "apr": "A", "gguf": "G"}


def pair_gate(truth_format: str, artifact_format: str) -> str:
    """Return the gate of the pair as a whole (check ``parity``); empty where both are in one format."""
    letters = [_LETTERS.get(name, "") for name in (truth_format, artifact_format)]
    return f"F-CONV-{'-'.join(letters)}" if all(letters) and letters[0] != letters[1] else ""


def file_claims(truth: Artifact, artifact: Artifact, tier: Tier) -> tuple[Claim, ...]:
    """Return what the engine ``comparison`` is asked; the same in every tier, for it is cheap."""
    pair = pair_gate(truth.format, artifact.format)
    pairs = [pair, PAIR_NUMBERS[pair.removeprefix("F-CONV-")]] if pair else []
    asked = (*FILE_PARITY, *CONVERSION, *((gate, "parity", Severity.P0) for gate in pairs))
    return tuple(_claim(truth, artifact, *one) for one in asked)


def _claim(truth: Artifact, artifact: Artifact, gate: str, check: str, severity: Severity) -> Claim:
    params = {"check": check}
    if check == "lineage":
        params["truth_sha256"] = truth.sha256
        if artifact.origin != "derived":
            # Others may have made the file from another copy of the same model; that is worth a word, not a stop.
            severity = Severity.P1
    return Claim(gate_id=gate, kind="inspect", severity=severity, params=params)
