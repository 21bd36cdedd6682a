"""Work through the plan of a run: evidence is appended as it comes, and an interrupted run goes on.

While a run is going on its evidence lies in a file of its own, which takes its final name when it is complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apr_qa import bundle, clusters, evidence, journal, judge, plan, runner
from apr_qa.atomic import write_atomically
from apr_qa.clusters import remote_run
from apr_qa.devices import usable_cores
from apr_qa.errors import EnvironmentFault
from apr_qa.interrupts import interruptible
from apr_qa.playbook import Playbook
from apr_qa.preparation import Prepared, Settings, Watcher
from apr_qa.vocabulary import Evidence, EvidenceHeader

EVIDENCE_FILE = "evidence.jsonl"
PARTIAL_FILE = "evidence.partial.jsonl"
COMMAND_FILE = ".evidence.partial.command.json"
MOST_JOBS = 4
"""Targets that run at the same time unless somebody asks for more: each takes the memory of a model."""


def collect(prepared: Prepared, book: Playbook, settings: Settings, folder: Path, watcher: Watcher) -> Path:
    """Run the plan, writing evidence as it comes; return the path of the complete evidence file."""
    partial = folder / PARTIAL_FILE
    header, done = _state(partial, prepared.header, settings, watcher)
    watcher.planned(header.planned)
    if settings.command:
        write_atomically(folder / COMMAND_FILE, settings.command)
    policy = settings.policy or book.failure_policy
    with evidence.Writer(partial, header, resume=len(done) > 0) as writer:
        done.journal = journal.Journal(partial)

        def record(entry: Evidence) -> None:
            writer.append(entry)
            noted.entered(entry)
            watcher.happened(entry)

        def andon(entry: Evidence) -> None:
            noted.stopped(entry)
            watcher.andon(entry)
            if policy == "fail_fast":
                for name, text in bundle.documents(header, entry).items():
                    write_atomically(bundle.folder_of(folder) / name, text)
                watcher.say(f"diagnostic bundle: {bundle.folder_of(folder)}")

        noted = done.journal
        line = runner.Line(policy, record, andon=andon, budget_s=book.budget_s)
        with noted, interruptible(line):
            _work(prepared.batches, line, done, book, settings)
    if line.interrupted:
        raise KeyboardInterrupt
    final = folder / EVIDENCE_FILE
    partial.replace(final)
    for beside in (journal.path_of(partial), folder / COMMAND_FILE):
        beside.unlink(missing_ok=True)
    return final


def _state(
    partial: Path, header: EvidenceHeader, settings: Settings, watcher: Watcher
) -> tuple[EvidenceHeader, journal.Done]:
    """Return the header of the evidence and what it holds already."""
    if settings.resume and partial.exists():
        evidence.repair(partial)
        if partial.stat().st_size:
            stored = _resumable(partial, header)
            done = journal.done(partial)
            watcher.say(f"resuming: {len(done)} of {stored.planned} scenarios are done")
            return stored, done
    journal.path_of(partial).unlink(missing_ok=True)
    return header, journal.nothing()


def _work(
    batches: tuple[plan.Batch, ...], line: runner.Line, done: journal.Done, book: Playbook, settings: Settings
) -> None:
    """Run the batches on as many cores as there are, each core once, or on the nodes of a cluster."""
    cores = usable_cores()
    jobs = settings.jobs or min(cores, MOST_JOBS, book.model.workers or MOST_JOBS)
    threads = max(1, cores // jobs)
    limits = runner.Limits(scenario_s=settings.timeout_s or book.timeout_s, budget_s=book.budget_s)
    for entry in done.stops:
        line.recall(entry)
    if done and not line.stopped():
        _make_again(batches, line, done, limits, threads)
    rest: dict[str, Any] = {"threads": threads, "progress": done}
    if settings.cluster == "local":
        runner.run(batches, line, judge.judge, limits, jobs=jobs, **rest)
        return
    cluster = clusters.connect(settings.cluster, settings.scheduler, settings.jobs)
    try:
        elsewhere = remote_run.on(cluster, limits)
        cut = remote_run.parts(batches)
        runner.run(cut, line, judge.judge, limits, jobs=cluster.slots, elsewhere=elsewhere, **rest)
    finally:
        cluster.close()


def _make_again(
    batches: tuple[plan.Batch, ...],
    line: runner.Line,
    done: journal.Done,
    limits: runner.Limits,
    threads: int,
) -> None:
    """Repeat the conversions whose files have been cleared away since, without recording them twice."""
    lost = [
        batch
        for batch in batches
        if batch.target.modality == "convert"
        and not Path(batch.artifact.path).exists()
        and not done.missing(batch.scenarios)
    ]
    silent = runner.Line("collect_all", lambda _: None)
    for batch in lost:
        if not line.stopped():
            runner.run([batch], silent, judge.judge, limits, jobs=1, threads=threads)
    line.unmade.update(silent.unmade)


def _resumable(partial: Path, header: EvidenceHeader) -> EvidenceHeader:
    """Return the stored header; a run of something else cannot be resumed."""
    stored, _ = evidence.stream(partial)
    for field in ("apr_qa", "model", "tier", "playbook_sha256", "planned"):
        if getattr(stored, field) != getattr(header, field):
            raise EnvironmentFault(
                f"the interrupted run differs in {field}",
                where=str(partial),
                fix="run without --resume to start anew",
            )
    hashes = [[(a.format, a.quantization, a.sha256) for a in h.artifacts] for h in (stored, header)]
    if hashes[0] != hashes[1]:
        raise EnvironmentFault(
            "the artifacts changed since the run was interrupted",
            where=str(partial),
            fix="run without --resume to start anew",
        )
    return stored


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of the folder of a run; raises EnvironmentFault where one is in it.

    The folder itself is locked, so that nothing is left in it, and the lock ends with the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise EnvironmentFault(
                    "another run is writing to this folder",
                    where=str(folder),
                    fix="wait for it to end, or choose another --output",
                ) from error
            # A network file system may lock files only: the evidence file has a lock of its own.
        yield
    finally:
        os.close(descriptor)
