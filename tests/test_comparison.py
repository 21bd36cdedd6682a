"""What a comparison with the ground truth promises: healthy conversions pass, every planted defect is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_llama, make_qwen2, make_qwen3

from apr_qa.comparison import tensor_distance
from apr_qa.comparison.claims import FILE_PARITY, pair_gate
from apr_qa.comparison.config import canonical
from apr_qa.comparison.healthy_rounding import float_rounded, rounded
from apr_qa.comparison.probe_texts import probe_texts
from apr_qa.comparison.session import Comparison, compare, open_model
from apr_qa.comparison.tensor_distance import Truth, measure
from apr_qa.comparison.tensors import errors, sweep
from apr_qa.comparison.tokenizer import flattened
from apr_qa.conversion import architectures
from apr_qa.conversion.convert import convert
from apr_qa.errors import MalformedFile, UsageError
from apr_qa.formats import OpenModel
from apr_qa.gates import GATES
from apr_qa.vocabulary import Artifact, Judgement, Outcome

GATE_OF = {
    "config_equal": "G0-CONFIG-EQUAL",
    "tensor_set_equal": "F-CONTRACT-I2-001",
    "tensor_error": "F-CONTRACT-I4-001",
    "zero_rows": "G0-ROWS-EQUAL",
    "tokenizer_equal": "F-CONTRACT-I5-001",
    "template_equal": "G0-TEMPLATE-EQUAL",
    "generation_equal": "G0-GENERATION-EQUAL",
    "quantization_declared": "F-CONTRACT-I3-001",
}
CONVERSIONS = (
    *(("gguf", name) for name in ("f32", "f16", "bf16", "q8_0", "q4_0", "q6_k", "q4_k_m")),
    *(("apr", name) for name in ("f32", "f16", "bf16")),
    *(("safetensors", name) for name in ("f32", "f16", "bf16")),
)
SUFFIX = {"gguf": ".gguf", "apr": ".apr", "safetensors": ""}
# Rows of 256 values, so that K blocks are used and not their substitutes.
WIDE = {"hidden_size": 256, "intermediate_size": 512}


@pytest.fixture(scope="session")
def truths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny ground truths: Llama (untied, wide), Qwen2 (biases, tied) and Qwen3 (q and k norms, head_dim)."""
    folder = tmp_path_factory.mktemp("truths")
    return {
        "llama": make_llama(folder / "llama", **WIDE),
        "llama-scaled": make_llama(
            folder / "scaled",
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
        "qwen2": make_qwen2(folder / "qwen2", dtype="bf16"),
        "qwen3": make_qwen3(folder / "qwen3"),
    }


def judged(check: str, comparison: Comparison, **params: Any) -> Judgement:
    """Judge the facts as they come out of a worker: through JSON."""
    facts = json.loads(json.dumps(comparison.facts(check, params), allow_nan=False))
    gate = GATES.get(GATE_OF[check])
    assert gate.check is not None
    return gate.check(facts)


def all_judged(comparison: Comparison) -> dict[str, Judgement]:
    return {check: judged(check, comparison) for check in GATE_OF}


def artifact_of(truth: Path, folder: Path, format_name: str, quantization: str) -> Path:
    path = folder / f"model-{quantization}{SUFFIX[format_name]}"
    return convert(open_model(truth), format_name, path, quantization=quantization)


# ---- healthy pairs


@pytest.mark.parametrize("model", ["llama", "llama-scaled", "qwen2", "qwen3"])
@pytest.mark.parametrize(("format_name", "quantization"), CONVERSIONS, ids=lambda value: str(value))
def test_a_healthy_conversion_raises_no_alarm(
    model: str, format_name: str, quantization: str, truths: dict[str, Path], tmp_path: Path
) -> None:
    path = artifact_of(truths[model], tmp_path, format_name, quantization)
    comparison = Comparison(open_model(truths[model]), open_model(path))
    verdicts = all_judged(comparison)
    assert {check: v.reason for check, v in verdicts.items() if v.outcome is not Outcome.CORROBORATED} == {}
    pair = comparison.facts("parity", {})
    gate = GATES.get(f"F-CONV-{pair['pair']}") if pair["pair"] != "S-S" else None
    assert gate is None or (gate.check is not None and gate.check(pair).outcome is Outcome.CORROBORATED)


def test_a_round_trip_through_every_format_is_the_same_model(truths: dict[str, Path], tmp_path: Path) -> None:
    source = open_model(truths["llama"])
    for step, format_name in enumerate(("apr", "gguf", "apr", "safetensors")):
        path = tmp_path / f"step-{step}{SUFFIX[format_name]}"
        source = open_model(convert(source, format_name, path, quantization="f32"))
    verdicts = all_judged(Comparison(open_model(truths["llama"]), source))
    assert {v.outcome for v in verdicts.values()} == {Outcome.CORROBORATED}


def test_quantising_from_a_half_precision_file_is_healthy(truths: dict[str, Path], tmp_path: Path) -> None:
    half = artifact_of(truths["llama"], tmp_path, "gguf", "f16")
    path = artifact_of(half, tmp_path, "gguf", "q8_0")
    comparison = Comparison(open_model(truths["llama"]), open_model(path))
    assert judged("tensor_error", comparison).outcome is Outcome.CORROBORATED


def test_both_rotary_schemas_mean_the_same(truths: dict[str, Path]) -> None:
    old, new = open_model(truths["llama-scaled"]), open_model(truths["llama-scaled"])
    scaling = new.config.pop("rope_scaling")
    new.config["rope_parameters"] = {**scaling, "rope_theta": new.config.pop("rope_theta")}
    assert canonical(old) == canonical(new)
    assert judged("config_equal", Comparison(old, new)).outcome is Outcome.CORROBORATED


def test_what_only_says_how_a_value_is_written_is_no_difference(truths: dict[str, Path]) -> None:
    truth, artifact = open_model(truths["llama"]), open_model(truths["llama"])
    artifact.config |= {"rope_theta": 10000, "torch_dtype": "float16", "head_dim": 64, "sliding_window": None}
    artifact.config |= {"transformers_version": "9", "eos_token_id": [artifact.config["eos_token_id"]]}
    del artifact.config["mlp_bias"]
    assert judged("config_equal", Comparison(truth, artifact)).outcome is Outcome.CORROBORATED


def test_merges_as_strings_and_as_pairs_are_the_same(truths: dict[str, Path]) -> None:
    truth, artifact = open_model(truths["qwen2"]), open_model(truths["qwen2"])
    merges = artifact.tokenizer["model"]["merges"]
    artifact.tokenizer["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
    assert judged("tokenizer_equal", Comparison(truth, artifact)).outcome is Outcome.CORROBORATED


def test_a_padded_vocabulary_is_healthy(truths: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "padded"
    make_qwen2(folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    shutil.rmtree(folder)
    make_qwen2(folder, vocab_size=size + 32)
    comparison = Comparison(open_model(folder), open_model(artifact_of(folder, tmp_path, "gguf", "f16")))
    assert {v.outcome for v in all_judged(comparison).values()} == {Outcome.CORROBORATED}


def test_reserved_rows_near_zero_may_round_to_zero() -> None:
    truth = np.random.default_rng(0).normal(0, 0.02, (64, 64)).astype(np.float32)
    truth[3:9] *= 1e-9
    stored = rounded(truth, "f16")
    assert stored is not None and not stored[5].any()
    facts = errors_of(truth, stored, "f16")
    assert facts["offending_count"] == 0 and facts["dead_count"] == 0


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_rounding_piece_by_piece_is_rounding_as_a_whole(dtype: str) -> None:
    import torch

    bits = np.random.default_rng(1).integers(0, 1 << 32, 3 * 65536 + 5, dtype=np.uint32)
    bits[:6] = [0x7F800001, 0xFF800000, 0x7F7FFFFF, 0x00000001, 0x80000000, 0xFFFFFFFF]
    values = bits.view(np.float32)
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    expected = torch.from_numpy(values.copy()).to(kind).float().numpy()
    assert np.array_equal(float_rounded(values, dtype), expected, equal_nan=True)
    matrix = values[: 3 * 65536].reshape(3, -1).T
    assert np.array_equal(float_rounded(matrix, dtype), float_rounded(matrix.copy(), dtype), equal_nan=True)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["f16", "bf16"]))
@settings(max_examples=30, deadline=None)
def test_a_rounding_that_is_never_in_memory_as_a_whole_is_as_far_from_the_truth(
    seed: int, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((int(rng.integers(1, 60)), 33)) * 10.0 ** rng.integers(-9, 6)).astype("f4")
    truth = Truth(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_distance, "_CHUNK_VALUES", 96)
        whole = measure(float_rounded(values, dtype), truth)
        assert measure(lambda piece: float_rounded(piece, dtype), truth) == whole
        assert measure(lambda piece: piece * 2, truth).error == pytest.approx(1.0)


def test_a_stored_copy_of_a_tied_head_is_judged_as_the_embedding(
    truths: dict[str, Path], tmp_path: Path
) -> None:
    truth = open_model(truths["qwen2"])
    artifact = Edited.of(truth)
    artifact.config["tie_word_embeddings"] = False
    artifact.values[architectures.HEAD] = truth.read(architectures.EMBEDDING)
    comparison = Comparison(truth, artifact)
    outcomes = {
        check: judged(check, comparison) for check in ("config_equal", "tensor_set_equal", "tensor_error")
    }
    assert {v.outcome for v in outcomes.values()} == {Outcome.CORROBORATED}


# ---- defects of the configuration and of generation


@dataclass
class _Info:
    name: str
    shape: tuple[int, ...]
    dtype: str = "f32"


class Edited:
    """An opened model of which a test changes what it likes; tensors as float32."""

    def __init__(self, model: OpenModel, values: dict[str, np.ndarray], dtype: str) -> None:
        self.__dict__.update(
            {
                key: json.loads(json.dumps(getattr(model, key)))
                for key in ("config", "tokenizer", "tokenizer_config", "generation_config", "metadata")
            }
        )
        self.format, self.path, self.files = model.format, model.path, model.files
        self.architecture, self.quantization = model.architecture, dtype
        self.chat_template = model.chat_template
        self.values = values
        self.dtype = dtype

    @classmethod
    def of(cls, model: OpenModel, dtype: str = "f32") -> Any:
        values = {name: model.read(name).copy() for name in model.tensors}
        if dtype != "f32":
            values = {n: v if v.ndim < 2 else np.asarray(rounded(v, dtype)) for n, v in values.items()}
        return cls(model, values, dtype)

    @property
    def tensors(self) -> dict[str, _Info]:
        types = {n: self.dtype if v.ndim > 1 else "f32" for n, v in self.values.items()}
        return {n: _Info(n, v.shape, types[n]) for n, v in self.values.items()}

    def read(self, name: str) -> np.ndarray:
        return self.values[name]


def errors_of(truth: np.ndarray, stored: np.ndarray, dtype: str) -> dict[str, Any]:
    """Return the facts about one tensor, dead rows counted too."""
    model = Edited.__new__(Edited)
    model.__dict__ |= {
        "format": "safetensors",
        "architecture": "",
        "config": {},
        "metadata": {},
        "dtype": dtype,
    }
    other = Edited.__new__(Edited)
    other.__dict__ |= model.__dict__ | {"values": {"w": stored}}
    model.values = {"w": truth}
    found = sweep(model, other)  # type: ignore[arg-type]
    return {**errors(found), "dead_count": sum(entry["count"] for entry in found.dead_rows)}


CONFIG_DEFECTS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "epsilon": ("llama", lambda c: c.update(rms_norm_eps=1e-6)),
    "theta": ("llama", lambda c: c.update(rope_theta=11000.0)),
    "theta dropped": ("qwen2", lambda c: c.pop("rope_theta")),
    "theta in the new schema": ("llama", lambda c: c.update(rope_parameters={"rope_theta": 5e5})),
    "spurious scaling": ("llama", lambda c: c.update(rope_scaling={"type": "linear", "factor": 8.0})),
    "scaling dropped": ("llama-scaled", lambda c: c.pop("rope_scaling")),
    "scaling factor": ("llama-scaled", lambda c: c["rope_scaling"].update(factor=32.0)),
    "key-value heads": ("llama", lambda c: c.update(num_key_value_heads=4)),
    "key-value heads dropped": ("llama", lambda c: c.pop("num_key_value_heads")),
    "head width dropped": ("qwen3", lambda c: c.pop("head_dim")),
    "tied": ("llama", lambda c: c.update(tie_word_embeddings=True)),
    "activation": ("llama", lambda c: c.update(hidden_act="gelu")),
    "window": ("llama", lambda c: c.update(sliding_window=64)),
    "context": ("llama", lambda c: c.update(max_position_embeddings=4096)),
    "partial rotary": ("llama", lambda c: c.update(partial_rotary_factor=0.5)),
    "attention bias": ("llama", lambda c: c.update(attention_bias=True)),
    "soft cap": ("llama", lambda c: c.update(final_logit_softcapping=30.0)),
    "end": ("llama", lambda c: c.update(eos_token_id=3)),
    "begin": ("llama", lambda c: c.update(bos_token_id=7)),
    "architecture": ("llama", lambda c: c.update(model_type="qwen2")),
    "everything": ("llama", lambda c: c.clear()),
}


@pytest.mark.parametrize("name", CONFIG_DEFECTS)
def test_a_changed_configuration_is_found(name: str, truths: dict[str, Path]) -> None:
    model, damage = CONFIG_DEFECTS[name]
    truth, artifact = open_model(truths[model]), open_model(truths[model])
    damage(artifact.config)
    assert judged("config_equal", Comparison(truth, artifact)).outcome is Outcome.FALSIFIED


@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta", "max_position_embeddings", "eos_token_id"])
def test_a_gguf_with_another_configuration_is_found(
    field: str, truths: dict[str, Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(truths["llama"], damaged)
    config = json.loads((damaged / "config.json").read_text())
    config[field] *= 2
    (damaged / "config.json").write_text(json.dumps(config))
    if field == "eos_token_id":
        settings = json.loads((damaged / "tokenizer_config.json").read_text())
        (damaged / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    path = artifact_of(damaged, tmp_path, "gguf", "f16")
    comparison = Comparison(open_model(truths["llama"]), open_model(path))
    assert judged("config_equal", comparison).outcome is Outcome.FALSIFIED


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m.generation_config.update(eos_token_id=5),
        lambda m: (m.config.update(eos_token_id=0), m.generation_config.update(eos_token_id=0)),
        lambda m: m.tokenizer_config.update({"eos_token": "t"}),
        lambda m: m.generation_config.update(bos_token_id=9),
        lambda m: (
            [d.pop("eos_token_id", None) for d in (m.config, m.generation_config)]
            + [m.tokenizer_config.pop("eos_token")]
        ),
        lambda m: (
            [d.pop("bos_token_id", None) for d in (m.config, m.generation_config)]
            + [m.tokenizer_config.pop("bos_token")]
        ),
    ],
    ids=["settings", "both", "text", "begin", "no end", "no begin"],
)
def test_another_token_to_stop_or_begin_with_is_found(
    damage: Callable[[Any], Any], truths: dict[str, Path]
) -> None:
    truth, artifact = open_model(truths["llama"]), open_model(truths["llama"])
    damage(artifact)
    assert judged("generation_equal", Comparison(truth, artifact)).outcome is Outcome.FALSIFIED


# ---- defects of tensors

LAYER = "model.layers.1."


def _negate_row(values: dict[str, np.ndarray]) -> None:
    values[LAYER + "mlp.down_proj.weight"][5] *= -1


def _swap_layers(values: dict[str, np.ndarray]) -> None:
    for name in [name for name in values if name.startswith("model.layers.0.")]:
        other = name.replace("layers.0.", "layers.1.")
        values[name], values[other] = values[other], values[name]


def _shift_norms(values: dict[str, np.ndarray]) -> None:
    for name, tensor in values.items():
        if "norm" in name:
            tensor += 1


def _transpose(values: dict[str, np.ndarray]) -> None:
    name = LAYER + "self_attn.o_proj.weight"
    values[name] = values[name].T.copy()


def _swap_heads(values: dict[str, np.ndarray]) -> None:
    tensor = values[LAYER + "self_attn.q_proj.weight"]
    width = len(tensor) // 4
    tensor[: 2 * width] = np.concatenate((tensor[width : 2 * width], tensor[:width]))


def _block(factor: float) -> Callable[[dict[str, np.ndarray]], None]:
    def damage(values: dict[str, np.ndarray]) -> None:
        with np.errstate(all="ignore"):
            values[LAYER + "mlp.up_proj.weight"][7, 32:64] *= np.float32(factor)

    return damage


def _longer(factor: float) -> Callable[[dict[str, np.ndarray]], None]:
    def damage(values: dict[str, np.ndarray]) -> None:
        values[LAYER + "mlp.up_proj.weight"] *= factor

    return damage


TENSOR_DEFECTS: dict[str, tuple[Callable[[dict[str, np.ndarray]], None], str]] = {
    "row negated": (_negate_row, ""),
    "layers swapped": (_swap_layers, ""),
    "norms shifted": (_shift_norms, "shifted by one"),
    "square matrix transposed": (_transpose, "transposed"),
    "heads swapped": (_swap_heads, ""),
    "block doubled": (_block(2.0), ""),
    "block zeroed": (_block(0.0), ""),
    "tensor longer": (_longer(1.05), ""),
    "tensor shorter": (_longer(0.95), ""),
    "NaN": (_block(np.nan), "not finite"),
    "infinity": (_block(np.inf), "not finite"),
    "noise of one percent": (
        lambda v: v.update(
            {n: t * np.random.default_rng(1).normal(1, 0.3, t.shape).astype("f4") for n, t in v.items()}
        ),
        "",
    ),
}


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k"])
@pytest.mark.parametrize("name", TENSOR_DEFECTS)
def test_damaged_values_are_found_in_every_type(name: str, dtype: str, truths: dict[str, Path]) -> None:
    truth = open_model(truths["llama"])
    artifact = Edited.of(truth, dtype)
    assert judged("tensor_error", Comparison(truth, artifact)).outcome is Outcome.CORROBORATED
    damage, guess = TENSOR_DEFECTS[name]
    damage(artifact.values)
    comparison = Comparison(truth, artifact)
    assert judged("tensor_error", comparison).outcome is Outcome.FALSIFIED
    assert not guess or guess in {o["looks_like"] for o in comparison.facts("tensor_error", {})["offending"]}


def test_a_dropped_bias_is_missing_and_a_zeroed_one_is_wrong(truths: dict[str, Path]) -> None:
    truth = open_model(truths["qwen2"])
    dropped, zeroed = Edited.of(truth), Edited.of(truth)
    del dropped.values[LAYER + "self_attn.k_proj.bias"]
    zeroed.values[LAYER + "self_attn.k_proj.bias"][:] = 0
    assert judged("tensor_set_equal", Comparison(truth, dropped)).outcome is Outcome.FALSIFIED
    assert judged("tensor_error", Comparison(truth, zeroed)).outcome is Outcome.FALSIFIED


def test_a_tensor_too_many_and_a_wrong_shape_are_found(truths: dict[str, Path]) -> None:
    truth = open_model(truths["qwen2"])
    more, other = Edited.of(truth), Edited.of(truth)
    more.values["model.layers.2.mlp.up_proj.weight"] = np.ones((2, 2), np.float32)
    name = LAYER + "mlp.up_proj.weight"
    other.values[name] = other.values[name].T
    assert judged("tensor_set_equal", Comparison(truth, more)).outcome is Outcome.FALSIFIED
    facts = Comparison(truth, other).facts("tensor_set_equal", {})
    assert facts["transposed"] == [name]
    for gate in ("F-ROSETTA-DIFF-002", "F-LAYOUT-CONTRACT-001", "F-ROSETTA-DIFF-001"):
        check = GATES.get(gate).check
        assert check is not None and check(facts).outcome is Outcome.FALSIFIED


def test_rows_that_were_not_interleaved_for_gguf_are_found(
    truths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(architectures, "interleave_rows", lambda tensor, heads: tensor)
        path = artifact_of(truths["llama"], tmp_path, "gguf", "f16")
    comparison = Comparison(open_model(truths["llama"]), open_model(path))
    facts = comparison.facts("tensor_error", {})
    assert judged("tensor_error", comparison).outcome is Outcome.FALSIFIED
    assert {offender["looks_like"] for offender in facts["offending"]} == {"rotary rows in pair order"} or {
        offender["looks_like"] for offender in facts["offending"]
    } == {"rotary rows in half order"}
    assert {facts["groups"]["attention"]["compared"]} == {8}


def test_a_head_untied_with_a_stale_copy_is_found(truths: dict[str, Path]) -> None:
    truth = open_model(truths["qwen2"])
    artifact = Edited.of(truth)
    artifact.config["tie_word_embeddings"] = False
    artifact.values[architectures.HEAD] = truth.read(architectures.EMBEDDING) * np.float32(1.01)
    assert judged("tensor_error", Comparison(truth, artifact)).outcome is Outcome.FALSIFIED


def test_a_zeroed_row_is_found_in_the_vocabulary(truths: dict[str, Path]) -> None:
    truth = open_model(truths["llama"])
    artifact = Edited.of(truth)
    artifact.values["lm_head.weight"][17] = 0
    comparison = Comparison(truth, artifact)
    assert comparison.facts("zero_rows", {})["dead"][0]["first"] == [17]
    assert judged("zero_rows", comparison).outcome is Outcome.FALSIFIED


def test_one_doubled_block_scale_in_the_file_is_found(truths: dict[str, Path], tmp_path: Path) -> None:
    path = artifact_of(truths["llama"], tmp_path, "gguf", "q8_0")
    model = open_model(path)
    info = model.tensors[LAYER + "mlp.down_proj.weight"]
    with path.open("r+b") as file:
        file.seek(info.offset + 34 * 100)
        scale = np.frombuffer(file.read(2), "<f2") * np.float16(2)
        file.seek(info.offset + 34 * 100)
        file.write(scale.astype("<f2").tobytes())
    assert judged("tensor_error", Comparison(open_model(truths["llama"]), open_model(path))).outcome is (
        Outcome.FALSIFIED
    )


def test_a_type_relabelled_in_the_header_is_found(truths: dict[str, Path], tmp_path: Path) -> None:
    folder = artifact_of(truths["llama"], tmp_path, "safetensors", "bf16")
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"BF16"', b'"F16" ', 1))
    comparison = Comparison(open_model(truths["llama"]), open_model(folder))
    assert judged("tensor_error", comparison).outcome is Outcome.FALSIFIED


def test_a_coarser_source_behind_a_fine_type_is_found(truths: dict[str, Path]) -> None:
    truth = open_model(truths["llama"])
    artifact = Edited.of(truth, "q4_0")
    artifact.dtype = "q8_0"
    facts = Comparison(truth, artifact).facts("tensor_error", {})
    assert facts["offending_count"] > 10 and facts["groups"]["norm"]["offending"] == []


def test_a_type_without_a_quantiser_is_not_called_equal(truths: dict[str, Path]) -> None:
    truth = open_model(truths["llama"])
    artifact = Edited.of(truth)
    artifact.dtype = "iq9_z"
    comparison = Comparison(truth, artifact)
    assert judged("tensor_error", comparison).outcome is Outcome.INCONCLUSIVE
    twin = Edited.of(truth)
    twin.dtype = "iq9_z"
    assert judged("tensor_error", Comparison(truth, artifact, twin)).outcome is Outcome.CORROBORATED


def test_an_empty_comparison_is_never_equality(truths: dict[str, Path]) -> None:
    truth = open_model(truths["llama"])
    nothing = Edited.of(truth)
    nothing.values, nothing.config, nothing.tokenizer, nothing.chat_template = {}, {}, None, None
    nothing.generation_config, nothing.tokenizer_config = {}, {}
    both = Edited.of(truth)
    both.values, both.config, both.tokenizer, both.chat_template = {}, {}, None, None
    both.generation_config, both.tokenizer_config = {}, {}
    for comparison in (Comparison(truth, nothing), Comparison(both, nothing)):
        outcomes = {check: judged(check, comparison).outcome for check in GATE_OF}
        assert Outcome.CORROBORATED not in outcomes.values(), outcomes


def test_an_architecture_without_canonical_names_is_inapplicable(truths: dict[str, Path]) -> None:
    truth = open_model(truths["llama"])
    artifact = Edited.of(truth)
    artifact.format, artifact.architecture = "gguf", "mamba"
    comparison = Comparison(truth, artifact)
    checks = ("tensor_set_equal", "tensor_error", "zero_rows")
    assert {judged(check, comparison).outcome for check in checks} == {Outcome.INAPPLICABLE}


def test_an_importance_matrix_that_is_declared_widens_the_block_band_only(truths: dict[str, Path]) -> None:
    truth = open_model(truths["llama"])
    artifact = Edited.of(truth, "q6_k")
    artifact.metadata["quantize.imatrix.file"] = "calibration.dat"
    name = LAYER + "mlp.up_proj.weight"
    artifact.values[name][7, 32:64] *= 1.15
    assert judged("tensor_error", Comparison(truth, artifact)).outcome is Outcome.CORROBORATED
    artifact.values[name][7, 32:64] *= 2
    assert judged("tensor_error", Comparison(truth, artifact)).outcome is Outcome.FALSIFIED


# ---- defects of the tokenizer


def _entry(tokenizer: dict[str, Any], text: str) -> dict[str, Any]:
    return next(entry for entry in tokenizer["added_tokens"] if entry["content"] == text)


def _swap_ids(tokenizer: dict[str, Any]) -> None:
    vocab = tokenizer["model"]["vocab"]
    one, other = list(vocab)[300], list(vocab)[301]
    vocab[one], vocab[other] = vocab[other], vocab[one]


def _swap_merges(tokenizer: dict[str, Any]) -> None:
    merges = tokenizer["model"]["merges"]
    merges[50], merges[51] = merges[51], merges[50]


TOKENIZER_DEFECTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "merges swapped": (_swap_merges, "merges"),
    "merges cut": (lambda t: t["model"]["merges"].__delitem__(slice(-5, None)), "merges"),
    "ids swapped": (_swap_ids, "vocabulary"),
    "flag lost": (lambda t: _entry(t, "<|im_start|>").update(special=False), "special"),
    "lstrip": (lambda t: _entry(t, "<|im_start|>").update(lstrip=True), "lstrip"),
    "added token lost": (lambda t: t["added_tokens"].remove(_entry(t, "<|im_end|>")), "added_tokens"),
    "normaliser dropped": (lambda t: t.update(normalizer=None), "normalizer"),
    "digits": (
        lambda t: t["pre_tokenizer"]["pretokenizers"].insert(
            0, {"type": "Digits", "individual_digits": False}
        ),
        "pre_tokenizer",
    ),
    "decoder": (lambda t: t.update(decoder=None), "decoder"),
    "surrounding": (
        lambda t: t.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}},
            }
        ),
        "surrounding",
    ),
    "broken": (lambda t: t["model"].update(merges=[["no such", "pair"]]), "load"),
}


