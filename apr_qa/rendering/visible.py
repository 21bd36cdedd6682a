"""Text of unknown origin, made safe to look at: what would steer a terminal or a page becomes an escape."""

from __future__ import annotations

import re

STEERING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters; tab and newline are left alone
    "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"  # invisible, or turning text around
    "\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"  # lone surrogates and noncharacters: not legal in XML 1.0 either
    "\U000e0000-\U000e0fff"  # tag characters: text that no reader sees
    "]"
)
"""Zero-width joiner and non-joiner are not in it: emoji and several scripts need them."""


def visible(text: str) -> str:
    """Replace every character that could steer or hide by its escape, such as ``\\x1b`` or ``\\u202e``."""
    return STEERING.sub(_escape, text)


def excerpt(text: str, limit: int) -> str:
    """Return ``text`` made visible, cut after ``limit`` characters with a note of how many are missing."""
    rest = len(text) - limit
    shown = visible(text[:limit])
    return f"{shown}\n[… {rest:,} more characters in evidence.jsonl]" if rest > 0 else shown


def one_line(text: str, limit: int = 80) -> str:
    """Return ``text`` made visible on a single line of at most ``limit`` characters."""
    line = " ".join(visible(text[: limit * 4]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
