"""G0, beyond architectures that convert: names, keys, shapes, rows and vectors that any usual model has."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement, Severity


def _gate(gate_id: str, severity: Severity, hypothesis: str, check: Check, **rest: Any) -> Gate:
    return enter(
        Gate(id=gate_id, category="integrity", severity=severity, hypothesis=hypothesis, check=check, **rest)
    )


def names_are_whole(facts: Facts) -> Judgement:
    if facts["faults"]:
        return falsified("; ".join(facts["faults"][:3]))
    if not facts["layers"]:
        return inapplicable("the tensors are not named by layer")
    return corroborated(f"{facts['layers']} layers under one scheme of names, each as complete as the others")


def keys_are_stated(facts: Facts) -> Judgement:
    if facts["missing"]:
        return falsified(
            f"not stated, so that loaders take a default that the model may not have: {', '.join(facts['missing'])}"
        )
    if facts["contradictions"]:
        return falsified("; ".join(facts["contradictions"][:3]))
    if not facts["known"]:
        return inapplicable(f"no list of necessary fields is known for {facts['architecture']!r}")
    return corroborated(
        f"every field that {facts['architecture']} cannot do without is stated, and only in one way"
    )


def projections_follow_config(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return inapplicable(f"no shapes are known for architecture {facts['unknown_architecture']!r}")
    if facts["mismatches"]:
        first = facts["mismatches"][0]
        return falsified(
            f"{len(facts['mismatches'])} of {facts['checked']} projections contradict the configuration; first: "
            f"{first['name']} is {first['found']}, should be {first['expected']}"
        )
    if not facts["checked"]:
        return inconclusive("no projection was compared")
    return corroborated(f"{facts['checked']} projections follow from the configuration")


def ordinary_tokens_have_rows(facts: Facts) -> Judgement:
    if facts["dead"]:
        first = facts["dead"][0]
        return falsified(
            f"{first['count']} ordinary tokens have a row of zeros in {first['name']}: {', '.join(first['first'])}"
        )
    if not facts["tokens"]:
        return inapplicable("the artifact carries no vocabulary to look rows up by")
    return corroborated(f"the rows of {facts['tokens']} ordinary tokens hold values")


def template_tokens_are_trained(facts: Facts) -> Judgement:
    if facts["untrained"]:
        return falsified(
            f"the chat template writes tokens that were never trained: {'; '.join(facts['untrained'][:3])}"
        )
    if not facts["tokens"]:
        return inapplicable("the chat template writes no special token")
    return corroborated(f"{facts['tokens']} special tokens of the chat template have rows of their own")


def vectors_are_alive(facts: Facts) -> Judgement:
    if facts["faults"]:
        return falsified("; ".join(facts["faults"][:3]))
    if not facts["vectors"]:
        return inapplicable("the model has neither biases nor norm weights")
    return corroborated(f"{facts['vectors']} biases and norm weights look like trained ones")


_NAMES = {"layers": 30, "faults": []}
_gate(
    "G0-TENSOR-002",
    Severity.P0,
    "Layers are complete and named by one scheme, that of the container",
    names_are_whole,
    measure="tensor names: gaps in the numbering, layers that alone lack what all others have, two prefixes for "
    "one stack, names of another container; embedding and last norm",
    threshold="0 faults",
    corroborates=_NAMES,
    falsifies={**_NAMES, "faults": ["model.layers.3 lacks mlp.up_proj.weight"]},
)
_KEYS = {"architecture": "gemma2", "known": True, "missing": [], "contradictions": []}
_gate(
    "G0-CONFIG-KEYS",
    Severity.P1,
    "Every field that decides what the family computes is stated, once",
    keys_are_stated,
    measure="fields whose default differs from what models of the family have (rotary base, window, caps, experts, "
    "model class); length of rope factors; declared against stored dtype; doubly kept keys of APR",
    threshold="0 missing, 0 contradictions",
    source="defaults of transformers' configuration classes; paiml/aprender#1748, ggml-org/llama.cpp#8197",
    corroborates=_KEYS,
    falsifies={**_KEYS, "missing": ["attn_logit_softcapping"]},
)
_gate(
    "G0-LAYOUT-002",
    Severity.P0,
    "Projections have the shapes that follow from heads, widths and experts",
    projections_follow_config,
    measure="row-major shapes of projections in families of the usual build, convertible or not",
    threshold="0 mismatches",
    corroborates={"checked": 210, "mismatches": []},
    falsifies={
        "checked": 210,
        "mismatches": [{"name": "self_attn.k_proj", "found": [64, 128], "expected": [128, 128]}],
    },
)
_ROWS: Facts = {"tokens": 49_000, "dead": []}
_gate(
    "G0-ROWS-001",
    Severity.P0,
    "Every ordinary token has a row in embedding and head",
    ordinary_tokens_have_rows,
    measure="rows that are all zero; reserved, unused, padding and added tokens aside",
    threshold="0 rows",
    source="paiml/aprender#2183; healthy exceptions: meta-llama/llama3#77",
    corroborates=_ROWS,
    falsifies={**_ROWS, "dead": [{"name": "lm_head.weight", "count": 1, "first": ["812 ' rare'"]}]},
)
_gate(
    "G0-ROWS-002",
    Severity.P1,
    "The special tokens that the chat template writes were trained",
    template_tokens_are_trained,
    measure="embedding rows of added tokens in the template's text",
    threshold="none zero, equal to another of them, or the average of all rows (within 2 %)",
    source="meta-llama/llama3#77, unslothai/unsloth#1056",
    corroborates={"tokens": 2, "untrained": []},
    falsifies={"tokens": 2, "untrained": ["<|im_start|>: the row of <|im_end|>"]},
)
_gate(
    "G0-VECTORS-001",
    Severity.P1,
    "Biases and norm weights look like trained ones",
    vectors_are_alive,
    measure="biases that are zero in some layers and not in others; norms of zeros; share of norm weights that are "
    "not positive, as the family applies them",
    threshold="no such bias or norm; at most a quarter not positive",
    source="0.8 % in SmolLM2-135M; sbryngelson/ANEForge#253, vllm-project/vllm#31464",
    corroborates={"vectors": 61, "faults": []},
    falsifies={"vectors": 61, "faults": ["model.layers.1.input_layernorm.weight lets nothing through"]},
)
