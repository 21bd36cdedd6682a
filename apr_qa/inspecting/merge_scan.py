"""Merges of one BPE tokenizer: do they make the tokens that its vocabulary has?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr_qa.formats import OpenModel

_ELSEWHERE = ("byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
"""Settings of vocabularies that have such tokens by design: SentencePiece, whole words, marked pieces."""


def merges(model: OpenModel) -> dict[str, Any]:
    """Return how many tokens of more than one character no merge makes, and merges of what is no token."""
    tokenizer = model.tokenizer or {}
    inner = tokenizer.get("model") or {}
    vocab, pairs = inner.get("vocab"), inner.get("merges")
    by_design = any(inner.get(key) for key in _ELSEWHERE) or inner.get("type", "BPE") != "BPE"
    if not isinstance(vocab, Mapping) or not isinstance(pairs, list) or not pairs or by_design:
        return {"merges": 0, "tokens": 0, "unmade": 0, "unknown": 0}
    added = {entry["content"] for entry in tokenizer.get("added_tokens") or []}
    made: set[str] = set()
    unknown = 0
    for pair in pairs:
        left, _, right = pair.partition(" ") if isinstance(pair, str) else (pair[0], "", pair[1])
        made.add(left + right)
        unknown += left not in vocab or right not in vocab
    longer = [token for token in vocab if len(token) > 1 and token not in added]
    unmade = sum(token not in made for token in longer)
    return {"merges": len(pairs), "tokens": len(longer), "unmade": unmade, "unknown": unknown}
