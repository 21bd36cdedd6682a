"""Names and texts of a file, looked at as what somebody else will print, open or read to a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from apr_qa.comparison.generation import token_text
from apr_qa.errors import InferenceFailed
from apr_qa.formats import OpenModel
from apr_qa.inference import chat_template
from apr_qa.inference.chat_template import RenderingLimit
from apr_qa.inspecting.folder_scan import leads_out

SHOWN = 20
MAX_TEXTS = 20_000
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_ESCAPES = re.compile("[\x1b\x9b\u202a-\u202e\u2066-\u2069]")
"""Terminal escape sequences, and characters that reverse the direction of the text around them."""
_CONTROL_TOKENS = re.compile(
    r"<\|im_(?:start|end)\|>|<\|(?:system|user|assistant|endoftext|eot_id)\|>|\[/?INST\]|<</?SYS>>"
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z ]*")
_LONG_TEXT = "The quick brown fox jumps over the lazy dog. " * 250
_MANY_TURNS = 40
_SENTINEL = "Zyxlengthqa"
_LENGTHS = (1, 4, 16, 64, 256, 1024)
"""Words of a question."""
_TURNS = (1, 3, 5, 11, 21, 41)


def names(model: OpenModel) -> dict[str, Any]:
    """Return the tensor names that are paths: tools write tensors to files of their names."""
    stored = {info.stored_name for info in model.tensors.values()} | set(model.tensors)
    wrong = sorted(name for name in stored if leads_out(name))
    return {"checked": len(stored), "paths": [name[:120] for name in wrong[:SHOWN]]}


def texts(model: OpenModel) -> dict[str, Any]:
    """Return the descriptive texts that hold terminal escapes, reversed text or control tokens."""
    checked, wrong = 0, []
    for key, text in _descriptions(model.metadata):
        checked += 1
        found = _ESCAPES.search(text) or _CONTROL_TOKENS.search(text)
        if found:
            wrong.append(f"{key}: {found[0]!r}")
        if checked >= MAX_TEXTS:
            break
    return {"checked": checked, "injecting": wrong[:SHOWN]}


def special_words(model: OpenModel) -> dict[str, Any]:
    """Return the special tokens that a user may write without meaning to: ordinary words."""
    added = (model.tokenizer or {}).get("added_tokens") or []
    entries = [entry for entry in added if isinstance(entry, dict) and entry.get("special")]
    contents = [entry["content"] for entry in entries if isinstance(entry.get("content"), str)]
    wrong = sorted(text for text in contents if _WORDS.fullmatch(text))
    return {"special": len(contents), "words": [text[:60] for text in wrong[:SHOWN]]}


def growth(model: OpenModel) -> dict[str, Any]:
    """Render a long question and a long conversation, and measure what the template makes of them."""
    facts: dict[str, Any] = {"template": bool(model.chat_template), "limit": "", "renderings": []}
    if not model.chat_template:
        return facts
    turns = [{"role": ("user", "assistant")[i % 2], "content": "Go on."} for i in range(_MANY_TURNS + 1)]
    for messages in ([{"role": "user", "content": _LONG_TEXT}], turns):
        try:
            text = chat_template.render(model.chat_template, messages, special_tokens=_special(model))
        except RenderingLimit as limit:
            return {**facts, "limit": limit.what}
        except InferenceFailed:
            continue  # it may refuse a conversation; whether it should have is another question
        asked = sum(len(message["content"].encode()) for message in messages)
        facts["renderings"].append({"asked": asked, "rendered": len(text.encode("utf-8", "replace"))})
    return facts


def surroundings(model: OpenModel) -> dict[str, Any]:
    """Render questions and conversations of several lengths, and look at what stands before and after them."""
    facts: dict[str, Any] = {"template": bool(model.chat_template), "compared": 0, "changes": []}
    if not model.chat_template:
        return facts
    questions = {f"{n} words": [" ".join([_SENTINEL] * n)] for n in _LENGTHS}
    conversations = {f"{n} turns": [f"{_SENTINEL} {i}." for i in range(n)] for n in _TURNS}
    for kind in (questions, conversations):
        first: tuple[str, str, str] | None = None
        for size, contents in kind.items():
            around = _around(model, contents)
            if around is None:
                continue
            facts["compared"] += 1
            first = first or (size, *around)
            if around != first[1:]:
                facts["changes"].append(f"{size} instead of {first[0]}")
    return facts


def _around(model: OpenModel, contents: list[str]) -> tuple[str, str] | None:
    """Return what is rendered before the first and after the last turn; None where that cannot be told."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    try:
        text = chat_template.render(model.chat_template or "", turns, special_tokens=_special(model))
    except InferenceFailed:
        return None
    if contents[0] not in text or contents[-1] not in text:
        return None
    return text.partition(contents[0])[0], text.rpartition(contents[-1])[2]


def _special(model: OpenModel) -> dict[str, str]:
    settings = model.tokenizer_config
    return {name: text for name in _TOKENS if (text := token_text(settings.get(name))) is not None}


def _descriptions(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts of a file's metadata; templates and vocabularies are made of control tokens."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, child in value.items():
            if not re.search(r"template|tokeniz|token", str(name)):
                yield str(name)[:80], str(name)
                yield from _descriptions(child, str(name)[:80])
    elif isinstance(value, list):
        for child in value:
            yield from _descriptions(child, key)
