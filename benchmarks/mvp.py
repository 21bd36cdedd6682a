"""How long the tier mvp takes, cold and warm, and where it goes: ``python benchmarks/mvp.py [MODEL]``.

Method: ``apr-qa certify MODEL --tier mvp`` (the embedded SmolLM2-135M-Instruct by default) with an empty cache, then
again with what the first left there; ``--runs`` (3) such pairs, medians. Wall time is of the whole command, processor
time of it and all its children. The breakdown is of the last pair. Processor seconds are looked up for every process
ten times a second, under the name that it gives itself: ``gguf run`` runs the GGUF; ``imports`` is what all workers
share. Seconds of claims are what the evidence of the warm run states; targets run side by side, so they add up to
more than the wall time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measured

from apr_qa import evidence


class Ledger:
    """Processor seconds of a process and all its descendants, by name."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float]] = {}
        self._tick = os.sysconf("SC_CLK_TCK")

    def look(self, pid: int, parent: str = "") -> None:
        """Note what a process has used so far, and what its children have; one that has just ended is passed over."""
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            name = self._name(pid, parent)
            self._seen[pid] = (name, (int(fields[11]) + int(fields[12])) / self._tick)
            for task in Path(f"/proc/{pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    self.look(int(child), name)

    def _name(self, pid: int, parent: str) -> str:
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if not parent:
            return "apr-qa itself"
        if not comm.startswith("python"):
            return comm
        if b"apr_qa.zygote" in command:
            return "imports" if parent == "apr-qa itself" else "servers"
        return "servers" if b"apr_qa.guard" in command else "other"

    def seconds(self) -> dict[str, float]:
        """Return the seconds by name, most first."""
        found: dict[str, float] = defaultdict(float)
        for name, value in self._seen.values():
            found[name] += value
        return dict(sorted(found.items(), key=lambda one: -one[1]))


def certified(model: str, cache: Path, output: Path) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Certify once and return the totals, and processor seconds by process; a finding (exit code 1) is a result too."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["-m", "apr_qa", "certify", model, "--tier", "mvp", "-o", str(output), "--quiet"]
    ledger = Ledger()
    with tempfile.TemporaryFile() as said:
        running = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, "APR_QA_CACHE": str(cache)},
        )
        while running.poll() is None:
            ledger.look(running.pid)
            time.sleep(0.1)
        said.seek(0)
        if running.returncode not in (0, 1):
            raise SystemExit(said.read().decode()[-3000:])
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "processor": spent}, ledger.seconds()


def breakdown(stored: Path) -> dict[str, float]:
    """Return the seconds of each target by what was asked; texts are made together, so the slowest counts."""
    seconds: dict[str, set[float]] = defaultdict(set)
    for entry in evidence.read(stored)[1]:
        response: Any = entry.response
        if response is None:
            continue
        target, kind = entry.scenario.target, entry.scenario.claim.kind
        took = response.facts.get("load_s") if kind == "load" else response.duration_s
        what = "generate" if kind in ("generate", "chat") else kind
        if took:
            name = f"{target.format} {target.modality if kind != 'chat' else 'run'} {what}"
            seconds[name] = {max([took, *seconds[name]])} if what == "generate" else {*seconds[name], took}
    return dict(sorted(((name, sum(found)) for name, found in seconds.items()), key=lambda one: -one[1]))


def main() -> None:
    """Measure pairs of a cold and a warm run and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    processes: dict[str, Mapping[str, float]] = {}
    claims: dict[str, float] = {}
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="bench-mvp-") as name:
            place = Path(name)
            for state in ("cold", "warm"):
                totals, processes[state] = certified(options.model, place / "cache", place / state)
                for what, value in totals.items():
                    found[f"{state}: {what}"].append(value)
                print(json.dumps({key: [round(one, 1) for one in values] for key, values in found.items()}))
            claims = breakdown(next((place / "warm").glob("*/evidence.jsonl")))
    middle = measured.medians(dict(found))
    rows = [(name, value, "s") for name, value in middle.items()]
    said = ["wanted: at most 90 s cold, 45 s warm, on two cores"]
    for state, seconds in processes.items():
        busy = middle[f"{state}: processor"] / middle[f"{state}: wall"]
        listed = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if value >= 0.1)
        said.append(f"{state}: {busy:.2f} cores busy on average; processor seconds by process: {listed}")
    listed = ", ".join(f"{name} {value:.1f}" for name, value in claims.items() if value >= 0.1)
    said.append(f"warm, seconds that the evidence states: {listed}")
    print("\n".join(said))
    where = measured.machine("torch", "transformers", "llama-cpp-python")
    print(
        measured.page(
            "mvp", "Tier mvp, cold and warm", (__doc__ or "").partition("Method: ")[2], rows, said, where
        )
    )


if __name__ == "__main__":
    main()
