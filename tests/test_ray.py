"""Ray gives the same plan, evidence and score as this machine, though a node's process is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import noop_runs
import pytest
from noop_runs import Silence, batch, outcomes, run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of several libraries that it brings
]


def working() -> list[int]:
    """Return the processes of Ray that are working on a task."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::_work"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_ray_finds_what_this_machine_finds_though_a_process_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noop_runs.with_engine(monkeypatch)
    monkeypatch.setenv("NOOP_DELAY_S", "0.02")
    plan = [batch(1200, "one"), batch(40, "refused"), batch(300, "two", wave=1)]
    here = outcomes(run(tmp_path / "here", plan))
    watcher, killed = Silence(), threading.Event()

    def kill() -> None:
        while len(watcher.entries) < 100 or not working():
            time.sleep(0.02)
        os.kill(working()[0], signal.SIGKILL)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    there = outcomes(run(tmp_path / "there", plan, watcher, cluster="ray"))
    assert killed.is_set() and there == here
