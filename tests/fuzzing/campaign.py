"""Thousands of mutated files through the readers, in a child with limits; a report of what went wrong.

For each file: no error but the three a reader may raise, an answer within ten seconds, no more memory than twice
the file plus 64 MiB, and the same verdict as the rules that are written down in `rules`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fuzzing import large, rules
from fuzzing.mutations import CASES

TIME_LIMIT_S = 10
SPARE_BYTES = 64 << 20
CHILD_BYTES = 2 << 30
KEPT = 20
_RENDERING = ("template", "growth", "surroundings", "template_tokens")
ASKED_EVERY = 10
"""All questions are put to every n-th file that opens."""
MEASURED_EVERY = 4
"""Memory is measured for every n-th file: measuring makes a reader several times slower."""

LARGE = "large"
LARGE_SHARE = 500
"""One file in so many is one of megabytes."""

Finding = dict[str, Any]


def read_container(kind: str, path: Path) -> None:
    """Read a file as its format's innermost reader does."""
    from apr_qa.containers import apr_container, gguf_header, safetensors_header
    from apr_qa.containers.strict_json import parse_object

    if kind == "safetensors":
        safetensors_header.read_header(path)
    elif kind == "gguf":
        gguf_header.read_header(path)
    else:
        container = apr_container.read_container(path)
        parse_object(container.metadata, "metadata")


def open_whole(kind: str, path: Path, *, whole: bool = False) -> None:
    """Open a file as the program does, ask what is asked of every file, and read some tensors."""
    from apr_qa.backends.inspect import Inspection
    from apr_qa.errors import Inapplicable, MalformedFile, UnsupportedArchitecture
    from apr_qa.formats import FORMATS
    from apr_qa.inspecting.checks import CHECKS

    model = FORMATS.get("safetensors" if kind == "folder" else kind).open(path)
    inspection = Inspection(model)
    questions: list[Callable[[], Any]] = [lambda: model.tokenizer]
    for name in sorted(model.tensors)[:3]:
        if model.tensors[name].size < 1 << 20:
            questions.append(lambda name=name: model.read(name))
    checks = ["header", "config", "layers", "hidden", "tensors", "shapes", "tied_head"]
    # Templates are rendered in a process of their own, which has limits and tests of its own.
    checks += [check for check in CHECKS if check not in _RENDERING] if whole else []
    questions += [lambda check=check: inspection.facts(check, {}) for check in checks]
    for question in questions:
        try:
            question()
        except (Inapplicable, MalformedFile, UnsupportedArchitecture):
            continue


