"""The fork server: raise the walls once, then fork a supervisor for each trial.

Runs as ``python -c … CONFIGURATION`` with the control socket as descriptor 3 and an empty environment. It
never reads a trial itself, so what it forks knows none. When the control socket closes it ends, and with it,
being the first of a process-id namespace, everything that it has started.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any

from apr_qa.sandbox import Limits, kernel, supervisor, walls, wire

CONTROL = 3
PRELOADED = (
    *(
        "abc",
        "array",
        "bisect",
        "cmath",
        "collections.abc",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
    ),
    *(
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "json",
        "math",
        "numbers",
        "operator",
        "random",
    ),
    *("re", "statistics", "string", "struct", "textwrap", "time", "typing", "unicodedata"),
)
"""What generated code imports most, so that a trial need not load it."""


def main() -> None:
    """Serve until the control socket closes."""
    configuration = json.loads(sys.argv[1])
    limits = Limits(**configuration["limits"])
    for name in PRELOADED:
        importlib.import_module(name)
    sys.path[:] = [path for path in sys.path if path not in configuration["hidden"]]
    del sys.argv[1:]
    standing = walls.raise_outer(
        configuration["scratch"],
        configuration["without"],
        configuration["bubblewrap"],
        configuration["refusals"],
    )
    if standing.missing and not configuration["unsafe"]:
        wire.send(CONTROL, {"refused": standing.missing, **standing.to_json()})
        return
    if standing.processes:
        _continue_in_namespace()
    with contextlib.suppress(OSError):
        kernel.adopt_orphans()
    wire.send(CONTROL, {"refused": [], **standing.to_json()})
    gc.collect()
    gc.freeze()
    _serve(standing, limits)


def _continue_in_namespace() -> None:
    """Go on as the first process of the new namespace; the old one waits for it."""
    pid = os.fork()
    if pid:
        os.close(CONTROL)
        os.waitpid(pid, 0)
        os._exit(0)
    kernel.die_with_parent()


def _serve(standing: walls.Walls, limits: Limits) -> None:
    control = socket.socket(fileno=CONTROL)
    # Ended supervisors, and what they left behind, are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    number = 0
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        number += 1
        for job in descriptors:
            if os.fork() == 0:
                _supervise(job, standing, limits, number)
            os.close(job)


def _supervise(job: int, standing: walls.Walls, limits: Limits, number: int) -> Any:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(CONTROL)
        with contextlib.suppress(OSError):
            kernel.adopt_orphans()
        supervisor.supervise(job, standing, limits, number)
    finally:
        os._exit(0)
