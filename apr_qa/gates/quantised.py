"""Numbers of one artifact as they are stored: scales, companions, types and holes."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement, Severity


def scales_are_finite(facts: Facts) -> Judgement:
    if facts["wrong"]:
        first = facts["wrong"][0]
        return falsified(
            f"{facts['count']} tensors have block scales that are no numbers; first: {first['name']} "
            f"({first['count']} of {first['dtype']}, block {first['first']})"
        )
    if not facts["scales"]:
        return inapplicable("no tensor is stored in blocks")
    return corroborated(f"{facts['scales']} block scales are finite")


def numbers_look_like_weights(facts: Facts) -> Judgement:
    if facts["wrong"]:
        first = facts["wrong"][0]
        return falsified(
            f"{facts['count']} tensors cannot be weights; first: {first['name']}: {first['fault']}"
        )
    if not facts["looked_at"]:
        return inconclusive("no tensor was large enough to tell")
    return corroborated(f"the magnitudes of {facts['looked_at']} tensors are spread as those of weights")


def nothing_is_missing(facts: Facts) -> Judgement:
    if facts["holes"]:
        first = facts["holes"][0]
        return falsified(
            f"{facts['count']} runs of zero bytes begin or end inside a row; first: {first['bytes']} bytes in "
            f"{first['name']} from byte {first['start']}"
        )
    return corroborated(f"no hole in {facts['bytes']} bytes of matrices")


def companions_are_complete(facts: Facts) -> Judgement:
    if facts["missing"]:
        return falsified(
            f"{facts['missing_count']} packed weights lack what decodes them; first: {', '.join(facts['missing'][:3])}"
        )
    if facts["wrong"]:
        return falsified(
            f"{facts['wrong_count']} packed weights contradict their scheme; first: {facts['wrong'][0]}"
        )
    if not facts["packed"]:
        return inapplicable("no weight is packed with scales in tensors of their own")
    return corroborated(
        f"{facts['packed']} packed weights ({', '.join(facts['schemes'])}) have all that decodes them"
    )


def origin_is_recorded(facts: Facts) -> Judgement:
    if facts["format"] != "apr":
        return inapplicable("only .apr files are expected to say what they were made from")
    if not facts["lineage"]:
        return falsified("nothing says what the file was made from, and by what")
    return corroborated(f"it says that it was made from {facts['lineage']}")


def _gate(gate_id: str, hypothesis: str, check: Check, good: Facts, bad: dict[str, Any], **rest: Any) -> None:
    enter(
        Gate(
            id=gate_id,
            hypothesis=hypothesis,
            check=check,
            corroborates=good,
            falsifies={**good, **bad},
            **{"severity": Severity.P0, "category": "integrity", **rest},
        )
    )


_gate(
    "G0-QUANT-SCALES",
    "Every scale of every quantised block is a number",
    scales_are_finite,
    {"wrong": [], "count": 0, "scales": 7_520_256},
    {
        "wrong": [{"name": "model.layers.0.mlp.down_proj.weight", "dtype": "q4_k", "count": 1, "first": 48}],
        "count": 1,
    },
    measure="scales and minima of all blocks, read where they are stored",
    threshold="all finite",
    source="ggml-org/llama.cpp#8661; ggml-org/llama.cpp#12439",
)
_gate(
    "G0-VALIDATE-003",
    "Every tensor holds numbers of the type that it declares",
    numbers_look_like_weights,
    {"wrong": [], "count": 0, "looked_at": 272},
    {
        "wrong": [
            {"name": "model.layers.1.self_attn.v_proj.weight", "fault": "its magnitudes spread over 2^16"}
        ],
        "count": 1,
    },
    measure="quartiles of magnitude within rows, of plain values or of block scales",
    threshold="at most 2^8 apart; typically 2^-60 to 2^40; float16 of both signs not squeezed into 1/8 to 4",
    source="Gaussian weights have 2^1.8; swapped bytes 2^16 and more; ggml-org/llama.cpp#13943, 1bit-MONSTER#946",
)
_gate(
    "G0-VALIDATE-004",
    "No piece of the file is missing and filled with zeros",
    nothing_is_missing,
    {"holes": [], "count": 0, "bytes": 96_436_224},
    {"holes": [{"name": "lm_head.weight", "start": 4000, "bytes": 90_000}], "count": 1},
    measure="runs of zero bytes in matrices, at least 4096 bytes and one row long",
    threshold="each begins and ends with a row (pruned and reserved rows are healthy)",
    source="microsoft/BitNet#608",
)
_PACKED = {
    **{"packed": 210, "schemes": ["gptq"], "missing": [], "missing_count": 0, "wrong": [], "wrong_count": 0},
}
_gate(
    "G0-QUANT-PACKED",
    "Every packed weight has the scales, zero points and orders that decode it, and they follow its scheme",
    companions_are_complete,
    _PACKED,
    {"missing": ["model.layers.0.self_attn.q_proj.weight: weight_scale_inv"], "missing_count": 1},
    measure="companion tensors of GPTQ, AWQ, FP8 and bitsandbytes weights; zero points of symmetric GPTQ; group order",
    threshold="all there; zero point 7 (v1) or 8 (v2); every group as large as declared",
    source="huggingface/peft#508; vllm-project/vllm#38966; NVIDIA/TensorRT-LLM#503; unslothai/unsloth#6978",
)
_gate(
    "F-PROV-002",
    "An .apr file says what it was made from",
    origin_is_recorded,
    {"format": "apr", "lineage": "safetensors ab12ab12ab12 by apr-qa"},
    {"lineage": ""},
    category="provenance",
    severity=Severity.P2,
    measure="lineage, source and original format in the metadata",
    threshold="one of them",
    source="paiml/aprender#3910",
)
