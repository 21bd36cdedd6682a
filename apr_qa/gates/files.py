"""G0, file by file: the file is what it says, and its parts agree with each other."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Facts, Gate, corroborated, enter, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement, Severity


def _g0(gate_id: str, hypothesis: str, measure: str, threshold: str, **rest: Any) -> Gate:
    severity = rest.pop("severity", Severity.P0)
    return enter(
        Gate(
            id=gate_id,
            category="integrity",
            severity=severity,
            hypothesis=hypothesis,
            measure=measure,
            threshold=threshold,
            **rest,
        )
    )


def header_is_lawful(facts: Facts) -> Judgement:
    if facts["tensors"] < 1:
        return falsified("the file holds no tensor")
    return corroborated(
        f"{facts['format']} with {facts['tensors']} tensors in {facts['files']} files, {facts['bytes']} bytes"
    )


def config_is_complete(facts: Facts) -> Judgement:
    if not facts["present"]:
        return falsified("there is no model configuration")
    if facts["missing"]:
        return falsified(f"the configuration lacks {', '.join(facts['missing'])}")
    if facts["invalid"]:
        return falsified("; ".join(facts["invalid"]))
    return corroborated(
        f"all {facts['required']} fields that {facts['architecture']} needs are there and sane"
    )


def _agree(what: str) -> Any:
    def check(facts: Facts) -> Judgement:
        declared, found = facts["declared"], facts["found"]
        if declared is None or found is None:
            missing = "declared" if declared is None else "found in the tensors"
            return falsified(f"{what} is not {missing}")
        if declared != found:
            return falsified(f"{what}: the configuration says {declared}, the tensors say {found}")
        return corroborated(f"{what} is {found} in both")

    return check


def vocabulary_agrees(facts: Facts) -> Judgement:
    judgement: Judgement = _agree("vocabulary size")(facts)
    tokenizer = facts.get("tokenizer")
    if tokenizer is not None and facts["found"] is not None and tokenizer > facts["found"]:
        return falsified(
            f"the tokenizer has ids up to {tokenizer - 1}, the embedding only {facts['found']} rows"
        )
    return judgement


def tensor_set_is_complete(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return inapplicable(f"no tensor list is known for architecture {facts['unknown_architecture']!r}")
    if facts["missing"]:
        shown = ", ".join(facts["missing"][:5])
        return falsified(f"{len(facts['missing'])} tensors are missing: {shown}")
    if facts["unexpected"]:
        shown = ", ".join(facts["unexpected"][:5])
        return falsified(f"{len(facts['unexpected'])} tensors do not belong to the architecture: {shown}")
    if not facts["expected"]:
        return inconclusive("nothing was expected, so nothing was compared")
    return corroborated(f"all {facts['expected']} tensors of the architecture are there, and no other")


def shapes_follow_config(facts: Facts) -> Judgement:
    if facts.get("unknown_architecture"):
        return inapplicable(f"no shapes are known for architecture {facts['unknown_architecture']!r}")
    wrong = facts["mismatches"]
    if wrong:
        first = wrong[0]
        return falsified(
            f"{len(wrong)} of {facts['checked']} shapes contradict the configuration; first: {first['name']} is "
            f"{first['found']}, should be {first['expected']}"
        )
    if not facts["checked"]:
        return inconclusive("no shape was compared")
    return corroborated(f"{facts['checked']} shapes follow from the configuration")


def values_are_finite(facts: Facts) -> Judgement:
    if facts["nonfinite"]:
        first = facts["nonfinite"][0]
        return falsified(
            f"{len(facts['nonfinite'])} tensors hold NaN or infinity; first: {first['name']} ({first['count']} values)"
        )
    if facts.get("extreme"):
        first = facts["extreme"][0]
        return falsified(
            f"{len(facts['extreme'])} tensors hold absurdly large values; first: {first['name']} ({first['value']})"
        )
    if not facts["scanned"]:
        return inconclusive("no value was scanned")
    return corroborated(f"{facts['scanned']} values scanned, all finite")


def weights_are_alive(facts: Facts) -> Judgement:
    if facts["all_zero"]:
        return falsified(
            f"{len(facts['all_zero'])} weight matrices are all zero: {', '.join(facts['all_zero'][:5])}"
        )
    if facts["constant"]:
        return falsified(
            f"{len(facts['constant'])} weight matrices hold a single value: {', '.join(facts['constant'][:5])}"
        )
    if not facts["scanned"]:
        return inconclusive("no weight matrix was scanned")
    return corroborated(f"{facts['scanned']} weight matrices hold varying values")


def tied_head_is_tied(facts: Facts) -> Judgement:
    if not facts["declared_tied"]:
        if not facts["head_present"]:
            return falsified("tie_word_embeddings is false, yet there is no output head")
        return corroborated("the output head is separate, as declared")
    if facts["head_present"] and not facts["identical"]:
        return falsified("tie_word_embeddings is true, yet lm_head.weight differs from the embedding")
    return corroborated("the output head is the embedding, as declared")


def tokenizer_is_usable(facts: Facts) -> Judgement:
    if not facts["present"]:
        return falsified("there is no tokenizer")
    if facts.get("error"):
        return falsified(f"the tokenizer cannot be used: {facts['error']}")
    if facts["round_trips"] != facts["probes"]:
        return falsified(
            f"only {facts['round_trips']} of {facts['probes']} probe texts survive encode and decode"
        )
    if facts["missing_special"]:
        return falsified(f"special token ids outside the vocabulary: {facts['missing_special']}")
    return corroborated(f"{facts['size']} tokens; {facts['probes']} probe texts survive encode and decode")


def dimensions_are_as_stated(facts: Facts) -> Judgement:
    expected, found = facts["expected"], facts["found"]
    wrong = [
        f"{name} is {found[name]}, stated {value}" for name, value in expected.items() if found[name] != value
    ]
    if wrong:
        return falsified("; ".join(wrong))
    if not expected:
        return inconclusive("the playbook states no dimension")
    return corroborated(f"{len(expected)} dimensions are as the playbook states")


def provenance_is_recorded(facts: Facts) -> Judgement:
    if not facts["sha256"]:
        return falsified("the artifact has no content hash")
    if facts["origin"] == "derived":
        lineage = facts["lineage"]
        missing = [key for key in ("source_sha256", "tool", "version") if not lineage.get(key)]
        if missing:
            return falsified(f"a derived file must record {', '.join(missing)}")
        return corroborated(
            f"derived by {lineage['tool']} {lineage['version']} from {lineage['source_sha256'][:12]}"
        )
    return corroborated(f"sha256 {facts['sha256'][:12]}")


_g0(
    "G0-HEADER-001",
    "The file obeys every rule of its container format",
    "strict parse of all headers: counts, offsets, shapes, alignment, duplicates, trailing bytes",
    "no rule broken, at least one tensor",
    check=header_is_lawful,
    corroborates={"format": "gguf", "tensors": 272, "files": 1, "bytes": 98_000_000},
    falsifies={"format": "gguf", "tensors": 0, "files": 1, "bytes": 24},
)
_g0(
    "G0-INTEGRITY-CONFIG",
    "The configuration is there, complete for its architecture, and sane",
    "required keys, positive dimensions, divisibility of heads",
    "nothing missing, nothing invalid",
    check=config_is_complete,
    corroborates={"present": True, "missing": [], "invalid": [], "required": 9, "architecture": "llama"},
    falsifies={
        "present": True,
        "missing": ["rope_theta"],
        "invalid": [],
        "required": 9,
        "architecture": "llama",
    },
)
_g0(
    "G0-INTEGRITY-LAYERS",
    "The configuration declares as many layers as the tensors form",
    "num_hidden_layers against 1 + the highest layer index in tensor names",
    "equal",
    check=_agree("number of layers"),
    corroborates={"declared": 30, "found": 30},
    falsifies={"declared": 30, "found": 29},
)
_g0(
    "G0-INTEGRITY-HIDDEN",
    "The configuration declares the width that the embedding has",
    "hidden_size against the second dimension of the embedding",
    "equal",
    check=_agree("hidden size"),
    corroborates={"declared": 576, "found": 576},
    falsifies={"declared": 577, "found": 576},
)
_g0(
    "G0-INTEGRITY-VOCAB",
    "The configuration declares as many tokens as the embedding has rows, and the tokenizer no more",
    "vocab_size against the first dimension of the embedding and the tokenizer's highest id",
    "equal; the tokenizer may be smaller (padded vocabularies are healthy)",
    check=vocabulary_agrees,
    corroborates={"declared": 49152, "found": 49152, "tokenizer": 49152},
    falsifies={"declared": 49152, "found": 49000, "tokenizer": 49152},
)
_g0(
    "G0-TENSOR-001",
    "Every tensor of the architecture is in the file, and no other",
    "canonical tensor names against the list that follows from architecture and configuration",
    "0 missing, 0 unexpected",
    check=tensor_set_is_complete,
    corroborates={"missing": [], "unexpected": [], "expected": 272},
    falsifies={"missing": ["model.layers.0.self_attn.q_proj.bias"], "unexpected": [], "expected": 273},
)
_g0(
    "G0-LAYOUT-001",
    "Every tensor has the shape that follows from the configuration",
    "row-major shapes against functions of the configuration; an explicit head_dim is honoured",
    "0 mismatches",
    check=shapes_follow_config,
    corroborates={"mismatches": [], "checked": 272},
    falsifies={
        "mismatches": [{"name": "q_proj", "found": [192, 576], "expected": [576, 576]}],
        "checked": 272,
    },
)
_g0(
    "G0-VALIDATE-001",
    "All stored values are finite and of a size that weights have",
    "scan of every value of every floating-point tensor, block scales of quantised ones included",
    "0 NaN, 0 infinities; magnitude at most 1e6 (3e4 in half precision and in blocks)",
    check=values_are_finite,
    corroborates={"nonfinite": [], "scanned": 134_000_000},
    falsifies={"nonfinite": [{"name": "model.norm.weight", "count": 1}], "scanned": 134_000_000},
)
_g0(
    "G0-VALIDATE-002",
    "No weight matrix is dead",
    "minimum and maximum of every matrix with at least two rows (biases and norms may be constant)",
    "0 matrices all zero, 0 constant",
    check=weights_are_alive,
    corroborates={"all_zero": [], "constant": [], "scanned": 211},
    falsifies={"all_zero": ["lm_head.weight"], "constant": [], "scanned": 211},
)
_g0(
    "G0-TIED-HEAD-001",
    "The output head is tied or separate as the configuration declares",
    "tie_word_embeddings against presence and content of lm_head.weight",
    "tied: absent or bit-identical; separate: present",
    check=tied_head_is_tied,
    corroborates={"declared_tied": True, "head_present": False, "identical": False},
    falsifies={"declared_tied": True, "head_present": True, "identical": False},
)
_g0(
    "G0-TOKENIZER-001",
    "The artifact carries a tokenizer that works",
    "load the tokenizer, encode and decode probe texts, look special ids up",
    "all probes survive; every special id has an embedding row",
    check=tokenizer_is_usable,
    corroborates={"present": True, "round_trips": 6, "probes": 6, "missing_special": [], "size": 49152},
    falsifies={"present": False, "round_trips": 0, "probes": 6, "missing_special": [], "size": 0},
)
_g0(
    "G0-EXPECTED-001",
    "The model has the dimensions that its playbook states",
    "expected_* fields of the playbook against the configuration",
    "all equal",
    check=dimensions_are_as_stated,
    corroborates={"expected": {"hidden_dim": 896}, "found": {"hidden_dim": 896}},
    falsifies={"expected": {"hidden_dim": 896}, "found": {"hidden_dim": 1536}},
)
enter(
    Gate(
        id="F-PROV-001",
        category="provenance",
        severity=Severity.P1,
        hypothesis="It is recorded what the file is and, if it was derived, from what, by what and in which version",
        measure="SHA-256 of all files of the artifact; lineage stored in derived files",
        threshold="hash known; derived files name source hash, tool and version",
        check=provenance_is_recorded,
        corroborates={"sha256": "ab" * 32, "origin": "found", "lineage": {}},
        falsifies={"sha256": "ab" * 32, "origin": "derived", "lineage": {}},
    )
)
