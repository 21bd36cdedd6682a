"""Files of other tools are healthy here, and ours are healthy there.

``hf_to_gguf`` takes the steps that llama.cpp's ``convert_hf_to_gguf.py`` takes for llama and qwen2: names of
``gguf.get_tensor_name_map``, permuted q and k, vectors as f32, its own names for pre-tokenizers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from test_convert import edit_json, llama_logits, mean_kl, torch_logits
from tiny_models import make_llama, make_qwen2
from tokenizers import Tokenizer

from apr_qa.comparison.claims import CONVERSION, FILE_PARITY
from apr_qa.comparison.probe_texts import probe_texts
from apr_qa.comparison.session import Comparison, open_model
from apr_qa.conversion.convert import convert, quantise_gguf
from apr_qa.conversion.pretokenizers import name_of
from apr_qa.conversion.rotary import rope_of
from apr_qa.errors import UnsupportedArchitecture
from apr_qa.formats import OpenModel
from apr_qa.gates import GATES
from apr_qa.vocabulary import Outcome

FIXTURES = Path(__file__).parent / "fixtures" / "models"
LLAMA, QWEN, MISTRAL = (FIXTURES / n for n in ("llama-untied-gqa8x2", "qwen2-tied-bias", "mistral-sliding"))
LLAMA3 = FIXTURES / "llama-ropescaled-long"
TOKEN = gguf.TokenType


def permuted(weights: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return q or k as ``LlamaModel.permute`` of the converter leaves them."""
    shape = (heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape)


