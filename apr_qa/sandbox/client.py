"""The trusted side: start the fork server, hand it trials, get verdicts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apr_qa import processes
from apr_qa.devices import usable_cores
from apr_qa.errors import EnvironmentFault
from apr_qa.sandbox import Limits, Trial, Verdict, bubblewrap, wire

START_LIMIT_S = 30.0
GRACE_S = 10.0
"""How much longer than its limit a trial may take before the sandbox itself is taken for broken."""
_PACKAGE_ROOT = str(Path(__file__).parents[2])
_FIX = "use Linux 5.13 or later with Landlock or user namespaces, or accept the risk with --unsafe"


class Sandbox:
    """A running fork server; a context manager, usable from several threads.

    Raises EnvironmentFault where this machine cannot isolate files, network and processes, unless ``unsafe``.
    Bubblewrap is put around it where it is installed and works; ``isolation`` says whether it does, and why not.
    ``without`` weakens it, so that each wall can be tried alone: bubblewrap, privileges, namespaces, landlock,
    seccomp.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        unsafe: bool = False,
        without: Sequence[str] = (),
    ) -> None:
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._scratch = tempfile.mkdtemp(prefix="apr-qa-sandbox-")
        Path(self._scratch).chmod(0o711)
        self._configuration: dict[str, Any] = {
            "limits": asdict(self.limits),
            "unsafe": unsafe,
            "without": list(without),
            "scratch": self._scratch,
            "hidden": [_PACKAGE_ROOT],
        }
        package = f"{_PACKAGE_ROOT}/apr_qa"
        wrappers = () if "bubblewrap" in without else bubblewrap.wrappers(self._scratch, package)
        self.isolation = self._started([*wrappers, []])

    def _started(self, wrappers: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Start the server in the first wrapper that works and return its greeting; the last one has to."""
        *outer, _ = wrappers
        refusals: list[str] = []
        for wrapper in outer:
            try:
                self._start(wrapper, refusals)
                return self._greeting()
            except EnvironmentFault as error:
                self._end()
                said = f"{bubblewrap.PROGRAM}: {error.what}"
                refusals += [] if said in refusals else [said]
        try:
            self._start((), refusals)
            return self._greeting()
        except BaseException:
            self.close()
            raise

    def _start(self, wrapper: Sequence[str], refusals: Sequence[str]) -> None:
        program = f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); from apr_qa.sandbox import server; server.main()"
        stated = {**self._configuration, "bubblewrap": bool(wrapper), "refusals": list(refusals)}
        self._control, theirs = socket.socketpair()
        self._process = processes.isolated(program, json.dumps(stated), theirs, wrapper)
        theirs.close()

    def _greeting(self) -> dict[str, Any]:
        self._control.settimeout(START_LIMIT_S)
        hello = None
        with contextlib.suppress(OSError, wire.BadMessage):
            hello = wire.receive_from(self._control)
        if hello is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            words = (self._process.communicate()[1] or b"").decode(errors="replace").strip().splitlines()
            raise EnvironmentFault(
                f"the sandbox did not start: {words[-1] if words else 'no answer'}", fix=_FIX
            )
        if hello["refused"]:
            raise EnvironmentFault(
                f"nothing here isolates generated code: no wall for {', '.join(hello['refused'])}",
                where="; ".join(hello["refusals"]),
                fix=_FIX,
            )
        self._control.settimeout(None)
        return dict(hello)

    def try_out(self, trial: Trial) -> Verdict:
        """Run one program against its test in fresh processes; raises EnvironmentFault if the sandbox broke."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock, contextlib.suppress(OSError):
                socket.send_fds(self._control, [b"j"], [theirs.fileno()])
            ours.settimeout(self.limits.wall_s + GRACE_S)
            try:
                wire.send_to(ours, asdict(trial))
                said = wire.receive_from(ours)
            except wire.BadMessage as error:
                return Verdict("invalid", str(error))
            except OSError:
                said = None
        if said is None and self._process.poll() is None:
            return Verdict("crashed", "the trial ended without a verdict")
        if said is None:
            raise EnvironmentFault(
                "the sandbox ended during a trial", fix="apr-qa doctor says what is installed"
            )
        return Verdict(**said)

    def try_all(self, trials: Iterable[Trial], jobs: int = 0) -> list[Verdict]:
        """Run trials ``jobs`` at a time (0: one a core) and return their verdicts in order."""
        with ThreadPoolExecutor(jobs or usable_cores()) as pool:
            return list(pool.map(self.try_out, trials))

    def close(self) -> None:
        """Kill whatever is left and remove the scratch folder."""
        self._end()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self) -> None:
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
