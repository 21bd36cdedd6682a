"""The candidate's side: define the program, then answer calls with encoded values.

Nothing here is trusted by anybody: the code under test runs in this process and may replace all of it.
"""

from __future__ import annotations

import itertools
import sys
import types
from typing import Any

from apr_qa.sandbox import wire
from apr_qa.sandbox.values import Encoder, NoValue, decode

MODULE = "program"
MAX_ITEMS = 1_000_000
"""Items taken from one iterator that the examiner wants to see."""
MUTABLE = (list, dict, set, bytearray)


class Candidate:
    """A program in a module of its own and the objects of it that the examiner knows by number."""

    def __init__(self) -> None:
        self._module = types.ModuleType(MODULE)
        self._objects: list[Any] = []

    def answer(self, request: list[Any]) -> list[Any]:
        """Return ``["value", data, changed]`` or ``["raise", type names, message]``."""
        operation, *operands = request
        try:
            reply: list[Any] = getattr(self, f"_{operation}")(*operands)
        except RecursionError as error:  # before anything else: its handling must not recurse
            return _raised(error)
        except BaseException as error:  # noqa: BLE001 - whatever the program raises is its answer
            return _raised(error)
        return reply

    def _define(self, source: str) -> list[Any]:
        code = compile(source, f"<{MODULE}>", "exec", dont_inherit=True, optimize=0)
        sys.modules[MODULE] = self._module
        exec(code, self._module.__dict__)  # noqa: S102 - this is what the sandbox is for
        return ["value", None, None]

    def _call(self, target: Any, positional: list[Any], named: dict[str, Any]) -> list[Any]:
        function = self._found(target)
        args = [decode(data, self._object) for data in positional]
        kwargs = {name: decode(data, self._object) for name, data in named.items()}
        result = function(*args, **kwargs)
        # Only what returns nothing works in place; else a call could change what it is compared with.
        changed = None
        if result is None and any(type(value) in MUTABLE for value in args):
            changed = [self._encoded(value) if type(value) in MUTABLE else None for value in args]
        return ["value", self._encoded(result), changed]

    def _attribute(self, number: int, name: str) -> list[Any]:
        return ["value", self._encoded(getattr(self._object(number), name)), None]

    def _item(self, number: int, key: Any) -> list[Any]:
        return ["value", self._encoded(self._object(number)[decode(key, self._object)]), None]

    def _items(self, number: int) -> list[Any]:
        taken = list(itertools.islice(iter(self._object(number)), MAX_ITEMS))
        return ["value", self._encoded(taken), None]

    def _found(self, target: Any) -> Any:
        if type(target) is int:
            return self._object(target)
        try:
            return self._module.__dict__[target]
        except KeyError:
            raise NameError(f"the program defines no {target!r}") from None

    def _object(self, number: int) -> Any:
        return self._objects[number]

    def _encoded(self, value: Any) -> Any:
        return Encoder(self._number).encode(_plain(value))

    def _number(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as the number that it holds."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _raised(error: BaseException) -> list[Any]:
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        message = str(error)[:500]
    except BaseException:  # noqa: BLE001 - a program's own exception may do anything
        message = ""
    if type(error).__module__ != "builtins":
        message = f"{type(error).__name__}: {message}"
    return ["raise", names, message]


def serve(fd: int) -> None:
    """Answer until the examiner closes the channel."""
    candidate = Candidate()
    while (request := wire.receive(fd)) is not None:
        reply = candidate.answer(request)
        try:
            wire.send(fd, reply)
        except (wire.BadMessage, NoValue) as error:
            wire.send(fd, _raised(error))
