"""What a conversion must not do to a file: the catalogue's bug classes, and the checklist behind them.

Every rule looks at real data of the artifact beside the ground truth; several share one pass over the tensors.
"""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, enter
from apr_qa.gates import _conversion_checks as checks
from apr_qa.vocabulary import Severity


def _gate(gate_id: str, hypothesis: str, check: Check, examples: tuple[Facts, Facts], **rest: Any) -> Gate:
    corroborates, falsifies = examples
    severity = rest.pop("severity", Severity.P0)
    return enter(
        Gate(
            id=gate_id,
            category=rest.pop("category", "conversion"),
            severity=severity,
            hypothesis=hypothesis,
            check=checks.known(check),
            corroborates=corroborates,
            falsifies=falsifies,
            **rest,
        )
    )


# ---- files and storage

_FILE = {"name": "model.gguf", "says": ".gguf", "holds": "gguf"}
_PATHS = {"files": [_FILE], "count": 1, "format": "gguf", "wrong": [], "outside": []}
_gate(
    "F-PATH-EXT",
    "Every weight file is what its name says, and lies inside the artifact",
    checks.paths_say_the_truth,
    (_PATHS, {**_PATHS, "files": [{**_FILE, "holds": "apr"}], "wrong": ["model.gguf"]}),
    measure="suffix of every weight file against its first bytes; folder of every shard. A name without a known "
    "suffix says nothing",
    threshold="0 contradictions",
    severity=Severity.P1,
)
_RULES = {"architecture": "llama", "rules": 272, "gaps": [], "error": ""}
_gate(
    "F-CONTRACT-LOAD-001",
    "The rules for tensors of this architecture can be worked out, and cover every format",
    checks.contract_loads,
    (_RULES, {**_RULES, "rules": 0, "error": "KeyError: 'hidden_size'"}),
    category="contract",
    measure="names and shapes that follow from the truth's configuration; the GGUF name of each, and back",
    threshold="no error, no gap, at least one rule",
)
_SIZES = {"checked": 272, "quantised": 211, "bytes": 84_000_000, "wrong": [], "overlapping": []}
_gate(
    "F-LAYOUT-CONTRACT-004",
    "Every payload, quantised ones above all, has the bytes that its type and shape make",
    checks.sizes_follow_types,
    (
        _SIZES,
        {
            **_SIZES,
            "wrong": [
                {"name": checks.EMBEDDING, "dtype": "q4_1", "size": 17_694_718, "lawful": [17_694_720]}
            ],
        },
    ),
    category="layout",
    measure="payload sizes against values a block, bytes a block and shape (table of the gguf package); overlaps",
    threshold="equal; no overlap; inside the file",
)
_ALIGNED = {
    **{
        "alignment": 32,
        "checked": 272,
        "misaligned": [],
        "misaligned_count": 0,
        "version": 3,
        "unrecognised": [],
    }
}
_gate(
    "F-ROSETTA-FMT-002",
    "The header is that of the format, and every tensor begins where the format says tensors begin",
    checks.header_is_aligned,
    (_ALIGNED, {**_ALIGNED, "misaligned": [checks.NORM], "misaligned_count": 1}),
    category="differential",
    measure="first bytes of every weight file; offsets modulo general.alignment (GGUF) or 64 (APR); SafeTensors asks "
    "for none",
    threshold="0 misaligned",
)
_CHANGES = {"changes": {"f32 → q8_0": 211, "f32 → f32": 61}, "checked": 272, "wrong": []}
_gate(
    "F-CONV-007",
    "Storage types are kept, or changed as the declared type says",
    checks.types_changed_lawfully,
    (
        _CHANGES,
        {**_CHANGES, "wrong": [{"name": checks.NORM, "dtype": "q8_0", "why": "a vector is quantised"}]},
    ),
    measure="type of every tensor against that of the truth and against what the file declares",
    threshold="vectors stay floating-point, weights never become whole numbers, a float file holds no blocks",
)