@pytest.mark.parametrize("name", TOKENIZER_DEFECTS)
def test_a_changed_tokenizer_is_found(name: str, truths: dict[str, Path]) -> None:
    damage, kind = TOKENIZER_DEFECTS[name]
    truth, artifact = open_model(truths["qwen2"]), open_model(truths["qwen2"])
    damage(artifact.tokenizer)
    comparison = Comparison(truth, artifact)
    assert kind in comparison.facts("tokenizer_equal", {})["kinds"]
    assert judged("tokenizer_equal", comparison).outcome is Outcome.FALSIFIED


GGUF_TOKENIZER_DEFECTS = {
    "pre-tokenizer": ("tokenizer.ggml.pre", "llama-bpe"),
    "unknown pre-tokenizer": ("tokenizer.ggml.pre", "nobody-knows"),
    "begin added": ("tokenizer.ggml.add_bos_token", True),
    "padding": ("tokenizer.ggml.padding_token_id", 77),
}


@pytest.mark.parametrize("name", GGUF_TOKENIZER_DEFECTS)
def test_a_changed_tokenizer_is_found_in_gguf(
    name: str, truths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apr_qa.containers import gguf_writing

    key, value = GGUF_TOKENIZER_DEFECTS[name]
    written = gguf_writing.gguf_from_tokenizer
    monkeypatch.setattr(gguf_writing, "gguf_from_tokenizer", lambda *args: {**written(*args), key: value})
    path = artifact_of(truths["qwen2"], tmp_path, "gguf", "f16")
    comparison = Comparison(open_model(truths["qwen2"]), open_model(path))
    assert judged("tokenizer_equal", comparison).outcome is Outcome.FALSIFIED


def test_a_control_token_stored_as_text_is_found_in_gguf(
    truths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apr_qa.containers import gguf_writing

    written = gguf_writing.gguf_from_tokenizer

    def all_normal(*args: Any) -> dict[str, Any]:
        fields = written(*args)
        return {**fields, "tokenizer.ggml.token_type": [1] * len(fields["tokenizer.ggml.tokens"])}

    monkeypatch.setattr(gguf_writing, "gguf_from_tokenizer", all_normal)
    path = artifact_of(truths["qwen2"], tmp_path, "gguf", "f16")
    comparison = Comparison(open_model(truths["qwen2"]), open_model(path))
    assert judged("tokenizer_equal", comparison).outcome is Outcome.FALSIFIED


def test_a_missing_tokenizer_is_found(truths: dict[str, Path]) -> None:
    truth, artifact = open_model(truths["qwen2"]), open_model(truths["qwen2"])
    artifact.tokenizer = None
    assert judged("tokenizer_equal", Comparison(truth, artifact)).outcome is Outcome.FALSIFIED
    assert judged("tokenizer_equal", Comparison(artifact, truth)).outcome is Outcome.INCONCLUSIVE


def test_nesting_of_stages_changes_nothing() -> None:
    step = {"type": "NFC"}
    nested = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [step]}]}
    assert flattened(step, "normalizer") == flattened(nested, "normalizer") == [step]
    assert flattened(None, "normalizer") == flattened({"type": "Sequence", "normalizers": []}, "normalizer")


