"""What a tokenizer of the Hugging Face library promises, and for which texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apr_qa.formats import OpenModel
from apr_qa.inspecting import tokenizer_probe
from apr_qa.properties import OutOfPromise, Subject

_UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


class Reference:
    """A tokenizer.json, loaded, with the texts that it makes a promise about."""

    def __init__(self, model: OpenModel) -> None:
        settings = model.tokenizer or {}
        self.tokenizer: Any = tokenizer_probe.load(model)
        self._forms = [kind for kind in _kinds(settings.get("normalizer")) if kind in _UNICODE_FORMS]
        self._missing = _missing_bytes(settings)
        unknown = (settings.get("model") or {}).get("unk_token")
        self._unknown = self.tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of ``text``; tokens written in it are read as such only where ``special``."""
        self.tokenizer.encode_special_tokens = not special
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def require_lawful(self, text: str) -> None:
        """Raise OutOfPromise for a text that has no lawful encoding in this vocabulary.

        Bytes without a token are dropped by one library and replaced by another, unknown words become a
        different token in each; neither is a fault of a file.
        """
        if self._missing and self._missing & set(text.encode("utf-8")):
            raise OutOfPromise
        if self._unknown is not None and self._unknown in self.encode(text):
            raise OutOfPromise

    def require_normal(self, text: str) -> None:
        """Raise OutOfPromise for a text that Unicode normalisation would change: llama.cpp has none for BPE."""
        from tokenizers import normalizers

        if any(getattr(normalizers, form)().normalize_str(text) != text for form in self._forms):
            raise OutOfPromise

    def normalised(self, text: str) -> str:
        """Return the text as the tokenizer reads it, blanks written as blanks."""
        stage = self.tokenizer.normalizer
        return str(stage.normalize_str(text)).replace("\u2581", " ") if stage is not None else text


def reference(subject: Subject, model: OpenModel) -> Reference:
    """Return the reference of the ground truth or of the artifact itself, loaded once."""
    key = f"tokenizer {model.path}"
    if key not in subject.kept:
        subject.kept[key] = Reference(model)
    found: Reference = subject.kept[key]
    return found


def _kinds(stage: Any) -> Iterator[str]:
    if isinstance(stage, Mapping):
        yield str(stage.get("type"))
        for part in stage.get("normalizers") or stage.get("pretokenizers") or ():
            yield from _kinds(part)


def _missing_bytes(settings: Mapping[str, Any]) -> set[int]:
    """Return the bytes that a byte-level vocabulary has no token for; SmolLM2 lacks eight of them."""
    if "ByteLevel" not in set(_kinds(settings.get("pre_tokenizer"))):
        return set()
    vocabulary = (settings.get("model") or {}).get("vocab") or {}
    return {byte for byte, letter in _byte_letters().items() if letter not in vocabulary}


def _byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in a byte-level vocabulary (GPT-2, ``encoder.py``)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in letters)
    return letters | {byte: chr(256 + number) for number, byte in enumerate(others)}
