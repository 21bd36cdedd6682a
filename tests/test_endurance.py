"""What a run survives: kills, crashes, forgetful engines, little memory; and what it leaves behind: nothing."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import noop_runs
import pytest
from fuzzing import kills
from noop_runs import Silence, batch, outcomes, run

from apr_qa import batch_run, confinement, devices, room, runner, window, worker
from apr_qa.channel import Channel
from apr_qa.line import Line
from apr_qa.room import Room
from apr_qa.vocabulary import Artifact, Outcome, Severity


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    noop_runs.with_engine(monkeypatch)


def test_a_run_whose_processes_are_killed_at_random_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    told = kills.campaign(4, seed=1, folder=tmp_path)
    assert told.kills == 4 and told.survivors == 0 and told.differences == []


def test_crashes_leave_no_process_no_descriptor_and_no_thread() -> None:
    assert kills.crashes(5) == kills.Left(crashed=5, processes=0, descriptors=0, threads=0)


@pytest.mark.parametrize("limit", [{"GROWTH_BYTES": 65 << 20}, {"MOST_CLAIMS": 64}])
def test_a_worker_that_grows_or_has_done_much_is_replaced_and_the_batch_goes_on(
    limit: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOOP_GROWTH_MB", "20")
    monkeypatch.setattr(batch_run, "GROUP_SIZE", 16)
    monkeypatch.setattr(window, "SIZE", 64)
    for name, value in limit.items():
        monkeypatch.setattr(batch_run, name, value)
    started: list[object] = []
    begin = batch_run.BatchRun._run_worker

    def counted(self: batch_run.BatchRun) -> None:
        started.append(self)
        begin(self)

    monkeypatch.setattr(batch_run.BatchRun, "_run_worker", counted)
    found = outcomes(run(tmp_path, [batch(128)], jobs=1))
    assert len(found) == 128 and set(found.values()) == {Outcome.CORROBORATED}
    assert len(started) == 2, "8 groups, half of them in each process"


def test_from_a_p0_on_no_new_work_begins(tmp_path: Path) -> None:
    watcher = Silence()
    plan = [batch(3, "refused", severity=Severity.P0), batch(50, "later", wave=1)]
    run(tmp_path, plan, watcher, policy="stop_on_p0")
    place = next(i for i, entry in enumerate(watcher.entries) if entry is watcher.stopped_by)
    after = {entry.outcome for entry in watcher.entries[place + 3 :]}
    assert after == {Outcome.SKIPPED} and not (tmp_path / "later.gguf").exists()


def test_a_disk_that_is_full_for_a_worker_ends_the_run_and_accuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(Channel, "__init__", lambda self: None)
    monkeypatch.setattr(Channel, "say", lambda self, event, **more: said.append((event, more)))
    monkeypatch.setattr(worker, "Inbox", lambda: type("Inbox", (), {"line": lambda self: JOB})())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/x/model.gguf")

    monkeypatch.setattr(worker, "_opened", full)
    worker.main()
    assert said[-1] == ("broken", {"reason": "No space left on device: /x/model.gguf"})


def test_a_broken_machine_is_raised_and_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apr_qa.errors import EnvironmentFault
    from apr_qa.processes import blame_machine
    from apr_qa.protocol import Message

    with pytest.raises(EnvironmentFault, match="No space") as fault:
        blame_machine(Message(event="broken", reason="No space left on device"))
    assert fault.value.exit_code == 3
    blame_machine(Message(event="answers"))


JOB = b""


@pytest.fixture(autouse=True, scope="module")
def job() -> None:
    from apr_qa.protocol import Job, written

    one = batch(1)
    global JOB
    JOB = written(Job(target=one.target, artifact=one.artifact, scenarios=tuple(one.scenarios)))


# ---- memory


def large(tmp_path: Path, size: int, engine: str = "transformers_torch", quantization: str = "f16") -> Any:
    """Return a batch about a sparse file of so many bytes."""
    path = tmp_path / f"{engine}{size}.gguf"
    with path.open("wb") as file:
        file.truncate(size)
    one = batch(2)
    return msgspec.structs.replace(
        one,
        target=msgspec.structs.replace(one.target, engine=engine),
        artifact=Artifact(format="gguf", path=str(path), quantization=quantization),
    )


def test_weights_that_can_never_fit_are_inapplicable_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "machine_memory", lambda: 1 << 30)
    too_large = large(tmp_path, 3 << 30, "llama_cpp")
    entries: list[Any] = []
    runner.run([too_large], Line("collect_all", entries.append), None, runner.Limits(), jobs=1, threads=1)  # type: ignore[arg-type]
    assert {entry.outcome for entry in entries} == {Outcome.INAPPLICABLE}
    assert "3.00 GiB" in entries[0].reason and "1.00 GiB" in entries[0].reason
    assert not room.refusal(large(tmp_path, 100 << 20, "llama_cpp"))
    assert not room.refusal(large(tmp_path, 3 << 30, "inspect")), "reading a file does not hold it"


def test_a_lack_of_memory_accuses_only_a_file_that_would_have_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APR_QA_MEMORY_LIMIT", "3G")
    said = f"{confinement.EXCEEDED} (3072 MiB)"
    outcome, reason = room.blamed(large(tmp_path, 2 << 30), Outcome.CRASHED, said)
    assert outcome is Outcome.INAPPLICABLE and "4.00 GiB" in reason and said in reason
    small = large(tmp_path, 1 << 20)
    assert room.blamed(small, Outcome.CRASHED, said) == (Outcome.CRASHED, said)
    assert room.blamed(large(tmp_path, 2 << 30), Outcome.CRASHED, "SIGSEGV")[0] is Outcome.CRASHED


def test_what_does_not_fit_beside_the_others_waits_and_then_runs(tmp_path: Path) -> None:
    shared, line = Room(capacity=3 << 30), Line("collect_all", lambda _: None)
    first, second = large(tmp_path, 1 << 30), large(tmp_path, (1 << 30) + 1)
    order: list[str] = []

    def work() -> None:
        with shared.taken(second, line):
            order.append("second began")

    with shared.taken(first, line):
        waiting = threading.Thread(target=work)
        waiting.start()
        time.sleep(0.3)
        order.append("first ended")
    waiting.join()
    assert order == ["first ended", "second began"]


@pytest.mark.parametrize("engine", ["conversion", "comparison", "trips"])
def test_reading_a_model_tensor_by_tensor_takes_room_but_never_that_of_a_large_model(
    engine: str, tmp_path: Path
) -> None:
    shared = Room(capacity=1 << 40)
    small, huge = large(tmp_path, 1 << 30, engine), large(tmp_path, 100 << 30, engine)
    assert shared.need(small) == (2 << 30) + room.READER_BYTES
    assert shared.need(huge) == room.TENSORS_BYTES + room.READER_BYTES
    pair = msgspec.structs.replace(large(tmp_path, 0, engine), source=small.artifact)
    assert shared.need(pair) == shared.need(small), "what is read counts, not only what is made of it"
    assert shared.need(large(tmp_path, 1 << 30, "inspect")) == 0


def test_what_a_worker_took_counts_for_those_that_load_the_same(tmp_path: Path) -> None:
    shared, one = Room(capacity=1 << 40), large(tmp_path, 1 << 20)
    guessed = shared.need(one)
    shared.learned(one, 0)
    assert shared.need(one) == guessed
    shared.learned(one, 5 << 30)
    assert shared.need(one) == 5 << 30


def test_free_memory_is_known_and_at_most_what_the_machine_has() -> None:
    assert 0 < confinement.free_memory() <= confinement.machine_memory()


@pytest.mark.parametrize(
    ("said", "cores"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("", None)]
)
def test_a_container_gets_as_many_cores_as_it_may_use(
    said: str, cores: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(said)
    monkeypatch.setattr(devices, "_CPU_QUOTA", quota)
    assert devices.usable_cores() == (cores or len(os.sched_getaffinity(0)))


def test_what_was_to_be_made_from_a_file_that_cannot_be_made_is_inapplicable_too(tmp_path: Path) -> None:
    lacking, there = batch(2, "one"), batch(2, "two")
    pair = msgspec.structs.replace(lacking, source=Artifact(format="safetensors", path="/x/truth"))
    entries: list[Any] = []
    line = Line("collect_all", entries.append)
    line.unmade["/x/truth"] = "no room"
    assert line.lacks(there.artifact, None) == "" and line.lacks(pair.artifact, pair.source) == "no room"
    runner.run([pair], line, None, runner.Limits(), jobs=1, threads=1)  # type: ignore[arg-type]
    assert {(entry.outcome, entry.reason) for entry in entries} == {(Outcome.INAPPLICABLE, "no room")}
