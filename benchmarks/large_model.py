"""Whether the tier mvp stays cheap for a model of half a billion weights: ``python benchmarks/large_model.py``.

Method: a model in the dimensions of Qwen2-0.5B with random bfloat16 weights and a vocabulary of 151,936 is made once
(`qwen_sized`), then ``apr-qa certify`` runs tier mvp on it with an empty cache, ``--runs`` (3) times; medians. Wall
time is of the whole command, processor time of it and all its children. Memory is looked at ten times a second over all
processes of the run: the sum of their proportional set sizes, in which a page of a mapped file counts once however many
have mapped it, and the largest resident set of one process. Both are compared with the size that the weights would have
as float32. No failure ends the run early (``collect_all``), for answers of a random model are garbage; how many of the
planned scenarios ran is stated.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import measured
import mvp
import qwen_sized

from apr_qa import evidence
from apr_qa.formats import FORMATS

MOST_S = 300.0
MOST_RATIO = 3.0
_EVERY_S = 0.1
_CHANGE = 0.01
"""Share by which resident sets must have changed for the proportional ones to be asked, which costs time."""


class Peaks(NamedTuple):
    """The most memory that the processes of a run had at one moment, in bytes."""

    together: int
    """Sum of proportional set sizes, pages of mapped files included."""
    private: int
    """Sum of what is theirs alone and written: the proportional share of anonymous pages."""
    largest: int
    """The resident set of one process."""


def descendants(root: int) -> list[int]:
    """Return a process and everything that it started."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _read(entry / "stat").rpartition(")")[2].split()
            if len(fields) > 1:
                children[int(fields[1])].append(int(entry.name))
    found = [root]
    for process in found:
        found += children[process]
    return found


def resident(processes: Sequence[int]) -> list[int]:
    """Return the resident sets of processes in bytes; one that has ended meanwhile has none."""
    fields = (_read(Path(f"/proc/{process}/statm")).split() for process in processes)
    return [int(found[1]) * resource.getpagesize() if found else 0 for found in fields]


def memory_of(processes: Sequence[int]) -> Peaks:
    """Return what processes have at this moment; one that has ended meanwhile has nothing."""
    together = private = 0
    for process in processes:
        sizes = {}
        for line in _read(Path(f"/proc/{process}/smaps_rollup")).splitlines()[1:]:
            name, _, size = line.partition(":")
            sizes[name] = int(size.split()[0]) << 10
        together += sizes.get("Pss", 0)
        private += sizes.get("Pss_Anon", 0)
    return Peaks(together, private, max(resident(processes), default=0))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def watched(command: list[str], environment: Mapping[str, str]) -> Peaks:
    """Run a command to its end and return the most memory that it and its children had; 1 says that it found faults."""
    peaks = Peaks(0, 0, 0)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=dict(environment))
        asked = 0
        while process.poll() is None:
            family = descendants(process.pid)
            sets = resident(family)
            peaks = peaks._replace(largest=max(peaks.largest, *sets))
            # What is shared counts less: proportional sets never add up to more than resident ones.
            if sum(sets) > peaks.together and abs(sum(sets) - asked) > _CHANGE * asked:
                peaks, asked = Peaks(*map(max, peaks, memory_of(family))), sum(sets)
            time.sleep(_EVERY_S)
        if process.returncode not in (0, 1):
            said.seek(0)
            raise SystemExit(said.read()[-3000:].decode(errors="replace"))
    return peaks


def certified(model: Path, place: Path) -> dict[str, float]:
    """Certify once with an empty cache; findings are expected of a random model."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "apr_qa", "certify", str(model), "--tier", "mvp", "--quiet", "--offline"]
    command += ["--failure-policy", "collect_all", "-o", str(place / "output")]
    peaks = watched(command, {**os.environ, "APR_QA_CACHE": str(place / "cache")})
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall": wall,
        "processor": spent,
        "together": peaks.together / 1e9,
        "private": peaks.private / 1e9,
        "largest": peaks.largest / 1e9,
    }


def scenarios(stored: Path) -> str:
    """Say how many of the planned scenarios ran, and what became of them."""
    header, entries = evidence.read(stored)
    outcomes = Counter(str(entry.outcome) for entry in entries)
    ran = sum(outcomes.values()) - outcomes["skipped"] - outcomes["inapplicable"]
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    return f"{ran} of {header.planned} planned scenarios ran: {told}"


def float32_bytes(model: Path) -> int:
    """Return what the weights of a model would take as float32."""
    return 4 * sum(math.prod(info.shape) for info in FORMATS.get("safetensors").open(model).tensors.values())


def main() -> None:
    """Make the model, certify it and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder that was made before, or any other model")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    times: measured.Times = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-large-") as name:
        model = options.model or qwen_sized.make(Path(name) / "model")
        size = float32_bytes(model) / 1e9
        for number in range(options.runs):
            place = Path(name) / str(number)
            for what, value in certified(model, place).items():
                times[what].append(value)
            stored = next((place / "output").rglob("evidence.jsonl"))
            ran, parts = scenarios(stored), mvp.breakdown(stored)
            print({what: round(values[-1], 2) for what, values in times.items()}, ran, flush=True)
            shutil.rmtree(place)
    found = measured.medians(times)
    rows = [
        ("wall time, cold", found["wall"], "s"),
        ("processor time, all processes", found["processor"], "s"),
        ("peak of all processes together (PSS)", found["together"], "GB"),
        ("of it private", found["private"], "GB"),
        ("peak of the largest process (RSS)", found["largest"], "GB"),
        ("weights as float32", size, "GB"),
        ("peak together, over the weights as float32", found["together"] / size, "times"),
        ("peak of the largest, over the weights as float32", found["largest"] / size, "times"),
    ]
    said = [f"wanted: at most {MOST_S:.0f} s on two cores, and {MOST_RATIO:.0f} times the float32 size", ran]
    said += [f"{what}: {value:.1f} s" for what, value in parts.items() if value >= 1]
    print("\n".join([*(f"{label}: {value:.2f} {unit}" for label, value, unit in rows), *said]))
    where = measured.machine("torch", "transformers", "llama-cpp-python")
    method = (__doc__ or "").partition("Method: ")[2]
    print(
        measured.page(
            "large_model", "Tier mvp for a model of half a billion weights", method, rows, said, where
        )
    )


if __name__ == "__main__":
    main()
