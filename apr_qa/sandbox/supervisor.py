"""One trial from fork to verdict: two confined processes, a clock, and the end of both."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from apr_qa.sandbox import Limits, Verdict, candidate, examiner, kernel, walls, wire

_POLL_S = 0.05
_SETTLING_S = 0.5
"""How long a process whose channel has closed may take to end."""


def supervise(job: int, standing: walls.Walls, limits: Limits, number: int) -> None:
    """Read a trial from ``job``, have it tried, and write the verdict there.

    Both processes are forked before the trial is read, so that the candidate's memory never held its test.
    """
    started = time.monotonic()
    ours, theirs = socket.socketpair()
    asking, answering = socket.socketpair()

    def examine() -> None:
        walls.confine(standing, limits, 2 * number, [asking.fileno(), theirs.fileno()])
        examiner.serve(3, 4)

    def answer() -> None:
        walls.confine(standing, limits, 2 * number + 1, [answering.fileno()])
        candidate.serve(3)

    scratch = () if standing.mounts else tuple(walls.own_scratch(standing, 2 * number + i) for i in (0, 1))
    examining = _fork(examine)
    if standing.processes:
        kernel.unshare(kernel.CLONE_NEWPID)
    answering_pid = _fork(answer)
    for end in (theirs, asking, answering):
        end.close()
    said = _verdict(job, ours.fileno(), started + limits.wall_s, scratch, limits)
    ended = _end(answering_pid, _SETTLING_S if said[0] == "crashed" else 0.0)
    _end(examining, 0.0)
    _end_orphans()
    if _used(scratch) > limits.disk_mb << 20:
        said = _too_large(limits)
    for folder in scratch:
        shutil.rmtree(folder, ignore_errors=True)
    outcome, reason = _explained(said, ended, limits)
    verdict = Verdict(outcome, reason, round(time.monotonic() - started, 4))
    with contextlib.suppress(OSError):
        wire.send(job, asdict(verdict))


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    with contextlib.suppress(BaseException):  # the end of the process says it all: no verdict, no pass
        work()
    os._exit(1)


def _verdict(
    job: int, examiner_fd: int, deadline: float, scratch: Sequence[str], limits: Limits
) -> list[str]:
    try:
        wire.send(examiner_fd, wire.receive(job))
        while not select.select([examiner_fd], [], [], _POLL_S)[0]:
            if time.monotonic() > deadline:
                return ["timeout", f"not done within {limits.wall_s:g} s"]
            if _used(scratch) > limits.disk_mb << 20:
                return _too_large(limits)
        said = wire.receive(examiner_fd)
    except (OSError, wire.BadMessage):
        said = None
    return said or ["invalid", "the test ended its process"]


def _too_large(limits: Limits) -> list[str]:
    return ["failed", f"over {limits.disk_mb} MB of files were written"]


def _used(folders: Sequence[str]) -> int:
    """Return the bytes of all files in the scratch folders that no file system limits."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(f"{place}/{name}").st_blocks * 512
    return total


def _end(pid: int, patience_s: float) -> tuple[int, Any] | None:
    """Kill a process and reap it; return (wait status, resource usage) if it had ended by itself."""
    deadline = time.monotonic() + patience_s
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() >= deadline:
            break
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.wait4(pid, 0)
    return None


def _end_orphans() -> None:
    """Kill what a candidate left behind where neither a namespace nor a filter has prevented it."""
    with contextlib.suppress(OSError):
        while True:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as stream:  # noqa: PTH123
                orphans = [int(pid) for pid in stream.read().split()]
            if not orphans:
                return
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _explained(said: list[str], ended: tuple[int, Any] | None, limits: Limits) -> tuple[str, str]:
    """Add how the candidate died to the verdict that it was gone."""
    outcome, reason = said
    if outcome != "crashed" or ended is None:
        return outcome, reason
    status, usage = ended
    if usage.ru_utime + usage.ru_stime >= limits.cpu_s:
        return "timeout", f"{limits.cpu_s} s of processor time were used up"
    if os.WIFSIGNALED(status):
        return outcome, f"the program's process died of {signal.Signals(os.WTERMSIG(status)).name}"
    return outcome, f"the program ended its process with exit code {os.WEXITSTATUS(status)}"