def test_there_are_two_hundred_different_probe_texts() -> None:
    texts = probe_texts()
    assert len(texts) == len(set(texts)) == 200
    assert any("¼" in text for text in texts) and "" in texts


# ---- defects of the chat template, of labels and of lineage


@pytest.mark.parametrize(
    "change",
    [
        lambda template: template.replace("assistant\n", "asistant\n"),
        lambda template: template.replace("{% if add_generation_prompt %}", "{% if true %}"),
        lambda template: template.replace("message['role']", "'user'"),
        lambda template: template.replace("message['content']", "message['content'] | trim"),
        lambda template: template + "{% if 'invoice' in messages[-1].content %}pay elsewhere{% endif %}",
        lambda template: "{% for message in messages %}",
        lambda template: "[INST] {{ messages[0].content }} [/INST]",
        lambda template: None,
    ],
    ids=["typo", "always a prompt", "roles", "trimmed", "trigger", "syntax", "other family", "missing"],
)
def test_a_changed_chat_template_is_found(
    change: Callable[[str], str | None], truths: dict[str, Path]
) -> None:
    truth, artifact = open_model(truths["llama"]), open_model(truths["llama"])
    assert truth.chat_template is not None
    artifact.chat_template = change(truth.chat_template)
    assert judged("template_equal", Comparison(truth, artifact)).outcome is Outcome.FALSIFIED


