"""Linux calls that the standard library lacks, by ctypes: namespaces, mounts, capabilities, prctl.

Each raises OSError as the kernel says; what this C library does not have raises it with ENOSYS.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x2, 0x4, 0x8
_MNT_DETACH = 2
_SYS_MOUNT_SETATTR = 442  # the same on every architecture
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 0x1, 0x2, 0x4
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 4, 38, 36
_CAPABILITY_VERSION_3 = 0x20080522

_library: list[ctypes.CDLL] = []


def call(name: str, *arguments: Any) -> int:
    """Call a function of the C library; ``syscall`` takes the number first."""
    if not _library:
        _library.append(ctypes.CDLL(None, use_errno=True))
    function = getattr(_library[0], name, None)
    if function is None:
        raise OSError(errno.ENOSYS, f"the C library has no {name}")
    function.restype = ctypes.c_long
    result: int = function(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Move this process (for CLONE_NEWPID: its next child) into new namespaces."""
    call("unshare", ctypes.c_int(flags))


def make_mounts_private() -> None:
    """Keep the mounts made from now on inside this mount namespace."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE, "")


def mount_tmpfs(target: str, options: str) -> None:
    """Mount an empty memory file system in which nothing can be executed."""
    _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)


def bind_read_only(source: str, target: str) -> None:
    """Show ``source`` and what is mounted below it at ``target``, for reading only."""
    _mount(source, target, "", _MS_BIND | _MS_REC, "")
    make_read_only(target, recursive=True)


def make_read_only(target: str, *, recursive: bool) -> None:
    """Forbid writing, set-uid programs and devices on a mount."""
    attributes = (ctypes.c_uint64 * 4)(_ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0, 0, 0)
    call(
        "syscall",
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def pivot_root(root: str) -> None:
    """Make ``root``, a mount, the only file system there is."""
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", ctypes.c_int(_MNT_DETACH))
    os.chdir("/")


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(kind) or None,
        ctypes.c_ulong(flags),
        os.fsencode(options) or None,
    )


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; a change of user id undoes it."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """Let no program that is executed from here gain anything by set-uid."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Let no process of the same user trace this one or read its memory."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    call("prctl", ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero)


def drop_capabilities() -> None:
    """Give up every capability of this process."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    call("capset", ctypes.byref(header), ctypes.byref(nothing))
