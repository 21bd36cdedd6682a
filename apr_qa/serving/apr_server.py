"""``python -m apr_qa.serving.apr_server PROGRAM FILE PORT [--gpu]``: the server of the external ``apr`` program.

Newer releases serve with ``serve run FILE``, older ones with ``serve FILE``; the program's own help tells which.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from apr_qa import processes

HELP_LIMIT_S = 20.0


def command(program: str, file: str, port: str, *, gpu: bool) -> list[str]:
    """Return the command line that serves ``file`` on a loopback port."""
    told = processes.foreign([program, "serve", "--help"], limit_s=HELP_LIMIT_S)
    newer = re.search(r"^\s+run\b", told.out, flags=re.MULTILINE) is not None
    device = "--gpu" if gpu else "--no-gpu"
    words = ["serve", *(["run"] if newer else []), file]
    return [program, *words, "--host", "127.0.0.1", "--port", port, device]


def main(arguments: Sequence[str]) -> int:
    """Serve until the program ends; return its exit code."""
    program, file, port, *rest = arguments
    return processes.relayed(command(program, file, port, gpu="--gpu" in rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
