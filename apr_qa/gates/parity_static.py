"""Parity of files: an artifact says, holds and means what the ground truth does.

Several catalogued ids ask different questions about the same facts. All are P0, for a runtime survives
none of it unharmed; only labels and statistics that merely describe are P1.
"""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, enter
from apr_qa.gates import _parity_checks as checks
from apr_qa.gates import _parity_examples as examples
from apr_qa.vocabulary import Severity

_CALIBRATION = (
    "factors measured on SmolLM2-135M with ggml's quantisers, with and without importance matrix; "
    "bands of healthy types: F16 2.1e-4, BF16 1.7e-3, Q8_0 5.4e-3, Q4_0 8.6e-2"
)
_BAND = "error at most 1.5 times, worst 32-value block at most 2 times that of a healthy rounding to the same type"


def _gate(gate_id: str, hypothesis: str, check: Check, examples: tuple[Facts, Facts], **rest: Any) -> Gate:
    corroborates, falsifies = examples
    severity = rest.pop("severity", Severity.P0)
    return enter(
        Gate(
            id=gate_id,
            category="parity",
            severity=severity,
            hypothesis=hypothesis,
            check=check,
            corroborates=corroborates,
            falsifies=falsifies,
            **rest,
        )
    )


# ---- configuration, generation, template, tokenizer

_gate(
    "G0-CONFIG-EQUAL",
    "The artifact's configuration means what the ground truth's means",
    checks.config_equals,
    (
        {"compared": 22, "differences": []},
        {"compared": 22, "differences": [{"field": "rms_norm_eps", "truth": 1e-5, "artifact": 1e-6}]},
    ),
    measure="all fields that decide what is computed, after aliases, defaults and both rotary schemas were unified",
    threshold="0 differences; floats equal to 1e-6 relative (GGUF keeps float32)",
)
_gate(
    "G0-GENERATION-EQUAL",
    "Text begins and ends with the same tokens as in the ground truth",
    checks.generation_equals,
    (examples.STOPS, {**examples.STOPS, "artifact_stops": [3], "foreign": {"eos": [3]}}),
    measure="bos, eos and pad ids of config, generation settings and tokenizer settings, as sets; end-of-turn "
    "tokens that engines know by their text may be added",
    threshold="no foreign id, no lost stop token",
)
_gate(
    "G0-TEMPLATE-EQUAL",
    "Conversations become the same prompt as with the ground truth's chat template",
    checks.template_equals,
    (examples.RENDERED, {**examples.RENDERED, "differences": [examples.MISRENDERED]}),
    measure="ten fixed conversations rendered in a sandbox, with and without generation prompt; words that only "
    "the artifact's template can render",
    threshold="equal text, refusals included; no foreign word",
)
_gate(
    "F-CONTRACT-I5-001",
    "The tokenizer survives conversion",
    checks.tokenizer_equals,
    (examples.TOKENS, {**examples.TOKENS, "kinds": {"merges": 2}, "differences": [examples.SWAPPED_MERGE]}),
    measure="vocabulary, merges in order, added tokens with flags, normaliser, pre-tokenizer, decoder, surrounding "
    "tokens, special ids; encoding of 200 texts",
    threshold="0 differences but for padding tokens",
)

# ---- names and shapes

_NAMES = "canonical tensor names and row-major shapes of both files; tied heads and rotary buffers set aside"
_gate(
    "F-CONTRACT-I2-001",
    "Writer and reader agree on the names of all tensors",
    checks.names_agree,
    (examples.SET, {**examples.SET, "missing": ["model.layers.0.self_attn.q_proj.bias"]}),
    measure=_NAMES,
    threshold="0 missing, 0 unexpected",
)
_gate(
    "F-ROSETTA-DIFF-002",
    "Shapes are equal after conversion",
    checks.shapes_agree,
    (examples.SET, {**examples.SET, "mismatched": [examples.WRONG_VECTOR]}),
    measure=_NAMES,
    threshold="0 mismatches",
)
_gate(
    "F-LAYOUT-CONTRACT-001",
    "Every matrix has the shape of the ground truth",
    checks.shapes_of("matrices", 2, "matrices"),
    (examples.SET, {**examples.SET, "mismatched": [examples.WRONG_MATRIX]}),
    measure=_NAMES,
    threshold="0 mismatches",
)
_gate(
    "F-LAYOUT-CONTRACT-002",
    "Embedding and output head are [vocabulary, hidden], as in the ground truth",
    checks.head_has_its_shape,
    (examples.SET, {**examples.SET, "mismatched": [examples.WRONG_HEAD]}),
    measure=_NAMES,
    threshold="present and equal",
)
_gate(
    "F-LAYOUT-CONTRACT-003",
    "Every vector has the length of the ground truth",
    checks.shapes_of("vectors", 1, "vectors"),
    (examples.SET, {**examples.SET, "mismatched": [examples.WRONG_VECTOR]}),
    measure=_NAMES,
    threshold="0 mismatches",
)

# ---- values

