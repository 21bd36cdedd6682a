"""A cluster gives the same plan, evidence and score as this machine, whatever happens to its nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import noop_runs
import pytest
from noop_runs import Silence, batch, outcomes, run

from apr_qa import clusters, workspace
from apr_qa.cli.shared_options import dispatch
from apr_qa.clusters import node, remote_run
from apr_qa.errors import EngineMissing, EnvironmentFault, UsageError
from apr_qa.line import Limits, Line
from apr_qa.vocabulary import Artifact, Outcome, Severity
from apr_qa.window import FromTheStart, Window

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


TWO_WORKERS = (
    "import sys, distributed\n"
    "if __name__ == '__main__':\n"
    "    there = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)\n"
    "    print(there.scheduler_address, *(nanny.pid for nanny in there.workers.values()), flush=True)\n"
    "    sys.stdin.read()\n"
    "    there.close()\n"
)


class Scheduler(NamedTuple):
    """Where two workers are asked for, and the processes that they are."""

    address: str
    workers: tuple[int, ...]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Scheduler]:
    """Two worker processes with a nanny each, which starts a new one for one that dies."""
    with pytest.MonkeyPatch.context() as patch:
        noop_runs.with_engine(patch)
        patch.setenv("NOOP_DELAY_S", "0.02")
        cluster = subprocess.Popen(
            [sys.executable, "-c", TWO_WORKERS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    assert cluster.stdin is not None and cluster.stdout is not None
    address, *workers = cluster.stdout.readline().split()
    yield Scheduler(address, tuple(map(int, workers)))
    cluster.stdin.close()
    cluster.wait(timeout=60)
    cluster.stdout.close()


def plan() -> list[Any]:
    return [batch(1200, "one"), batch(40, "refused"), batch(300, "two", wave=1)]


def test_dask_finds_what_this_machine_finds_though_a_node_dies(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noop_runs.with_engine(monkeypatch)
    here = outcomes(run(tmp_path / "here", plan()))
    watcher, killed = Silence(), threading.Event()

    def kill() -> None:
        while len(watcher.entries) < 100:
            time.sleep(0.05)
        os.kill(scheduler.workers[0], signal.SIGKILL)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    settings = {"cluster": "dask", "scheduler": scheduler.address}
    there = outcomes(run(tmp_path / "there", plan(), watcher, **settings))
    assert killed.is_set() and there == here


def test_dask_stops_for_a_p0_as_this_machine_does(scheduler: Scheduler, tmp_path: Path) -> None:
    batches = [batch(20, "refused", severity=Severity.P0), batch(400, "later", wave=1)]
    settings = {"policy": "stop_on_p0", "cluster": "dask", "scheduler": scheduler.address}
    found = list(outcomes(run(tmp_path, batches, **settings)).values())
    assert found.count(Outcome.SKIPPED) == 400


def test_nobody_at_the_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from apr_qa.clusters import dask

    monkeypatch.setattr(dask, "CONNECT_S", 1)
    with pytest.raises(EnvironmentFault, match="no Dask scheduler"):
        clusters.connect("dask", "tcp://127.0.0.1:9")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "find_spec", lambda _: None)
    with pytest.raises(EngineMissing, match="distributed") as refusal:
        clusters.connect("dask", "")
    with pytest.raises(EngineMissing):
        dispatch(("ray",), None)
    assert refusal.value.exit_code == 3 and "pip install 'apr-qa[dask]'" in str(refusal.value)


def test_the_engine_option_names_where_and_by_what() -> None:
    assert dispatch((), None) == ("local", "")
    assert dispatch(("apr_cli", "dask"), "tcp://x:1") == ("dask", "apr_cli")
    for names, address in ((("dask", "ray"), None), (("a", "b"), None), (("local",), "tcp://x:1")):
        with pytest.raises(UsageError):
            dispatch(names, address)


# ---- slices and nodes that die, without a cluster


class Fake:
    """A cluster of one node in this process; each submission is answered by the next of ``answers``."""

    slots = threads = 1

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.stored: list[dict[str, Any]] = []

    def submit(self, task: bytes, node: str = "") -> Any:
        self.task = msgspec.json.decode(task, type=remote_run.Task)
        self.pinned = node
        return self

    def result(self, timeout_s: float) -> bytes | None:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return msgspec.json.encode(answer(self.task) if callable(answer) else answer)

    def cancel(self) -> None:
        """Nothing runs."""

    def store(self, node_name: str, piece: dict[str, Any]) -> None:
        self.stored.append(piece)
        node.store(piece)

    def close(self) -> None:
        """Nothing was opened."""


def worked(one: Any, cluster: Fake) -> list[Any]:
    entries: list[Any] = []
    line = Line("collect_all", entries.append)
    window = Window(one, line, lambda *_: pytest.fail("nodes judge"), FromTheStart())
    remote_run.RemoteRun(one, line, window, Limits(), cluster).run()
    return entries


def test_a_slice_that_kills_two_nodes_has_crashed() -> None:
    entries = worked(batch(5), Fake(clusters.NodeLost("two nodes")))
    assert {entry.outcome for entry in entries} == {Outcome.CRASHED} and len(entries) == 5
    assert "two nodes" in entries[0].reason


def test_a_fault_of_a_node_is_no_finding() -> None:
    with pytest.raises(EnvironmentFault, match="no space left"):
        worked(batch(5), Fake(node.Result(node="n1", fault="no space left")))


def test_a_cluster_that_does_nothing_is_given_up() -> None:
    with pytest.raises(EnvironmentFault, match="does nothing"):
        worked(batch(5), Fake(*[node.Result(node="n1")] * 20))


@pytest.mark.parametrize("folder", [True, False])
def test_an_artifact_is_sent_to_a_node_that_lacks_it_and_kept_by_its_content(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: Path, tiny_gguf: Path
) -> None:
    source = tiny_llama if folder else tiny_gguf
    one = msgspec.structs.replace(
        batch(1), artifact=Artifact(format="gguf", path=str(source), quantization="f32")
    )
    monkeypatch.setattr(remote_run, "PIECE_BYTES", 10_000)
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path / "node"))
    seen: list[Artifact] = []

    def lacks(task: node.Task) -> node.Result:
        return node.Result(node="n1", missing=(task.artifact,))

    def has(task: node.Task) -> node.Result:
        elsewhere = msgspec.structs.replace(task.artifact, path=f"/nowhere/{source.name}")
        seen.append(node.localized(elsewhere, "") or pytest.fail("not kept"))
        return node.Result(node="n1", fault="enough")

    with pytest.raises(EnvironmentFault, match="enough"):
        worked(one, Fake(lacks, has))
    assert workspace.content_sha256(Path(seen[0].path)) == workspace.content_sha256(source)
    assert Path(seen[0].path).name == source.name and Path(seen[0].path) != source
    Path(seen[0].path, "config.json" if folder else "").write_bytes(b"spoiled")
    assert node.localized(msgspec.structs.replace(seen[0], path="/nowhere/x"), "") is None


def test_what_arrives_changed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path))
    promised = Artifact(format="gguf", path="/x/m.gguf", sha256="0" * 64)
    piece = {
        "artifact": msgspec.to_builtins(promised),
        "sender": "1",
        "folder": False,
        "name": "m.gguf",
        "offset": 0,
        "data": b"GGUF",
        "last": True,
    }
    with pytest.raises(EnvironmentFault, match="changed while it was sent"):
        node.store(piece)
    with pytest.raises(EnvironmentFault):
        node.store({**piece, "name": "../m.gguf"})
    assert node.localized(promised, "") is None


def test_parts_of_a_long_batch_are_the_batch() -> None:
    whole = batch(1300)
    cut = remote_run.parts([whole, batch(3)])
    assert [len(part.scenarios) for part in cut] == [512, 512, 276, 3]
    assert [one.id for part in cut[:3] for one in part.scenarios] == [one.id for one in whole.scenarios]
    assert cut[2].scenarios[-1].id == whole.scenarios[1299].id
