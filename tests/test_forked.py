"""What processes promise that are forked from a zygote: they are what started ones are, and cheaper."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import noop_runs
import pytest
from conftest import children

from apr_qa import forked, shared_imports
from apr_qa.forked import Shared
from apr_qa.processes import Child, engine_environment

HERE = Path(__file__).parent
SHARED = Shared("forked_entries:main", ("forked_entries", "no_such_module"))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def sharing() -> Iterator[None]:
    before = children()
    with forked.sharing():
        yield
    assert children() == before, "a zygote ends with the run"


def child(what: str, shared: Shared | None = SHARED, **environment: str) -> Child:
    return Child(["-m", "forked_entries", what], environment, shared=shared)


def told(one: Child) -> dict[str, Any]:
    one.send(b"hello")
    facts = one.receive(30.0)
    assert facts is not None, one.stderr_tail()
    return dict(facts)


def zygote() -> int:
    (one,) = children()
    return one


@pytest.mark.usefixtures("sharing")
def test_a_forked_process_is_what_a_started_one_is_but_has_another_parent() -> None:
    environment = engine_environment(3)
    with child("tell", **environment) as one:
        facts = told(one)
    with child("tell", None, **environment) as other:
        wanted = told(other)
    assert (facts.pop("parent") != os.getpid(), wanted.pop("parent")) == (True, os.getpid())
    assert facts == wanted
    assert facts["session"] and facts["descriptors"] == [0, 1, 2] and facts["threads"] == 1
    assert facts["environment"]["OMP_NUM_THREADS"] == "3" and facts["heard"] == "hello"


@pytest.mark.usefixtures("sharing")
def test_every_environment_and_folder_has_a_zygote_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for value in ("1", "2", "1"):
        with child("tell", OMP_NUM_THREADS=value) as one:
            facts = told(one)
            found.append((facts["environment"]["OMP_NUM_THREADS"], facts["folder"], facts["parent"]))
    monkeypatch.chdir(tmp_path)
    with child("tell", OMP_NUM_THREADS="1") as one:
        elsewhere = told(one)
    assert [value for value, *_ in found] == ["1", "2", "1"] and found[0] == found[2] != found[1]
    assert elsewhere["folder"] == str(tmp_path) and elsewhere["parent"] not in [
        parent for *_, parent in found
    ]


@pytest.mark.usefixtures("sharing")
def test_our_own_variables_need_no_zygote_of_their_own() -> None:
    with child("tell", APR_QA_ONE="1") as one:
        first = told(one)
    with child("tell", APR_QA_TWO="2") as one:
        second = told(one)
    assert first["parent"] == second["parent"] == zygote()
    assert first["environment"]["APR_QA_ONE"] == "1" and second["environment"]["APR_QA_TWO"] == "2"
    assert "APR_QA_ONE" not in second["environment"]


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("shared", [SHARED, None])
@pytest.mark.parametrize(
    ("what", "how", "words"),
    [
        ("exit", "exit code 3", "about to exit"),
        ("raise", "exit code 1", "RuntimeError: this is why"),
        ("crash", "signal SIGSEGV", "about to crash"),
    ],
)
def test_how_a_forked_process_ended_and_what_it_said_last_are_known(
    what: str, how: str, words: str, shared: Shared | None
) -> None:
    with child(what, shared) as one:
        assert one.receive(30.0) is None and one.ends_within(30.0)
        assert one.exit_description() == how and words in one.stderr_tail()
        assert not one.alive() and not one.was_killed()


@pytest.mark.usefixtures("sharing")
def test_closing_kills_the_whole_group_even_of_a_process_that_has_just_begun() -> None:
    with child("hang") as one:
        while "hang" not in one.stderr_tail():
            time.sleep(0.02)
    assert one.was_killed()
    assert not [pid for pid in _group(one.pid) if _alive(pid)]
    for _ in range(20):
        child("hang").close()


@pytest.mark.usefixtures("sharing")
def test_a_process_that_is_asked_to_end_does() -> None:
    with child("hang", None) as one:
        assert one.terminate()["exit_code"] == -signal.SIGTERM
    with child("tell") as one:
        told(one)
        assert not one.ends_within(0.05)
        assert one.terminate()["exit_code"] == -signal.SIGTERM


@pytest.mark.usefixtures("sharing")
def test_a_zygote_that_is_killed_takes_nobody_along_and_others_are_started_without_it() -> None:
    with child("tell") as one:
        assert told(one)["parent"] == zygote()
        os.kill(zygote(), signal.SIGKILL)
        time.sleep(0.1)
        assert one.alive()
        with child("tell") as other:
            assert told(other)["parent"] == os.getpid()
    assert one.was_killed(), "how it ended nobody can tell: that is no finding about a model"


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize(
    "importing",
    [
        "import threading, time\nthreading.Thread(target=time.sleep, args=(300,)).start()",
        "1 / 0",
        "import os; os.abort()",
    ],
)
def test_what_cannot_be_forked_safely_is_started(
    importing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_engine.py").write_text(importing)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    with child("tell", Shared("forked_entries:main", ("odd_engine",))) as one:
        assert told(one)["parent"] == os.getpid()


def test_outside_of_a_run_and_on_other_systems_everything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with child("tell") as one:
        assert told(one)["parent"] == os.getpid()
    monkeypatch.setattr(forked, "POSSIBLE", False)
    with forked.sharing(), child("tell") as one:
        assert told(one)["parent"] == os.getpid()


def test_the_outermost_block_decides_how_long_a_zygote_lives() -> None:
    with forked.sharing():
        with forked.sharing(), child("tell") as one:
            first = told(one)["parent"]
        with child("tell") as one:
            assert told(one)["parent"] == first == zygote()
    assert not children()


@pytest.mark.usefixtures("sharing")
def test_many_forks_leave_no_zombie_and_no_descriptor_in_the_zygote() -> None:
    for _ in range(3):
        child("exit").close()
    held = len(list(Path(f"/proc/{zygote()}/fd").iterdir()))
    for _ in range(30):
        child("exit").close()
    assert len(list(Path(f"/proc/{zygote()}/fd").iterdir())) == held
    assert not children(zygote())


def test_a_killed_parent_leaves_neither_a_zygote_nor_a_worker() -> None:
    script = (
        "import json, os, test_forked\n"
        "from apr_qa import forked, processes\n"
        "with forked.sharing():\n"
        "    worker = processes.worker(processes.engine_environment(1), ('apr_qa.worker',))\n"
        "    print(json.dumps([worker.pid, test_forked.zygote()]), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    with Child(["-c", script]) as parent:
        pids = parent.receive(60.0)
        assert pids and parent.ends_within(30.0)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and any(map(_alive, pids)):
            time.sleep(0.05)
        assert not any(map(_alive, pids))


def test_what_runs_on_a_gpu_is_not_forked() -> None:
    cpu = noop_runs.TARGET
    torch = msgspec.structs.replace(cpu, engine="transformers_torch")
    assert shared_imports.needed(cpu) == shared_imports.LIGHT
    assert shared_imports.needed(torch) == shared_imports.TORCH
    assert shared_imports.needed(msgspec.structs.replace(torch, backend="gpu")) is None


def test_every_module_that_is_shared_is_there() -> None:
    for name in shared_imports.TORCH:
        assert importlib.util.find_spec(name) is not None, name


def _group(leader: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(path.name)) == leader:
                found.append(int(path.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
