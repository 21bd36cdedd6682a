"""The process that runs chat templates: Jinja's sandbox, within limits that the kernel and a timer keep.

A template comes out of a model file, so it is untrusted code. Jinja's sandbox keeps it from attributes and
from changing its messages, but not from computing for ever, or from building a value as large as memory out of
harmless filters. So it runs in a process of its own: ``python -m apr_qa.inference.template_sandbox`` answers
one JSON line for each JSON line, `chat_template` being the other side.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apr_qa import confinement

if TYPE_CHECKING:
    from jinja2 import Template

MAX_CHARACTERS = 1 << 20
"""Limit of a template's source and of what it renders."""
MAX_SECONDS = 1.0
"""Processor time for one rendering; healthy templates take milliseconds."""
MAX_BYTES = 256 << 20
"""What this process may allocate."""
MAX_REPEATED_ITEMS = MAX_CHARACTERS
MAX_POWER_BITS = 4096

_KILL_AFTER = 1.4
"""Times the limit: an operation of Python that runs no bytecode cannot be interrupted, only killed."""


class TooMuch(BaseException):
    """A limit was hit; no ``except`` of Jinja catches it."""


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Render ``template`` with ``variables``: ``text``, or ``error`` with ``line`` and whether it was a limit."""
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError

    try:
        with _time_limit():
            return {"text": _bounded(_compile(request["template"]), request["variables"])}
    except TooMuch as limit:
        return {"error": str(limit), "limit": True}
    except MemoryError:
        return {"error": f"it needs more than {MAX_BYTES >> 20} MiB of memory", "limit": True}
    except SecurityError as error:
        return {"error": str(error), "line": None, "security": True}
    except TemplateError as error:
        return {"error": str(error), "line": getattr(error, "lineno", None)}
    # A template can provoke any error of Python's own operations on its variables; RuntimeError includes
    # RecursionError: a macro that calls itself.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    except SyntaxError as error:  # Python's compiler refuses what Jinja made of it: nested too deeply
        return {"error": f"it cannot be compiled: {error.msg}"}


def main() -> None:
    """Answer requests until standard input ends."""
    confinement.confine(MAX_BYTES)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise TooMuch in this thread when the processor time is used up, and end the process if that fails."""

    def stop(*_: object) -> None:
        raise TooMuch(f"it takes more than {MAX_SECONDS:g} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS * _KILL_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGPROF, before)


def _bounded(template: Template, variables: Mapping[str, Any]) -> str:
    pieces, length = [], 0
    for piece in template.generate(variables):
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise TooMuch(f"it renders more than {MAX_CHARACTERS} characters")
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


if __name__ == "__main__":
    main()
