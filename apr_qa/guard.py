"""Run a module as a child that cannot outlive its parent.

``python -m apr_qa.guard MODULE ARG…`` behaves like ``python -m MODULE ARG…``, except that the process ends
as soon as its standard input is closed, which the kernel does when the parent dies, however it dies.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable

from apr_qa import confinement


def exit_with_parent(heard: Callable[[bytes], None] = lambda _: None) -> None:
    """Start a thread that ends this process when standard input reaches its end.

    What comes before the end is given to ``heard`` piece by piece.
    """

    def watch() -> None:
        while said := os.read(0, 1 << 16):
            heard(said)
        if os.getpgrp() == os.getpid():  # what this process started goes with it
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="exit-with-parent").start()


def main() -> None:
    """Replace ``sys.argv`` by the arguments of the guarded module, and run it within limits."""
    del sys.argv[0]
    exit_with_parent()
    confinement.confine(confinement.running_limit(gpu=bool({"--gpu", "-1"} & set(sys.argv))))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
