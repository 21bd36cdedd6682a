"""Chat prompts in which what a user wrote stays text, even where it reads like a control token.

A template writes control tokens as text, so the rendered prompt has to be read with special tokens parsed. The
texts of such tokens inside user messages are therefore replaced while the template runs, put back afterwards and
remembered, and only they are tokenised as ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

UNTRUSTED = ("user", "tool")
"""Roles whose text comes from outside."""

_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
"""Private characters around the number of a replaced text; they are taken out of messages first."""

Message = dict[str, str]


class ProtectedPrompt(str):
    """A rendered prompt that knows which parts of it must not be read as special tokens."""

    plain: tuple[tuple[int, int], ...] = ()
    """Start and end of each such part, ascending."""


class Tokenize(Protocol):
    """The tokenizer of a session."""

    def __call__(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...


def protected(
    render: Callable[[Sequence[Message]], str], messages: Sequence[Message], controls: Collection[str]
) -> str:
    """Render ``messages`` so that none of ``controls`` in a user's text is read as a token."""
    known = sorted((text for text in controls if text), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, known))) if known else None
    if pattern is None or not any(_suspect(message, pattern) for message in messages):
        return render(messages)
    replaced: list[str] = []

    def hide(match: re.Match[str]) -> str:
        replaced.append(match.group())
        return f"{_OPEN}{len(replaced) - 1}{_CLOSE}"

    hidden = [
        {**message, "content": pattern.sub(hide, re.sub(f"[{_OPEN}{_CLOSE}]", "\ufffd", message["content"]))}
        if _suspect(message, pattern)
        else message
        for message in messages
    ]
    return _restored(render(hidden), replaced)


def _suspect(message: Message, pattern: re.Pattern[str]) -> bool:
    return message.get("role") in UNTRUSTED and bool(pattern.search(message.get("content") or ""))


def _restored(rendered: str, replaced: Sequence[str]) -> ProtectedPrompt:
    text, spans = "", []
    for number, piece in enumerate(re.split(f"{_OPEN}([0-9]+){_CLOSE}", rendered)):
        if number % 2:
            piece = replaced[int(piece)]
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    prompt = ProtectedPrompt(text)
    prompt.plain = tuple(spans)
    return prompt


def tokens(tokenize: Tokenize, prompt: str, *, templated: bool) -> list[int]:
    """Return the ids that the model is given for a prompt: special tokens are parsed in templated ones only."""
    spans = prompt.plain if templated and isinstance(prompt, ProtectedPrompt) else ()
    if not spans:
        return tokenize(prompt, add_special=not templated, parse_special=templated)
    found: list[int] = []
    position = 0
    for start, end in spans:
        found += _piece(tokenize, prompt[position:start], special=True)
        found += _piece(tokenize, prompt[start:end], special=False)
        position = end
    return found + _piece(tokenize, prompt[position:], special=True)


def _piece(tokenize: Tokenize, text: str, *, special: bool) -> list[int]:
    return tokenize(text, add_special=False, parse_special=special) if text else []