_VALUES_MEASURE = "relative error of every tensor and of its worst 32-value block, in canonical layout"
_VALUE_GATES: tuple[tuple[str, str, Check, Facts, Severity], ...] = (
    (
        "F-CONTRACT-I4-001",
        "Conversion preserves the values of every tensor as well as its type allows",
        checks.values_agree,
        examples.offending(examples.UP, "mlp"),
        Severity.P0,
    ),
    (
        "F-ROSETTA-DIFF-001",
        "No matrix was transposed, square ones included",
        checks.nothing_is_transposed,
        examples.offending(examples.UP, "mlp", transposed=[examples.UP]),
        Severity.P0,
    ),
    (
        "F-LAYOUT-002",
        "All matrices are row-major after conversion",
        checks.nothing_is_transposed,
        examples.offending(examples.UP, "mlp", transposed=[examples.UP]),
        Severity.P0,
    ),
    (
        "F-ROSETTA-FP-003",
        "The statistics of all tensors are those of the ground truth",
        checks.values_agree,
        examples.offending(examples.UP, "mlp"),
        Severity.P1,
    ),
    (
        "F-ROSETTA-STATS-001",
        "Norm weights are those of the ground truth, neither zeroed, reset nor shifted",
        checks.group_agrees("norm"),
        examples.offending(examples.NORM, "norm"),
        Severity.P0,
    ),
    (
        "F-ROSETTA-STATS-002",
        "The embedding is that of the ground truth",
        checks.group_agrees("embedding", "head"),
        examples.offending("model.embed_tokens.weight", "embedding"),
        Severity.P0,
    ),
    (
        "F-ROSETTA-STATS-003",
        "Attention weights are those of the ground truth, rows in the right rotary order",
        checks.group_agrees("attention"),
        examples.offending("model.layers.0.self_attn.q_proj.weight", "attention"),
        Severity.P0,
    ),
    (
        "F-ROSETTA-STATS-004",
        "Every tensor was compared",
        checks.all_were_compared,
        {**examples.VALUES, "uncompared": ["lm_head.weight (iq1_s)"], "uncompared_count": 1},
        Severity.P1,
    ),
    (
        "F-HFP-005",
        "Embeddings equal those of the Hugging Face model",
        checks.group_agrees("embedding"),
        examples.offending("model.embed_tokens.weight", "embedding"),
        Severity.P0,
    ),
)
for _id, _hypothesis, _check, _bad, _severity in _VALUE_GATES:
    _gate(
        _id,
        _hypothesis,
        _check,
        (examples.VALUES, _bad),
        measure=_VALUES_MEASURE,
        threshold=_BAND,
        source=_CALIBRATION,
        severity=_severity,
    )
_ROWS = {"dead": [], "dead_count": 0, "rows": 147_456}
_gate(
    "G0-ROWS-EQUAL",
    "No row of a matrix lost its values",
    checks.rows_are_alive,
    (_ROWS, {**_ROWS, "dead": [{"name": "lm_head.weight", "count": 1, "first": [17]}], "dead_count": 1}),
    measure="rows that are all zero, against the same rows of the ground truth",
    threshold="none whose norm in the truth is above a thousandth of a typical row's (reserved tokens are healthy)",
)

# ---- what the artifact says about itself

_STORED = {
    "declared": {"general.file_type": "q8_0"},
    "stored": {"q8_0": 1.0},
    "dominant": "q8_0",
    "wrong": {},
}
_MISLABELLED = {**_STORED, "stored": {"f16": 1.0}, "wrong": {"general.file_type": "q8_0"}}
for _id, _hypothesis, _severity in (
    ("F-CONTRACT-I3-001", "The weights are stored in the type that the artifact declares", Severity.P0),
    ("F-ROSETTA-FMT-001", "The declared storage types map to the stored ones", Severity.P1),
):
    _gate(
        _id,
        _hypothesis,
        checks.types_are_as_declared,
        (_STORED, _MISLABELLED),
        measure="file name, general.file_type, APR quantisation and config dtype against the types of all matrices",
        threshold="a quarter of the values in the declared type or in what the quantiser puts in its place",
        severity=_severity,
    )
_MADE = {"origin": "derived", "recorded": "ab" * 32, "tool": "apr-qa", "expected": "ab" * 32, "same": True}
_gate(
    "PROV-001",
    "All derived artifacts were made from the ground truth of this run",
    checks.lineage_names_the_truth,
    (_MADE, {**_MADE, "recorded": "cd" * 32, "same": False}),
    measure="source hash in the artifact's lineage against the hash of the ground truth",
    threshold="equal; derived files must have one",
)

# ---- the whole pair

_FORMATS = {"S": "SafeTensors", "A": "APR", "G": "GGUF"}
_PAIRS = ("G-A", "A-G", "G-S", "S-G", "A-S", "S-A")
_NAMED = [(f"F-CONV-{pair}", pair) for pair in _PAIRS]
_NUMBERED = [(f"F-CONV-{number:03d}", pair) for number, pair in enumerate(_PAIRS, 1)]
for _id, _pair in (*_NAMED, *_NUMBERED):
    _one, _other = _pair.split("-")
    _gate(
        _id,
        f"The {_FORMATS[_other]} file is the same model as the {_FORMATS[_one]} file that it was made from",
        checks.is_the_same_model(_pair),
        (
            {"pair": _pair, **examples.PAIR},
            {"pair": _pair, **examples.PAIR, "tensor_error": examples.offending(examples.UP, "mlp")},
        ),
        measure="configuration, tensor set, values, tokenizer, chat template and generation settings together",
        threshold="every one of them equal as its own gate asks",
        source=f"F-CONV-{_pair} under its number in the catalogue"
        if (_id, _pair) in _NUMBERED
        else _CALIBRATION,
    )
