"""What an interrupted run promises: nothing twice, nothing lost, and a moment to go on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import noop_runs
import pytest
from noop_runs import Asked, Silence, batch, outcomes, run

from apr_qa import collect, evidence, journal, runner
from apr_qa.errors import EnvironmentFault
from apr_qa.vocabulary import Evidence, Outcome, Severity


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    noop_runs.with_engine(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The complete evidence of a run, with its journal, as they lay there the moment before the run ended."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        noop_runs.with_engine(patch)
        patch.setattr(journal.Path, "unlink", lambda *_, **__: None)
        run(folder, plan_of_two())
    (folder / collect.EVIDENCE_FILE).rename(folder / collect.PARTIAL_FILE)
    return folder


def plan_of_two() -> list:  # type: ignore[type-arg]
    return [batch(1500, "one"), batch(700, "two", wave=1)]


def interrupted(whole: Path, folder: Path, rows: int, noted: int) -> Path:
    """Copy a run that was cut off after so many bytes of its evidence and of its journal."""
    shutil.copytree(whole, folder)
    partial = folder / collect.PARTIAL_FILE
    os.truncate(partial, rows)
    os.truncate(journal.path_of(partial), noted)
    return partial


@pytest.mark.parametrize("seed", range(4))
def test_a_run_cut_off_at_any_byte_is_finished_with_nothing_twice_and_nothing_lost(
    whole: Path, tmp_path: Path, seed: int
) -> None:
    complete = whole / collect.PARTIAL_FILE
    dice = random.Random(seed)
    size, noted = complete.stat().st_size, journal.path_of(complete).stat().st_size
    cut = dice.randrange(size)
    partial = interrupted(whole, tmp_path / "run", cut, dice.randrange(noted))
    kept = partial.read_bytes().rpartition(b"\n")[0]
    watcher = Silence()
    final = run(tmp_path / "run", plan_of_two(), watcher, resume=True)
    assert outcomes(final) == outcomes(complete)
    assert final.read_bytes().startswith(kept)
    assert len(watcher.entries) == 2200 - max(0, kept.count(b"\n"))
    assert [p.name for p in final.parent.iterdir()] == [collect.EVIDENCE_FILE]


@pytest.mark.parametrize("torn", [0, 5])
def test_a_run_that_is_cut_off_again_and_again_does_nothing_twice(
    whole: Path, tmp_path: Path, torn: int
) -> None:
    """What the journal lacked at the first cut must not be forgotten at the second."""
    complete, folder = whole / collect.PARTIAL_FILE, tmp_path / "run"
    rows = complete.read_bytes().splitlines(keepends=True)
    partial = interrupted(whole, folder, sum(map(len, rows[:901])), 300 * 16 + torn)
    assert len(journal.done(partial)) == 900
    with partial.open("ab") as file, journal.Journal(partial) as noted:
        for row in rows[901:1001]:
            file.write(row)
            file.flush()
            noted.entered(msgspec.json.decode(row, type=Evidence))
    assert len(journal.done(partial)) == 1000
    assert outcomes(run(folder, plan_of_two(), resume=True)) == outcomes(complete)


def test_a_run_cut_off_in_its_header_begins_anew(whole: Path, tmp_path: Path) -> None:
    interrupted(whole, tmp_path / "run", 40, 32)
    final = run(tmp_path / "run", plan_of_two(), resume=True)
    assert outcomes(final) == outcomes(whole / collect.PARTIAL_FILE)


def test_going_on_makes_no_scenario_of_what_is_done(whole: Path, tmp_path: Path) -> None:
    partial = tmp_path / "run" / collect.PARTIAL_FILE
    shutil.copytree(whole, tmp_path / "run")
    plan = plan_of_two()
    assert run(tmp_path / "run", plan, resume=True).stat().st_size
    made = sum(one.scenarios.count_made for one in plan if isinstance(one.scenarios, Asked))
    assert made < 20 and not partial.exists()


def test_a_journal_of_another_run_is_not_believed(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    partial = tmp_path / "run" / collect.PARTIAL_FILE
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join([lines[0], *reversed(lines[-400:])]))
    assert len(journal.done(partial)) == 400


def test_an_edited_row_is_found_by_judging_and_a_removed_one_is_done_again(
    whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    partial = tmp_path / "run" / collect.PARTIAL_FILE
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines[:5] + lines[6:]))
    final = run(tmp_path / "run", plan_of_two(), resume=True)
    assert outcomes(final).keys() == outcomes(whole / collect.PARTIAL_FILE).keys()


def test_what_was_skipped_is_not_done_and_leaves_the_file(tmp_path: Path) -> None:
    stopped = run(
        tmp_path,
        [batch(40), batch(30, "refused", wave=1), batch(20, "later", wave=2)],
        policy="stop_on_first",
    )
    found = outcomes(stopped)
    assert sum(outcome is Outcome.SKIPPED for outcome in found.values()) == 20
    partial = tmp_path / collect.PARTIAL_FILE
    stopped.rename(partial)
    assert len(journal.done(partial)) == 70 and partial.read_bytes().count(b"\n") == 71


def test_a_line_that_was_stopped_stays_stopped(tmp_path: Path) -> None:
    plan = [batch(40), batch(30, "refused", wave=1, severity=Severity.P0), batch(20, "later", wave=2)]
    stopped = run(tmp_path, plan, policy="stop_on_p0")
    before = outcomes(stopped)
    partial = tmp_path / collect.PARTIAL_FILE
    partial.write_bytes(b"".join(stopped.read_bytes().splitlines(keepends=True)[:60]))
    after = outcomes(run(tmp_path, plan, policy="stop_on_p0", resume=True))
    assert after.keys() == before.keys()
    later = [one.id for one in Asked(20, "later")]
    assert {after[name] for name in later} == {before[name] for name in later} == {Outcome.SKIPPED}


def test_two_processes_on_one_run_directory_are_refused_while_reports_are_written_too(tmp_path: Path) -> None:
    with collect.locked(tmp_path):
        with pytest.raises(EnvironmentFault, match="another run is writing to this folder"):
            run(tmp_path, [batch(1)])
        assert not list(tmp_path.iterdir()), "a lock leaves nothing in the folder"
    assert run(tmp_path, [batch(1)]).exists()


def test_a_parent_that_is_killed_loses_nothing_that_it_said_it_had(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]; import noop_runs; from pathlib import Path;"
        "noop_runs.run(Path(sys.argv[1]), [noop_runs.batch(4000)])"
    )
    here = Path(__file__).parent
    running = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), str(here), str(here.parent)],
        env={**os.environ, "NOOP_DELAY_S": "0.02"},
        start_new_session=True,
    )
    partial = tmp_path / collect.PARTIAL_FILE
    while not (partial.exists() and partial.read_bytes().count(b"\n") > 500):
        time.sleep(0.05)
        assert running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.wait()
    written = partial.read_bytes().count(b"\n") - 1
    watcher = Silence()
    final = run(tmp_path, [batch(4000)], watcher, resume=True)
    assert len(outcomes(final)) == 4000 and len(watcher.entries) == 4000 - written
    assert watcher.said == [f"resuming: {written} of 4000 scenarios are done"]


def test_a_conversion_whose_file_was_cleared_away_is_made_again_and_recorded_once(
    tmp_path: Path, tiny_llama: Path
) -> None:
    from apr_qa.plan import conversion_batch
    from apr_qa.vocabulary import Artifact

    source = Artifact(format="safetensors", path=str(tiny_llama), quantization="f32")
    wanted = Artifact(
        format="gguf", path=str(tmp_path / "made" / "m.gguf"), quantization="f32", origin="derived"
    )
    plan = [conversion_batch("tiny", source, wanted, 0), batch(100, wave=1)]
    final = run(tmp_path / "run", plan)
    before = outcomes(final)
    partial = tmp_path / "run" / collect.PARTIAL_FILE
    partial.write_bytes(b"".join(final.read_bytes().splitlines(keepends=True)[:50]))
    Path(wanted.path).unlink()
    assert outcomes(run(tmp_path / "run", plan, resume=True)) == before
    assert Path(wanted.path).exists()


def test_a_full_disk_ends_the_run_with_what_to_do_and_keeps_what_was_written(tmp_path: Path) -> None:
    script = (
        "import resource, sys; sys.path[:0] = sys.argv[2:]; import noop_runs; from pathlib import Path;"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY));"
        "import apr_qa.errors;\n"
        "try: noop_runs.run(Path(sys.argv[1]), [noop_runs.batch(900), noop_runs.batch(900, 'two')])\n"
        "except apr_qa.errors.EnvironmentFault as fault: print(fault); sys.exit(fault.exit_code)"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(here), str(here.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "evidence cannot be written" in done.stdout and "--resume" in done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    final = run(tmp_path, [batch(900), batch(900, "two")], resume=True)
    assert len(outcomes(final)) == 1800


def test_a_fault_of_one_batch_stops_all_others_and_is_raised(tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise EnvironmentFault("the judge is out")

    line = runner.Line("collect_all", lambda _: None)
    with pytest.raises(EnvironmentFault, match="the judge is out"):
        runner.run([batch(5000), batch(5000, "two")], line, broken, runner.Limits(), jobs=2, threads=1)  # type: ignore[arg-type]


def test_evidence_without_a_journal_is_read_itself(whole: Path, tmp_path: Path) -> None:
    partial = interrupted(whole, tmp_path / "run", 100_000, 0)
    journal.path_of(partial).unlink()
    evidence.repair(partial)
    assert len(journal.done(partial)) == partial.read_bytes().count(b"\n") - 1


def test_a_journal_that_is_ahead_is_believed_as_far_as_the_evidence_goes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = whole / collect.PARTIAL_FILE
    half = complete.stat().st_size // 2
    partial = interrupted(whole, tmp_path / "run", half, journal.path_of(complete).stat().st_size)
    evidence.repair(partial)
    read_from: list[int] = []
    newer = journal._newer

    def noted(path: Path, begin: int) -> object:
        read_from.append(begin)
        return newer(path, begin)

    monkeypatch.setattr(journal, "_newer", noted)
    assert len(journal.done(partial)) == partial.read_bytes().count(b"\n") - 1
    assert read_from == [partial.stat().st_size]
