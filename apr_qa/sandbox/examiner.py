"""The examiner's side: run the test here, call the candidate there, and say what came of it.

The test is Python of the data set; the candidate is present in it as a name whose calls go over the channel.
What comes back is rebuilt from data, so ``==``, ``abs``, ``in`` and every other form of assertion work on
exact builtin types of this process. A thing that is no data is an `Opaque`: it equals only itself, has no truth
value, and can be passed back, iterated over, asked for an attribute or called, each over the channel again.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import Any

from apr_qa.sandbox import wire
from apr_qa.sandbox.values import Encoder, NoValue, decode

TEST = "<test>"


class CandidateGone(BaseException):
    """The candidate has ended; no test code may catch this."""


class Channel:
    """Requests to the candidate, one at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.calls = 0

    def define(self, source: str) -> None:
        """Run the program; raises what it raises."""
        self._ask(["define", source])

    def call(self, target: str | int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call something of the candidate's and bring changes of mutable arguments back."""
        self.calls += 1
        positional = [self._encoded(value) for value in args]
        named = {name: self._encoded(value) for name, value in kwargs.items()}
        value, changed = self._ask(["call", target, positional, named])
        if value is None and type(changed) is list and len(changed) == len(args):
            for argument, data in zip(args, changed, strict=True):
                if data is not None:
                    _update(argument, decode(data, self._opaque))
        return value

    def look(self, operation: str, number: int, *operands: Any) -> Any:
        """Return an attribute, an item, or all items of an opaque object."""
        return self._ask([operation, number, *operands])[0]

    def _ask(self, request: list[Any]) -> tuple[Any, Any]:
        try:
            wire.send(self._fd, request)
            reply = wire.receive(self._fd)
        except OSError:
            reply = None
        if reply is None:
            raise CandidateGone
        if type(reply) is not list or len(reply) != 3:
            raise NoValue("the answer is no answer")
        if reply[0] == "raise":
            raise _exception(reply[1], reply[2])
        return decode(reply[1], self._opaque), reply[2]

    def _encoded(self, value: Any) -> Any:
        return Encoder(_number).encode(value)

    def _opaque(self, number: Any) -> Opaque:
        if type(number) is not int:
            raise NoValue("no number of an object")
        return Opaque(self, number)


class Opaque:
    """Something of the candidate's that is no data; compared by identity, never by its own methods."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel = channel
        self._number = number

    def __bool__(self) -> bool:
        raise TypeError("the answer is an object of the program's own type, not a value")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.call(self._number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._channel.look("attribute", self._number, name)

    def __getitem__(self, key: Any) -> Any:
        return self._channel.look("item", self._number, Encoder(_number).encode(key))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._channel.look("items", self._number))


class Name:
    """A function or class of the program, called by its name."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.call(self.__name__, args, kwargs)


def _number(value: Any) -> int:
    if type(value) is Opaque:
        number: int = value._number
        return number
    raise TypeError(f"a {type(value).__name__} cannot be sent to the program")


def _update(argument: Any, value: Any) -> None:
    """Make a mutable argument equal to what the candidate made of its copy."""
    if type(argument) is not type(value):
        return
    if type(argument) in (list, bytearray):
        argument[:] = value
    elif type(argument) in (dict, set):
        argument.clear()
        argument.update(value)


_SIGNALS_TO_LOOPS = (StopIteration, StopAsyncIteration)
"""Raised by the candidate inside ``map`` or ``all``, they would end the test's loop as if all had been tried."""
_PLAIN = (Exception, UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError, *_SIGNALS_TO_LOOPS)


def _exception(names: Any, message: Any) -> Exception:
    """Return the builtin exception that the candidate's is one of; what only means something inside is another."""
    told = [name for name in names if type(name) is str]
    known = (getattr(builtins, name, None) for name in told)
    kind = next((k for k in known if isinstance(k, type) and issubclass(k, Exception)), None)
    text = str(message)[:500]
    if kind is None or kind in _PLAIN or issubclass(kind, _SIGNALS_TO_LOOPS):
        return RuntimeError(f"{told[0]}: {text}" if told else text)
    return kind(text)


def examine(channel: Channel, program: str, test: str, entry_point: str, helpers: str) -> tuple[str, str]:
    """Return (outcome, reason) of one trial; nothing but reaching the end of the test is a pass."""
    try:
        scope, code = _prepared(channel, test, entry_point, helpers)
    except Exception as error:  # noqa: BLE001 - the data set's code may raise anything
        return "invalid", f"the test cannot be prepared: {_said(error)}"
    try:
        channel.define(program)
        exec(code, scope)  # noqa: S102 - the data set's test, in a sandbox of its own
    except CandidateGone:
        return "crashed", "the program ended the process"
    except Exception as error:  # noqa: BLE001 - a failed assertion, or whatever the program raised
        return "failed", _said(error)
    except BaseException as error:  # noqa: BLE001 - a test that exits has not passed
        return "failed", f"the test was left by {type(error).__name__}"
    if not channel.calls:
        return "invalid", "the test never called the program"
    return "passed", ""


def _prepared(channel: Channel, test: str, entry_point: str, helpers: str) -> tuple[dict[str, Any], Any]:
    """Return the scope of a test, the program's names in it, and its code."""
    scope: dict[str, Any] = {"__builtins__": builtins, "__name__": "test"}
    if helpers:
        exec(compile(helpers, "<helpers>", "exec", dont_inherit=True, optimize=0), scope)  # noqa: S102
    tree = ast.parse(test)
    if not any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(tree)):
        raise ValueError("it asserts nothing")
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    for name in used:
        if name not in scope and not hasattr(builtins, name):
            scope[name] = Name(channel, name)
    if entry_point:
        scope[entry_point] = Name(channel, entry_point)
    return scope, compile(tree, TEST, "exec", dont_inherit=True, optimize=0)


def _said(error: BaseException) -> str:
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TEST:
            line = trace.tb_lineno
        trace = trace.tb_next
    words = [type(error).__name__, str(error)[:300]]
    return ": ".join(filter(None, words)) + (f" (line {line} of the test)" if line else "")


def serve(fd: int, verdict_fd: int) -> None:
    """Read one trial from the verdict pipe's other half, examine, and write the verdict."""
    trial = wire.receive(verdict_fd)
    outcome, reason = examine(
        Channel(fd), trial["program"], trial["test"], trial["entry_point"], trial["helpers"]
    )
    wire.send(verdict_fd, [outcome, reason])
