"""Round trips and metamorphic relations: what must hold whatever way a model takes through the formats.

All of it is about the built-in converter and the model at hand; a model brought in every format is
compared file by file elsewhere.
"""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, enter
from apr_qa.gates import _parity_examples as parity_examples
from apr_qa.gates import _trip_checks as trips
from apr_qa.vocabulary import Severity

_EXACT = (
    "every tensor bit for bit under canonical names (storage types are chosen to hold every value), configuration, "
    "tokenizer, chat template and generation settings by meaning"
)
_TRIP: dict[str, Any] = {
    **{
        "path": "SAGS",
        "coarsest": "f32",
        "tensors": trips.VALUES,
        "layers": 30,
        "of_layers": 30,
        "type": "f32",
    },
    **{"config": parity_examples.PAIR["config"], "tokenizer": parity_examples.TOKENS},
    **{"template": parity_examples.RENDERED, "generation": parity_examples.STOPS},
}
_BY_THE_CONVERTER = "by the built-in converter"


def _gate(gate_id: str, hypothesis: str, check: Check, examples: tuple[Facts, Facts], **rest: Any) -> Gate:
    corroborates, falsifies = examples
    return enter(
        Gate(
            id=gate_id,
            category="conversion",
            severity=Severity.P0,
            hypothesis=f"{hypothesis}, {_BY_THE_CONVERTER}",
            check=check,
            corroborates=corroborates,
            falsifies=falsifies,
            **rest,
        )
    )


for _id, _path, _way in (
    ("F-CONV-RT-001", "GASG", "GGUF → APR → SafeTensors → GGUF"),
    ("F-CONV-RT-002", "SAGS", "SafeTensors → APR → GGUF → SafeTensors"),
    ("F-CONV-RT-003", "SAGAS", "SafeTensors → APR → GGUF → APR → SafeTensors"),
    ("F-CONV-RT-004", "SAGA", "SafeTensors → APR → GGUF → APR"),
    ("F-CONV-012", "SAS", "SafeTensors → APR → SafeTensors"),
):
    _gate(
        _id,
        f"This model comes back unchanged from {_way}",
        trips.comes_back,
        ({**_TRIP, "path": _path}, {**_TRIP, "path": _path, "tensors": trips.CHANGED}),
        measure=_EXACT,
        threshold="0 values, 0 fields, 0 tokens, 0 renderings differ",
        source="replaces identical files by identical content: a container also records where it came from"
        if _id == "F-CONV-012"
        else "replaces a comparison of generated text",
    )
