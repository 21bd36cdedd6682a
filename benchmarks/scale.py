"""How time and memory grow with the number of scenarios: ``python benchmarks/scale.py [--quick]``.

Every phase runs in a process of its own, once for each size; noted are its seconds (wall, without starting Python),
its processor seconds and its peak resident memory. Phases:

plan     claims are drawn and crossed with targets: models of 18 cells and 1,000 drawn questions each, as many as the
         size asks for; every batch is made, as `certify` makes them.
run      the no-op engine of ``tests/noop`` answers, through the real runner, workers, oracles and durable writer
         (sizes up to ``--run-most``: 100,000).
write    entries of one run of 18 cells are written durably, with the journal that a resumed run goes by; one per
         cent of them is falsified. The phases below read this file.
resume   what is done is read from the journal of that file.
judge    evidence to verdicts, score and certificate.
junit, html    the report alone, after judging.
compact  the same evidence as a Parquet file, in bytes a row.
columns  judging that file.

Written are a table and a plot: docs/benchmarks/scale.md and scale.svg (``--output`` names another folder).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1_000, 10_000, 100_000, 1_000_000, 1_800_000)
QUICK = (1_000, 10_000, 30_000)
LIMITS = {"plan": (20, 200), "resume": (2, 300), "judge": (15, 300), "junit": (10, 300), "html": (3, 300)}
"""Phase -> seconds and MiB that 1.8 million scenarios may take."""
CELLS = 18


# ---- phases: each is called in a process of its own and returns what it has to say besides time and memory


def plan(folder: Path, size: int) -> dict[str, Any]:
    """Draw and plan model after model until there are enough scenarios."""
    from apr_qa import packing, playbook, property_plan, scenarios, suite_claims
    from apr_qa import plan as plans
    from apr_qa.crossing import Crossed
    from apr_qa.vocabulary import DEVICES, FORMATS, MODALITIES, Artifact, Model, Target, Tier

    total, batches = 0, []
    while total < size:
        model = Model(id=f"org/model-{len(batches)}")
        book = playbook.for_model(model, Tier.DEEP)
        count = {"scenario_count": max(1, min(1_000, math.ceil((size - total) / CELLS)))}
        book = book.model_copy(update={"test_matrix": book.test_matrix.model_copy(update=count)})
        asked = suite_claims.Questions(book, Tier.DEEP, scenarios.claims(book, Tier.DEEP))
        made = []
        for name, device in ((name, device) for name in FORMATS for device in DEVICES):
            artifact = Artifact(format=name, path="", quantization="q")
            targets = [
                Target(
                    model=model.id, format=name, quantization="q", backend=device, modality=m, engine="noop"
                )
                for m in MODALITIES
            ]
            parts = [(target, claims) for target in targets for claims in asked.parts(target)]
            made += plans.inference_batches(artifact, Crossed(parts), wave=1)
        batches += packing.longest_first(property_plan.beside_truth(made, None, {}))
        total += sum(len(batch.scenarios) for batch in made)
    return {"rows": total}


def run(folder: Path, size: int) -> dict[str, Any]:
    """Collect evidence from the no-op engine."""
    from apr_qa import collect, playbook
    from apr_qa import plan as plans
    from apr_qa.crossing import Crossed
    from apr_qa.preparation import Prepared, Settings
    from apr_qa.vocabulary import Artifact, Claim, Model, Target, Tier

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "noop"), str(ROOT)])
    target = Target(
        model="noop", format="gguf", quantization="", backend="cpu", modality="run", engine="noop"
    )
    claims = [
        Claim(gate_id="F-QUAL-004", kind="generate", prompt=f"number {n}", oracle="garbage", max_tokens=4)
        for n in range(size)
    ]
    artifact = Artifact(format="gguf", path=str(folder / "noop.gguf"))
    batch = plans.Batch(target=target, artifact=artifact, scenarios=Crossed([(target, claims)]))
    header = _header(size, (target.cell,))
    book = playbook.for_model(Model(id="org/noop"), Tier.DEEP)
    settings = Settings(policy="collect_all", jobs=1)
    prepared = Prepared(header=header, batches=(batch,))
    path = collect.collect(prepared, book, settings, folder / f"run-{size}", _Silence())
    with path.open("rb") as file:
        return {"rows": sum(1 for _ in file) - 1}


def write(folder: Path, size: int) -> dict[str, Any]:
    """Write the evidence file that the other phases read."""
    from apr_qa import evidence, journal
    from apr_qa.vocabulary import DEVICES, FORMATS, MODALITIES, Target

    targets = [
        Target(model="org/noop", format=f, quantization="", backend=d, modality=m, engine="noop")
        for f in FORMATS
        for d in DEVICES
        for m in MODALITIES
    ]
    header = _header(size, tuple(target.cell for target in targets))
    path = _evidence(folder, size)
    with evidence.Writer(path, header) as writer, journal.Journal(path) as noted:
        for entry in _entries(targets, size):
            writer.append(entry)
            noted.entered(entry)
    return {"bytes a row": path.stat().st_size / size}


def _entries(targets: list[Any], size: int) -> Iterator[Any]:
    import random

    from apr_qa.vocabulary import Claim, Evidence, Outcome, Response, Scenario

    rng = random.Random(0)
    words = ("yes", "no", "it is", "the sum", "four", "of them", "and so on", "as before")
    each = math.ceil(size / len(targets))
    claims = [
        Claim(gate_id=f"F-QUAL-00{1 + n % 4}", kind="generate", prompt=f"What is {n} + 2?", basic=n < 5)
        for n in range(each)
    ]
    for number in range(size):
        scenario = Scenario(target=targets[number // each], claim=claims[number % each])
        bad = rng.random() < 0.01
        yield Evidence(
            id=scenario.id,
            gate_id=scenario.claim.gate_id,
            severity=scenario.claim.severity,
            scenario=scenario,
            outcome=Outcome.FALSIFIED if bad else Outcome.CORROBORATED,
            reason=f"{number} is not the sum" if bad else "the sum is there",
            response=Response(
                text=" ".join(rng.choice(words) for _ in range(3)),
                token_ids=(rng.randrange(49152), 30),
                finish_reason="stop",
                prompt_tokens=9 + number % 5,
                duration_s=round(rng.random(), 4),
                tokens_per_s=round(100 * rng.random(), 2),
            ),
            timestamp=f"2026-01-01T{number // 3_600_000 % 24:02}:{number // 60_000 % 60:02}:"
            f"{number // 1000 % 60:02}.{number % 1000:03}Z",
        )


def resume(folder: Path, size: int) -> dict[str, Any]:
    """Find out what an interrupted run has done."""
    from apr_qa import journal

    return {"rows": len(journal.done(_evidence(folder, size)))}


def judge(folder: Path, size: int) -> dict[str, Any]:
    """Judge JSON Lines."""
    from apr_qa import certify

    return {"rows": certify.judged(_evidence(folder, size)).tally.total}


def _rendered(folder: Path, size: int, name: str) -> dict[str, Any]:
    from apr_qa import certify

    judged = certify.judged(_evidence(folder, size))
    begun, used = time.perf_counter(), time.process_time()
    files = certify.document(name, judged)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    return {"seconds": seconds, "cpu": cpu, "files": len(files), "bytes": sum(map(len, files.values()))}


def junit(folder: Path, size: int) -> dict[str, Any]:
    """Render JUnit XML."""
    return _rendered(folder, size, "junit")


def html(folder: Path, size: int) -> dict[str, Any]:
    """Render the page and what it loads on demand."""
    return _rendered(folder, size, "html")


def compact(folder: Path, size: int) -> dict[str, Any]:
    """Write the same evidence in columns."""
    from apr_qa import evidence, evidence_columns

    path = _evidence(folder, size).with_suffix(".parquet")
    evidence_columns.write(path, *evidence.stream(_evidence(folder, size)))
    return {"bytes a row": path.stat().st_size / size}


def columns(folder: Path, size: int) -> dict[str, Any]:
    """Judge columns."""
    from apr_qa import certify

    return {"rows": certify.judged(_evidence(folder, size).with_suffix(".parquet")).tally.total}


PHASES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    phase.__name__: phase for phase in (plan, run, write, resume, judge, junit, html, compact, columns)
}


class _Silence:
    """A watcher that hears nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def _header(size: int, cells: tuple[str, ...]) -> Any:
    from apr_qa.vocabulary import Artifact, EvidenceHeader, Model, Tier

    return EvidenceHeader(
        apr_qa="0",
        model=Model(id="org/noop"),
        tier=Tier.DEEP,
        playbook="scale",
        playbook_sha256="",
        artifacts=tuple(Artifact(format=name, path="") for name in ("safetensors", "apr", "gguf")),
        ground_truth="safetensors",
        cells=cells,
        planned=size,
    )