class Campaign:
    """The child's side: one case after another, findings counted."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self.kind, self.seed, self.folder = kind, seed, folder
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.peak, self.slowest, self.measuring = 0, 0.0, False

    def run(self, cases: int) -> dict[str, Any]:
        import apr_qa.formats.apr
        import apr_qa.formats.gguf
        import apr_qa.formats.safetensors  # noqa: F401 - what is loaded lazily must not count as a file's cost

        self._warm_up()
        signal.signal(signal.SIGALRM, _too_late)
        signal.signal(signal.SIGPROF, _too_late)
        started = time.perf_counter()
        for number in range(cases):
            self.one(number)
        return {
            "kind": self.kind,
            "cases": cases,
            "seconds": round(time.perf_counter() - started, 2),
            "counts": dict(self.counts),
            "peak_bytes": self.peak,
            "slowest_s": round(self.slowest, 3),
            "findings": self.findings,
        }

    def one(self, number: int) -> None:
        chance = random.Random(f"{self.seed}-{self.kind}-{number}")
        kind, case = large.case(chance) if self.kind == LARGE else (self.kind, CASES[self.kind](chance))
        if kind == "folder":
            self._folder(number, case)
        else:
            path = self.folder / f"case.{kind}"
            path.write_bytes(case)
            self._file(number, kind, path, case)

    def _file(self, number: int, kind: str, path: Path, data: bytes) -> None:
        said, whole = rules.JUDGES[kind](data), number % ASKED_EVERY == 0
        accepted = self._guarded(number, lambda: read_container(kind, path), len(data))
        # What opens as a model must keep every rule; what keeps the rules of the container need not be a model.
        opened = accepted and self._guarded(
            number, lambda: open_whole(kind, path, whole=whole), len(data), "opened"
        )
        self._compare(number, opened, said)
        # Of megabytes, what no model has may be refused although the rules of the format allow it.
        if said == "" and accepted is False and self.kind != LARGE:
            self._found(number, "refused", "lawful by the rules")

    def _folder(self, number: int, changed: Mapping[str, bytes | None]) -> None:
        from fuzzing.seeds import folder_parts

        parts: dict[str, bytes | None] = {**folder_parts(), **changed}
        for name in {file.name for file in self.folder.iterdir()} - parts.keys():
            (self.folder / name).unlink()
        for name, data in parts.items():
            file = self.folder / name
            file.unlink(missing_ok=True)
            if data is not None:
                file.write_bytes(data)
        size = sum(len(data) for data in parts.values() if data is not None)
        accepted = self._guarded(
            number, lambda: open_whole("folder", self.folder, whole=number % ASKED_EVERY == 0), size
        )
        self._compare(number, accepted, _judge_folder(parts))
        if "healthy" in changed and not accepted:
            self._found(number, "refused", "a tokenizer of a large model")
        self._guarded(number, lambda: _looked_at(self.folder), size, "looked at")

    def _guarded(self, number: int, read: Callable[[], None], size: int, what: str = "") -> bool | None:
        if self.kind == LARGE:  # once against the clock, and once measured, which takes several times as long
            self._tried(number, read, size, what, measured=True)
            return self._tried(number, read, size, what, measured=False)
        return self._tried(number, read, size, what, measured=number % MEASURED_EVERY == 0)

    def _tried(
        self, number: int, read: Callable[[], None], size: int, what: str, *, measured: bool
    ) -> bool | None:
        from apr_qa.errors import MalformedFile, ModelUnavailable, UnsupportedArchitecture

        if measured:
            tracemalloc.start()
        started = time.perf_counter()
        clock, limit_s = signal.ITIMER_REAL, TIME_LIMIT_S
        if (
            self.kind == LARGE
        ):  # by the processor's clock: what takes seconds anyway must not depend on neighbours
            clock, limit_s = signal.ITIMER_PROF, (6 if measured else 1) * TIME_LIMIT_S
        signal.setitimer(clock, limit_s)
        accepted: bool | None = True
        try:
            read()
        except (MalformedFile, ModelUnavailable, UnsupportedArchitecture):
            accepted = False
        except _Late:
            accepted = self._found(number, "slow", what)
        except Exception as error:  # noqa: BLE001 - any other error is what is looked for
            accepted = self._found(number, "error", f"{what} {type(error).__name__}: {error} {_line(error)}")
        finally:
            signal.setitimer(clock, 0)
        self.slowest = max(self.slowest, time.perf_counter() - started)
        if measured:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.peak = max(self.peak, peak)
            if peak > 2 * size + SPARE_BYTES:
                self._found(number, "memory", f"{peak} bytes for a file of {size}")
        if not what and not (measured and self.kind == LARGE):
            self.counts["accepted" if accepted else "refused"] += 1
        return accepted

    def _compare(self, number: int, opened: bool | None, said: str | None) -> None:
        self.counts[
            {"": "lawful by the rules", None: "open by the rules"}.get(said, "forbidden by the rules")
        ] += 1
        if opened and said:
            self._found(number, "accepted", said)

    def _found(self, number: int, kind: str, detail: str) -> None:
        self.counts[f"FINDING {kind}"] += 1
        if len(self.findings) < KEPT:
            self.findings.append({"number": number, "kind": kind, "detail": detail[:300]})

    def _warm_up(self) -> None:
        from fuzzing import seeds

        for kind, data in (
            ("gguf", seeds.gguf_parts().build()),
            ("apr", seeds.apr_parts().build()),
            ("safetensors", seeds.safetensors(*seeds.safetensors_parts())),
        ):
            path = self.folder / f"warm.{kind}"
            path.write_bytes(data)
            open_whole(kind, path, whole=True)
            path.unlink()


class _Late(BaseException):
    pass


def _too_late(*_: object) -> None:
    raise _Late


def _line(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"


def _judge_folder(parts: Mapping[str, bytes | None]) -> str | None:
    """Say whether an index lets a path escape or a shard breaks its rules; the rest is left open."""
    index = parts["model.safetensors.index.json"]
    if index is not None:
        said = rules.weight_map(index)
        if said:
            return said
        for name in set(json.loads(index)["weight_map"].values()):
            shard = parts.get(name)
            if shard is not None and rules.safetensors(shard):
                return rules.safetensors(shard)
    return None


def _looked_at(folder: Path) -> None:
    """Do to a folder what happens to it outside of a worker."""
    from apr_qa.containers.artifact_files import artifacts_at, missing_shards

    artifacts_at(folder, origin="given", place="here")
    missing_shards(folder)


def child(kind: str, cases: int, seed: int) -> dict[str, Any]:
    """Run cases in this process, under a memory limit of its own."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        return Campaign(kind, seed, Path(folder)).run(cases)


def run(kind: str, cases: int, seed: int, timeout_s: float = 3600.0) -> dict[str, Any]:
    """Run a campaign in a child; a child that dies or hangs is a finding like any other."""
    command = [
        sys.executable,
        "-m",
        "fuzzing.campaign",
        "--child",
        kind,
        "--cases",
        str(cases),
        "--seed",
        str(seed),
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"kind": kind, "cases": cases, "findings": [{"kind": "hang", "detail": f"{timeout_s} s"}]}
    if done.returncode:
        detail = f"exit {done.returncode}: {done.stderr[-2000:]}"
        return {"kind": kind, "cases": cases, "findings": [{"kind": "crash", "detail": detail}]}
    return dict(json.loads(done.stdout))


def main() -> int:
    """Run campaigns over all kinds and print one report a line; exit 1 if anything was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--cases", type=int, default=4000, help="Files altogether, or of one kind with --child."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=sorted((*CASES, LARGE)))
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(child(options.child, options.cases, options.seed)))
        return 0
    found = 0
    for kind in (*CASES, LARGE):
        share = options.cases // (LARGE_SHARE if kind == LARGE else len(CASES))
        report = run(kind, share, options.seed)
        found += len(report["findings"])
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