_gate(
    "F-CONV-013",
    "This model comes back from SafeTensors → GGUF → SafeTensors in half precision with one rounding and no more",
    trips.comes_back,
    (
        {**_TRIP, "path": "SGS", "coarsest": "f16"},
        {**_TRIP, "path": "SGS", "coarsest": "f16", "tensors": trips.CHANGED},
    ),
    measure="every value against the nearest number of the coarsest type on the way",
    threshold="equal to the nearest: relative error at most 2^-11 in the normal range",
    source="IEEE 754 binary16, round to nearest even; stands for a fixed relative tolerance of 1e-5",
)
_gate(
    "F-CONV-RT-BYTE-001",
    "SafeTensors → APR gives the same tensors as SafeTensors → APR → GGUF → APR",
    trips.payloads_are_equal,
    (
        {
            "paths": ["SA", "SAGA"],
            "compared": 272,
            "bytes": 538_060_032,
            "differing": [],
            "differing_count": 0,
        },
        {
            **{"paths": ["SA", "SAGA"], "compared": 272, "bytes": 538_060_032},
            **{"differing": [{"name": "model.norm.weight", "why": "other bytes"}], "differing_count": 1},
        },
    ),
    measure="stored type, shape and payload bytes of every tensor of both APR files",
    threshold="0 differ",
)
_gate(
    "F-CONV-IDEM-001",
    "Converting this model twice gives the same files",
    trips.files_are_identical,
    (
        {"files": {"SA/model.apr": [trips.SHA, trips.SHA]}},
        {"files": {"SA/model.apr": [trips.SHA, "cd" * 32]}},
    ),
    measure="SHA-256 of every file of two conversions of the same source",
    threshold="equal",
)
_gate(
    "F-CONV-COM-001",
    "Different ways to the same format give the same model",
    trips.comes_back,
    ({**_TRIP, "path": "SGA"}, {**_TRIP, "path": "SGA", "tensors": trips.CHANGED}),
    measure=f"the direct conversion against the one through a third format: {_EXACT}",
    threshold="0 values, 0 fields, 0 tokens, 0 renderings differ",
)
_COUNT = {"tensors": 272, "values": 134_515_008}
_gate(
    "F-CONV-CARD-001",
    "No tensor is lost, fused or invented on any way",
    trips.nothing_is_lost_or_invented,
    (
        {"start": _COUNT, "made": {"SA": _COUNT, "SAG": _COUNT}},
        {"start": _COUNT, "made": {"SA": _COUNT, "SAG": {**_COUNT, "tensors": 271}}},
    ),
    measure="number of tensors and of their values after every step; a head tied to the embedding counts once, "
    "stored or not; rotary tables, which follow from the configuration, do not count",
    threshold="equal at every step",
)
_gate(
    "F-CONV-NAME-001",
    "Every tensor is called what its format calls it, and comes back under its own name",
    trips.names_are_kept,
    (
        {"names": 816, "faults": [], "faults_count": 0},
        {
            "names": 816,
            "faults": [{"path": "SAG", "name": "model.norm.weight", "why": "stored as norm.weight"}],
            "faults_count": 1,
        },
    ),
    measure="canonical names at every step against the start; names in GGUF files against the table that llama.cpp "
    "publishes (gguf.get_tensor_name_map)",
    threshold="0 lost, 0 invented, 0 stored otherwise",
)
_gate(
    "F-CONV-014",
    "The checksum over all values is the same after SafeTensors → GGUF → SafeTensors",
    trips.checksums_agree,
    (
        {"path": "SGS", "start": trips.SHA, "end": trips.SHA},
        {"path": "SGS", "start": trips.SHA, "end": "cd" * 32},
    ),
    measure="SHA-256 over names, shapes and float32 values of all weights, sorted by name",
    threshold="equal",
)

_TYPED = "the type of the converter's error decides, never its wording"
for _id, _kind, _hypothesis, _holds, _error in (
    (
        "F-CONV-TNAME-001",
        "tensor_names",
        "No conversion of this model fails over tensor names, and none changes them",
        "all names were found",
        "1 tensors are missing, model.layers.0.self_attn.q_proj.bias first",
    ),
    (
        "F-CONV-DEQUANT-001",
        "values",
        "All stored values of this model can be read, stored again and stay finite",
        "all values were read and written",
        "a finite weight does not fit f16",
    ),
    (
        "F-CONV-CONFIG-001",
        "config",
        "No conversion of this model fails over its configuration, and none changes it",
        "the configuration was accepted and kept",
        "the config makes model.norm.weight [577], it is [576]",
    ),
    (
        "F-CONV-MISSING-001",
        "missing",
        "Configuration, tokenizer, chat template and end tokens of this model are there after every conversion",
        "nothing was lost",
        "the tokenizer was lost",
    ),
    (
        "F-CONV-UNKNOWN-002",
        "unknown",
        "No conversion of this model fails for a reason that no class explains",
        "no unexplained failure",
        "the writer refused",
    ),
):
    _gate(
        _id,
        _hypothesis,
        trips.no_failure_of(_kind, _holds),
        (trips.FAILURES, trips.failed(_kind, _error)),
        measure=f"errors and losses of every conversion tried; {_TYPED}",
        threshold="0 of this class",
        source="failure taxonomy of the predecessor, keywords replaced by types",
    )