def _evidence(folder: Path, size: int) -> Path:
    return folder / f"evidence-{size}.jsonl"


# ---- the table and the plot


def measured(name: str, folder: Path, size: int) -> dict[str, Any]:
    """Run one phase in a process of its own."""
    command = [sys.executable, __file__, "--phase", name, "--folder", str(folder), "--size", str(size)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name} of {size} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def phase(name: str, folder: Path, size: int) -> None:
    """Run one phase here and print what was measured."""
    begun, used = time.perf_counter(), time.process_time()
    said = PHASES[name](folder, size)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    now = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}
    print(json.dumps({**now, "mib": usage.ru_maxrss / 1024, **said}))


def table(results: dict[str, dict[int, dict[str, Any]]], sizes: tuple[int, ...]) -> str:
    """Return the Markdown document."""
    lines = [
        "# Time and memory with the number of scenarios\n",
        f"`python benchmarks/scale.py`, {time.strftime('%Y-%m-%d', time.gmtime())}; {_machine()}\n",
        "Seconds (processor seconds), peak MiB of each phase; a phase is described in the script.\n",
        "![plot](scale.svg)\n",
        f"| phase | {' | '.join(f'{size:,}' for size in sizes)} | allowed at 1,800,000 |",
        f"|{' --- |' * (len(sizes) + 2)}",
    ]
    for name, by_size in results.items():
        cells = [_cell(by_size.get(size)) for size in sizes]
        limit = LIMITS.get(name)
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{limit[0]} s, {limit[1]} MiB' if limit else ''} |")
    for name in ("write", "compact"):
        rows = [f"{by['bytes a row']:.1f} at {size:,}" for size, by in results.get(name, {}).items()]
        lines.append(f"\nBytes a row, {name}: {', '.join(rows)}.")
    ran = {size: 1000 * by["seconds"] / size for size, by in results.get("run", {}).items()}
    lines.append(
        f"\nMilliseconds a scenario, run: {', '.join(f'{ms:.3f} at {n:,}' for n, ms in ran.items())}."
    )
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any] | None) -> str:
    return f"{found['seconds']:.2f} s ({found['cpu']:.2f}), {found['mib']:.0f}" if found else "–"


