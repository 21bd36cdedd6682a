"""Landlock: a process gives up the file system but for the folders it names; no privilege is needed.

Numbers and structures: ``include/uapi/linux/landlock.h``; the call numbers are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from apr_qa.sandbox import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_READ = 1 << 2 | 1 << 3  # files, folders
_FIRST_RIGHTS = (1 << 13) - 1
_TRUNCATE = 1 << 14
_DEVICES_AND_SOCKETS = 1 << 6 | 1 << 9 | 1 << 11
_RIGHTS = {1: _FIRST_RIGHTS, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_RIGHTS_NOW = (1 << 16) - 1
"""Of interface 5 and later."""
_TCP = 0b11
"""Bind and connect, from interface 4 on."""
_SCOPES = 0b11
"""Abstract sockets and signals of others, from interface 6 on."""


def version() -> int:
    """Return the interface that the kernel has, 0 for none."""
    try:
        return kernel.call(
            "syscall", ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION)
        )
    except OSError:
        return 0


def confine(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Leave this process only reading below ``readable`` and working with files below ``writable``.

    Nothing can be executed, no TCP connection made, and from kernel 6.12 on no signal sent outside. Needs
    `kernel.forbid_new_privileges` first; what does not exist is left out.
    """
    interface = version()
    handled = _RIGHTS.get(interface, _RIGHTS_NOW)
    parts = [handled, _TCP, _SCOPES][: 1 + (interface >= 4) + (interface >= 6)]
    content = struct.pack(f"={len(parts)}Q", *parts)
    flags = ctypes.c_uint(0)
    ruleset = kernel.call("syscall", ctypes.c_long(_CREATE), content, ctypes.c_size_t(len(content)), flags)
    # Whole file access where writing is allowed, but nothing executed and no device or socket made.
    working = handled & ~(1 | _DEVICES_AND_SOCKETS)
    for paths, rights in ((readable, _READ), (writable, working)):
        for path in paths:
            _allow(ruleset, path, rights & handled)
    kernel.call("syscall", ctypes.c_long(_RESTRICT), ctypes.c_int(ruleset), flags)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    # A rule on a file may hold only the rights that a file can have: execute, write, read, truncate.
    allowed = rights if Path(path).is_dir() else rights & (0b111 | _TRUNCATE)
    rule = struct.pack("=Qi", allowed, folder)
    kind = ctypes.c_int(_PATH_BENEATH)
    kernel.call("syscall", ctypes.c_long(_ADD), ctypes.c_int(ruleset), kind, rule, ctypes.c_uint(0))
    os.close(folder)
