"""Does the tokenizer that an artifact carries load, and does text survive it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr_qa import extras
from apr_qa.errors import Inapplicable, MalformedFile
from apr_qa.formats import OpenModel

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b\n",
    "1234567890 + 0.5 = ?",
    "naïve café, Zürich — “quoted”",
    "日本語のテキストと中文文本",
    "emoji 🙂 and\ttabs",
)
"""Texts that every tokenizer of a generative model must carry through encode and decode."""


_last: list[tuple[Mapping[str, Any], Any]] = []
"""The content that was loaded last, and its tokenizer: several checks in a row ask for the same one."""


def load(model: OpenModel) -> Any:
    """Return the artifact's tokenizer; raises Inapplicable if it has none, MalformedFile if it does not load."""
    content = model.tokenizer
    return _slow_tokenizer(model.path) if content is None else _loaded(content)


def shared(model: OpenModel) -> Any:
    """Return the artifact's tokenizer as `load` does, for readers: nobody may change its settings."""
    content = model.tokenizer
    if content is None:
        return load(model)
    for known, tokenizer in _last:
        if known is content:
            return tokenizer
    _last[:] = [(content, _loaded(content))]
    return _last[0][1]


def _loaded(content: Mapping[str, Any]) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise extras.not_installed("tokenizers") from None
    try:
        return Tokenizer.from_str(json.dumps(content))
    except MemoryError:
        raise
    except Exception as error:  # the library raises bare Exception for any fault
        raise MalformedFile(f"tokenizer.json does not load: {error}") from error


def surviving(tokenizer: Any) -> int:
    """Return how many of the probes survive encode and decode."""
    return sum(_survives(tokenizer, probe) for probe in PROBES)


def _survives(tokenizer: Any, text: str) -> bool:
    """Say whether a text comes back; a vocabulary that is lossy by design must at least be stable.

    Vocabularies without bytes lose characters to their unknown token, word-level ones lose white space. What
    such a tokenizer gives back must then encode to the same ids again, and not be unknown for the most part
    where the text is made of plain letters.
    """
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    decoded = str(tokenizer.decode(ids, skip_special_tokens=False))
    if not ids or decoded.strip() == text.strip():
        return bool(ids)
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown_id = tokenizer.token_to_id(unknown) if unknown else None
    if unknown_id is None or (
        ids.count(unknown_id) > len(ids) / 2 and text.isascii() and any(c.isalpha() for c in text)
    ):
        return False
    return bool(tokenizer.encode(decoded, add_special_tokens=False).ids == ids)


def _slow_tokenizer(path: Path) -> Any:
    """Load a tokenizer that exists only as vocabulary and merges or as a SentencePiece model."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.suffix != ".safetensors":
        raise Inapplicable("the file carries no tokenizer")
    if not any((folder / name).exists() for name in ("tokenizer.model", "vocab.json", "vocab.txt")):
        raise Inapplicable("there is no tokenizer file")
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise MalformedFile(f"the tokenizer does not load: {error}") from error
    return loaded.backend_tokenizer
