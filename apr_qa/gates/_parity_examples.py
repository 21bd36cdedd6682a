"""Facts of comparisons as examples for the gates: a healthy artifact, and what defects change in it."""

from __future__ import annotations

from typing import Any

STOPS = {
    "truth_stops": [2],
    "artifact_stops": [2],
    "lost_stops": [],
    "foreign": {},
    "lost_begin": [],
    "compared": 4,
}

RENDERED = {"truth": True, "artifact": True, "compared": 20, "differences": [], "foreign_text": []}
MISRENDERED = {
    "conversation": "one turn",
    "truth": "<|im_start|>assistant\n",
    "artifact": "<|im_start|>asistant\n",
}

TOKENS = {
    "present": True,
    "tokens": 49152,
    "merges": 48900,
    "added": 17,
    "probes": 200,
    "by_probes": [],
    "kinds": {},
    "differences": [],
}
SWAPPED_MERGE = {"kind": "merges", "rank": 50, "truth": ("Ġ", "t"), "artifact": ("Ġ", "a")}

SET: dict[str, Any] = {
    **{"compared": 272, "matrices": 211, "vectors": 61, "missing": [], "unexpected": [], "mismatched": []},
    "transposed": [],
}
NORM = "model.layers.3.input_layernorm.weight"
UP = "model.layers.3.mlp.up_proj.weight"
WRONG_MATRIX = {"name": UP, "artifact": [576, 1536], "truth": [1536, 576]}
WRONG_VECTOR = {"name": NORM, "artifact": [575], "truth": [576]}
WRONG_HEAD = {"name": "lm_head.weight", "artifact": [576, 49152], "truth": [49152, 576]}

_GROUP = {"compared": 61, "offending": [], "used": 0.2}
VALUES: dict[str, Any] = {
    **{"compared": 272, "values": 134_515_008, "exact": 61, "uncompared": [], "uncompared_count": 0},
    **{"offending": [], "offending_count": 0, "used": 0.7, "transposed": [], "imatrix": False, "bands": {}},
    "groups": dict.fromkeys(("norm", "embedding", "attention", "mlp"), _GROUP),
}
_OFFENDER = {
    **{
        "name": UP,
        "dtype": "q8_0",
        "error": 0.0064,
        "twin_error": 0.0055,
        "block": 1.0,
        "twin_block": 0.015,
    },
    **{"gain": 1.0, "used": 33.0, "looks_like": ""},
}


def offending(name: str, group: str, **more: Any) -> dict[str, Any]:
    """Return the facts of a comparison in which one tensor of a group leaves its band."""
    groups = {**VALUES["groups"], group: {**_GROUP, "offending": [name], "used": 33.0}}
    return {
        **VALUES,
        "offending": [{**_OFFENDER, "name": name}],
        "offending_count": 1,
        "groups": groups,
        **more,
    }


PAIR = {
    "config": {"compared": 22, "differences": []},
    "tensor_set": SET,
    "tensor_error": VALUES,
    "tokenizer": TOKENS,
    "template": RENDERED,
    "generation": STOPS,
}
