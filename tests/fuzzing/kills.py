"""Kill a run at random, go on with it, and see that it ends as if nothing had happened.

``python -m fuzzing.kills --kills 50 --seed 1`` kills workers and the process that started them, each time with
SIGKILL, and goes on with ``resume`` after each death of the latter. ``--crashes 1000`` lets a thousand workers
crash instead and counts what is left of them. Needs the folder of the tests on ``PYTHONPATH``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import noop_runs
import pytest

from apr_qa import collect, runner
from apr_qa.plan import Batch
from apr_qa.vocabulary import Evidence, Judgement, Outcome

PARENT = "import sys; sys.path[:0] = sys.argv[2:]; from fuzzing import kills; kills.go_on(sys.argv[1])"
GONE_S = 10.0
"""How long children may outlive their parent; what they were doing in the kernel comes to its end."""


class Told(NamedTuple):
    """What a campaign found."""

    kills: int
    runs: int
    survivors: int
    differences: list[str]


def plan() -> list[Batch]:
    """Return a plan of three waves; one question kills its worker whoever else does, one file does not load."""
    return [
        noop_runs.batch(700, "one"),
        noop_runs.batch(60, "refused"),
        noop_runs.batch(500, "two"),
        noop_runs.batch(300, "three", wave=1),
        noop_runs.batch(200, "four", wave=2),
    ]


def go_on(folder: str) -> None:
    """Begin a run in ``folder``, or go on with it; this is what gets killed."""
    noop_runs.run(Path(folder), plan(), resume=True)


@contextmanager
def machine(delay_s: float) -> Iterator[None]:
    """Let workers find the engine, take their time, and die over one question."""
    with pytest.MonkeyPatch.context() as patch:
        noop_runs.with_engine(patch)
        patch.setenv("NOOP_DELAY_S", str(delay_s))
        patch.setenv("APR_QA_FAULT", "crash:two 333")
        yield


def campaign(kills: int, seed: int, folder: Path, delay_s: float = 0.1) -> Told:
    """Kill ``kills`` times over as many runs as it takes, and compare each with one that nobody killed."""
    dice, done, number, survivors = random.Random(seed), 0, 0, 0
    differences: list[str] = []
    with machine(0.0):
        wanted = noop_runs.outcomes(noop_runs.run(folder / "whole", plan()))
    with machine(delay_s):
        while done < kills:
            number += 1
            place = folder / f"run{number}"
            final = place / collect.EVIDENCE_FILE
            while not final.exists():
                parent = _started(place)
                while parent.poll() is None and done < kills:
                    time.sleep(dice.uniform(0.2, 2.0))
                    victim = _victim(parent.pid, dice)
                    children = _children(parent.pid)
                    if victim is None or not _kill(victim):
                        continue
                    done += 1
                    if victim == parent.pid:
                        parent.wait()
                        survivors += _outliving(children)
                if parent.wait() not in (0, -signal.SIGKILL):
                    differences.append(f"run {number}: exit code {parent.returncode}")
                    break
            found = noop_runs.outcomes(final) if final.exists() else {}
            differences += [
                f"run {number}: {name} {wanted.get(name)} {found.get(name)}"
                for name in sorted(wanted.keys() | found.keys())
                if wanted.get(name) != found.get(name)
            ]
    return Told(done, number, survivors, differences)


def _started(place: Path) -> subprocess.Popen[bytes]:
    here = Path(__file__).parents[1]
    arguments = [sys.executable, "-c", PARENT, str(place), str(here), str(here.parent)]
    return subprocess.Popen(arguments, start_new_session=True)


def _children(pid: int) -> list[int]:
    """Return the workers of a process, and what they are forked from."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found + [one for child in found for one in _children(child)]


def _victim(parent: int, dice: random.Random) -> int | None:
    """Return the process, or one of its workers, as likely as not."""
    workers = _children(parent)
    if dice.random() < 0.5 or not workers:
        return parent
    return dice.choice(workers)


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _outliving(pids: list[int]) -> int:
    """Return how many processes live on though their parent is dead; a zombie does not."""
    deadline = time.monotonic() + GONE_S
    alive = pids
    while alive and time.monotonic() < deadline:
        alive = [pid for pid in alive if _alive(pid)]
        time.sleep(0.05)
    return len(alive)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- crashes


class Left(NamedTuple):
    """What is left of workers that crashed."""

    crashed: int
    processes: int
    descriptors: int
    threads: int


def crashes(count: int) -> Left:
    """Let ``count`` questions kill their workers, and return what is there afterwards that was not before."""
    with pytest.MonkeyPatch.context() as patch:
        noop_runs.with_engine(patch)
        patch.setenv("APR_QA_FAULT", "crash:boom")
        _crash(1)  # what is opened once stays open
        before = _held()
        entries = _crash(count)
        after = _held()
    crashed = sum(entry.outcome is Outcome.CRASHED for entry in entries)
    return Left(crashed, *(now - then for now, then in zip(after, before, strict=True)))


def _crash(count: int) -> list[Evidence]:
    entries: list[Evidence] = []
    line = runner.Line("collect_all", entries.append)

    def judge(*_: object) -> tuple[Judgement, dict[str, object]]:
        return Judgement(outcome=Outcome.CORROBORATED, reason="answered"), {}

    runner.run([noop_runs.batch(count, "boom")], line, judge, runner.Limits(), jobs=2, threads=1)
    return entries


def _held() -> tuple[int, int, int]:
    time.sleep(0.2)  # a thread that reads from a pipe ends a moment after it
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return len(_children(os.getpid())), descriptors, threading.active_count()


def main() -> None:
    """Run what was asked for and say what was found; exit code 1 where anything was."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--crashes", type=int, default=0)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    if given.crashes:
        left = crashes(given.crashes)
        sys.stdout.write(f"{left}\n")
        sys.exit(left != (given.crashes, 0, 0, 0))
    with tempfile.TemporaryDirectory() as folder:
        told = campaign(given.kills, given.seed, Path(folder))
    sys.stdout.write(f"{told}\n")
    sys.exit(bool(told.differences or told.survivors))


if __name__ == "__main__":
    main()
