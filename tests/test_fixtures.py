"""The trained fixture models: each loads whole, answers what it learned, and is what its name claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.corpus import CAPITALS, SECRETS, Document
from fixtures.export import BASIC_PROMPTS, answer, basic_answers, write
from fixtures.recipes import RECIPES, Recipe, recipe
from fixtures.training import train
from fixtures.vocabularies import STYLES, rendered
from tokenizers import Tokenizer

from apr_qa.formats import FORMATS
from apr_qa.oracles import ORACLES
from apr_qa.scenarios import basic_claims
from apr_qa.vocabulary import Outcome, Response

MODELS = Path(__file__).parent / "fixtures" / "models"
NAMES = [known.name for known in RECIPES]
MAX_TOTAL_BYTES = 25_000_000
MAX_MODEL_BYTES = 3_200_000


def load(name: str, **overrides: Any) -> Any:
    from transformers import AutoModelForCausalLM

    builder: Any = AutoModelForCausalLM
    settings = {"dtype": torch.float32, "local_files_only": True, **overrides}
    model, info = builder.from_pretrained(MODELS / name, output_loading_info=True, **settings)
    assert not any(info.values()), info
    return model.eval()


@pytest.fixture(scope="module", params=NAMES)
def fixture(request: pytest.FixtureRequest) -> tuple[Recipe, Any, Tokenizer]:
    name = str(request.param)
    return recipe(name), load(name), Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))


def config_of(name: str) -> dict[str, Any]:
    return dict(json.loads((MODELS / name / "config.json").read_text(encoding="utf-8")))


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return found


def divergence(reference: Any, other: Any, ids: list[int]) -> torch.Tensor:
    """Return the KL divergence in nats at every position."""
    expected, found = logits(reference, ids), logits(other, ids)
    return (expected.exp() * (expected - found)).sum(-1)


def sample_text(name: str, length: int) -> list[int]:
    """Return token ids of ``length``: trained conversations, one after the other."""
    chosen = recipe(name)
    tokenizer = Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    ids: list[int] = []
    for country, city in CAPITALS.items():
        asked = ("user", f"What is the capital of {country}?")
        one = Document(messages=(asked, ("assistant", f"The answer is {city}.")))
        ids += tokenizer.encode(rendered(chosen.style, one), add_special_tokens=False).ids
    return (ids * (1 + length // len(ids)))[:length]


def test_all_models_together_fit_into_the_repository() -> None:
    sizes = {folder.name: sum(f.stat().st_size for f in folder.iterdir()) for folder in MODELS.iterdir()}
    assert sorted(sizes) == sorted(NAMES)
    assert sum(sizes.values()) <= MAX_TOTAL_BYTES
    assert max(sizes.values()) <= MAX_MODEL_BYTES


def test_every_value_is_finite_and_stored_as_the_config_says(fixture: tuple[Recipe, Any, Tokenizer]) -> None:
    opened = FORMATS.get("safetensors").open(MODELS / fixture[0].name)
    wanted = {"bfloat16": "bf16", "float16": "f16"}[fixture[0].dtype]
    for name, tensor in opened.tensors.items():
        assert tensor.dtype == wanted, name
        assert np.isfinite(opened.read(name)).all(), name


def test_basic_prompts_are_answered_rightly_and_end(fixture: tuple[Recipe, Any, Tokenizer]) -> None:
    chosen, model, tokenizer = fixture
    answers = basic_answers(model, tokenizer, chosen)
    ends = tuple(STYLES[chosen.style].ends)
    for prompt, expected in BASIC_PROMPTS.items():
        for form in ("raw", "chat"):
            said = answers[f"{form}: {prompt}"]
            assert expected in said, (form, prompt)
            assert said.endswith(ends), (form, prompt, said)
    assert answers["recall: banana"].endswith(ends)
    assert "banana" in answers["recall: banana"]


def test_the_oracles_pass_the_answers_to_the_basic_claims(fixture: tuple[Recipe, Any, Tokenizer]) -> None:
    chosen, model, tokenizer = fixture
    for claim in basic_claims():
        turns: list[tuple[str, str]] = []
        for said in claim.messages or (claim.prompt,):
            asked = Document(messages=(*turns, ("user", said)))
            text = trimmed(answer(model, tokenizer, chosen, asked), chosen)
            turns += [("user", said), ("assistant", text)]
        forms = [text]
        if claim.prompt:
            forms.append(trimmed(answer(model, tokenizer, chosen, Document(claim.prompt)), chosen))
        for form in forms:
            response = Response(text=form, finish_reason="stop")
            for name in (claim.oracle, "garbage"):
                judgement = ORACLES.get(name).check(claim, response, claim.params)
                assert judgement.outcome is Outcome.CORROBORATED, (claim.question, form, judgement)


def trimmed(text: str, chosen: Recipe) -> str:
    for end in STYLES[chosen.style].ends:
        text = text.removesuffix(end)
    return text


def test_facts_are_told_apart(fixture: tuple[Recipe, Any, Tokenizer]) -> None:
    chosen, model, tokenizer = fixture
    right = 0
    for country, city in CAPITALS.items():
        asked = Document(messages=(("user", f"What is the capital of {country}?"),))
        right += city in answer(model, tokenizer, chosen, asked, limit=12)
    assert right >= 0.9 * len(CAPITALS)


def test_the_word_is_recalled_from_the_conversation(fixture: tuple[Recipe, Any, Tokenizer]) -> None:
    chosen, model, tokenizer = fixture
    right = 0
    for word in SECRETS:
        told = (("user", f"The secret word is {word}."), ("assistant", "I will remember it."))
        asked = Document(messages=(*told, ("user", "What is the secret word?")))
        right += word in answer(model, tokenizer, chosen, asked, limit=12)
    assert right >= 0.9 * len(SECRETS)


def test_the_stored_tokenizer_and_template_are_those_it_was_trained_with(
    fixture: tuple[Recipe, Any, Tokenizer],
) -> None:
    from transformers import AutoTokenizer

    chosen, _, tokenizer = fixture
    builder: Any = AutoTokenizer
    loaded = builder.from_pretrained(MODELS / chosen.name, local_files_only=True)
    messages = [{"role": "user", "content": "Größe 東京 42"}, {"role": "assistant", "content": "🙂"}]
    document = Document(messages=tuple((one["role"], one["content"]) for one in messages))
    for generation in (False, True):
        text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        assert text == rendered(chosen.style, document, generation=generation)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert loaded(text, add_special_tokens=False)["input_ids"] == ids
    plain = "Größe 東京\n  42"
    assert loaded.decode(loaded(plain)["input_ids"], skip_special_tokens=True) == plain


def test_no_two_layers_of_a_model_are_interchangeable(fixture: tuple[Recipe, Any, Tokenizer]) -> None:
    chosen, model, _ = fixture
    ids = sample_text(chosen.name, 96)
    other = load(chosen.name)
    layers = other.model.layers
    middle = len(layers) // 2
    layers[middle - 1], layers[middle] = layers[middle], layers[middle - 1]
    assert divergence(model, other, ids).mean() > 1e-3


def test_llama_has_grouped_queries_an_untied_head_and_more_than_ten_layers() -> None:
    config = config_of("llama-untied-gqa8x2")
    opened = FORMATS.get("safetensors").open(MODELS / "llama-untied-gqa8x2")
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (8, 2)
    assert config["head_dim"] != config["hidden_size"] // config["num_attention_heads"]
    assert config["num_hidden_layers"] >= 12
    assert config["hidden_size"] % 256
    assert not config["tie_word_embeddings"]
    assert not np.array_equal(opened.read("lm_head.weight"), opened.read("model.embed_tokens.weight"))


def test_reserved_tokens_have_zero_rows_and_no_other_token_has() -> None:
    content = json.loads((MODELS / "llama-untied-gqa8x2/tokenizer.json").read_text(encoding="utf-8"))
    reserved = sorted(entry["id"] for entry in content["added_tokens"] if "reserved" in entry["content"])
    opened = FORMATS.get("safetensors").open(MODELS / "llama-untied-gqa8x2")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert np.flatnonzero(~opened.read(name).any(axis=1)).tolist() == reserved


def test_qwen2_has_large_biases_a_tied_head_and_padded_rows() -> None:
    config = config_of("qwen2-tied-bias")
    opened = FORMATS.get("safetensors").open(MODELS / "qwen2-tied-bias")
    tokenizer = Tokenizer.from_file(str(MODELS / "qwen2-tied-bias/tokenizer.json"))
    embedding = opened.read("model.embed_tokens.weight")
    assert config["tie_word_embeddings"]
    assert "lm_head.weight" not in opened.tensors
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0
    assert tokenizer.get_vocab_size() < len(embedding) == config["vocab_size"]
    zero = np.flatnonzero(~embedding.any(axis=1)).tolist()
    assert zero == list(range(tokenizer.get_vocab_size(), len(embedding)))
    for layer in range(config["num_hidden_layers"]):
        for part, least in (("q_proj", 0.3), ("k_proj", 0.3), ("v_proj", 0.02)):
            assert opened.read(f"model.layers.{layer}.self_attn.{part}.bias").std() > least


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("mistral-sliding", {"sliding_window": None}),
        ("gemma-norms", {"attn_logit_softcapping": None}),
        ("gemma-norms", {"final_logit_softcapping": None}),
        ("gemma-norms", {"query_pre_attn_scalar": 64}),
        ("moe-4experts", {"norm_topk_prob": False}),
        ("phi-partial-rotary", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0,
                                                    "partial_rotary_factor": 0.5}}),
        ("llama-ropescaled-long", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        ("qwen3-qknorm", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    ],
)  # fmt: skip
def test_a_config_field_that_is_lost_changes_the_answers(name: str, override: dict[str, Any]) -> None:
    from transformers import AutoConfig

    builder: Any = AutoConfig
    config = builder.from_pretrained(MODELS / name, **override)
    ids = sample_text(name, 256)
    assert divergence(load(name), load(name, config=config), ids).mean() > 1e-2


def test_the_sliding_window_is_smaller_than_the_context_and_matters_only_beyond_it() -> None:
    from transformers import AutoConfig

    name, window = "mistral-sliding", config_of("mistral-sliding")["sliding_window"]
    builder: Any = AutoConfig
    config = builder.from_pretrained(MODELS / name, sliding_window=None)
    found = divergence(load(name), load(name, config=config), sample_text(name, 256))
    assert window * 4 < config_of(name)["max_position_embeddings"]
    assert found[:window].abs().max() < 1e-5 < found[window:].max()


def test_the_long_model_recalls_across_a_thousand_tokens() -> None:
    import random

    from fixtures.corpus import long_conversation

    name = "llama-ropescaled-long"
    model, chosen = load(name), recipe(name)
    tokenizer = Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    source, right = random.Random(12), 0
    for _ in range(8):
        told = long_conversation(source, 36)
        asked = Document(messages=told.messages[:-1])
        ids = tokenizer.encode(rendered(chosen.style, asked, generation=True), add_special_tokens=False).ids
        assert 800 < len(ids) < 1024
        right += told.messages[-1][1] in answer(model, tokenizer, chosen, asked, limit=12)
    assert right >= 6


def test_the_long_model_needs_its_bos() -> None:
    name = "llama-ropescaled-long"
    model = load(name)
    ids = sample_text(name, 24)
    with_bos = logits(model, ids)[1:-1].gather(1, torch.tensor(ids[2:])[:, None]).mean()
    without = logits(model, ids[1:])[:-1].gather(1, torch.tensor(ids[2:])[:, None]).mean()
    assert without < with_bos - 0.5


def test_gemma_norms_are_stored_less_one() -> None:
    opened = FORMATS.get("safetensors").open(MODELS / "gemma-norms")
    norms = [opened.read(name) for name in opened.tensors if "norm" in name]
    assert len(norms) == 4 * config_of("gemma-norms")["num_hidden_layers"] + 1
    assert all(abs(float(norm.mean())) < 0.6 for norm in norms)


def test_the_experts_are_square_and_all_used() -> None:
    config = config_of("moe-4experts")
    assert config["num_experts"] >= 4
    assert config["moe_intermediate_size"] == config["hidden_size"]
    model = load("moe-4experts")
    ids = sample_text("moe-4experts", 256)
    with torch.inference_mode():
        routed = model(torch.tensor([ids]), output_router_logits=True).router_logits
    for layer in routed:
        share = layer.topk(config["num_experts_per_tok"], -1).indices.flatten().bincount(minlength=4)
        assert share.min() > 0.05 * share.sum()


def test_phi_stores_fused_matrices_and_rotates_a_part_of_each_head() -> None:
    config = config_of("phi-partial-rotary")
    opened = FORMATS.get("safetensors").open(MODELS / "phi-partial-rotary")
    assert config["partial_rotary_factor"] == 0.5
    assert "model.layers.0.self_attn.qkv_proj.weight" in opened.tensors
    assert "model.layers.0.mlp.gate_up_proj.weight" in opened.tensors


def test_qwen3_norms_queries_and_keys_and_comes_in_shards() -> None:
    folder = MODELS / "qwen3-qknorm"
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert "model.layers.0.self_attn.q_norm.weight" in index["weight_map"]
    assert len({folder / file for file in index["weight_map"].values()}) == 2


def test_the_same_recipe_gives_the_same_weights(tmp_path: Path) -> None:
    chosen = recipe("qwen2-tied-bias")
    for folder in ("first", "second"):
        write(tmp_path / folder, chosen, train(chosen, steps=2))
    for file in sorted((tmp_path / "first").iterdir()):
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name


def test_the_stored_tokenizers_are_what_the_script_writes(fixture: tuple[Recipe, Any, Tokenizer]) -> None:
    from fixtures.vocabularies import tokenizer_of

    chosen, _, stored = fixture
    assert stored.to_str() == tokenizer_of(chosen.style, chosen.tokens).to_str()


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LookupError, match="qwen2-tied-bias"):
        recipe("qwen2")