def hf_to_gguf(source: OpenModel, path: Path, pre: str, *, outtype: str = "f16", **keys: Any) -> Path:
    """Write a Hugging Face model as llama.cpp's converter does."""
    config = source.config
    name = "qwen2" if config["model_type"] == "qwen2" else "llama"
    kind = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[name]
    writer = gguf.GGUFWriter(path, name)
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("Model")
    writer.add_size_label("1M")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_rope_freq_base(rope_of(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if name == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    writer.add_file_type({"f32": 0, "f16": 1}[outtype])
    (_spm_vocabulary if pre == "spm" else _bpe_vocabulary)(writer, source, pre)
    if source.chat_template:
        writer.add_chat_template(source.chat_template)
    for key, value in keys.items():
        writer.add_string(key, value)
    table = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for tensor in source.tensors:
        if tensor == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        values = source.read(tensor)
        if name == "llama" and ".q_proj." in tensor:
            values = permuted(values, heads)
        if name == "llama" and ".k_proj." in tensor:
            values = permuted(values, shared)
        stored = table.get_name(tensor, try_suffixes=(".weight", ".bias"))
        assert stored is not None, tensor
        half = outtype == "f16" and values.ndim > 1
        writer.add_tensor(stored, np.ascontiguousarray(values.astype(np.float16 if half else np.float32)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _bpe_vocabulary(writer: gguf.GGUFWriter, source: OpenModel, pre: str) -> None:
    tokenizer: Any = source.tokenizer
    vocab = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in tokenizer["added_tokens"]}
    tokens, types = [], []
    for index in range(source.config["vocab_size"]):
        entry = added.get(index)
        tokens.append(entry["content"] if entry else vocab.get(index, f"[PAD{index}]"))
        if entry:
            types.append(TOKEN.CONTROL if entry["special"] else TOKEN.USER_DEFINED)
        else:
            types.append(TOKEN.NORMAL if index in vocab else TOKEN.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # SpecialVocab reads merges and special ids from the folder, as the converter has it do.
    gguf.SpecialVocab(source.path, load_merges=True).add_to_gguf(writer, quiet=True)


def _spm_vocabulary(writer: gguf.GGUFWriter, source: OpenModel, pre: str) -> None:
    """Write tokens with their scores, as from a ``tokenizer.model``: the rank of a merge, negated."""
    tokenizer: Any = source.tokenizer
    vocab, added = tokenizer["model"]["vocab"], {entry["id"] for entry in tokenizer["added_tokens"]}
    ranks = {"".join(pair): rank for rank, pair in reversed(list(enumerate(tokenizer["model"]["merges"])))}
    types = []
    for token, index in sorted(vocab.items(), key=lambda item: item[1]):
        byte = token.startswith("<0x") and len(token) == 6
        kind = TOKEN.UNKNOWN if token == "<unk>" else TOKEN.CONTROL if index in added else TOKEN.NORMAL  # noqa: S105
        types.append(TOKEN.BYTE if byte else kind)
    tokens = sorted(vocab, key=vocab.__getitem__)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_scores([float(-ranks.get(token, len(ranks) + 1)) for token in tokens])
    writer.add_token_types(types)
    gguf.SpecialVocab(source.path, n_vocab=len(tokens)).add_to_gguf(writer, quiet=True)


def outcomes(truth: OpenModel, artifact: OpenModel) -> dict[str, tuple[Outcome, str]]:
    comparison = Comparison(truth, artifact)
    found = {}
    for gate_id, check, _ in (*FILE_PARITY, *CONVERSION):
        if check == "lineage":
            continue
        judge = GATES.get(gate_id).check
        assert judge is not None
        judgement = judge(comparison.facts(check, {}))
        found[gate_id] = (judgement.outcome, judgement.reason)
    return found


def assert_healthy(truth: OpenModel, artifact: OpenModel) -> None:
    for gate_id, (outcome, reason) in outcomes(truth, artifact).items():
        assert outcome in (Outcome.CORROBORATED, Outcome.INAPPLICABLE), f"{gate_id}: {reason}"


def without_window(folder: Path) -> Path:
    """Return a copy of the sliding fixture as later Mistral models are: no window."""
    shutil.copytree(MISTRAL, folder)
    edit_json(folder / "config.json", sliding_window=None)
    return folder


@pytest.mark.parametrize("outtype", ["f32", "f16"])
@pytest.mark.parametrize(("folder", "pre"), [(LLAMA, ""), (QWEN, "qwen2")], ids=["llama", "qwen2"])
def test_a_file_in_the_conventions_of_llama_cpps_converter_is_healthy(
    folder: Path, pre: str, outtype: str, tmp_path: Path
) -> None:
    truth = open_model(folder)
    pre = pre or _pre_of(truth)
    artifact = open_model(hf_to_gguf(truth, tmp_path / "model.gguf", pre, outtype=outtype))
    assert_healthy(truth, artifact)


def _pre_of(model: OpenModel) -> str:
    assert model.tokenizer is not None
    return name_of(model.tokenizer)


@pytest.mark.parametrize("make", [make_llama, make_qwen2])
def test_its_pre_tokenizer_names_are_understood(make: Callable[..., Path], tmp_path: Path) -> None:
    truth = open_model(make(tmp_path / "model"))
    pre = "qwen2" if make is make_qwen2 else "smollm"
    assert_healthy(truth, open_model(hf_to_gguf(truth, tmp_path / "model.gguf", pre)))


def test_a_llama_3_tokenizer_under_llama_cpps_name_compares_as_equal(tmp_path: Path) -> None:
    truth = open_model(LLAMA3)
    artifact = open_model(hf_to_gguf(truth, tmp_path / "model.gguf", "llama-bpe"))
    found = outcomes(truth, artifact)
    assert found["F-CONTRACT-I5-001"][0] is Outcome.CORROBORATED, found["F-CONTRACT-I5-001"][1]
    assert found["G0-GENERATION-EQUAL"][0] is Outcome.CORROBORATED, found["G0-GENERATION-EQUAL"][1]


def test_a_sentencepiece_vocabulary_with_scores_is_healthy(tmp_path: Path) -> None:
    truth = open_model(without_window(tmp_path / "mistral"))
    artifact = open_model(hf_to_gguf(truth, tmp_path / "model.gguf", "spm"))
    assert_healthy(truth, artifact)


@pytest.mark.parametrize(("pre", "gate_id"), [("gpt-2", "F-CONTRACT-I5-001"), ("qwen2", "F-CONTRACT-I5-001")])
def test_a_wrong_pre_tokenizer_name_is_not(pre: str, gate_id: str, tmp_path: Path) -> None:
    truth = open_model(make_llama(tmp_path / "model"))
    artifact = open_model(hf_to_gguf(truth, tmp_path / "model.gguf", pre))
    assert outcomes(truth, artifact)[gate_id][0] is Outcome.FALSIFIED


@pytest.mark.parametrize("quantization", ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"])
def test_its_files_stay_healthy_through_llama_cpps_quantiser(quantization: str, tmp_path: Path) -> None:
    truth = open_model(QWEN)
    plain = hf_to_gguf(truth, tmp_path / "model-f16.gguf", "qwen2")
    quantise_gguf(plain, tmp_path / "model.gguf", quantization)
    assert_healthy(truth, open_model(tmp_path / "model.gguf"))


@pytest.mark.parametrize("folder", [LLAMA, QWEN, LLAMA3], ids=lambda f: f.name)
def test_transformers_loads_ours_back_with_the_same_distribution(folder: Path, tmp_path: Path) -> None:
    truth = open_model(folder)
    through = open_model(convert(truth, "gguf", tmp_path / "model.gguf", quantization="f32"))
    back = convert(through, "safetensors", tmp_path / "back")
    ids = [int(token) for token in np.random.default_rng(1).integers(0, truth.config["vocab_size"], 48)]
    reference = torch_logits(folder, ids)
    assert mean_kl(reference, torch_logits(back, ids)) < 1e-5
    assert mean_kl(reference, llama_logits(tmp_path / "model.gguf", ids)) < 1e-5


def test_a_mistral_without_window_travels_to_llama_cpp_and_back(tmp_path: Path) -> None:
    folder = without_window(tmp_path / "mistral")
    truth = open_model(folder)
    made = convert(truth, "gguf", tmp_path / "model.gguf", quantization="f32")
    assert_healthy(truth, open_model(made))
    ids = [1, *(int(token) for token in np.random.default_rng(2).integers(270, 1000, 80))]
    assert mean_kl(torch_logits(folder, ids), llama_logits(made, ids)) < 1e-5
    back = open_model(convert(open_model(made), "safetensors", tmp_path / "back"))
    assert back.config["model_type"] == "mistral" and back.config["sliding_window"] is None
    assert_healthy(truth, back)
    assert mean_kl(torch_logits(folder, ids), torch_logits(tmp_path / "back", ids)) < 1e-5


def test_a_window_that_llama_cpp_ignores_is_refused_for_gguf_and_kept_elsewhere(tmp_path: Path) -> None:
    truth = open_model(MISTRAL)
    with pytest.raises(UnsupportedArchitecture, match="sliding window of 32"):
        convert(truth, "gguf", tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
    kept = open_model(convert(truth, "apr", tmp_path / "model.apr"))
    assert kept.config["sliding_window"] == 32
    edit = without_window(tmp_path / "wide")
    edit_json(edit / "config.json", sliding_window=4096)
    assert convert(open_model(edit), "gguf", tmp_path / "model.gguf").exists()


def test_a_file_cannot_claim_an_architecture_that_its_own_does_not_stand_for(tmp_path: Path) -> None:
    truth = open_model(make_qwen2(tmp_path / "model"))
    path = hf_to_gguf(truth, tmp_path / "model.gguf", "qwen2", **{"apr_qa.model_type": "mistral"})
    assert open_model(path).config["model_type"] == "qwen2"


def test_llama_cpp_tokenises_our_sentencepiece_file_as_transformers_does(tmp_path: Path) -> None:
    folder = without_window(tmp_path / "mistral")
    made = convert(open_model(folder), "gguf", tmp_path / "model.gguf")
    engine = llama_cpp.Llama(str(made), vocab_only=True, verbose=False)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    differing = [
        text
        for text in probe_texts()
        if engine.tokenize(text.encode(), add_bos=True, special=False) != reference.encode(text).ids
    ]
    engine.close()
    assert not differing
    assert open_model(made).metadata["tokenizer.ggml.model"] == "llama"


def test_stop_tokens_that_gguf_has_no_key_for_come_back(tmp_path: Path) -> None:
    truth = open_model(LLAMA3)
    made = open_model(convert(truth, "gguf", tmp_path / "model.gguf"))
    assert sorted(made.generation_config["eos_token_id"]) == sorted(truth.generation_config["eos_token_id"])


def test_a_stop_token_that_no_engine_knows_by_its_text_is_not_taken_from_our_key(tmp_path: Path) -> None:
    source = make_llama(tmp_path / "model")
    edit_json(source / "generation_config.json", eos_token_id=[2, 300])
    made = open_model(convert(open_model(source), "gguf", tmp_path / "model.gguf"))
    assert made.generation_config["eos_token_id"] == 2
