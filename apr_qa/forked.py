"""Processes that a `zygote` forks for us, which are not our children: the parent's side.

Where there is none (another system than Linux, imports that start threads, a zygote that was killed) a process is
started as any other is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

IMPORTING_LIMIT_S = 60.0
"""For what a zygote imports, on a machine that is busy."""

OURS = "APR_QA_"
"""How variables begin that are read when they are needed, so that they may differ from the zygote's."""
POSSIBLE = sys.platform == "linux" and hasattr(os, "pidfd_open")


class Shared(NamedTuple):
    """What a forked process does, and what is imported before it is forked."""

    entry: str
    """``module:function``."""
    imports: tuple[str, ...]


# ---- the zygotes of a run

_zygotes: dict[Any, Zygote] = {}
_sharing: list[object] = []
_lock = threading.Lock()


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Fork what is started meanwhile; zygotes begin when they are needed and end with the outermost such block."""
    _sharing.append(mine := object())
    try:
        yield
    finally:
        with _lock:
            _sharing.remove(mine)
            ended = [] if _sharing else [_zygotes.pop(key) for key in list(_zygotes)]
        for zygote in ended:
            zygote.close()


def foresee(imports: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Begin to import what will be needed by a process that is started later."""
    with contextlib.suppress(OSError):  # what cannot be started now says so when it is needed
        _zygote(imports, {**os.environ, **environment})


def started(
    shared: Shared, arguments: Sequence[str], environment: dict[str, str], stderr: int
) -> Forked | None:
    """Return a process that has been forked, None where it has to be started."""
    zygote = _zygote(shared.imports, environment)
    if zygote is None:
        return None
    ours = {name: value for name, value in environment.items() if name.startswith(OURS)}
    return zygote.fork({"entry": shared.entry, "arguments": list(arguments), "environment": ours}, stderr)


def _zygote(imports: tuple[str, ...], environment: dict[str, str]) -> Zygote | None:
    """Return the one whose children have these imports, this environment but for what is ours, and this folder."""
    if not POSSIBLE:
        return None
    known = tuple(sorted(one for one in environment.items() if not one[0].startswith(OURS)))
    key = (imports, known, Path.cwd())
    with _lock:
        if _sharing and key not in _zygotes:
            _zygotes[key] = Zygote(imports, environment)
        return _zygotes.get(key)


class Zygote:
    """A process that forks whenever it is asked to."""

    def __init__(self, imports: Sequence[str], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._ready = False
        self._gone = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(IMPORTING_LIMIT_S)
        with theirs, contextlib.ExitStack() as failed:
            failed.callback(self._control.close)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "apr_qa.zygote", *imports],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=dict(environment),
            )
            failed.pop_all()

    def fork(self, request: Mapping[str, Any], stderr: int) -> Forked | None:
        """Return a new process that does what `zygote` is asked for; None if there is no zygote any more."""
        given, taken = os.pipe(), os.pipe()
        pid = self._told(request, (given[0], taken[1], stderr), wait_for_imports=True)
        os.close(given[0])
        os.close(taken[1])
        if pid is not None:
            with contextlib.suppress(OSError):  # both have been killed, or there is no descriptor left
                return Forked(self, pid, os.pidfd_open(pid), (given[1], taken[0]))
        os.close(given[1])
        os.close(taken[0])
        return None

    def reap(self, pid: int) -> int:
        """Return how a process that has ended did: its exit code, or its signal below zero.

        What nobody can tell any more, because the zygote was killed, is a kill too.
        """
        code = self._told({"reap": pid})
        return -signal.SIGKILL if code is None else code

    def close(self) -> None:
        """End the zygote; processes that it has forked stay."""
        with self._lock:
            self._control.close()
            self._process.kill()
            self._process.wait()

    def _told(
        self, request: Mapping[str, Any], descriptors: Sequence[int] = (), *, wait_for_imports: bool = False
    ) -> int | None:
        """Return the answer to a request, None from a zygote that is dead."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._gone:
                return None
            self._gone = True  # unless it answers: what comes late would be taken for the next answer
            if wait_for_imports and not self._ready:
                self._ready = bool(self._control.recv(1))
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            answer = int(self._control.recv(32))
            self._gone = False
            return answer
        return None


class Forked:
    """A process as `subprocess.Popen` shows one; its standard input and output are pipes."""

    def __init__(self, zygote: Zygote, pid: int, handle: int, pipes: tuple[int, int]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] = os.fdopen(pipes[0], "wb")
        self.stdout: IO[bytes] = os.fdopen(pipes[1], "rb")
        self.returncode: int | None = None
        self._zygote = zygote
        self._handle = handle

    def poll(self) -> int | None:
        """Return how the process ended, None while it lives."""
        with contextlib.suppress(TimeoutError):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return how the process ended; raises TimeoutError if it does not within so many seconds."""
        if self.returncode is None:
            watch = select.poll()
            watch.register(self._handle, select.POLLIN)
            if not watch.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError
            self.returncode = self._zygote.reap(self.pid)
            os.close(self._handle)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; a process that has ended gets none."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)