# ---- who the model is

_gate(
    "F-CONV-009",
    "The architecture keeps its name",
    checks.architecture_is_kept,
    (
        checks.IDENTITY,
        {**checks.IDENTITY, "architecture": ["qwen2", "llama"], "architecture_differs": True},
    ),
    measure="model_type against general.architecture, names that differ between the two worlds translated",
    threshold="the same",
)
_gate(
    "F-CONV-010",
    "The vocabulary keeps its size",
    checks.size_is_kept("vocabulary", "vocabulary", "rows"),
    (checks.IDENTITY, {**checks.IDENTITY, "rows": [49152, 49151]}),
    measure="rows of the embedding and vocab_size on both sides",
    threshold="equal",
)
_gate(
    "F-CONV-011",
    "Hidden size and number of layers are kept",
    checks.depth_and_width_are_kept,
    (checks.IDENTITY, {**checks.IDENTITY, "layers_found": [30, 29]}),
    measure="columns of the embedding and layers among the tensor names, and what the configurations say",
    threshold="equal",
)
_INSTEAD = (
    "stands for a comparison of timings within 10 %: engines of different formats share no clock, and two runs of one "
    "engine on a shared machine differ by more"
)
_gate(
    "F-CONV-016",
    "A generated token costs as much work as with the ground truth",
    checks.work_is_similar,
    (
        checks.COST,
        {**checks.COST, "artifact": {"multiplications": 162_791_424, "values": 162_826_560}},
    ),
    measure="multiplications of weights for one token, from the shapes of all matrices",
    threshold="within 10 %",
    source=_INSTEAD,
    severity=Severity.P2,
)
_gate(
    "F-CONV-017",
    "The weights take the memory that their number and type ask for",
    checks.memory_is_similar,
    (
        checks.COST,
        {**checks.COST, "artifact": {"multiplications": 134_479_872, "values": 162_826_560}},
    ),
    measure="number of stored values against the truth's; bytes against the widest type in the file",
    threshold="within 10 %",
    source=_INSTEAD,
    severity=Severity.P2,
)

# ---- classes of conversion bugs

