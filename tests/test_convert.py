"""Conversion keeps the model: tensors bit for bit, tokens id for id, logits to 1e-5 nats of divergence."""

from __future__ import annotations

import builtins
import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_llama, make_qwen2, make_qwen3, tensors_of, write_safetensors

from apr_qa import __version__
from apr_qa.conversion.architectures import (
    ARCHITECTURES,
    expected_shapes,
    from_gguf_name,
    interleave_rows,
    separate_rows,
    to_gguf_name,
)
from apr_qa.conversion.convert import convert, quantise_gguf
from apr_qa.errors import EngineMissing, EnvironmentFault, MalformedFile, UnsupportedArchitecture, UsageError
from apr_qa.formats import FORMATS, OpenModel
from apr_qa.workspace import content_sha256

MAKERS = [make_llama, make_qwen2, make_qwen3]
SUFFIXES = {"safetensors": "", "apr": ".apr", "gguf": ".gguf"}


def opened(format_name: str, path: Path) -> OpenModel:
    return FORMATS.get(format_name).open(path)


def source_of(folder: Path, make: Callable[..., Path] = make_llama, **overrides: Any) -> OpenModel:
    return opened("safetensors", make(folder / "source", **overrides))


def converted(model: OpenModel, format_name: str, folder: Path, quantization: str = "") -> OpenModel:
    path = folder / f"from-{model.path.stem}{SUFFIXES[format_name]}"
    return opened(format_name, convert(model, format_name, path, quantization=quantization))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def mean_kl(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the mean Kullback-Leibler divergence in nats per token."""
    ours, theirs = log_softmax(reference), log_softmax(other)
    return float((np.exp(ours) * (ours - theirs)).sum(-1).mean())


def torch_logits(folder: Path, ids: list[int]) -> npt.NDArray[Any]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0].numpy())


def llama_logits(path: Path, ids: list[int]) -> npt.NDArray[Any]:
    engine = llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=1)
    engine.eval(ids)
    logits = np.array(engine.scores[: len(ids)])
    engine.close()
    return logits


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("route", [("apr", "gguf"), ("gguf", "apr")])
def test_a_round_trip_through_the_other_two_formats_changes_no_bit(
    make: Callable[..., Path], route: tuple[str, str], tmp_path: Path
) -> None:
    source = source_of(tmp_path, make)
    there = converted(converted(source, route[0], tmp_path, "f32"), route[1], tmp_path, "f32")
    back = converted(there, "safetensors", tmp_path)
    assert back.tensors.keys() == source.tensors.keys()
    for name in source.tensors:
        assert back.raw(name).tobytes() == source.raw(name).tobytes(), name
    assert back.tokenizer is not None and source.tokenizer is not None
    for part in ("vocab", "merges"):
        assert back.tokenizer["model"][part] == source.tokenizer["model"][part]
    for part in ("added_tokens", "normalizer", "pre_tokenizer"):
        assert back.tokenizer[part] == source.tokenizer[part]
    assert back.chat_template == source.chat_template
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert back.generation_config[key] == source.generation_config[key]


@pytest.mark.parametrize(
    ("make", "overrides"),
    [
        (make_llama, {}),
        (
            make_llama,
            {"attention_bias": True, "head_dim": 32, "tie_word_embeddings": True, "vocab_size": 448},
        ),
        (make_llama, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        (make_qwen2, {}),
        (make_qwen2, {"tie_word_embeddings": False}),
        (make_qwen3, {}),
    ],
)
def test_llama_cpp_computes_what_transformers_computes(
    make: Callable[..., Path], overrides: dict[str, Any], tmp_path: Path
) -> None:
    source = source_of(tmp_path, make, **overrides)
    ids = np.random.default_rng(0).integers(3, 390, 96).tolist()
    reference = torch_logits(source.path, ids)
    assert mean_kl(reference, llama_logits(converted(source, "gguf", tmp_path, "f32").path, ids)) < 1e-5


def test_transformers_loads_what_comes_back_from_gguf(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    back = converted(converted(source, "gguf", tmp_path, "f32"), "safetensors", tmp_path)
    ids = list(range(3, 60))
    assert np.array_equal(torch_logits(source.path, ids), torch_logits(back.path, ids))


def test_rows_in_the_wrong_order_would_be_seen(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    path = converted(source, "gguf", tmp_path, "f32").path
    content = path.read_bytes()
    name = "model.layers.0.self_attn.q_proj.weight"
    stored, plain = opened("gguf", path).raw(name).tobytes(), source.raw(name).tobytes()
    assert content.count(stored) == 1
    path.write_bytes(content.replace(stored, plain))
    ids = list(range(3, 60))
    assert mean_kl(torch_logits(source.path, ids), llama_logits(path, ids)) > 1e-3


def test_the_engine_finds_tokenizer_and_template_as_they_were(tmp_path: Path) -> None:
    path = converted(source_of(tmp_path, make_qwen2, vocab_size=416), "gguf", tmp_path).path
    engine = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in engine.metadata.items()}
    assert keys | {"pre": "qwen2", "add_bos_token": "false", "eot_token_id": "402"} == keys
    assert "<|im_start|>assistant" in keys["tokenizer.chat_template"]
    assert (engine.token_eos(), engine.n_vocab()) == (402, 416)
    assert engine.tokenize(b"<|im_end|>", add_bos=False, special=True) == [402]
    engine.close()


@pytest.mark.parametrize(("dtype", "kept"), [("f32", "f32"), ("f16", "f16"), ("bf16", "bf16")])
@pytest.mark.parametrize("format_name", ["safetensors", "apr"])
def test_the_float_type_of_the_source_is_kept_unless_another_is_asked_for(
    dtype: str, kept: str, format_name: str, tmp_path: Path
) -> None:
    source = source_of(tmp_path, dtype=dtype)
    same = converted(source, format_name, tmp_path)
    assert same.quantization == kept
    assert {info.dtype for info in same.tensors.values()} == {kept}
    for name in source.tensors:
        assert same.raw(name).tobytes() == source.raw(name).tobytes()
    other = opened(format_name, convert(source, format_name, tmp_path / "other", quantization="bf16"))
    assert other.quantization == "bf16"


def test_quantised_weights_become_f32_and_keep_their_values(tmp_path: Path) -> None:
    packed = converted(source_of(tmp_path), "gguf", tmp_path, "q8_0")
    plain = converted(packed, "safetensors", tmp_path)
    assert plain.quantization == "f32"
    for name in packed.tensors:
        assert np.array_equal(plain.read(name), packed.read(name))


def test_gguf_is_f16_by_default(tmp_path: Path) -> None:
    assert converted(source_of(tmp_path, dtype="bf16"), "gguf", tmp_path).quantization == "f16"


@pytest.mark.parametrize("quantization", ["q4_0", "q6_k", "q5_k_m", "Q4_K_M"])
def test_llama_cpp_makes_the_other_types(quantization: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, hidden_size=256, intermediate_size=256)
    packed = converted(source, "gguf", tmp_path, quantization)
    assert packed.quantization == quantization.lower()
    assert packed.metadata["lineage"]["source_format"] == "safetensors"
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.linalg.norm(packed.read(name) - source.read(name)) < 0.12 * np.linalg.norm(source.read(name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from-source.gguf", "source"]


def test_narrow_rows_still_carry_the_name_of_their_k_type(tmp_path: Path) -> None:
    packed = converted(source_of(tmp_path), "gguf", tmp_path, "q4_k_m")
    assert packed.quantization == "q4_k_m" and packed.tensors["model.embed_tokens.weight"].dtype != "q4_k"


def test_lineage_is_recorded_in_every_format(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    for format_name in ("safetensors", "apr", "gguf"):
        copy_ = converted(source, format_name, tmp_path)
        assert copy_.metadata["lineage"] == {
            **{"source_format": "safetensors", "source_sha256": content_sha256(source.path)},
            **{"source_quantization": "f32", "tool": "apr-qa", "version": __version__},
        }
    named = convert(source, "gguf", tmp_path / "named.gguf", source_sha256="ab" * 32)
    assert opened("gguf", named).metadata["lineage"]["source_sha256"] == "ab" * 32


def test_sources_are_not_touched(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.path.iterdir()}
    converted(source, "gguf", tmp_path, "q4_0")
    assert before == {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.path.iterdir()
    }


@pytest.mark.parametrize("format_name", ["safetensors", "apr"])
def test_a_float_format_refuses_a_block_type(format_name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="q8_0"):
        converted(source_of(tmp_path), format_name, tmp_path, "q8_0")


def test_a_type_that_llama_cpp_does_not_know_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="q9_z"):
        converted(source_of(tmp_path), "gguf", tmp_path, "q9_z")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_without_llama_cpp_the_refusal_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "llama_cpp":
            raise ImportError(name)
        return genuine(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineMissing) as refusal:
        quantise_gguf(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_0")
    assert "apr-qa[llama]" in refusal.value.fix


def test_a_failure_of_the_quantiser_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "a.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(EnvironmentFault, match="does not quantise"):
        quantise_gguf(broken, tmp_path / "b.gguf", "q4_0")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gemma2"},
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"quantization_config": {"bits": 4}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5}},
        {"num_key_value_heads": [2, 1]},
    ],
)
def test_what_does_not_convert_is_refused_with_the_way_out(change: dict[str, Any], tmp_path: Path) -> None:
    edit_json(make_llama(tmp_path / "source") / "config.json", **change)
    with pytest.raises(UnsupportedArchitecture) as refusal:
        converted(opened("safetensors", tmp_path / "source"), "gguf", tmp_path)
    assert "--artifact FORMAT=PATH" in refusal.value.fix and refusal.value.where == "source"
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"hidden_size": "64"},
        {"num_hidden_layers": 2**30},
        {"num_hidden_layers": 3},
        {"num_attention_heads": 2},
        {"rms_norm_eps": None},
        {"head_dim": 5},
        {"vocab_size": 399},
        {"rope_theta": -1.0},
    ],
)
def test_a_config_that_does_not_describe_the_tensors_is_malformed(
    change: dict[str, Any], tmp_path: Path
) -> None:
    edit_json(make_llama(tmp_path / "source") / "config.json", **change)
    with pytest.raises(MalformedFile):
        converted(opened("safetensors", tmp_path / "source"), "gguf", tmp_path)


def test_a_tensor_that_nobody_knows_is_refused_and_an_old_buffer_is_dropped(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "source")
    tensors = tensors_of(json.loads((folder / "config.json").read_text()))
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    write_safetensors(folder / "model.safetensors", tensors)
    assert len(converted(opened("safetensors", folder), "gguf", tmp_path).tensors) == len(tensors) - 1
    tensors["model.layers.0.surprise.weight"] = np.ones(8, np.float32)
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(UnsupportedArchitecture, match="surprise"):
        converted(opened("safetensors", folder), "gguf", tmp_path)


def test_a_stored_copy_of_a_tied_head_is_left_out(tmp_path: Path) -> None:
    folder = make_qwen2(tmp_path / "source")
    tensors = tensors_of(json.loads((folder / "config.json").read_text()))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    write_safetensors(folder / "model.safetensors", tensors)
    result = converted(opened("safetensors", folder), "gguf", tmp_path)
    assert "lm_head.weight" not in result.tensors and result.config["tie_word_embeddings"] is True


def test_a_gguf_tokenizer_of_an_unknown_kind_does_not_convert(tmp_path: Path) -> None:
    path = converted(source_of(tmp_path), "gguf", tmp_path).path
    content = path.read_bytes()
    assert content.count(b"smollm") == 1
    path.write_bytes(content.replace(b"smollm", b"smellm"))
    model = opened("gguf", path)
    assert model.tokenizer is None
    with pytest.raises(UnsupportedArchitecture, match="gpt2/smellm"):
        convert(model, "apr", tmp_path / "back.apr")


def test_the_hash_of_an_artifact_covers_names_and_content_but_not_the_place(tmp_path: Path) -> None:
    first = content_sha256(make_llama(tmp_path / "a"))
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    assert content_sha256(make_llama(tmp_path / "b")) == first
    edit_json(tmp_path / "b" / "config.json", rms_norm_eps=1e-4)
    changed = content_sha256(tmp_path / "b")
    (tmp_path / "a" / "generation_config.json").unlink()
    assert len({first, changed, content_sha256(tmp_path / "a")}) == 3


def test_a_file_that_vanished_is_an_environment_fault(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    (source.path / "config.json").unlink()
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        convert(source, "apr", tmp_path / "made.apr")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_expected_tensor_has_one_name_in_each_world(name: str, tmp_path: Path) -> None:
    make = {"qwen2": make_qwen2, "qwen3": make_qwen3}.get(name, make_llama)
    config = dict(source_of(tmp_path, make, model_type=name).config)
    config |= {"tie_word_embeddings": False, "mlp_bias": True}
    stored = {canonical: to_gguf_name(canonical) for canonical in expected_shapes(config)}
    assert None not in stored.values() and len(set(stored.values())) == len(stored)
    assert all(from_gguf_name(str(there)) == canonical for canonical, there in stored.items())


@settings(max_examples=50, deadline=None)
@given(heads=st.integers(1, 6), half=st.integers(1, 5), columns=st.integers(0, 3))
def test_interleaving_rows_is_undone_by_separating_them(heads: int, half: int, columns: int) -> None:
    shape = (heads * half * 2, columns) if columns else (heads * half * 2,)
    rows = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    there = interleave_rows(rows, heads)
    assert np.array_equal(separate_rows(there, heads), rows)
    assert sorted(there.reshape(-1).tolist()) == sorted(rows.reshape(-1).tolist())
    # Within a head, row 1 of the file is the first row of the second half.
    assert np.array_equal(there[1], rows[half])


def test_a_config_is_not_changed_by_a_conversion(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    before = copy.deepcopy(source.config)
    for format_name in SUFFIXES:
        converted(source, format_name, tmp_path)
    assert source.config == before