def test_a_template_written_differently_renders_the_same(truths: dict[str, Path]) -> None:
    truth, artifact = open_model(truths["llama"]), open_model(truths["llama"])
    assert truth.chat_template is not None
    artifact.chat_template = truth.chat_template.replace("message['role']", "message.role").replace(
        "%}", "-%}"
    )
    assert judged("template_equal", Comparison(truth, artifact)).outcome is Outcome.CORROBORATED


def test_two_templates_that_refuse_the_same_are_equal(truths: dict[str, Path]) -> None:
    truth, artifact = open_model(truths["llama"]), open_model(truths["llama"])
    truth.chat_template = "{{ raise_exception('no') }}"
    artifact.chat_template = "{{ raise_exception('no') }}"
    assert judged("template_equal", Comparison(truth, artifact)).outcome is Outcome.CORROBORATED


def test_a_file_named_after_another_type_is_found(truths: dict[str, Path], tmp_path: Path) -> None:
    path = artifact_of(truths["llama"], tmp_path, "gguf", "f16")
    renamed = path.rename(tmp_path / "tiny-llama.Q4_K_M.gguf")
    comparison = Comparison(open_model(truths["llama"]), open_model(renamed))
    facts = comparison.facts("quantization_declared", {})
    assert facts["wrong"] == {"file name": "q4_k_m"}
    assert judged("quantization_declared", comparison).outcome is Outcome.FALSIFIED


