"""Which ``tokenizer.ggml.pre`` name stands for which pre-tokenizer of tokenizer.json.

The regular expressions are those of the published tokenizer.json files; llama.cpp
(``src/llama-vocab.cpp``) rewrites some of them for its own regex engine. Names for which its rewriting
changes the meaning (``gpt-4o`` and ``tekken`` know upper case in ASCII only) are left out on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apr_qa.conversion.rotary import WAY_OUT
from apr_qa.errors import UnsupportedArchitecture

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Escaped where Unicode normalisation, by an editor for one, would change the character.
_DEEPSEEK_LETTERS = (
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7d"
    "ᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
    "𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
_HAN = r"[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """How text is cut before BPE: ``steps`` are regular expressions, or ``digits`` for single digits."""

    steps: tuple[str, ...]
    use_regex: bool = False
    """The byte-level step splits as GPT-2 does."""
    nfc: bool = False
    ignore_merges: bool = False
    """A whole word that is a token is taken without looking at the merges."""
    adds_bos: bool = False
    """What llama.cpp does where ``add_bos_token`` is missing."""

    def as_json(self) -> dict[str, Any]:
        """Return the ``pre_tokenizer`` of tokenizer.json."""
        last = byte_level(use_regex=self.use_regex)
        steps = [_step(step) for step in self.steps]
        return {"type": "Sequence", "pretokenizers": [*steps, last]} if steps else last


_LLAMA3 = _CONTRACTIONS + _WORDS + r"\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + _WORDS + r"\p{N}" + _REST
_DIGITS = Splitting(("digits",), use_regex=True)
_PLAIN = Splitting((), use_regex=True)

PRETOKENIZERS: Mapping[str, Splitting] = {
    # Of several names for one splitting, the first is the one that is written.
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": Splitting(("digits",), use_regex=True, nfc=True),
    "codeshell": _DIGITS,
    "exaone": _DIGITS,
    "gpt-2": _PLAIN,
    "phi-2": _PLAIN,
    "mpt": Splitting((), use_regex=True, nfc=True),
    "olmo": Splitting((), use_regex=True, nfc=True),
    "qwen2": Splitting((_QWEN2,), nfc=True),
    "deepseek-r1-qwen": Splitting((_QWEN2,), nfc=True),
    "megrez": Splitting((_QWEN2,), nfc=True),
    "hunyuan": Splitting((_QWEN2,)),
    "stablelm2": Splitting((_QWEN2,)),
    "llama-bpe": Splitting((_LLAMA3,), ignore_merges=True, adds_bos=True),
    "llama3": Splitting((_LLAMA3,), ignore_merges=True, adds_bos=True),
    "llama-v3": Splitting((_LLAMA3,), ignore_merges=True, adds_bos=True),
    "smaug-bpe": Splitting((_LLAMA3,)),
    "dbrx": Splitting((_LLAMA3,)),
    "deepseek-llm": Splitting(
        (r"[\r\n]", _DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _HAN, "digits")
    ),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, "digits")),
    "deepseek-v3": Splitting((r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3)),
    "default": Splitting((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
}


def byte_level(*, use_regex: bool) -> dict[str, Any]:
    """Return the byte-level step of tokenizer.json, without a space before the text."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def name_of(tokenizer: Mapping[str, Any]) -> str:
    """Return the ``tokenizer.ggml.pre`` that splits text as this tokenizer.json does.

    Compares structure, not results; raises UnsupportedArchitecture if nothing in the table is equal.
    """
    found = _structure(tokenizer.get("pre_tokenizer"))
    normalizer = tokenizer.get("normalizer")
    kind = None if normalizer is None else normalizer.get("type")
    ignore = bool((tokenizer.get("model") or {}).get("ignore_merges", False))
    for name, splitting in PRETOKENIZERS.items():
        wanted = (_structure(splitting.as_json()), "NFC" if splitting.nfc else None, splitting.ignore_merges)
        if wanted == (found, kind, ignore):
            return name
    raise UnsupportedArchitecture("the tokenizer splits text in a way that GGUF has no name for", fix=WAY_OUT)


def _step(step: str) -> dict[str, Any]:
    if step == "digits":
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}


def _structure(pre_tokenizer: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Return what decides about the splitting, with nested sequences flattened; offsets do not."""
    if pre_tokenizer is None:
        return ()
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        return tuple(part for step in pre_tokenizer["pretokenizers"] for part in _structure(step))
    if kind == "ByteLevel":
        # tokenizers treats a missing use_regex as true.
        return (("ByteLevel", pre_tokenizer.get("add_prefix_space"), pre_tokenizer.get("use_regex", True)),)
    return ((kind, *sorted((key, str(value)) for key, value in pre_tokenizer.items() if key != "type")),)
