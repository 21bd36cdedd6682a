"""The worker's ends of the protocol: lines in from standard input, messages out to what was standard output."""

from __future__ import annotations

import os
import queue
from typing import Any

import msgspec

from apr_qa.guard import exit_with_parent
from apr_qa.protocol import Message


class Channel:
    """The protocol's end in the child: a private duplicate of standard output."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)

    def say(self, event: str, **fields: Any) -> None:
        message = Message(event=event, **fields)
        try:
            line = msgspec.json.encode(message) + b"\n"
        except UnicodeEncodeError:  # half a surrogate pair, which a server may send and JSON cannot hold
            line = msgspec.json.encode(_legal(msgspec.to_builtins(message))) + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]


def _legal(value: Any) -> Any:
    """Write what is no Unicode text as an escape, so that the evidence shows it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_legal(key): _legal(item) for key, item in value.items()}
    return [_legal(item) for item in value] if isinstance(value, list | tuple) else value


class Inbox:
    """The protocol's other end: lines from standard input, whose end is the end of this process."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._begun = bytearray()
        exit_with_parent(self._hear)

    def _hear(self, said: bytes) -> None:
        *whole, rest = said.split(b"\n")
        for piece in whole:
            self._lines.put(bytes(self._begun) + piece)
            self._begun.clear()
        self._begun += rest

    def line(self) -> bytes:
        """Return the next line, however long it takes to come."""
        return self._lines.get()