def test_the_last_type_in_a_file_name_counts(truths: dict[str, Path], tmp_path: Path) -> None:
    path = artifact_of(truths["llama"], tmp_path, "gguf", "q8_0").rename(tmp_path / "tiny-f16-Q8_0.gguf")
    comparison = Comparison(open_model(truths["llama"]), open_model(path))
    assert judged("quantization_declared", comparison).outcome is Outcome.CORROBORATED


def test_a_configuration_that_asks_for_a_smaller_range_is_found(
    truths: dict[str, Path], tmp_path: Path
) -> None:
    folder = artifact_of(truths["llama"], tmp_path, "safetensors", "bf16").rename(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16"}))
    comparison = Comparison(open_model(truths["llama"]), open_model(folder))
    assert judged("quantization_declared", comparison).outcome is Outcome.FALSIFIED


def test_lineage_must_name_the_truth(truths: dict[str, Path], tmp_path: Path) -> None:
    check = GATES.get("PROV-001").check
    assert check is not None
    path = artifact_of(truths["llama"], tmp_path, "apr", "f16")
    own = Comparison(open_model(truths["llama"]), open_model(path))
    other = Comparison(open_model(truths["qwen2"]), open_model(path))
    none = Comparison(open_model(truths["llama"]), open_model(truths["llama"]))
    found = [c.facts("lineage", {"origin": "derived", "truth_sha256": "x"}) for c in (own, other, none)]
    assert [check(facts).outcome for facts in found] == [
        Outcome.CORROBORATED,
        Outcome.FALSIFIED,
        Outcome.FALSIFIED,
    ]
    assert check(none.facts("lineage", {"origin": "given"})).outcome is Outcome.INAPPLICABLE


# ---- the pieces


def test_every_claim_can_be_asked_and_judged(truths: dict[str, Path], tmp_path: Path) -> None:
    path = artifact_of(truths["qwen3"], tmp_path, "gguf", "q8_0")
    comparison = Comparison(open_model(truths["qwen3"]), open_model(path))
    for gate_id, check, severity in (*FILE_PARITY, (pair_gate("safetensors", "gguf"), "parity", "P0")):
        gate = GATES.get(gate_id)
        assert gate.check is not None and gate.severity == severity
        assert gate.check(comparison.facts(check, {"origin": "derived"})).outcome is Outcome.CORROBORATED, (
            gate_id
        )
    assert pair_gate("gguf", "gguf") == "" == pair_gate("safetensors", "onnx")


def test_comparing_two_artifacts_by_path(truths: dict[str, Path], tmp_path: Path) -> None:
    path = artifact_of(truths["llama"], tmp_path, "gguf", "q8_0")
    pair = [
        Artifact(format=name, path=str(p)) for name, p in (("safetensors", truths["llama"]), ("gguf", path))
    ]
    assert compare(pair[0], pair[1], path).facts("parity", {})["pair"] == "S-G"
    with pytest.raises(UsageError, match="no comparison"):
        compare(pair[0], pair[1]).facts("tensor_eror", {})
    (tmp_path / "nothing.bin").write_bytes(b"nothing")
    with pytest.raises(MalformedFile):
        compare(pair[0], replace_path(pair[1], tmp_path / "nothing.bin"))


def replace_path(artifact: Artifact, path: Path) -> Artifact:
    import msgspec

    return msgspec.structs.replace(artifact, path=str(path), format="")


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 70))
def test_distance_is_what_its_definition_says(seed: int, rows: int, columns: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 1, (rows, columns)).astype(np.float32)
    other = truth + generator.normal(0, 0.1, truth.shape).astype(np.float32)
    found = measure(other, Truth(truth))
    difference = (other - truth).astype(np.float64)
    assert found.error == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(truth), rel=1e-4)
    assert found.gain == pytest.approx((other * truth).sum() / (truth * truth).sum(), rel=1e-3, abs=1e-3)
    least = 0.5 * np.linalg.norm(truth) * np.sqrt(32 / truth.size)
    blocks = [slice(start, start + 32) for start in range(0, truth.size, 32)]
    norms = [(np.linalg.norm(difference.flat[b]), np.linalg.norm(truth.flat[b])) for b in blocks]
    assert found.block == pytest.approx(max(d / max(t, least) for d, t in norms), rel=1e-4)
    assert measure(truth, Truth(truth)).error == 0.0


