"""Values as data: what crosses between examiner and candidate, and nothing else.

``null``, booleans, text and integers of 64 bits are themselves in JSON; everything else is a list that begins
with its type. Only exact types are data: an instance of a subclass could answer ``==`` as it likes, so it stays
where it is and is known outside by a number. Containers of the standard library are rebuilt from their items.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
MAX_NODES = 1_000_000

OBJECT = "object"
_SMALL = 1 << 63

_SEQUENCES: dict[str, type] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
_MAPPINGS: dict[str, type] = {
    "dict": dict,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
}
_WRITTEN: dict[type, tuple[str, Callable[[Any], Any]]] = {
    float: ("float", float.hex),
    complex: ("complex", lambda value: [value.real.hex(), value.imag.hex()]),
    bytes: ("bytes", bytes.hex),
    bytearray: ("bytearray", bytearray.hex),
    range: ("range", lambda value: [hex(n) for n in (value.start, value.stop, value.step)]),
    decimal.Decimal: ("Decimal", str),
    fractions.Fraction: ("Fraction", lambda value: [hex(value.numerator), hex(value.denominator)]),
    dt.date: ("date", dt.date.isoformat),
    dt.time: ("time", lambda value: [value.isoformat(), value.fold]),
    dt.datetime: ("datetime", lambda value: [value.isoformat(), value.fold]),
    dt.timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    type(...): ("ellipsis", lambda _: None),
}
_READ: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": lambda text: float.fromhex(text),
    "complex": lambda parts: complex(float.fromhex(parts[0]), float.fromhex(parts[1])),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda parts: range(*(int(part, 16) for part in parts)),
    "Decimal": lambda text: decimal.Decimal(_text(text)),
    "Fraction": lambda parts: fractions.Fraction(*(int(part, 16) for part in parts)),
    "date": dt.date.fromisoformat,
    "time": lambda parts: dt.time.fromisoformat(parts[0]).replace(fold=parts[1]),
    "datetime": lambda parts: dt.datetime.fromisoformat(parts[0]).replace(fold=parts[1]),
    "timedelta": lambda parts: dt.timedelta(*(int(part) for part in parts)),
    "ellipsis": lambda _: ...,
}


class NoValue(ValueError):
    """What arrived, or was to be sent, is no value."""


class Encoder:
    """Turns one value into JSON-ready data; ``opaque`` names what is no data, or raises."""

    def __init__(self, opaque: Callable[[Any], Any]) -> None:
        self._opaque = opaque
        self._nodes = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise NoValue("the value is too deep or too large to be sent")
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -_SMALL <= value < _SMALL else ["int", hex(value)]
        if kind in _WRITTEN:
            name, write = _WRITTEN[kind]
            return [name, write(value)]
        return self._container(value, kind, depth)

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        for name, known in _SEQUENCES.items():
            if kind is known:
                return [name, [self.encode(item, depth + 1) for item in value]]
        for name, known in _MAPPINGS.items():
            if kind is known:
                return [name, self._pairs(dict.items(value), depth)]
        if kind is collections.defaultdict:  # its factory is code; outside it is the dict it equals
            return ["dict", self._pairs(dict.items(value), depth)]
        if kind.__bases__ == (tuple,) and type(getattr(kind, "_fields", None)) is tuple:
            return ["tuple", [self.encode(item, depth + 1) for item in tuple.__iter__(value)]]
        return [OBJECT, self._opaque(value)]

    def _pairs(self, items: Any, depth: int) -> list[list[Any]]:
        return [[self.encode(key, depth + 1), self.encode(item, depth + 1)] for key, item in items]


def decode(data: Any, known: Callable[[Any], Any], depth: int = 0) -> Any:
    """Return the value that ``data`` stands for; ``known`` finds what a number names. Raises NoValue."""
    try:
        return _decoded(data, known, depth)
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError) as error:
        raise NoValue(f"no value: {type(error).__name__}: {str(error)[:200]}") from None


def _decoded(data: Any, known: Callable[[Any], Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NoValue("too deep")
    if data is None or type(data) in (bool, str, int):
        return data
    name, content = _pair(data)
    if name in _READ:
        return _READ[name](content)
    if name in _SEQUENCES:
        return _SEQUENCES[name](_decoded(item, known, depth + 1) for item in _list(content))
    if name in _MAPPINGS:
        pairs = (_pair(item) for item in _list(content))
        return _MAPPINGS[name](
            {_decoded(key, known, depth + 1): _decoded(item, known, depth + 1) for key, item in pairs}
        )
    if name == OBJECT:
        return known(content)
    raise NoValue("an unknown type")


def _list(data: Any) -> list[Any]:
    if type(data) is not list:
        raise NoValue("no list")
    return data


def _pair(data: Any) -> tuple[Any, Any]:
    if len(_list(data)) != 2:
        raise NoValue("no pair")
    return data[0], data[1]


def _text(data: Any) -> str:
    if type(data) is not str:
        raise NoValue("no text")
    return data
