"""How long ``apr-qa --help`` takes beside importing click: ``python benchmarks/startup.py``.

Method: each side is a process of its own, the two alternate, medians of ``--runs`` (15); processor time (user and
system) is what the program costs, wall time what a person waits for on this machine as it is now. Exit 1 if
``apr-qa --help`` takes more than 100 ms of processor time.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

LIMIT_MS = 100.0
SIDES = {
    "python -c pass": ["-c", "pass"],
    "import click": ["-c", "import click"],
    "apr-qa --help": ["-m", "apr_qa", "--help"],
    "apr-qa certify --help": ["-m", "apr_qa", "certify", "--help"],
}


def main() -> int:
    """Print the table; return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=15)
    runs = arguments.parse_args().runs
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    for _ in range(runs):
        for name, command in SIDES.items():
            found[name].append(_measured(command))
    medians = {
        name: [statistics.median(column) for column in zip(*taken, strict=True)]
        for name, taken in found.items()
    }
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {runs} runs")
    for name, (processor, wall) in medians.items():
        ratio = processor / medians["import click"][0]
        print(f"{name:22} {processor:7.1f} ms of processor time, {wall:7.1f} ms; ratio to click {ratio:4.2f}")
    return 1 if medians["apr-qa --help"][0] > LIMIT_MS else 0


def _measured(command: list[str]) -> tuple[float, float]:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * used, 1000 * wall


if __name__ == "__main__":
    sys.exit(main())
