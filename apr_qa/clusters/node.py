"""What a node does: find the artifacts of a task by their content, work on it, and answer with evidence."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import judge, workspace
from apr_qa.batch_run import BatchRun
from apr_qa.errors import AprQaError, EnvironmentFault
from apr_qa.line import Limits, Line
from apr_qa.plan import Batch
from apr_qa.vocabulary import Artifact, Evidence, Outcome, Record, Scenario, Target
from apr_qa.window import FromTheStart, Window

TRIALS = 2
"""Nodes that may die over one task before the task is to blame."""
SLICE_S = 10.0
"""Seconds after which a node answers with what it has: at most this is lost with a node."""
LOADING_SHARE = 4
"""How many times as long as loading took a node works at least: a fifth of its time may go into loading."""


class Task(Record, frozen=True):
    """Part of a batch, with everything that a node has to know."""

    target: Target
    scenarios: tuple[Scenario, ...]
    artifact: Artifact
    source: Artifact | None = None
    truth: Artifact | None = None
    endpoint: str = ""
    cache: str = ""
    """The workspace of the run: what lies in it lies in the node's at the same place, if at all."""
    limits: Limits = Limits()
    policy: str = "collect_all"
    threads: int = 1


class Result(Record, frozen=True):
    """What came of a task."""

    node: str
    entries: tuple[Evidence, ...] = ()
    missing: tuple[Artifact, ...] = ()
    """Artifacts that the node has not; nothing was done then."""
    fault: str = ""
    """Why the machine could not do it, where the artifact is not to blame."""


class NodeLine(Line):
    """A line that ends with its slice: what is left is not recorded, and given out again."""

    def __init__(self, policy: str, given_up: Callable[[], bool]) -> None:
        self.entries: list[Evidence] = []
        self._given_up = given_up
        self._begun = time.monotonic()
        self._first_answer = 0.0
        super().__init__(policy, self._keep)

    def recall(self, evidence: Evidence) -> bool:
        self._first_answer = self._first_answer or time.monotonic()
        return super().recall(evidence)

    def _keep(self, evidence: Evidence) -> None:
        if evidence.outcome is not Outcome.SKIPPED:  # whoever gave out the task decides that
            self.entries.append(evidence)

    def stopped(self) -> bool:
        self.interrupted = self.interrupted or self._given_up()
        return super().stopped()

    def enough(self) -> bool:
        if self._first_answer:
            loading = self._first_answer - self._begun
            worked = time.monotonic() - self._first_answer
            self.interrupted = self.interrupted or worked > max(SLICE_S, LOADING_SHARE * loading)
        return self.interrupted


def worked(task: bytes, node: str, given_up: Callable[[], bool]) -> bytes:
    """Work on an encoded `Task` and return an encoded `Result`."""
    given = msgspec.json.decode(task, type=Task)
    try:
        result = _worked(given, node, given_up)
    except (AprQaError, OSError) as fault:
        result = Result(node=node, fault=str(fault))
    return msgspec.json.encode(result)


def _worked(task: Task, node: str, given_up: Callable[[], bool]) -> Result:
    wanted = [one for one in (task.artifact, task.source, task.truth) if one is not None]
    found = {one.path: localized(one, task.cache) for one in wanted}
    missing = tuple(one for one in wanted if found[one.path] is None)
    if missing:
        return Result(node=node, missing=missing)
    batch = Batch(
        target=task.target,
        artifact=found[task.artifact.path] or task.artifact,
        scenarios=task.scenarios,
        source=task.source and found[task.source.path],
        truth=task.truth and found[task.truth.path],
        endpoint=task.endpoint,
    )
    line = NodeLine(task.policy, given_up)
    window = Window(batch, line, judge.judge, FromTheStart())
    BatchRun(batch, line, window, task.limits, task.threads).run()
    return Result(node=node, entries=tuple(line.entries))


# ---- artifacts


def localized(artifact: Artifact, cache: str) -> Artifact | None:
    """Return the artifact as this node has it, None if it has not.

    What has no hash is nowhere, not even where the run is; whoever opens it says so.
    """
    if not artifact.sha256:
        return artifact
    for place in (kept(artifact), _in_workspace(Path(artifact.path), cache), Path(artifact.path)):
        if place is not None and place.exists() and _is_it(place, artifact.sha256):
            return msgspec.structs.replace(artifact, path=str(place))
    return None


def _is_it(place: Path, sha256: str) -> bool:
    return workspace.content_sha256(place) == sha256


def kept(artifact: Artifact) -> Path | None:
    """Return where a node keeps an artifact that was sent to it; its name stays, since claims are about names."""
    if not artifact.sha256:
        return None
    return workspace.root() / "fetched" / artifact.sha256 / Path(artifact.path).name


def _in_workspace(path: Path, cache: str) -> Path | None:
    try:
        return workspace.root() / path.relative_to(cache) if cache else None
    except ValueError:
        return None


def store(piece: dict[str, Any]) -> None:
    """Keep one piece of an artifact: ``artifact``, ``name`` in it, ``offset``, ``data``; ``last`` makes it whole.

    Raises EnvironmentFault if what has come is not what was promised.
    """
    artifact = msgspec.convert(piece["artifact"], Artifact)
    place = kept(artifact)
    if place is None or not piece["name"] == Path(piece["name"]).name:
        raise EnvironmentFault("an artifact without a hash cannot be sent", where=artifact.path)
    coming = place.parent.with_name(f"{place.parent.name}.{piece['sender']}")
    file = coming / place.name / piece["name"] if piece["folder"] else coming / place.name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("r+b" if piece["offset"] else "wb") as stream:
        stream.seek(piece["offset"])
        stream.write(piece["data"])
    if piece["last"]:
        _admit(coming, place, artifact)


def _admit(coming: Path, place: Path, artifact: Artifact) -> None:
    if workspace.content_sha256(coming / place.name) != artifact.sha256:
        shutil.rmtree(coming)
        raise EnvironmentFault("an artifact changed while it was sent to a node", where=artifact.path)
    try:
        os.replace(coming, place.parent)  # noqa: PTH105 - a folder that another slot has brought stays
    except OSError:
        shutil.rmtree(coming)
