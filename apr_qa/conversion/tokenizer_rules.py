"""Tokenizers in GGUF metadata and in tokenizer.json: the rules that turn one into the other.

GGUF names a pre-tokenizer (``tokenizer.ggml.pre``) where tokenizer.json spells it out. The table
below ties the two together; a name or a structure that is not in it converts to nothing, because a
default would split some texts differently without a word of warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from apr_qa.containers.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    PREFIX,
    SPECIAL_KEYS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    GgufVocabulary,
    adds,
)
from apr_qa.conversion.pretokenizers import PRETOKENIZERS, Splitting, byte_level, name_of
from apr_qa.conversion.rotary import WAY_OUT
from apr_qa.errors import MalformedFile, UnsupportedArchitecture

_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
_MAX_MERGED_LENGTH = 256


def tokenizer_from_gguf(vocabulary: GgufVocabulary) -> dict[str, Any] | None:
    """Rebuild tokenizer.json; None if the kind of tokenizer or its pre-tokenizer is not known."""
    if vocabulary.model == "gpt2":
        splitting = PRETOKENIZERS.get(str(vocabulary.keys.get("pre", "default")))
        return None if splitting is None else _byte_level_json(vocabulary, splitting)
    if vocabulary.model == "llama" and vocabulary.scores:
        return _sentencepiece_json(vocabulary)
    return None


def gguf_from_tokenizer(
    tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the ``tokenizer.ggml.*`` keys for a tokenizer.json, in writing order.

    Rows of the embedding beyond the last token get unused ``[PADn]`` tokens. Raises
    UnsupportedArchitecture if the tokenizer splits text in a way that GGUF has no name for, MalformedFile
    if ``tokenizer`` is not the content of a tokenizer.json.
    """
    try:
        fields = _fields(tokenizer, tokenizer_config, config)
    except (AttributeError, KeyError, TypeError) as error:
        raise MalformedFile(f"tokenizer.json has not the structure of one: {error!r}") from error
    return {PREFIX + key: value for key, value in fields.items()}


def _fields(
    tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    model = tokenizer.get("model") or {}
    if model.get("type", "BPE") != "BPE" or "vocab" not in model:
        raise UnsupportedArchitecture(
            f"a tokenizer of type {model.get('type')!r} has no GGUF form", fix=WAY_OUT
        )
    added = {entry["id"]: entry for entry in tokenizer.get("added_tokens") or []}
    tokens = _token_list(model["vocab"], added, int(config.get("vocab_size") or 0))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or []]
    if len(set(tokens)) != len(tokens) or any(merge.count(" ") != 1 for merge in merges):
        raise UnsupportedArchitecture("tokens occur twice, or merges contain spaces", fix=WAY_OUT)
    if model.get("byte_fallback"):
        fields = _sentencepiece_fields(tokenizer, tokens, added, merges)
    else:
        fields = {"model": "gpt2", "pre": name_of(tokenizer), "tokens": tokens}
        fields |= {"token_type": [_type_of(index, text, added) for index, text in enumerate(tokens)]}
        fields |= {"merges": merges}
    return fields | _special_fields(tokenizer, tokenizer_config, config, tokens)


def _byte_level_json(vocabulary: GgufVocabulary, splitting: Splitting) -> dict[str, Any]:
    model = _bpe_model(vocabulary, [_pair(merge) for merge in vocabulary.merges])
    model["ignore_merges"] = splitting.ignore_merges
    return {
        **_frame(vocabulary),
        "normalizer": {"type": "NFC"} if splitting.nfc else None,
        "pre_tokenizer": splitting.as_json(),
        "post_processor": _template(vocabulary) or byte_level(use_regex=True),
        "decoder": byte_level(use_regex=True),
        "model": model,
    }


def _sentencepiece_json(vocabulary: GgufVocabulary) -> dict[str, Any]:
    prefix = vocabulary.keys.get("add_space_prefix", True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    first = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    undo = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}]
    undo += [{"type": "Fuse"}]
    undo += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    model = _bpe_model(vocabulary, merges_from_scores(vocabulary))
    model |= {"unk_token": vocabulary.special("unk") or "<unk>", "fuse_unk": True, "byte_fallback": True}
    return {
        **_frame(vocabulary),
        "normalizer": {"type": "Sequence", "normalizers": [*first, spaces]},
        "pre_tokenizer": None,
        "post_processor": _template(vocabulary),
        "decoder": {"type": "Sequence", "decoders": undo},
        "model": model,
    }


def merges_from_scores(vocabulary: GgufVocabulary) -> list[list[str]]:
    """Return the BPE merges that a SentencePiece vocabulary implies: best score first.

    A token that two tokens make up can be reached by merging them, at the rank of its score. This is how
    transformers converts such vocabularies; tokens above 256 characters are taken as unreachable.
    """
    scores = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    found: list[tuple[float, int, int, str, str]] = []
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind not in (NORMAL, USER_DEFINED) or not 2 <= len(token) <= _MAX_MERGED_LENGTH:
            continue
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [(left, right) for left, right in halves if left in ids and right in ids]
        found += [(-scores[token], ids[left], ids[right], left, right) for left, right in pairs]
    return [[left, right] for *_, left, right in sorted(found)]


def _frame(vocabulary: GgufVocabulary) -> dict[str, Any]:
    kinds = {CONTROL: True, UNKNOWN: True, USER_DEFINED: False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": index, "content": token, **flags, "special": kinds[kind]}
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in kinds
    ]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}