_WHOLE = {
    **{"truth": True, "present": True, "unreadable": "", "tokens": 49152, "found": 49152},
    **{"lost": [], "lost_count": 0, "merges": [48900, 48900]},
}
_gate(
    "F-CONV-TOK-001",
    "The artifact carries the whole tokenizer",
    checks.tokenizer_is_whole,
    (_WHOLE, {"truth": True, "present": False, "unreadable": ""}),
    measure="every token text of the truth and the presence of merges in the artifact's own tokenizer",
    threshold="0 lost",
)
_ROWS = {"compared": [checks.EMBEDDING], "rows": 49152, "missing": False, "wrong": []}
_gate(
    "F-CONV-EMBED-001",
    "Rows of the embedding and the head are the truth's rows, in its order and not its columns",
    checks.embedding_is_in_order,
    (
        _ROWS,
        {
            **_ROWS,
            "wrong": [
                {"name": checks.EMBEDDING, "shapes": [[576, 576], [576, 576]], "looks_like": "transposed"}
            ],
        },
    ),
    measure="values against the truth inside the band of their type; if not: against its transpose, against data with "
    "its dimensions read in reverse, and against rows under other numbers",
    threshold="every row in place",
)
_INTACT = {"compared": 272, "wrong": [], "wrong_count": 0}
_gate(
    "F-CONV-WEIGHT-001",
    "No tensor's values were corrupted",
    checks.weights_are_intact,
    (
        _INTACT,
        {"compared": 272, "wrong": [{"name": checks.NORM, "cause": "byte order reversed"}], "wrong_count": 1},
    ),
    measure="values outside of their band: not finite, mostly zero, or the truth's if read in the other byte order or "
    "as the other 16-bit type",
    threshold="0 tensors",
)
_SHAPES = {"checked": 272, "wrong": [], "wrong_count": 0}
_gate(
    "F-CONV-SHAPE-001",
    "Shapes in the artifact are those that the truth's configuration describes",
    checks.shapes_match_config,
    (
        _SHAPES,
        {
            "checked": 272,
            "wrong": [{"name": checks.NORM, "artifact": [575], "expected": [576]}],
            "wrong_count": 1,
        },
    ),
    measure="row-major shapes against functions of the truth's configuration, explicit head_dim honoured",
    threshold="0 mismatches",
)
_NOTHING = {"compared": 272, "rest": [], "rest_count": 0}
_gate(
    "F-CONV-UNKNOWN-001",
    "No difference is left that the other classes of conversion bugs do not explain",
    checks.everything_is_explained,
    (
        _NOTHING,
        {
            "compared": 272,
            "rest": [{"where": "config rms_norm_eps", "what": "1e-05 became 1e-06"}],
            "rest_count": 1,
        },
    ),
    measure="all differences in values, names, configuration, tokenizer, template and generation settings, less those "
    "that another class has named",
    threshold="0 left",
)
_gate(
    "F-CONV-TRANSPOSE",
    "Quantised tensors lie as in the truth, their blocks along the rows",
    checks.blocks_run_along_rows,
    (
        {"offending": [], "bands": {"q4_k": {"tensors": 180}}},
        {
            "offending": [{"name": checks.EMBEDDING, "dtype": "q4_k", "looks_like": "transposed"}],
            "bands": {"q4_k": {"tensors": 180}},
        },
    ),
    measure="tensors in block types that leave their band, against the transpose of the truth",
    threshold="0 transposed or reshaped",
    severity=Severity.P1,
)

# ---- fingerprints

_PRINTS = checks.PRINTS
_NAN = {"nonfinite": [{"name": checks.NORM, "count": 1}], "introduced": [checks.NORM]}
_ZEROED = {"name": checks.NORM, "mean": 0.0, "std": 0.0, "truth_mean": 0.91, "truth_std": 0.2}
for _id, _hypothesis, _check, _bad, _measure, _threshold in (
    (
        "F-CONV-008",
        "No NaN and no infinity was introduced",
        checks.nothing_became_infinite,
        _NAN,
        "values that are not finite in the artifact, against the same tensor of the truth",
        "0 more than in the truth",
    ),
    (
        "F-ROSETTA-FP-001",
        "The fingerprint of every tensor is finite",
        checks.fingerprints_are_finite,
        _NAN,
        "mean, deviation, minimum and maximum of every tensor of the artifact",
        "0 tensors with a NaN or an infinity",
    ),
    (
        "F-ROSETTA-FP-002",
        "Tensors whose type holds every value of the truth are exact copies",
        checks.copies_are_exact,
        {"differing": [checks.NORM], "differing_count": 1},
        "all values under canonical names and in canonical order, wherever the stored type is the truth's or wider",
        "0 differ",
    ),
    (
        "F-ROSETTA-STATS-005",
        "The mean of every norm is that of the truth, neither zeroed nor shifted",
        checks.norm_means_are_kept,
        {"furthest_norms": [_ZEROED]},
        "mean of every norm weight",
        "within a tenth of the truth's mean and deviation together",
    ),
    (
        "F-ROSETTA-STATS-006",
        "The spread of every norm is that of the truth, not levelled",
        checks.norm_deviations_are_kept,
        {"furthest_norms": [_ZEROED]},
        "standard deviation of every norm weight",
        "between half and twice the truth's",
    ),
):
    _gate(
        _id,
        _hypothesis,
        _check,
        (_PRINTS, {**_PRINTS, **_bad}),
        measure=_measure,
        threshold=_threshold,
        category="differential" if "ROSETTA" in _id else "conversion",
    )
