"""Tokenizer, settings and chat template of a specimen, whichever container holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apr_qa.containers.model_folder import TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from apr_qa.defects import Inexpressible
from apr_qa.defects._image import Image

_PREFIX = "tokenizer.ggml."


def document(image: Any) -> dict[str, Any]:
    """Return the content of tokenizer.json, to be changed in place; raises Inexpressible (GGUF has none)."""
    held = image.documents.get(TOKENIZER) if image.format == "safetensors" else None
    held = image.metadata.get("hf_tokenizer") if image.format == "apr" else held
    if not isinstance(held, dict):
        raise Inexpressible("needs a tokenizer.json")
    return held


def settings(image: Any) -> dict[str, Any]:
    """Return the content of tokenizer_config.json, to be changed in place; raises Inexpressible."""
    held = image.documents.get(TOKENIZER_CONFIG) if image.format == "safetensors" else None
    held = image.metadata.get("hf_tokenizer_config") if image.format == "apr" else held
    if not isinstance(held, dict):
        raise Inexpressible("needs a tokenizer_config.json")
    return held


def generation(image: Any) -> dict[str, Any]:
    """Return the content of generation_config.json, empty where there is none."""
    if image.format == "safetensors":
        found = image.documents.get("generation_config.json")
    else:
        found = image.metadata.get("hf_generation_config") if image.format == "apr" else None
    return found if isinstance(found, dict) else {}


def merges(image: Any) -> list[Any]:
    """Return the merges of a BPE tokenizer; raises Inexpressible if there are not enough to spoil."""
    found = (
        image.keys.get(_PREFIX + "merges")
        if image.format == "gguf"
        else document(image)["model"].get("merges")
    )
    if not isinstance(found, list) or len(found) < 60:
        raise Inexpressible("needs a tokenizer with merges")
    return list(found)


def set_merges(image: Any, changed: list[Any]) -> None:
    if image.format == "gguf":
        image.keys.set(_PREFIX + "merges", changed)
        return
    document(image)["model"]["merges"] = changed
    if image.format == "apr":
        image.metadata["tokenizer.merges"] = [m if isinstance(m, str) else " ".join(m) for m in changed]


def tokens(image: Any) -> dict[str, int]:
    """Return text -> id of every token."""
    if image.format == "gguf":
        found = image.keys.get(_PREFIX + "tokens")
        if not found:
            raise Inexpressible("needs a tokenizer")
        return {text: index for index, text in enumerate(found)}
    tokenizer = document(image)
    vocab = tokenizer["model"].get("vocab") or {}
    known = dict(vocab) if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}
    return known | {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or []}


def special(image: Any, role: str) -> str | None:
    """Return the text of the token that has a role (bos, eos, pad, unk), None if there is none."""
    if image.format == "gguf":
        name = {"unk": "unknown", "pad": "padding"}.get(role, role)
        index = image.keys.get(f"{_PREFIX}{name}_token_id")
        by_id = {number: text for text, number in tokens(image).items()}
        return by_id.get(index)
    value = settings(image).get(f"{role}_token")
    return value.get("content") if isinstance(value, dict) else value


def state_id(image: Any, role: str, index: int) -> None:
    """Give a role to a token by its id, in the configuration and where generation is configured."""
    if image.format == "gguf":
        name = {"unk": "unknown", "pad": "padding"}.get(role, role)
        image.keys.set(f"{_PREFIX}{name}_token_id", index)
        return
    image.set_config(f"{role}_token_id", index)
    generated = generation(image)
    if generated:
        generated[f"{role}_token_id"] = index
    if image.format == "apr" and f"tokenizer.{role}_token_id" in image.metadata:
        image.metadata[f"tokenizer.{role}_token_id"] = index


def template(image: Any) -> str:
    """Return the chat template; raises Inexpressible if there is none."""
    if image.format == "gguf":
        found = image.keys.get("tokenizer.chat_template")
    elif image.format == "apr":
        found = image.metadata.get("chat_template") or settings(image).get("chat_template")
    else:
        file = _file(image)
        found = file.read_text(encoding="utf-8") if file.is_file() else settings(image).get("chat_template")
    if not isinstance(found, str) or not found:
        raise Inexpressible("needs a chat template")
    return found


def set_template(image: Any, text: str | None) -> None:
    """Replace the chat template everywhere, or remove it."""
    if image.format == "gguf":
        if text is None:
            image.keys.drop("tokenizer.chat_template")
        else:
            image.keys.set("tokenizer.chat_template", text)
        return
    holders = [settings(image)] + ([image.metadata] if image.format == "apr" else [])
    for holder in holders:
        if text is None:
            holder.pop("chat_template", None)
        elif "chat_template" in holder or image.format == "apr":
            holder["chat_template"] = text
    if image.format == "safetensors":
        file = _file(image)
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text, encoding="utf-8")


def _file(image: Image) -> Path:
    folder: Path = image.path if image.path.is_dir() else image.path.parent
    return folder / TEMPLATE