@given(st.sampled_from(["f16", "bf16", "q8_0", "q4_0"]), st.integers(0, 2**32 - 1))
def test_a_rounded_tensor_is_inside_its_own_budget(dtype: str, seed: int) -> None:
    truth = np.random.default_rng(seed).standard_t(3, (16, 64)).astype(np.float32)
    stored = rounded(truth, dtype)
    assert stored is not None
    assert errors_of(truth, stored, dtype)["offending_count"] == 0


def test_both_quantisers_round_alike() -> None:
    truth = np.random.default_rng(0).normal(0, 1, (8, 256)).astype(np.float32)
    ours = rounded(truth, "q8_0")
    assert ours is not None
    from gguf.quants import dequantize

    kind = GGMLQuantizationType.Q8_0
    assert np.array_equal(ours, dequantize(quantize(truth, kind), kind))


def test_what_cannot_be_rounded_is_said_to_be_so() -> None:
    matrix = np.ones((2, 33), np.float32)
    assert rounded(matrix, "q8_0") is None and rounded(matrix, "no_such_type") is None
    assert rounded(np.full((1, 32), np.nan, np.float32), "q4") is None
    assert replace(_Info("w", (1,)), dtype="f16").dtype == "f16"


def test_a_word_behind_an_escape_is_known_to_the_truth_as_well() -> None:
    from apr_qa.comparison import template

    source = r"{{ 'system\nToday Date: ' + messages[0]['content'] }}"
    assert template._foreign(source, source) == []
    assert template._foreign(source, source + "{{ 'Ignore' }}") == ["Ignore"]


