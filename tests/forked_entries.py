"""What the processes of test_forked do, forked or started: ``python -m forked_entries WHAT``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    what = sys.argv[1]
    sys.stderr.write(f"about to {what}\n")
    sys.stderr.flush()
    if what == "tell":
        facts = {
            "arguments": sys.argv[1:],
            "session": os.getsid(0) == os.getpid() == os.getpgrp(),
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
            "parent": os.getppid(),
            "descriptors": [number for number in range(64) if Path(f"/proc/self/fd/{number}").exists()],
            "threads": len(list(Path("/proc/self/task").iterdir())),
            "heard": sys.stdin.readline().strip(),
        }
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
        time.sleep(60)
    if what == "exit":
        sys.exit(3)
    if what == "raise":
        raise RuntimeError("this is why")
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        if os.fork() == 0:  # somebody else in its group
            time.sleep(300)
        time.sleep(300)


if __name__ == "__main__":
    main()
