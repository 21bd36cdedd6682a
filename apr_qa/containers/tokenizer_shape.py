"""The shape of a ``tokenizer.json``: whoever reads one may rely on the types of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apr_qa.errors import MalformedFile

MAX_TOKEN_ID = 2**24
"""Far above every vocabulary in use."""


def check_tokenizer(tokenizer: dict[str, Any] | None, where: str) -> dict[str, Any] | None:
    """Return ``tokenizer``; raises MalformedFile where a part that is there has the wrong type.

    Parts may be missing, and parts that are not named here may be anything.
    """
    if tokenizer is None:
        return None
    fault = next(_faults(tokenizer), "")
    if fault:
        raise MalformedFile(fault, where=where)
    return tokenizer


def _faults(tokenizer: dict[str, Any]) -> Iterator[str]:
    added = tokenizer.get("added_tokens")
    if not isinstance(added, list | None):
        yield "added_tokens is no list"
    elif not all(_is_added(entry) for entry in added or ()):
        yield "added_tokens holds something other than objects with id and content"
    model = tokenizer.get("model")
    if not isinstance(model, dict | None):
        yield "model is no object"
    elif model is not None:
        yield from _model_faults(model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if not isinstance(tokenizer.get(part), dict | None):
            yield f"{part} is no object"


def _model_faults(model: dict[str, Any]) -> Iterator[str]:
    if not isinstance(model.get("type"), str | None):
        yield "the type of the model is no text"
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocabulary, dict):
        if not all(_is_id(number) for number in vocabulary.values()):
            yield "vocab gives a token something other than an id"
    elif isinstance(vocabulary, list):
        if not all(_is_piece(piece) for piece in vocabulary):
            yield "vocab holds something other than pairs of piece and score"
    elif vocabulary is not None:
        yield "vocab is neither an object nor a list"
    if not isinstance(merges, list | None):
        yield "merges is no list"
    elif not all(_is_merge(merge) for merge in merges or ()):
        yield "merges holds something other than pairs of texts"


def _is_added(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("content"), str) and _is_id(entry.get("id"))


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_TOKEN_ID


def _is_piece(piece: Any) -> bool:
    pair = isinstance(piece, list) and len(piece) == 2
    return pair and isinstance(piece[0], str) and type(piece[1]) in (int, float)


def _is_merge(merge: Any) -> bool:
    return isinstance(merge, str) or (
        isinstance(merge, list)
        and len(merge) == 2
        and isinstance(merge[0], str)
        and isinstance(merge[1], str)
    )