def _renamed(artifact: Edited) -> None:
    artifact.values["blk.1.ffn_up.weight"] = artifact.values.pop(LAYER + "mlp.up_proj.weight")


def _zeroed_norm(artifact: Edited) -> None:
    artifact.values[LAYER + "input_layernorm.weight"][:] = 0


def _turned_head(artifact: Edited) -> None:
    head = artifact.values["lm_head.weight"]
    artifact.values["lm_head.weight"] = np.ascontiguousarray(head.reshape(head.shape[::-1]).T)


def _without_tokenizer(artifact: Edited) -> None:
    artifact.tokenizer = None


INVARIANTS = ("tensor_set_equal", "quantization_declared", "tensor_error", "tokenizer_equal")


@pytest.mark.parametrize(
    ("damage", "invariant"),
    [
        (_renamed, "tensor_set_equal"),
        (_zeroed_norm, "tensor_error"),
        (_turned_head, "tensor_error"),
        (_without_tokenizer, "tokenizer_equal"),
    ],
    ids=["names of another format", "norm zeroed", "head turned", "tokenizer lost"],
)
def test_four_invariants_find_what_needed_a_gate_each_elsewhere(
    damage: Callable[[Edited], None], invariant: str, truths: dict[str, Path]
) -> None:
    """Each was a ticket of its own for another program; here none needs a gate that was made for it."""
    truth = open_model(truths["llama"])
    artifact = Edited.of(truth)
    found = Comparison(truth, artifact)
    assert {judged(one, found).outcome for one in INVARIANTS} == {Outcome.CORROBORATED}
    damage(artifact)
    assert judged(invariant, Comparison(truth, artifact)).outcome is Outcome.FALSIFIED