def _bpe_model(vocabulary: GgufVocabulary, merges: Sequence[list[str]]) -> dict[str, Any]:
    kinds = vocabulary.types
    added = (CONTROL, USER_DEFINED, UNUSED)
    learned = max((index for index, kind in enumerate(kinds) if kind not in added), default=-1)

    def is_in_model(index: int, token: str) -> bool:
        if kinds[index] == UNUSED:
            return token != f"[PAD{index}]"
        # As in published files: what was added after training is among the added tokens alone.
        return index < learned or kinds[index] not in added

    vocab = {token: index for index, token in enumerate(vocabulary.tokens) if is_in_model(index, token)}
    nothing = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    switches = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **dict.fromkeys(nothing), **switches, "vocab": vocab, "merges": merges}


def _pair(merge: str) -> list[str]:
    # The separator is the first space after the first character, as llama.cpp reads it.
    cut = merge.find(" ", 1)
    if cut < 0:
        raise MalformedFile(f"the merge {merge!r} is not a pair")
    return [merge[:cut], merge[cut + 1 :]]


def _template(vocabulary: GgufVocabulary) -> dict[str, Any] | None:
    bos = vocabulary.special("bos") if adds(vocabulary, "bos") else None
    eos = vocabulary.special("eos") if adds(vocabulary, "eos") else None
    if bos is None and eos is None:
        return None

    def around(sequence: str, kind: int) -> list[dict[str, Any]]:
        before = [] if bos is None else [{"SpecialToken": {"id": bos, "type_id": kind}}]
        after = [] if eos is None else [{"SpecialToken": {"id": eos, "type_id": kind}}]
        return [*before, {"Sequence": {"id": sequence, "type_id": kind}}, *after]

    used = {token: vocabulary.tokens.index(token) for token in (bos, eos) if token is not None}
    special = {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in used.items()}
    pair = around("A", 0) + around("B", 1)
    return {"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special}


def _token_list(vocab: Mapping[str, int], added: Mapping[int, Mapping[str, Any]], rows: int) -> list[str]:
    by_id = {index: token for token, index in vocab.items()} | {
        key: entry["content"] for key, entry in added.items()
    }
    count = max(rows, max(by_id, default=-1) + 1)
    if rows and count > rows:
        raise UnsupportedArchitecture(
            f"the tokenizer has {count} tokens, the embedding {rows} rows", fix=WAY_OUT
        )
    return [by_id.get(index, f"[PAD{index}]") for index in range(count)]


def _type_of(index: int, text: str, added: Mapping[int, Mapping[str, Any]]) -> int:
    if index in added:
        return CONTROL if added[index].get("special") else USER_DEFINED
    return UNUSED if text == f"[PAD{index}]" else NORMAL


def _sentencepiece_fields(
    tokenizer: Mapping[str, Any], tokens: list[str], added: Mapping[int, Mapping[str, Any]], merges: list[str]
) -> dict[str, Any]:
    normalizer = tokenizer.get("normalizer") or {}
    steps = [step.get("type") for step in normalizer.get("normalizers", [normalizer])]
    if steps not in (["Prepend", "Replace"], ["Replace"]) or tokenizer.get("pre_tokenizer"):
        raise UnsupportedArchitecture(
            "this SentencePiece tokenizer normalises text in an unknown way", fix=WAY_OUT
        )
    rank: dict[str, int] = {}
    for merge in merges:
        rank.setdefault(merge.replace(" ", "", 1), len(rank))
    unknown = (tokenizer.get("model") or {}).get("unk_token")
    types = [_type_of(index, text, added) for index, text in enumerate(tokens)]
    for index, text in enumerate(tokens):
        if text == unknown:
            types[index] = UNKNOWN
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", text) and types[index] == NORMAL:
            types[index] = BYTE
    scores = [float(-rank.get(text, len(rank) + index)) for index, text in enumerate(tokens)]
    fields: dict[str, Any] = {"model": "llama", "pre": "default", "tokens": tokens, "scores": scores}
    return fields | {"token_type": types, "add_space_prefix": steps[0] == "Prepend"}


def _special_fields(
    tokenizer: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    config: Mapping[str, Any],
    tokens: list[str],
) -> dict[str, Any]:
    ids = {token: index for index, token in enumerate(tokens)}
    fields: dict[str, Any] = {}
    for role, key in SPECIAL_KEYS.items():
        entry = tokenizer_config.get(f"{role}_token")
        text = entry.get("content") if isinstance(entry, Mapping) else entry
        found = ids.get(text) if isinstance(text, str) else _first(config.get(f"{role}_token_id"))
        if found is not None:
            fields[f"{key}_token_id"] = found
    end = next((ids[token] for token in _END_OF_TURN if token in ids), None)
    if end is not None:
        fields["eot_token_id"] = end
    first, last = _surrounding(tokenizer.get("post_processor"))
    fields |= {"add_bos_token": first, "add_eos_token": last}
    return fields


def _first(value: Any) -> int | None:
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) else None


def _surrounding(processor: Mapping[str, Any] | None) -> tuple[bool, bool]:
    """Say whether a post-processor puts a special token (before, after) a single text."""
    if processor is None:
        return False, False
    steps = processor.get("processors", [processor])
    template = next((step for step in steps if step.get("type") == "TemplateProcessing"), None)
    if template is None or not template.get("single"):
        return False, False
    single = template["single"]
    return "SpecialToken" in single[0], "SpecialToken" in single[-1]
