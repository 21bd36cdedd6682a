"""Chat templates: the artifact's own Jinja program, run in a sandbox as transformers runs it.

A template comes out of a model file, so it is untrusted code: attributes are guarded, messages cannot be
changed, ranges stay under Jinja's own limit of 100,000 items, and the output under one mebibyte.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.errors import InferenceFailed

if TYPE_CHECKING:
    from jinja2 import Template

MAX_CHARACTERS = 1 << 20
"""Limit of a template's source and of what it renders."""

MAX_REPEATED_ITEMS = MAX_CHARACTERS
MAX_POWER_BITS = 4096


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
) -> str:
    """Render ``messages`` as the text that the model continues; raises InferenceFailed.

    ``special_tokens`` maps variable names of the template (``bos_token``, ``eos_token``, …) to their text.
    """
    from jinja2 import TemplateError

    if len(template) > MAX_CHARACTERS:
        raise InferenceFailed(f"the chat template has {len(template)} characters, more than {MAX_CHARACTERS}")
    variables = {
        **special_tokens,
        "messages": [dict(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        return _bounded(_compile(template), variables)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise InferenceFailed(
            f"the chat template failed: {error}", where=f"chat template, line {line}" if line else ""
        ) from error
    # A template can provoke any error of Python's own operations on its variables.
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise InferenceFailed(f"the chat template failed: {type(error).__name__}: {error}") from error
    except RuntimeError as error:  # RecursionError: a macro that calls itself
        raise InferenceFailed(f"the chat template failed: {type(error).__name__}: {error}") from error


def _bounded(template: Template, variables: Mapping[str, Any]) -> str:
    pieces, length = [], 0
    for piece in template.generate(variables):
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise InferenceFailed(f"the chat template renders more than {MAX_CHARACTERS} characters")
        pieces.append(piece)
    return "".join(pieces)


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    """Compile with the environment of transformers' ``apply_chat_template`` (version 5)."""
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        """The sandbox, with the operators guarded that make a huge value out of a short text."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" and _power_bits(left, right) > MAX_POWER_BITS:
                raise SecurityError("a power of that size is not allowed in a chat template")
            if operator == "*" and _repeated_items(left, right) > MAX_REPEATED_ITEMS:
                raise SecurityError("a repetition of that length is not allowed in a chat template")
            return super().call_binop(context, operator, left, right)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_tag()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _power_bits(left: Any, right: Any) -> int:
    """Return about how many bits ``left ** right`` has where both are whole numbers, else 0."""
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * max(0, right)
    return 0


def _repeated_items(left: Any, right: Any) -> int:
    """Return how long ``left * right`` is where one of them is a sequence, else 0."""
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(count, int):
            return len(sequence) * max(0, count)
    return 0


@functools.cache
def _generation_tag() -> Any:
    """Return the extension for ``{% generation %}``, which marks assistant text for training only."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationTag(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja declares it as an instance attribute

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return GenerationTag


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Encode without HTML escapes, which Jinja's own filter would add to the prompt."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return dt.datetime.now().strftime(pattern)
