"""Command lines in executable specifications, read as what they ask of a model.

They were written for the program ``apr``: ``apr run MODEL 'prompt' --max-tokens 5`` asks a question, ``apr run
FILE --dry-run`` asks that a file loads, or, where a refusal is expected, that it is refused in good order.
Nothing of a command line is ever given to a shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MARK = "apr-qa:"
BUILT_IN: Mapping[str, str] = {
    "MODEL": f"{MARK}model",
    "VALID_GGUF_Q4": f"{MARK}gguf:q4_k_m",
    "VALID_GGUF_Q8": f"{MARK}gguf:q8_0",
    "VALID_SAFETENSORS": f"{MARK}safetensors",
    "VALID_APR": f"{MARK}apr",
    "TRUNCATED_GGUF": f"{MARK}truncated",
    "LONG_PROMPT": "The quick brown fox jumps over the lazy dog. " * 30,
    "UNICODE_PROMPT": "你好，世界。Здравствуй, мир. مرحبا بالعالم. γειά σου 😀 ñ ø ß",
}
"""Variables that specifications use and that have a meaning here without being given."""

_LOOP = re.compile(r"for\s+(\w+)\s+in\s+\$\(seq\s+(\d+)\s+(\d+)\)\s*;\s*do\s+(.*?)\s*;?\s*done", re.DOTALL)
_MOST_ROUNDS = 100
_NUMBERS = {
    "--max-tokens": "max_tokens",
    "-n": "max_tokens",
    "--seed": "seed",
    "--temperature": "temperature",
}
_FLAGS = ("--dry-run", "--no-gpu", "--json", "--benchmark", "--gpu")


FILE_TOOLS = (
    *("validate", "inspect", "check", "tensors", "explain", "bench", "profile", "trace", "qa"),
    *("rosetta", "convert", "serve"),
)
"""Subcommands that look at a file or work with it; see ``suites.TOOLS`` for the gates that ask the same."""
_ACTIONS = (
    "convert",
    "inspect",
    "diff-tensors",
    "compare-inference",
    "fingerprint",
    "validate-stats",
    "chain",
)
_OF_PROGRAMS = ("cargo", "make", "bashrs", "apr-qa")
"""Programs that a line may be about: a test of a program is no question to a model."""


class NotUnderstood(ValueError):
    """A command line that says something this program does not know."""


@dataclass(frozen=True)
class Asked:
    """What one command line asks."""

    file: str
    """``model``, ``gguf:q4_k_m``, ``safetensors``, ``apr``, ``truncated``, or a path."""
    prompt: str | None
    """None where nothing is asked but that the file loads."""
    max_tokens: int = 32
    on_gpu: bool | None = None
    tool: str = ""
    """Tool that has to succeed with the file, where it is neither ``run`` nor ``chat``."""
    about_us: str = ""
    """The line, where it is about a program and not about a model."""


def read(command: str) -> list[Asked]:
    """Return what a command line asks, loops unrolled; raises NotUnderstood."""
    return [_single(line) for line in _unrolled(command.strip())]


def _unrolled(text: str) -> Iterator[str]:
    loop = _LOOP.fullmatch(text)
    if loop is None:
        yield text
        return
    name, first, last, body = loop[1], int(loop[2]), int(loop[3]), loop[4]
    if last - first >= _MOST_ROUNDS:
        raise NotUnderstood(f"a loop of more than {_MOST_ROUNDS} rounds")
    for number in range(first, last + 1):
        yield body.replace(f"${name}", str(number))


def _single(text: str) -> Asked:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise NotUnderstood(f"the quotes do not match: {error}") from None
    if words[:1] == ["timeout"]:
        words = words[2:]
    if words[:1] == ["echo"] and "|" in words:
        pipe = words.index("|")
        words = [*words[pipe + 1 :], " ".join(words[1:pipe])]
    if words[:1] and words[0] in _OF_PROGRAMS:
        return Asked(file="", prompt=None, about_us=text)
    if len(words) >= 3 and words[0] == "apr" and words[1] in FILE_TOOLS:
        files = [word for word in words[2:] if not word.startswith("-") and word not in _ACTIONS]
        return Asked(file=(files or [""])[0].removeprefix(MARK), prompt=None, tool=words[1])
    if len(words) < 3 or words[0] != "apr" or words[1] not in ("run", "chat"):
        raise NotUnderstood(
            "only commands of the form: apr run FILE 'PROMPT' [--max-tokens N] [--dry-run], or: apr validate FILE"
        )
    prompts, numbers, flags = _options(words[3:])
    if len(prompts) > 1:
        raise NotUnderstood(f"a second prompt: {prompts[1]!r}")
    loads_only = "--dry-run" in flags
    if not prompts and not loads_only:
        raise NotUnderstood("there is no prompt")
    return Asked(
        file=words[2].removeprefix(MARK),
        prompt=None if loads_only else prompts[0],
        max_tokens=numbers.get("max_tokens", 32),
        on_gpu=True if "--gpu" in flags else False if "--no-gpu" in flags else None,
    )


def _options(words: list[str]) -> tuple[list[str], dict[str, int], set[str]]:
    """Return prompts, numbers by their name, and flags."""
    prompts, numbers, flags = [], dict[str, int](), set()
    rest = iter(words)
    for word in rest:
        if word in _NUMBERS:
            numbers[_NUMBERS[word]] = _whole(next(rest, ""), word)
        elif word in _FLAGS:
            flags.add(word)
        elif word.startswith("-") and word != "-p":
            raise NotUnderstood(f"no option is called {word}")
        elif word != "-p":
            prompts.append(word)
    return prompts, numbers, flags


def _whole(word: str, option: str) -> int:
    try:
        return int(float(word))
    except ValueError:
        raise NotUnderstood(f"{option} is followed by {word!r} and not by a number") from None