def _machine() -> str:
    import apr_qa

    cores = len(os.sched_getaffinity(0))
    version = getattr(apr_qa, "__version__", "")
    return f"{platform.machine()}, {cores} threads, Python {platform.python_version()}, apr-qa {version}"


def plot(results: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Return a plot of seconds over scenarios, both logarithmic, so that a line of slope one is linear time."""
    points = {n: [(s, by["seconds"]) for s, by in found.items()] for n, found in results.items()}
    every = [max(seconds, 1e-3) for found in points.values() for _, seconds in found] or [1.0]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    left, right = 3.0, 6.4

    def x(size: float) -> float:
        return 60 + 560 * (math.log10(size) - left) / (right - left)

    def y(seconds: float) -> float:
        return 380 - 350 * (math.log10(max(seconds, 1e-3)) - low) / max(1, high - low)

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 430" font-family="sans-serif" font-size="12">'
    ]
    parts.append('<rect width="760" height="430" fill="#fff"/>')
    for power in range(low, high + 1):
        parts.append(f'<path d="M60 {y(10**power):.1f}H620" stroke="#ddd"/>')
        parts.append(f'<text x="54" y="{y(10**power) + 4:.1f}" text-anchor="end">{10**power:g} s</text>')
    for size in SIZES:
        parts.append(f'<path d="M{x(size):.1f} 30V380" stroke="#eee"/>')
        parts.append(f'<text x="{x(size):.1f}" y="398" text-anchor="middle">{size:,}</text>')
    for place, (name, found) in enumerate(points.items()):
        colour = f"hsl({place * 360 // max(1, len(points))} 65% 40%)"
        line = " ".join(f"{x(size):.1f},{y(seconds):.1f}" for size, seconds in found)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if found:
            end = y(found[-1][1])
            parts.append(
                f'<text x="{x(found[-1][0]) + 6:.1f}" y="{end + 4:.1f}" fill="{colour}">{name}</text>'
            )
    parts.append('<text x="340" y="420" text-anchor="middle">scenarios</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> int:
    """Measure every phase at every size; return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="up to 30,000 scenarios")
    arguments.add_argument("--run-most", type=int, default=100_000, help="largest size of the phase `run`")
    arguments.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments.add_argument("--phase", choices=PHASES)
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--size", type=int)
    given = arguments.parse_args()
    if given.phase:
        phase(given.phase, given.folder, given.size)
        return 0
    sizes = QUICK if given.quick else SIZES
    results: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in PHASES}
    with tempfile.TemporaryDirectory(prefix="apr-qa-scale-") as folder:
        for size in sizes:
            for name in PHASES:
                if name == "run" and size > given.run_most:
                    continue
                results[name][size] = found = measured(name, Path(folder), size)
                print(f"{size:>9,} {name:8} {_cell(found)}", flush=True)
            for file in Path(folder).glob(f"*{size}*"):
                if file.is_file():
                    file.unlink()
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "scale.md").write_text(table(results, sizes), encoding="utf-8")
    (given.output / "scale.svg").write_text(plot(results), encoding="utf-8")
    print(given.output / "scale.md")
    return 0


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]
    sys.exit(main())
