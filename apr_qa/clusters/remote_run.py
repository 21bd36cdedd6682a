"""One batch on its way through the nodes of a cluster, slice by slice, until every scenario has its evidence."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from apr_qa import workspace
from apr_qa.batch_run import POLL_S
from apr_qa.clusters import Cluster, NodeLost
from apr_qa.clusters.node import Result, Task
from apr_qa.crossing import Lazy
from apr_qa.errors import EnvironmentFault
from apr_qa.line import Limits, Line
from apr_qa.plan import Batch
from apr_qa.vocabulary import Artifact, Outcome, Scenario
from apr_qa.window import Window

PIECE_BYTES = 16 << 20
IDLE_ANSWERS = 10
"""Answers without evidence after which a cluster is given up."""
PART = 512
"""Scenarios that one slot works on at a time where others could help."""
_SENDING = threading.Lock()
"""One artifact is sent at a time: two slots of one node mostly lack the same one."""


class RemoteRun:
    """One batch and its window of scenarios, which nodes work on."""

    def __init__(self, batch: Batch, line: Line, window: Window, limits: Limits, cluster: Cluster) -> None:
        self.batch = batch
        self.line = line
        self.window = window
        self.limits = limits
        self.cluster = cluster
        self.node = ""
        self.idle = 0

    def run(self) -> None:
        """Produce evidence for every scenario of the batch."""
        batch = self.batch
        reason = batch.inapplicable or self.line.lacks(batch.artifact, batch.source, batch.truth)
        if reason:
            self.window.settle_all(Outcome.INAPPLICABLE, reason)
        while self._left() and not self.line.stopped():
            self._slice()
        self.window.settle_all(Outcome.SKIPPED, self.line.reason or "not run")

    def _left(self) -> bool:
        self.window.fill()
        return bool(self.window.pending)

    def _slice(self) -> None:
        """Have a node work for a while, and record what it answers; a slice that kills two nodes has crashed."""
        task = self._task()
        try:
            result = self._awaited(msgspec.json.encode(task))
        except NodeLost as lost:
            for name in list(self.window.pending):
                self.window.settle(name, Outcome.CRASHED, f"nodes died while working on it: {lost}")
            return
        if result is None:
            return
        if result.fault:
            raise EnvironmentFault(
                result.fault, where=f"node {result.node}", fix="put it right, then --resume"
            )
        if not result.entries and not result.missing:
            self.idle += 1
            if self.idle > IDLE_ANSWERS:
                raise EnvironmentFault("a node does nothing", where=result.node, fix="see what its log says")
        self.node = result.node  # it has the artifacts now, and its page cache is warm
        for artifact in result.missing:
            self._send(artifact, result.node)
        for entry in result.entries:
            if entry.id in self.window.pending:
                self.window.record(entry)

    def _task(self) -> Task:
        return Task(
            target=self.batch.target,
            scenarios=tuple(self.window.pending.values()),
            artifact=_hashed(self.batch.artifact),
            source=self.batch.source and _hashed(self.batch.source),
            truth=self.batch.truth and _hashed(self.batch.truth),
            endpoint=self.batch.endpoint,
            cache=str(workspace.root().absolute()),
            limits=self.limits,
            policy=self.line.policy,
            threads=self.cluster.threads,
        )

    def _awaited(self, task: bytes) -> Result | None:
        """Return what the cluster makes of a task, None if the line stops before."""
        pending = self.cluster.submit(task, self.node)
        while not self.line.stopped():
            answer = pending.result(POLL_S)
            if answer is not None:
                return msgspec.json.decode(answer, type=Result)
        pending.cancel()
        return None

    def _send(self, artifact: Artifact, node: str) -> None:
        """Send an artifact to a node that does not have it."""
        path = Path(artifact.path)
        if not artifact.sha256 or not path.exists():
            raise EnvironmentFault(
                "the artifact is neither here nor at the node", where=f"{path}, node {node}", fix="run again"
            )
        with _SENDING:
            files = [path] if path.is_file() else workspace.artifact_files(path)
            for file in files:
                for offset, data in _pieces(file):
                    end = offset + len(data) >= file.stat().st_size
                    self.cluster.store(
                        node,
                        {
                            "artifact": msgspec.to_builtins(artifact),
                            "sender": f"{os.getpid()}-{id(self):x}",
                            "folder": path.is_dir(),
                            "name": file.name,
                            "offset": offset,
                            "data": data,
                            "last": end and file == files[-1],
                        },
                    )


def _pieces(file: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with file.open("rb") as stream:
        while data := stream.read(PIECE_BYTES):
            yield offset, data
            offset += len(data)


def _hashed(artifact: Artifact) -> Artifact:
    """Fill in the hash of what was derived in this run; what is not there has none."""
    path = Path(artifact.path)
    if not artifact.path or not path.exists():
        return msgspec.structs.replace(artifact, sha256="")
    if artifact.sha256:
        return artifact
    return msgspec.structs.replace(artifact, sha256=workspace.content_sha256(path))


def on(cluster: Cluster, limits: Limits) -> Callable[[Batch, Line, Window], bool]:
    """Return what works on a batch at the nodes of ``cluster`` and leaves alone what cannot be done there."""

    def work(batch: Batch, line: Line, window: Window) -> bool:
        if at_home(batch):
            return False
        RemoteRun(batch, line, window, limits, cluster).run()
        return True

    return work


# ---- parts


class Part(Lazy):
    """Some scenarios of a batch in a row, made when they are looked at."""

    def __init__(self, whole: Sequence[Scenario], begin: int, end: int) -> None:
        self._whole, self._begin, self._end = whole, begin, end

    def __len__(self) -> int:
        return self._end - self._begin

    def made(self, number: int) -> Scenario:
        """Return the scenario at a place of the part."""
        return self._whole[self._begin + number]


def at_home(batch: Batch) -> bool:
    """Say whether a batch has to be worked on where the run is.

    It makes files, looks at what lies beside them, or asks a server by an address that may mean another one there.
    """
    return (
        bool(batch.endpoint)
        or batch.target.modality == "convert"
        or any(scenario.claim.params.get("check") == "isolation" for scenario in batch.scenarios[:1])
    )


def parts(batches: Sequence[Batch]) -> list[Batch]:
    """Cut long batches about a running model, so that several nodes can work on one."""
    cut: list[Batch] = []
    for batch in batches:
        count = len(batch.scenarios)
        if count <= 2 * PART or batch.target.modality not in ("run", "chat"):
            cut.append(batch)
            continue
        for begin in range(0, count, PART):
            part = Part(batch.scenarios, begin, min(count, begin + PART))
            cut.append(msgspec.structs.replace(batch, scenarios=part))
    return cut
