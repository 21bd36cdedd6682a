"""How time and memory grow with the number of scenarios: ``python benchmarks/scale.py [--largest N]``.

Method: every phase runs in a process of its own, once for each size; noted are its seconds (wall, without starting
Python), its processor seconds and its peak resident memory so far. Phases:

* plan: claims are drawn and crossed with targets: models of 18 cells and 1,000 drawn questions each, as many as the
  size asks for; every batch is made, as `certify` makes them.
* run: the no-op engine of ``tests/noop`` answers, through the real runner, workers, oracles and durable writer
  (up to 100,000).
* write: entries of one run of 18 cells are written durably, with the journal that a resumed run goes by; one per
  cent of them is falsified. The phases below read this file.
* resume: what is done is read from the journal of that file.
* judge: evidence to verdicts, score and certificate; then, in the same process, junit and html: each report alone.
* compact: the same evidence as a Parquet file.
* columns: judging that file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measured

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1_000, 10_000, 100_000, 1_000_000, 1_800_000)
MOST_RUN = 100_000
LIMITS = {
    "plan": (20, 200),
    "resume": (2, 300),
    "judge": (15, 300),
    "junit": (10, 300),
    "html": (3, 300),
    "columns": (15, 300),
}
"""Step -> seconds and MiB that 1.8 million scenarios may take."""
CELLS = 18
Steps = Iterator[tuple[str, dict[str, Any]]]
Results = dict[str, dict[int, dict[str, Any]]]


# ---- phases: each is called in a process of its own; what a step has to say besides time and memory


def plan(folder: Path, size: int) -> Steps:
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
    yield "plan", {"rows": total}


def run(folder: Path, size: int) -> Steps:
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
        yield "run", {"rows": sum(1 for _ in file) - 1}


def write(folder: Path, size: int) -> Steps:
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
    yield "write", {"bytes": path.stat().st_size / size}


def _entries(targets: list[Any], size: int) -> Iterator[Any]:
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


def resume(folder: Path, size: int) -> Steps:
    """Find out what an interrupted run has done."""
    from apr_qa import journal

    yield "resume", {"rows": len(journal.done(_evidence(folder, size)))}


def judge(folder: Path, size: int) -> Steps:
    """Judge JSON Lines; then render JUnit XML, and the page with what it loads on demand."""
    from apr_qa import certify

    judged = certify.judged(_evidence(folder, size))
    yield "judge", {"rows": judged.tally.total}
    for name in ("junit", "html"):
        files = certify.document(name, judged)
        yield name, {"files": len(files)}


def compact(folder: Path, size: int) -> Steps:
    """Write the same evidence in columns."""
    from apr_qa import evidence, evidence_columns

    path = _evidence(folder, size).with_suffix(".parquet")
    evidence_columns.write(path, *evidence.stream(_evidence(folder, size)))
    yield "compact", {"bytes": path.stat().st_size / size}


def columns(folder: Path, size: int) -> Steps:
    """Judge columns."""
    from apr_qa import certify

    yield "columns", {"rows": certify.judged(_evidence(folder, size).with_suffix(".parquet")).tally.total}


PHASES: dict[str, Callable[[Path, int], Steps]] = {
    phase.__name__: phase for phase in (plan, run, write, resume, judge, compact, columns)
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


# ---- the page


def steps(name: str, folder: Path, size: int) -> None:
    """Run one phase here and print what was measured of each step."""
    begun, used = time.perf_counter(), time.process_time()
    for step, said in PHASES[name](folder, size):
        now = {"step": step, "seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}
        print(json.dumps({**now, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, **said}))
        begun, used = time.perf_counter(), time.process_time()


def apart(name: str, folder: Path, size: int) -> Iterator[dict[str, Any]]:
    """Run one phase in a process of its own; iterate over what was measured of its steps."""
    command = [sys.executable, __file__, "--phase", name, "--folder", str(folder), "--size", str(size)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name} of {size} failed:\n{done.stderr}")
    yield from map(json.loads, done.stdout.splitlines())


def everything(sizes: tuple[int, ...]) -> Results:
    """Measure every phase at every size."""
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="apr-qa-scale-") as place:
        for size in sizes:
            for name in PHASES:
                if name == "run" and size > MOST_RUN:
                    continue
                for found in apart(name, Path(place), size):
                    results.setdefault(found["step"], {})[size] = found
                    print(f"{size:>9,} {found['step']:8} {_cell(found)}", flush=True)
            for file in Path(place).glob(f"*{size}*"):
                if file.is_file():
                    file.unlink()
    return results


def table(results: Results, sizes: tuple[int, ...]) -> str:
    """Return seconds (processor seconds) and peak MiB of every step at every size, as Markdown."""
    lines = [
        f"| seconds (processor seconds), peak MiB | {' | '.join(f'{n:,}' for n in sizes)} | wanted at 1,800,000 |",
        f"|{'---|' * (len(sizes) + 2)}",
    ]
    for name, by_size in results.items():
        cells = [_cell(by_size.get(size)) for size in sizes]
        limit = LIMITS.get(name)
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{limit[0]} s, {limit[1]} MiB' if limit else ''} |")
    return "\n".join(lines)


def _cell(found: dict[str, Any] | None) -> str:
    return f"{found['seconds']:.2f} s ({found['cpu']:.2f}), {found['mib']:.0f}" if found else "–"


def sentences(results: Results) -> list[str]:
    """Return what follows from the numbers."""
    said = []
    for name, what, limit in (("write", "JSON Lines", ""), ("compact", "Parquet", " (wanted: 64)")):
        size, found = max(results[name].items())
        said.append(f"{what}: {found['bytes']:.1f} bytes a row at {size:,}{limit}")
    size, found = max(results["run"].items())
    each = 1000 * found["seconds"] / size
    said.append(f"run: {each:.3f} ms a scenario at {size:,}, durable evidence included (wanted: 0.1)")
    for name in ("plan", "judge", "columns"):
        (small, few), (large, many) = sorted(results[name].items())[-2:]
        ratio = many["cpu"] / few["cpu"]
        said.append(f"{name}: {ratio:.2f} × the processor time for {large / small:.2f} × the scenarios")
    return said


def main() -> None:
    """Measure every phase at every size and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="leave out larger sizes")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        steps(options.phase, options.folder, options.size)
        return
    sizes = tuple(size for size in SIZES if size <= max(options.largest, *SIZES[:2]))
    results = everything(sizes)
    said, title = sentences(results), "Time and memory with the number of scenarios"
    print("\n".join(said))
    series = {name: [(n, max(one["seconds"], 1e-3)) for n, one in by.items()] for name, by in results.items()}
    plot = measured.curves(title, series, "scenarios", "s")
    method = (__doc__ or "").partition("Method: ")[2]
    where = measured.machine("msgspec", "numpy", "pyarrow")
    print(measured.written("scale", title, method, table(results, sizes), plot, said, where))


if __name__ == "__main__":
    main()
