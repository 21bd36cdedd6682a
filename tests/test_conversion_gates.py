"""Gates of conversions see real damage in real files, each the damage that it is there for, and none in health."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from tiny_models import make_llama, make_qwen2, make_qwen3, write_safetensors

from apr_qa import judge
from apr_qa.certify import assessed
from apr_qa.comparison.claims import CONVERSION, file_claims
from apr_qa.comparison.session import Comparison, open_model
from apr_qa.conversion.convert import convert
from apr_qa.formats import OpenModel
from apr_qa.gates import GATES
from apr_qa.mqs import BLOCKED
from apr_qa.vocabulary import (
    Artifact,
    Claim,
    Evidence,
    EvidenceHeader,
    Judgement,
    Model,
    Outcome,
    Response,
    Scenario,
    Severity,
    Target,
    Tier,
)

Array = npt.NDArray[np.float32]
CHECKS = {gate: check for gate, check, _ in CONVERSION}
EMBEDDING, UP = "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"
NORM, QUERY = "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"
FIXTURES = Path(__file__).parent / "fixtures" / "models"


def judged(truth: OpenModel, artifact: OpenModel) -> dict[str, Judgement]:
    """Return what every gate of this file says about an artifact."""
    comparison = Comparison(truth, artifact)
    found = {}
    for gate_id, check in CHECKS.items():
        judge_facts = GATES.get(gate_id).check
        assert judge_facts is not None
        found[gate_id] = judge_facts(json.loads(json.dumps(comparison.facts(check, {}))))
    return found


def falsified(truth: OpenModel, artifact: OpenModel) -> set[str]:
    return {name for name, j in judged(truth, artifact).items() if j.outcome is Outcome.FALSIFIED}


def truth_of(folder: Path, make: Callable[..., Path] = make_llama, **overrides: Any) -> OpenModel:
    return open_model(make(folder / "truth", **overrides))


def damaged(
    truth: OpenModel, folder: Path, change: Callable[[dict[str, Array]], None], dtype: str = "f32"
) -> OpenModel:
    """Return a copy of a SafeTensors folder with other tensors."""
    copy = folder / "artifact"
    shutil.copytree(truth.path, copy)
    tensors = {name: truth.read(name).copy() for name in truth.tensors}
    change(tensors)
    write_safetensors(copy / "model.safetensors", tensors)
    return open_model(copy)


def reconfigured(truth: OpenModel, folder: Path, **changes: Any) -> OpenModel:
    copy = folder / "artifact"
    shutil.copytree(truth.path, copy)
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    return open_model(copy)


# ---- health


@pytest.mark.parametrize("make", [make_llama, make_qwen2, make_qwen3])
@pytest.mark.parametrize(
    ("format_name", "quantization"),
    [
        ("gguf", "f32"),
        ("gguf", "f16"),
        ("gguf", "bf16"),
        ("gguf", "q8_0"),
        ("apr", ""),
        ("safetensors", "bf16"),
    ],
)
def test_a_healthy_conversion_falsifies_nothing(
    make: Callable[..., Path], format_name: str, quantization: str, tmp_path: Path
) -> None:
    truth = truth_of(tmp_path, make)
    suffix = {"gguf": ".gguf", "apr": ".apr", "safetensors": ""}[format_name]
    path = convert(truth, format_name, tmp_path / f"made{suffix}", quantization=quantization)
    outcomes = judged(truth, open_model(path))
    allowed = {"F-CONV-TRANSPOSE": Outcome.INAPPLICABLE, "F-ROSETTA-FP-002": Outcome.INAPPLICABLE}
    for name, judgement in outcomes.items():
        lawful = (Outcome.CORROBORATED, allowed.get(name, Outcome.CORROBORATED))
        assert judgement.outcome in lawful, f"{name}: {judgement.reason}"


@pytest.mark.parametrize(
    "quantization", ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q4_1", "q3_k_m", "q2_k"]
)
@pytest.mark.parametrize("name", ["llama-untied-gqa8x2", "qwen2-tied-bias"])
def test_what_llama_cpps_own_quantiser_makes_passes_as_healthy(
    name: str, quantization: str, tmp_path: Path
) -> None:
    truth = open_model(FIXTURES / name)
    artifact = open_model(convert(truth, "gguf", tmp_path / "model.gguf", quantization=quantization))
    for gate_id, judgement in judged(truth, artifact).items():
        assert judgement.outcome is Outcome.CORROBORATED, f"{gate_id}: {judgement.reason}"


@pytest.mark.parametrize("format_name", ["safetensors", "gguf"])
def test_a_stored_copy_of_a_tied_head_is_healthy(format_name: str, tmp_path: Path) -> None:
    truth = truth_of(tmp_path, make_qwen2)
    doubled = damaged(truth, tmp_path, lambda t: t.update({"lm_head.weight": t[EMBEDDING].copy()}))
    if format_name == "gguf":
        edited = json.loads((doubled.path / "config.json").read_text()) | {"tie_word_embeddings": False}
        (doubled.path / "config.json").write_text(json.dumps(edited))
        made = convert(open_model(doubled.path), "gguf", tmp_path / "model.gguf", quantization="f16")
        doubled = open_model(made)
        assert "lm_head.weight" in doubled.tensors
    assert not falsified(truth, doubled)


def test_embedding_rows_beyond_the_tokenizer_and_zero_rows_are_healthy(tmp_path: Path) -> None:
    def blank(tensors: dict[str, Array]) -> None:
        tensors[EMBEDDING][-40:] = 0

    padded = truth_of(tmp_path, make_qwen2, vocab_size=448)
    truth = damaged(padded, tmp_path, blank)
    for quantization in ("f16", "q8_0"):
        made = convert(truth, "gguf", tmp_path / f"model-{quantization}.gguf", quantization=quantization)
        assert not falsified(truth, open_model(made))


# ---- damage to values


def test_a_square_embedding_that_is_transposed_is_seen(tmp_path: Path) -> None:
    truth = truth_of(tmp_path, vocab_size=400, hidden_size=400, num_attention_heads=4)
    artifact = damaged(truth, tmp_path, lambda t: t.update({EMBEDDING: t[EMBEDDING].T.copy()}))
    found = judged(truth, artifact)
    assert "transposed" in found["F-CONV-EMBED-001"].reason
    assert found["F-CONV-EMBED-001"].outcome is Outcome.FALSIFIED
    assert found["F-CONV-WEIGHT-001"].outcome is Outcome.CORROBORATED
    assert found["F-CONV-UNKNOWN-001"].outcome is Outcome.CORROBORATED


@pytest.mark.parametrize(
    ("turn", "word"),
    [
        (lambda e: e.T.copy(), "transposed"),
        (lambda e: e.reshape(e.shape[::-1]).copy(), "dimensions in reverse"),
        (lambda e: e.T.copy().reshape(e.shape), "reshaped instead of transposed"),
        (lambda e: np.roll(e, 1, axis=0), "rows under other numbers"),
        (lambda e: e[np.random.default_rng(0).permutation(len(e))], "rows under other numbers"),
    ],
)
def test_an_embedding_in_any_other_order_is_seen_and_explained(
    turn: Callable[[Array], Array], word: str, tmp_path: Path
) -> None:
    truth = truth_of(tmp_path)
    artifact = damaged(truth, tmp_path, lambda t: t.update({EMBEDDING: turn(t[EMBEDDING])}))
    judgement = judged(truth, artifact)["F-CONV-EMBED-001"]
    assert judgement.outcome is Outcome.FALSIFIED and word in judgement.reason


def swapped(values: Array) -> Array:
    return values.view("<u4").byteswap().view("<f4")


def brain_as_half(values: Array) -> Array:
    """Return what a reader gets that takes bfloat16 bits for IEEE halves."""
    return (values.view("<u4") >> 16).astype("<u2").view("<f2").astype(np.float32)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (swapped, "byte order reversed"),
        (lambda v: v * np.float32("nan"), "not finite"),
        (lambda v: np.where(np.arange(v.size).reshape(v.shape) == 5, np.float32("inf"), v), "not finite"),
        (lambda v: np.zeros_like(v), "zeros"),
        (brain_as_half, "bf16 bits read as f16"),
    ],
)
@pytest.mark.parametrize("name", [UP, NORM, QUERY])
def test_corrupted_values_are_recognised_by_their_cause(
    name: str, change: Callable[[Array], Array], cause: str, tmp_path: Path
) -> None:
    truth = truth_of(tmp_path, dtype="bf16")
    artifact = damaged(truth, tmp_path, lambda t: t.update({name: change(t[name]).astype(np.float32)}))
    found = judged(truth, artifact)
    judgement = found["F-CONV-WEIGHT-001"]
    assert judgement.outcome is Outcome.FALSIFIED, judgement.reason
    assert cause in judgement.reason
    assert found["F-CONV-UNKNOWN-001"].outcome is Outcome.CORROBORATED, "another class has explained it"


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_sixteen_bit_tensors_in_the_wrong_byte_order_are_recognised(dtype: str, tmp_path: Path) -> None:
    truth = truth_of(tmp_path, dtype=dtype)
    path = convert(truth, "gguf", tmp_path / "model.gguf", quantization=dtype)
    info = open_model(path).tensors[UP]
    content = bytearray(path.read_bytes())
    payload = np.frombuffer(bytes(content[info.offset : info.offset + info.size]), "<u2")
    content[info.offset : info.offset + info.size] = payload.byteswap().tobytes()
    path.write_bytes(content)
    judgement = judged(truth, open_model(path))["F-CONV-WEIGHT-001"]
    assert judgement.outcome is Outcome.FALSIFIED
    assert "byte order" in judgement.reason or "not finite" in judgement.reason


@pytest.mark.parametrize("count", [1, 100])
def test_a_nan_that_the_truth_does_not_have_is_introduced_and_spoils_the_fingerprint(
    count: int, tmp_path: Path
) -> None:
    def poison(tensors: dict[str, Array]) -> None:
        tensors[UP].reshape(-1)[:count] = np.nan

    truth = truth_of(tmp_path)
    assert {"F-CONV-008", "F-ROSETTA-FP-001", "F-CONV-WEIGHT-001", "F-ROSETTA-FP-002"} <= falsified(
        truth, damaged(truth, tmp_path, poison)
    )


def test_a_nan_that_was_there_before_is_not_introduced(tmp_path: Path) -> None:
    def poison(tensors: dict[str, Array]) -> None:
        tensors[UP][3, 3] = np.nan

    sound = truth_of(tmp_path)
    truth = damaged(sound, tmp_path, poison)
    found = judged(truth, truth)
    assert found["F-CONV-008"].outcome is Outcome.CORROBORATED
    assert found["F-ROSETTA-FP-001"].outcome is Outcome.FALSIFIED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: v * 0, {"F-ROSETTA-STATS-005", "F-ROSETTA-STATS-006"}),
        (lambda v: v - v.mean(), {"F-ROSETTA-STATS-005"}),
        (lambda v: v - 1, {"F-ROSETTA-STATS-005"}),
        (lambda v: v * 0 + v.mean(), {"F-ROSETTA-STATS-006"}),
        (lambda v: v.mean() + 5 * (v - v.mean()), {"F-ROSETTA-STATS-006"}),
    ],
)
def test_a_norm_that_was_zeroed_shifted_or_levelled_is_seen_in_its_moments(
    change: Callable[[Array], Array], expected: set[str], tmp_path: Path
) -> None:
    truth = truth_of(tmp_path)
    artifact = damaged(truth, tmp_path, lambda t: t.update({NORM: change(t[NORM]).astype(np.float32)}))
    moments = {"F-ROSETTA-STATS-005", "F-ROSETTA-STATS-006"}
    assert falsified(truth, artifact) & moments == expected


def test_one_bit_makes_a_copy_inexact(tmp_path: Path) -> None:
    def flip(tensors: dict[str, Array]) -> None:
        tensors[UP].view(np.uint32)[0, 0] ^= 1

    truth = truth_of(tmp_path)
    assert "F-ROSETTA-FP-002" in falsified(truth, damaged(truth, tmp_path, flip))


@pytest.mark.parametrize(
    "change", [lambda v: -v, lambda v: v * 3, lambda v: v[::-1].copy(), lambda v: v + np.float32(0.5)]
)
def test_a_difference_without_a_name_is_left_for_the_last_class(
    change: Callable[[Array], Array], tmp_path: Path
) -> None:
    truth = truth_of(tmp_path)
    found = judged(truth, damaged(truth, tmp_path, lambda t: t.update({UP: change(t[UP])})))
    assert found["F-CONV-UNKNOWN-001"].outcome is Outcome.FALSIFIED
    assert UP in found["F-CONV-UNKNOWN-001"].reason


@pytest.mark.parametrize("turn", [lambda e: e.T.copy(), lambda e: e.T.copy().reshape(e.shape)])
def test_a_quantised_matrix_that_was_turned_is_seen(turn: Callable[[Array], Array], tmp_path: Path) -> None:
    truth = truth_of(tmp_path, intermediate_size=64)
    spoilt = damaged(truth, tmp_path, lambda t: t.update({UP: turn(t[UP])}))
    artifact = open_model(convert(spoilt, "gguf", tmp_path / "model.gguf", quantization="q8_0"))
    assert "F-CONV-TRANSPOSE" in falsified(truth, artifact)


# ---- damage to shapes, names, sizes and types


def test_a_shape_that_the_config_does_not_describe_is_seen(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    artifact = damaged(truth, tmp_path, lambda t: t.update({NORM: t[NORM][:-1].copy()}))
    assert "F-CONV-SHAPE-001" in falsified(truth, artifact)


def test_a_missing_tensor_is_a_difference_that_is_left(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    artifact = damaged(truth, tmp_path, lambda t: t.__delitem__(NORM))
    assert "F-CONV-UNKNOWN-001" in falsified(truth, artifact)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vocab_size": 401}, "F-CONV-010"),
        ({"num_hidden_layers": 1}, "F-CONV-011"),
        ({"hidden_size": 32}, "F-CONV-011"),
        ({"model_type": "qwen2"}, "F-CONV-009"),
        ({"rms_norm_eps": 1e-6}, "F-CONV-UNKNOWN-001"),
    ],
)
def test_a_config_that_says_something_else_is_seen(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    truth = truth_of(tmp_path)
    assert expected in falsified(truth, reconfigured(truth, tmp_path, **changes))


def test_a_layer_that_got_lost_is_seen_with_its_cost(tmp_path: Path) -> None:
    def drop(tensors: dict[str, Array]) -> None:
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    truth = truth_of(tmp_path)
    assert {"F-CONV-011", "F-CONV-016", "F-CONV-017"} <= falsified(truth, damaged(truth, tmp_path, drop))


def test_a_size_that_type_and_shape_do_not_make_is_seen(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    made = open_model(convert(truth, "gguf", tmp_path / "model.gguf", quantization="q8_0"))
    for wrong in ({"size": 33}, {"dtype": "q4_0"}, {"offset": 10**9}):
        info = replace(made.tensors[UP], **wrong)
        artifact = replace(made, tensors={**made.tensors, UP: info})  # type: ignore[type-var]
        facts = Comparison(truth, artifact).facts("byte_sizes", {})
        check = GATES.get("F-LAYOUT-CONTRACT-004").check
        assert check is not None and check(facts).outcome is Outcome.FALSIFIED, wrong


@pytest.mark.parametrize("format_name", ["gguf", "apr"])
def test_a_tensor_between_two_places_is_misaligned(format_name: str, tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    made = open_model(convert(truth, format_name, tmp_path / f"model.{format_name}", quantization="f16"))
    info = replace(made.tensors[UP], offset=made.tensors[UP].offset + 4)
    artifact = replace(made, tensors={**made.tensors, UP: info})  # type: ignore[type-var]
    check = GATES.get("F-ROSETTA-FMT-002").check
    assert check is not None
    assert check(Comparison(truth, artifact).facts("alignment", {})).outcome is Outcome.FALSIFIED


@pytest.mark.parametrize(("name", "dtype"), [(NORM, "q8_0"), (UP, "i32"), (UP, "q4_0")])
def test_a_type_that_no_converter_should_choose_is_seen(name: str, dtype: str, tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    made = open_model(convert(truth, "gguf", tmp_path / "model-f16.gguf", quantization="f16"))
    info = replace(made.tensors[name], dtype=dtype)
    artifact = replace(made, tensors={**made.tensors, name: info})  # type: ignore[type-var]
    check = GATES.get("F-CONV-007").check
    assert check is not None
    assert check(Comparison(truth, artifact).facts("types", {})).outcome is Outcome.FALSIFIED


def test_a_file_that_is_not_what_its_name_says_is_seen(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    made = convert(truth, "gguf", tmp_path / "model.gguf", quantization="f16")
    for name in ("model.safetensors", "model.apr", "pytorch_model.bin"):
        misnamed = tmp_path / "other" / name
        misnamed.parent.mkdir(exist_ok=True)
        shutil.copy(made, misnamed)
        assert "F-PATH-EXT" in falsified(truth, open_model(misnamed, "gguf")), name
    hashed = tmp_path / "other" / "sha256-0123"
    shutil.copy(made, hashed)
    assert "F-PATH-EXT" not in falsified(truth, open_model(hashed, "gguf")), (
        "a name without a suffix says nothing"
    )


def test_links_into_a_blob_folder_are_lawful_and_shards_elsewhere_are_not(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    home = tmp_path / "models--org--name"
    linked = home / "snapshots" / "abc"
    linked.mkdir(parents=True)
    shutil.copytree(truth.path, home / "blobs")
    for file in (home / "blobs").iterdir():
        (linked / file.name).symlink_to(file)
    assert "F-PATH-EXT" not in falsified(truth, open_model(linked))
    info = replace(truth.tensors[UP], file=tmp_path / "elsewhere.safetensors")
    shutil.copy(truth.path / "model.safetensors", info.file)
    artifact = replace(truth, tensors={**truth.tensors, UP: info})  # type: ignore[type-var]
    check = GATES.get("F-PATH-EXT").check
    assert (
        check is not None
        and check(Comparison(truth, artifact).facts("paths", {})).outcome is Outcome.FALSIFIED
    )


def test_a_contract_that_cannot_be_worked_out_is_a_finding(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    del truth.config["intermediate_size"]
    check = GATES.get("F-CONTRACT-LOAD-001").check
    assert check is not None
    assert check(Comparison(truth, truth).facts("contract", {})).outcome is Outcome.FALSIFIED


# ---- tokenizer


def test_an_artifact_without_tokenizer_or_with_half_of_one_is_seen(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    copy = tmp_path / "artifact"
    shutil.copytree(truth.path, copy)
    whole = json.loads((copy / "tokenizer.json").read_text())
    half = json.loads(json.dumps(whole))
    half["model"]["vocab"] = {t: i for t, i in whole["model"]["vocab"].items() if i < 350}
    half["model"]["merges"] = [m for m in half["model"]["merges"] if "".join(m) in half["model"]["vocab"]]
    (copy / "tokenizer.json").write_text(json.dumps(half))
    assert "F-CONV-TOK-001" in falsified(truth, open_model(copy))
    (copy / "tokenizer.json").unlink()
    assert "F-CONV-TOK-001" in falsified(truth, open_model(copy))


def test_a_tokenizer_that_is_whole_but_reordered_is_left_for_the_last_class(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    copy = tmp_path / "artifact"
    shutil.copytree(truth.path, copy)
    content = json.loads((copy / "tokenizer.json").read_text())
    merges = content["model"]["merges"]
    merges[0], merges[9] = merges[9], merges[0]
    (copy / "tokenizer.json").write_text(json.dumps(content))
    found = falsified(truth, open_model(copy))
    assert "F-CONV-UNKNOWN-001" in found and "F-CONV-TOK-001" not in found


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"chat_template": None}),
        ("tokenizer_config.json", {"chat_template": "{{ messages }} by a stranger"}),
        ("generation_config.json", {"eos_token_id": 5}),
    ],
)
def test_what_lies_beside_the_weights_is_left_for_the_last_class_too(
    file: str, change: dict[str, Any], tmp_path: Path
) -> None:
    truth = truth_of(tmp_path)
    copy = tmp_path / "artifact"
    shutil.copytree(truth.path, copy)
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | change))
    assert "F-CONV-UNKNOWN-001" in falsified(truth, open_model(copy))


def test_a_tensor_packed_by_a_recipe_is_not_measured_by_the_table_of_blocks(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    info = replace(truth.tensors[UP], dtype="nf4", size=17)
    artifact = replace(truth, tensors={**truth.tensors, UP: info})  # type: ignore[type-var]
    check = GATES.get("F-LAYOUT-CONTRACT-004").check
    assert check is not None
    assert check(Comparison(truth, artifact).facts("byte_sizes", {})).outcome is Outcome.CORROBORATED


# ---- across targets


def answered(format_name: str, question: str, outcome: Outcome, text: str = "right", **rest: Any) -> Evidence:
    target = Target(
        model="m",
        format=format_name,
        quantization=rest.get("quantization", "f32"),
        backend="cpu",
        modality="run",
        engine="e",
    )
    kind = rest.get("kind", "generate")
    claim = Claim(
        gate_id="G1-LOAD" if kind == "load" else "F-QUAL-003", kind=kind, prompt=question, basic=True
    )
    scenario = Scenario(target=target, claim=claim)
    response = Response(facts={"load_s": 1.0}) if kind == "load" else Response(text=text)
    return Evidence(
        id=scenario.id,
        gate_id=claim.gate_id,
        severity=Severity.P1,
        scenario=scenario,
        outcome=outcome,
        reason="because",
        response=response,
    )


QUESTIONS = [f"question {number}" for number in range(8)]
HEADER = EvidenceHeader(
    apr_qa="0",
    model=Model(id="m"),
    tier=Tier.MVP,
    playbook="p",
    playbook_sha256="",
    artifacts=(
        Artifact(format="safetensors", path="", quantization="f32"),
        Artifact(format="gguf", path="", quantization="q4_0", origin="derived"),
    ),
    ground_truth="safetensors",
    cells=(),
    planned=1,
)


def run_of(wrong: int, quantization: str = "q4_0") -> list[Evidence]:
    """Return a truth that is right on six of eight questions, and an artifact that is wrong on some of those."""
    entries = []
    for number, question in enumerate(QUESTIONS):
        right = number < 6
        entries.append(
            answered("safetensors", question, Outcome.CORROBORATED if right else Outcome.FALSIFIED)
        )
        fails = number < wrong or not right
        outcome = Outcome.FALSIFIED if fails else Outcome.CORROBORATED
        entries.append(answered("gguf", question, outcome, quantization=quantization))
    return entries


def across(evidence: list[Evidence], gate_id: str) -> Outcome | None:
    verdict = GATES.get(gate_id).verdict
    assert verdict is not None
    return verdict(HEADER, evidence).outcome


@pytest.mark.parametrize(
    ("wrong", "quantization", "expected"),
    [
        (0, "q4_0", Outcome.CORROBORATED),
        (1, "f16", Outcome.CORROBORATED),
        (2, "f16", Outcome.FALSIFIED),
        (2, "q4_0", Outcome.CORROBORATED),
        (4, "q4_0", Outcome.FALSIFIED),
        (6, "q4_0", Outcome.FALSIFIED),
    ],
)
def test_meaning_is_lost_when_most_right_answers_become_wrong(
    wrong: int, quantization: str, expected: Outcome
) -> None:
    assert across(run_of(wrong, quantization), "F-CONV-SEMANTIC-001") is expected


def test_a_truth_that_is_wrong_itself_says_nothing_about_its_conversions() -> None:
    evidence = [
        entry
        for question in QUESTIONS
        for entry in (
            answered("safetensors", question, Outcome.FALSIFIED),
            answered("gguf", question, Outcome.FALSIFIED, quantization="q4_0"),
        )
    ]
    assert across(evidence, "F-CONV-SEMANTIC-001") is None


@pytest.mark.parametrize(
    ("load", "text", "expected"),
    [
        (Outcome.CORROBORATED, "right", Outcome.CORROBORATED),
        (Outcome.FALSIFIED, "right", Outcome.FALSIFIED),
        (Outcome.CRASHED, "right", Outcome.FALSIFIED),
        (Outcome.CORROBORATED, " ", Outcome.FALSIFIED),
        (Outcome.INAPPLICABLE, "right", None),
    ],
)
def test_a_converted_file_must_load_and_speak(load: Outcome, text: str, expected: Outcome | None) -> None:
    evidence = [
        answered("gguf", "", load, kind="load", quantization="q4_0"),
        answered("gguf", QUESTIONS[0], Outcome.CORROBORATED, text, quantization="q4_0"),
    ]
    assert across(evidence, "F-CONV-INFER-001") is expected


def test_lost_meaning_blocks_a_run_whose_single_claims_are_no_p0() -> None:
    header = msgspec.structs.replace(HEADER, planned=0)
    verdicts = {verdict.gate_id: verdict for verdict in judge.verdicts(header, run_of(6))}
    assert verdicts["F-CONV-SEMANTIC-001"].outcome is Outcome.FALSIFIED
    certificate = assessed(header, run_of(6), "").certificate
    assert certificate["status"] == BLOCKED
    assert "F-CONV-SEMANTIC-001" in json.dumps(certificate)


def test_a_gate_across_targets_that_found_nothing_to_judge_is_not_mentioned() -> None:
    assert "F-CONV-SEMANTIC-001" not in {verdict.gate_id for verdict in judge.verdicts(HEADER, [])}


# ---- reached from a run


def test_every_comparison_is_asked_of_every_artifact_under_both_of_its_names() -> None:
    truth, artifact = (Artifact(format=name, path="", quantization="f32") for name in ("safetensors", "gguf"))
    asked = [claim.gate_id for claim in file_claims(truth, artifact, Tier.MVP)]
    assert set(CHECKS) | {"F-CONV-S-G", "F-CONV-004"} <= set(asked)
    assert len(asked) == len(set(asked))


def test_an_architecture_without_known_names_makes_the_tensor_gates_inapplicable(tmp_path: Path) -> None:
    truth = truth_of(tmp_path)
    made = open_model(convert(truth, "gguf", tmp_path / "model.gguf", quantization="f16"))
    artifact = replace(made, architecture="mamba")  # type: ignore[type-var]
    found = judged(truth, artifact)
    for gate_id in ("F-CONV-008", "F-CONV-EMBED-001", "F-CONV-SHAPE-001", "F-CONV-UNKNOWN-001", "F-CONV-016"):
        assert found[gate_id].outcome is Outcome.INAPPLICABLE, gate_id
