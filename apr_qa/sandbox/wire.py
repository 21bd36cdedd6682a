"""Messages over a file descriptor: four bytes of length, then JSON."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

MAX_BYTES = 8 << 20
"""Limit of one message; a longer one is refused before it is read."""


class BadMessage(ValueError):
    """The other end sent something that is no message."""


def send(fd: int, message: Any) -> None:
    """Write one message; raises BadMessage if it is too large, OSError if nobody reads."""
    data = memoryview(_framed(message))
    while data:
        data = data[os.write(fd, data) :]


def receive(fd: int) -> Any:
    """Return the next message, or None where the other end has closed; raises BadMessage."""
    return _received(lambda size: os.read(fd, size))


def send_to(connection: socket.socket, message: Any) -> None:
    """Write one message to a socket that may have a time limit; raises as `send` does."""
    connection.sendall(_framed(message))


def receive_from(connection: socket.socket) -> Any:
    """Return the next message of a socket as `receive` does; raises TimeoutError at its time limit."""
    return _received(connection.recv)


def _framed(message: Any) -> bytes:
    payload = json.dumps(message, separators=(",", ":")).encode()
    if len(payload) > MAX_BYTES:
        raise BadMessage(f"a message of {len(payload)} bytes is over the limit of {MAX_BYTES}")
    return len(payload).to_bytes(4, "big") + payload


def _received(read: Callable[[int], bytes]) -> Any:
    header = _exactly(read, 4)
    if header is None:
        return None
    size = int.from_bytes(header, "big")
    if size > MAX_BYTES:
        raise BadMessage(f"a message of {size} bytes is over the limit of {MAX_BYTES}")
    payload = _exactly(read, size)
    if payload is None:
        return None
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"no JSON: {type(error).__name__}") from None


def _exactly(read: Callable[[int], bytes], size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = read(min(size - len(data), 1 << 16))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
