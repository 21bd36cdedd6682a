"""The tokenizer of a GGUF header: its arrays, its special tokens, and what they mean outside the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apr_qa.containers.repeated import repeated
from apr_qa.conversion.pretokenizers import PRETOKENIZERS
from apr_qa.errors import MalformedFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Values of ``tokenizer.ggml.token_type``."""

PREFIX = "tokenizer.ggml."
STOPS = "apr_qa.stop_token_ids"
"""Array of every id that ends a generation, where a model has more of them than GGUF has keys."""
END_OF_GENERATION = {
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>"),
    *("<|end_of_text|>", "<EOT>", "_<EOT>", "<end_of_utterance>", "<|return|>", "<|call|>"),
}
"""Tokens at which llama.cpp stops by their text alone (``src/llama-vocab.cpp``, special_eog_ids); newer
versions know a few more."""
SPECIAL_KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Role in tokenizer_config.json -> its word in GGUF keys."""


@dataclass(frozen=True)
class GgufVocabulary:
    """The arrays and keys of one GGUF tokenizer; ``keys`` are without their ``tokenizer.ggml.`` prefix."""

    model: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    scores: Sequence[float]
    keys: Mapping[str, Any]

    def special(self, role: str) -> str | None:
        """Return the text of the token whose id the key of ``role`` (bos, eos, unk, pad) gives."""
        token_id = self.keys.get(f"{SPECIAL_KEYS[role]}_token_id")
        if not isinstance(token_id, int) or not 0 <= token_id < len(self.tokens):
            return None
        return self.tokens[token_id]


def read_vocabulary(metadata: Mapping[str, Any]) -> GgufVocabulary | None:
    """Return the tokenizer of a GGUF header, or None if it has none; raises MalformedFile."""
    keys = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    tokens = keys.pop("tokens", None)
    if tokens is None:
        return None
    wrong = [key for key, value in keys.items() if key.endswith("_token_id") and type(value) is not int]
    if wrong:
        raise MalformedFile(f"{PREFIX}{wrong[0]} is {str(keys[wrong[0]])[:80]!r}, no token id")
    if not isinstance(tokens, list):
        raise MalformedFile("tokenizer.ggml.tokens is not an array of strings")
    types = _numbers(keys.pop("token_type", None), len(tokens), "token_type") or [NORMAL] * len(tokens)
    scores = _numbers(keys.pop("scores", None), len(tokens), "scores")
    merges = keys.pop("merges", [])
    if not isinstance(merges, list):
        raise MalformedFile("tokenizer.ggml.merges is not an array of strings")
    twice = repeated(tokens)
    if twice is not None:
        raise MalformedFile(f"the token {twice!r} occurs twice in the vocabulary")
    return GgufVocabulary(str(keys.get("model", "")), tokens, types, merges, scores, keys)


def tokenizer_config_from_gguf(vocabulary: GgufVocabulary, context_length: int | None) -> dict[str, Any]:
    """Return the tokenizer_config.json that says what the special-token keys say."""
    config: dict[str, Any] = {f"{role}_token": vocabulary.special(role) for role in SPECIAL_KEYS}
    config |= {"add_bos_token": adds(vocabulary, "bos"), "add_eos_token": adds(vocabulary, "eos")}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return config | ({"model_max_length": context_length} if context_length else {})


def generation_config_from_gguf(vocabulary: GgufVocabulary, stops: Any = None) -> dict[str, Any]:
    """Return the generation_config.json with the ids of bos, eos (and end of turn) and pad.

    Of the ids in ``stops`` those count at which engines stop anyway, because of the token's text.
    """
    keys = vocabulary.keys
    found = {"bos_token_id": keys.get("bos_token_id"), "pad_token_id": keys.get("padding_token_id")}
    ends = [keys[key] for key in ("eos_token_id", "eot_token_id") if key in keys]
    for token_id in stops if isinstance(stops, list) else []:
        known = type(token_id) is int and 0 <= token_id < len(vocabulary.tokens)
        if known and vocabulary.tokens[token_id] in END_OF_GENERATION:
            ends.append(token_id)
    ends = list(dict.fromkeys(ends))
    found["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    return {key: value for key, value in found.items() if value is not None}


def adds(vocabulary: GgufVocabulary, role: str) -> bool:
    """Say whether engines put the bos or eos token around a text, by key or by the default of llama.cpp."""
    given = vocabulary.keys.get(f"add_{role}_token")
    if isinstance(given, bool):
        return given
    if role != "bos":
        return False
    splitting = PRETOKENIZERS.get(str(vocabulary.keys.get("pre")))
    return vocabulary.model == "llama" or (splitting is not None and splitting.adds_bos)


def _numbers(value: Any, count: int, key: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, memoryview) or len(value) != count:
        raise MalformedFile(f"tokenizer.ggml.{key} is not an array of {count} numbers, one per token")
    return value.tolist()
