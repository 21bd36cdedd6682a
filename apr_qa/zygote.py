"""A process that has imported what workers need and forks into them: ``python -m apr_qa.zygote MODULE…``.

Importing torch and transformers takes seconds of processor time, a fork milliseconds. Descriptor 0 is a socket
to the parent, `forked`: a request names ``entry``, ``arguments`` and ``environment`` (what is ours of it) of a child to
fork, or one to ``reap`` that has ended; an answer is a number. Only where this process has a single thread is it
forked: a lock that another thread holds would stay locked in the child for ever.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apr_qa.forked import OURS

MOST_BYTES = 1 << 16
"""Of one request: a few arguments."""
DESCRIPTORS = 3
"""Standard input, output and error of a child come with the request for it."""


def main() -> None:
    """Import, then fork whenever asked; a child leaves by calling its entry, this process when nobody asks any more."""
    imported(sys.argv[1:])
    _require_single_thread()
    _serve(socket.socket(fileno=0))()


def imported(names: list[str]) -> None:
    """Import modules; what is not installed is for the one to say who needs it."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _serve(control: socket.socket) -> Callable[[], None]:
    """Answer requests; returns in children only, with what they are to call."""
    gc.collect()
    gc.freeze()  # what is never looked at by the collector stays shared with the children
    control.send(b"0")
    while True:
        said, descriptors, _, _ = socket.recv_fds(control, MOST_BYTES, DESCRIPTORS)
        if not said:
            os._exit(0)
        request = json.loads(said)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            control.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        if not os.fork():
            return _born(control, request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _born(control: socket.socket, request: dict[str, Any], descriptors: list[int]) -> Callable[[], None]:
    """Make this process what a freshly started one is: a group and a session, streams and arguments of its own."""
    os.setsid()
    control.send(str(os.getpid()).encode())  # from here on it can be killed with its group
    control.detach()
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    os.environ.update(request["environment"])
    entry: Callable[[], None] = pkgutil.resolve_name(request["entry"])
    sys.argv = [request["entry"], *request["arguments"]]
    return entry


def _require_single_thread() -> None:
    """Leave if this process has threads that do not end for a fork, as those of OpenBLAS do."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        os._exit(1)


if __name__ == "__main__":
    main()
