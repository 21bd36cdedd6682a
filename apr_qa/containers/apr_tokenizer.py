"""Tokenizers inside ``.apr`` metadata: a whole ``tokenizer.json``, or the plain lists other writers embed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apr_qa.containers.gguf_vocabulary import (
    CONTROL,
    NORMAL,
    GgufVocabulary,
    generation_config_from_gguf,
    tokenizer_config_from_gguf,
)
from apr_qa.containers.model_folder import default_template
from apr_qa.containers.repeated import repeated
from apr_qa.containers.tokenizer_shape import check_tokenizer
from apr_qa.conversion.pretokenizers import name_of
from apr_qa.conversion.tokenizer_rules import tokenizer_from_gguf
from apr_qa.errors import MalformedFile, UnsupportedArchitecture
from apr_qa.formats import ModelContent

HF_TOKENIZER, HF_TOKENIZER_CONFIG = "hf_tokenizer", "hf_tokenizer_config"
VOCABULARY, MERGES, SCORES = "tokenizer.vocabulary", "tokenizer.merges", "tokenizer.scores"
PRE_TYPE, TOKEN_TYPE = "tokenizer.pre_type", "tokenizer.token_type"
MAX_TOKENS = 2**24
"""Far above every vocabulary in use; a gap in the ids must not become a list of that length."""
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding"}
_IDS = tuple(f"tokenizer.{name}_token_id" for name in ROLES.values())
_SPECIAL = re.compile(r"<\|.{0,16}\|>|</?[a-z_]{1,18}>")
"""How readers of plain lists recognise special tokens: by shape, at most 20 characters."""
_FAMILY_PRE_TYPES = {"qwen2": "qwen2", "qwen3": "qwen2", "gpt2": "gpt-2"}


@dataclass(frozen=True)
class EmbeddedTokenizer:
    """What the metadata says about text: files of the Hugging Face kind, and doubts about them."""

    tokenizer: dict[str, Any] | None
    tokenizer_config: dict[str, Any]
    chat_template: str | None
    generation_config: dict[str, Any] = field(default_factory=dict)
    """Only where it had to be rebuilt."""
    problems: tuple[str, ...] = ()


def read_tokenizer(metadata: Mapping[str, Any], architecture: str, where: str) -> EmbeddedTokenizer:
    """Return the embedded tokenizer; plain lists are rebuilt when they are a byte-level BPE.

    Raises MalformedFile for keys of the wrong type.
    """
    _check_lists(metadata, where)
    settings = dict(metadata.get(HF_TOKENIZER_CONFIG) or {})
    template = metadata.get("chat_template")
    if template is None:
        template = metadata.get("tokenizer.chat_template", settings.get("chat_template"))
    template = default_template(template, where)
    if metadata.get(HF_TOKENIZER) is not None:
        whole = check_tokenizer(metadata[HF_TOKENIZER], f"{where}: {HF_TOKENIZER}")
        return EmbeddedTokenizer(whole, settings, template)
    if not (metadata.get(VOCABULARY) and metadata.get(MERGES)):
        return EmbeddedTokenizer(None, settings, template, problems=("no tokenizer is embedded",))
    if repeated(metadata[VOCABULARY]) is not None:
        doubt = f"{VOCABULARY} holds a token twice, so the tokenizer cannot be rebuilt"
        return EmbeddedTokenizer(None, settings, template, problems=(doubt,))
    return _rebuilt(metadata, architecture, settings, template)


def tokenizer_metadata(content: ModelContent) -> dict[str, Any]:
    """Return the keys that embed the tokenizer of ``content``: whole, and as the plain lists."""
    keys: dict[str, Any] = {HF_TOKENIZER_CONFIG: content.tokenizer_config or None}
    if content.tokenizer is not None:
        keys |= {HF_TOKENIZER: content.tokenizer}
        try:
            keys |= _plain_lists(content)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise MalformedFile(
                f"not the structure of a tokenizer: {error!r}", where="tokenizer.json"
            ) from None
    keys["special_tokens"] = _special_tokens(content, set(keys.get(VOCABULARY, [])))
    keys["chat_template"] = content.chat_template
    if content.chat_template is not None:
        keys["chat_format"] = "chatml" if "<|im_start|>" in content.chat_template else "custom"
    return {key: value for key, value in keys.items() if value is not None}


def _rebuilt(
    metadata: Mapping[str, Any], architecture: str, settings: dict[str, Any], template: str | None
) -> EmbeddedTokenizer:
    problems = []
    pre_type = metadata.get(PRE_TYPE)
    if pre_type is None:
        pre_type = _FAMILY_PRE_TYPES.get(architecture, "gpt-2")
        problems.append(f"{PRE_TYPE} is missing; text is split as by {pre_type}")
    vocabulary = _vocabulary(metadata, str(pre_type))
    tokenizer = tokenizer_from_gguf(vocabulary)
    if tokenizer is None:
        problems.append(f"{PRE_TYPE} {pre_type!r} is not known, so the tokenizer cannot be rebuilt")
    context = metadata.get("max_position_embeddings")
    return EmbeddedTokenizer(
        tokenizer,
        settings or tokenizer_config_from_gguf(vocabulary, context),
        template,
        generation_config_from_gguf(vocabulary),
        tuple(problems),
    )


def _plain_lists(content: ModelContent) -> dict[str, Any]:
    tokenizer = content.tokenizer or {}
    model = tokenizer.get("model") or {}
    stored = model.get("vocab") or {}
    pieces = [piece for piece, _ in stored] if isinstance(stored, list) else None
    tokens = dict(enumerate(pieces)) if pieces is not None else {rank: text for text, rank in stored.items()}
    tokens |= {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens") or []}
    if not all(type(index) is int and 0 <= index < MAX_TOKENS for index in tokens):
        raise MalformedFile(f"token ids are not numbers below {MAX_TOKENS}", where="tokenizer.json")
    vocabulary = [tokens.get(index, f"[PAD{index}]") for index in range(max(tokens, default=-1) + 1)]
    keys: dict[str, Any] = {VOCABULARY: vocabulary, "tokenizer.vocab_size": len(vocabulary)}
    if pieces is not None:
        keys[SCORES] = [score for _, score in stored]
    if model.get("merges"):
        keys[MERGES] = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    keys |= {"tokenizer.model_type": model.get("type", "BPE"), PRE_TYPE: _pre_type(tokenizer)}
    keys |= {f"tokenizer.{name}_token_id": _token_id(content, role) for role, name in ROLES.items()}
    return {key: value for key, value in keys.items() if value is not None}


def _pre_type(tokenizer: Mapping[str, Any]) -> str | None:
    try:
        return name_of(tokenizer)
    except UnsupportedArchitecture:
        # The whole tokenizer.json is embedded too; the name only serves readers that know no other way.
        return None


def _token_id(content: ModelContent, role: str) -> int | None:
    for source in (content.config, content.generation_config):
        stated = source.get(f"{role}_token_id")
        first = stated[0] if isinstance(stated, list) and stated else stated
        # Some published configs say -1 for a token that does not exist.
        if type(first) is int and first >= 0:
            return first
    return None


def _special_tokens(content: ModelContent, vocabulary: set[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for role in ("bos", "eos", "unk", "pad"):
        stated = content.tokenizer_config.get(f"{role}_token")
        text = stated.get("content") if isinstance(stated, dict) else stated
        if isinstance(text, str):
            found[f"{role}_token"] = text
    for edge in ("start", "end"):
        if f"<|im_{edge}|>" in vocabulary:
            found[f"im_{edge}_token"] = f"<|im_{edge}|>"
    return found or None


def _vocabulary(metadata: Mapping[str, Any], pre_type: str) -> GgufVocabulary:
    tokens = metadata[VOCABULARY]
    types = metadata.get(TOKEN_TYPE)
    if types is None:
        types = [CONTROL if _SPECIAL.fullmatch(token) else NORMAL for token in tokens]
    keys = {
        name: metadata[f"tokenizer.{name}"] for name in ("add_bos_token",) if f"tokenizer.{name}" in metadata
    }
    keys |= {key.removeprefix("tokenizer."): metadata[key] for key in _IDS if metadata.get(key) is not None}
    return GgufVocabulary("gpt2", tokens, types, metadata[MERGES], [], {"pre": pre_type, **keys})


def _check_lists(metadata: Mapping[str, Any], where: str) -> None:
    for key, kind in ((VOCABULARY, str), (MERGES, str), (TOKEN_TYPE, int)):
        value = metadata.get(key)
        if value is not None and not (isinstance(value, list) and all(type(item) is kind for item in value)):
            raise MalformedFile(f"{key} is no list of {kind.__name__} values", where=where)
    tokens = metadata.get(VOCABULARY) or []
    types = metadata.get(TOKEN_TYPE)
    if types is not None and len(types) != len(tokens):
        raise MalformedFile(f"{TOKEN_TYPE} has {len(types)} items for {len(tokens)} tokens", where=where)
    for key in _IDS:
        value = metadata.get(key)
        if value is not None and not (type(value) is int and value >= 0):
            raise MalformedFile(f"{key} is {str(value)[:80]!r}, no token id", where=where)
