"""What is asked of every file about its text side and its stored numbers: gate, check, severity."""

from __future__ import annotations

from apr_qa.vocabulary import Severity

CLOSE_LOOKS: tuple[tuple[str, str, Severity], ...] = (
    ("G0-SPECIAL-001", "special_tokens", Severity.P0),
    ("G0-SPECIAL-002", "special_tokens", Severity.P1),
    ("G0-STOP-001", "special_ids", Severity.P0),
    ("G0-STOP-002", "special_ids", Severity.P1),
    ("G0-BOS-001", "beginning", Severity.P0),
    ("G0-PAD-001", "special_ids", Severity.P2),
    ("G0-VOCAB-ROWS", "vocabulary_rows", Severity.P0),
    ("G0-MERGES-001", "merges", Severity.P1),
    ("G0-TEMPLATE-001", "template", Severity.P1),
    ("G0-TEMPLATE-SAFE", "template", Severity.P0),
    ("G0-TEMPLATE-ROLES", "template", Severity.P1),
    ("G0-TEMPLATE-PROMPT", "template", Severity.P1),
    ("G0-TEMPLATE-TRIGGER", "template", Severity.P1),
    ("G0-QUANT-SCALES", "block_scales", Severity.P0),
    ("G0-QUANT-PACKED", "packed", Severity.P0),
    ("G0-VALIDATE-003", "value_patterns", Severity.P0),
    ("G0-VALIDATE-004", "holes", Severity.P0),
    ("F-PROV-002", "origin", Severity.P2),
    ("F-INSPECT-002", "header", Severity.P1),
    ("F-INSPECT-META-001", "metadata", Severity.P1),
    ("F-VALIDATE-003", "corruption", Severity.P1),
)
"""The checks are those of `inspecting.checks`, and ``header`` of the ``inspect`` backend."""

OF_APR: tuple[tuple[str, str, Severity], ...] = (
    ("F-APR-FORMAT-001", "apr_layout", Severity.P0),
    ("F-APR-FORMAT-002", "apr_layout", Severity.P0),
    ("F-APR-FORMAT-003", "apr_layout", Severity.P0),
)
"""What is asked of .apr files besides."""
