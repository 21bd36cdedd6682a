"""What each option of certify and run changes, seen from outside."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from fake_apr import install

from apr_qa import apr_binary
from apr_qa.cli import command_line
from apr_qa.errors import AprQaError, UsageError
from apr_qa.evidence import read
from apr_qa.vocabulary import Evidence, EvidenceHeader, Outcome

PLAYBOOK = """
name: small
version: 1.0.0
model: {hf_repo: org/tiny, formats: [safetensors%s], quantizations: [q8_0]}
test_matrix: {modalities: [run], backends: [cpu%s], scenario_count: 2}
"""


@pytest.fixture
def here(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and a playbook that names another one."""
    shutil.copytree(tiny_llama, tmp_path / "model")
    (tmp_path / "check.yaml").write_text(PLAYBOOK % ("", ""))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APR_QA_CACHE", os.environ["APR_QA_CACHE"])  # options may change it; put it back
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(command_line, words)


def run(*words: str) -> Result:
    done = call("run", "check.yaml", "--model-path", "model", "--tier", "smoke", "-q", *words)
    assert not isinstance(done.exception, AprQaError), done.exception
    return done


def stored(folder: Path, name: str = "output") -> tuple[EvidenceHeader, list[Evidence]]:
    (path,) = (folder / name).rglob("evidence.jsonl")
    header, entries = read(path)
    return header, list(entries)


def refusal(*words: str) -> str:
    done = call(*words)
    assert isinstance(done.exception, UsageError), done.output
    return str(done.exception)


def test_the_model_of_a_playbook_can_be_given_by_path(here: Path) -> None:
    done = run("--json", "--workers", "1")
    assert done.exit_code in (0, 1), done.output
    header, entries = stored(here)
    assert header.model.id == "org/tiny" and header.artifacts[0].origin == "given"
    assert any(entry.scenario.claim.kind == "generate" for entry in entries)


def test_a_path_is_the_model_of_one_playbook(here: Path) -> None:
    assert "--model-path" in refusal("run", "check.yaml", "check.yaml", "--model-path", "model")


def test_the_findings_of_a_run_are_printed_as_tickets_and_not_sent(here: Path) -> None:
    done = run("--auto-ticket")
    _, entries = stored(here)
    assert done.exit_code == 1 and any(entry.outcome.failed for entry in entries)
    assert "# tiny safetensors" in done.stdout and "nothing was sent" in done.stderr
    assert not list((here / "output").rglob("tickets"))


def test_tickets_for_a_repository_are_files_and_commands(here: Path) -> None:
    done = run("--auto-ticket", "--ticket-repo", "me/converter", "--json")
    json.loads(done.stdout)
    (folder,) = (here / "output").rglob("tickets")
    commands = [line for line in done.stderr.splitlines() if line.startswith("gh issue create")]
    assert commands and len(commands) == len(list(folder.iterdir()))
    assert all("--repo me/converter" in line for line in commands)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ticket-repo", "me/converter"), "--auto-ticket"),
        (("--auto-ticket", "--ticket-repo", "me"), "OWNER/NAME"),
        (("--engine", "llama_cp"), "llama_cpp"),
        (("--apr-binary", "no/apr"), "--apr-binary"),
        (("--model-cache", "check.yaml"), "no folder"),
    ],
)
@pytest.mark.parametrize("command", ["certify", "run"])
def test_nonsense_is_refused_before_anything_starts(
    here: Path, command: str, words: tuple[str, ...], said: str
) -> None:
    subject = "model" if command == "certify" else "check.yaml"
    assert said in refusal(command, subject, *words)


def test_one_junit_report_is_written_of_all_playbooks(here: Path) -> None:
    (here / "other.yaml").write_text((here / "check.yaml").read_text().replace("org/tiny", "org/absent"))
    done = call(
        *("run", "check.yaml", "other.yaml", "--artifact", "safetensors=model", "--tier", "dim-smoke"),
        *("--offline", "-q", "--junit", "report.xml"),
    )
    assert done.exit_code in (0, 1, 3), done.output
    suites = ElementTree.fromstring((here / "report.xml").read_text())  # noqa: S314 - written by the program
    assert len(suites) >= 2


def test_a_model_that_is_not_there_is_an_error_of_the_report(here: Path) -> None:
    done = call("run", "check.yaml", "--offline", "-q", "--junit", "report.xml")
    assert done.exit_code == 3
    root = ElementTree.fromstring((here / "report.xml").read_text())  # noqa: S314 - written by the program
    assert root.get("errors") == "1"


def test_a_report_into_no_folder_is_refused(here: Path) -> None:
    assert "no/report.xml" in refusal("run", "check.yaml", "--junit", "no/report.xml")


def test_derived_files_go_to_the_cache_that_is_named(here: Path) -> None:
    (here / "check.yaml").write_text(PLAYBOOK % (", gguf", ""))
    run("--model-cache", "mine", "--skip-conversion-tests")
    assert list((here / "mine").rglob("*.gguf"))


def test_comparisons_that_are_skipped_are_seen_to_be(here: Path) -> None:
    (here / "check.yaml").write_text(PLAYBOOK % (", gguf", ""))
    run("--skip-conversion-tests")
    _, entries = stored(here)
    compared = [entry for entry in entries if entry.scenario.target.modality == "compare"]
    assert compared and {entry.outcome for entry in compared} == {Outcome.INAPPLICABLE}
    assert "--skip-conversion-tests" in compared[0].reason


def test_the_speed_is_measured_on_demand(here: Path) -> None:
    run("--profile-ci")
    _, entries = stored(here)
    (entry,) = [entry for entry in entries if entry.gate_id == "F-PROFILE-CI-001"]
    assert entry.response is not None and entry.response.facts["tokens_per_s"] > 0


def test_logits_are_compared_with_a_corpus_on_demand(here: Path) -> None:
    (here / "corpus").mkdir()
    run("--hf-corpus-path", "corpus")
    _, entries = stored(here)
    (entry,) = [entry for entry in entries if entry.gate_id == "F-HF-PARITY-001"]
    assert entry.outcome is Outcome.INAPPLICABLE and "holds no stored logits" in entry.reason


def test_a_limit_of_time_is_that_of_every_question(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_FAULT", "hang:2 + 2")
    run("--timeout", "1.5", "--failure-policy", "collect_all")
    _, entries = stored(here)
    assert "no answer within 1.5 s" in {e.reason for e in entries if e.outcome is Outcome.TIMEOUT}


def test_fail_fast_stops_at_the_first_failure_and_leaves_a_bundle(here: Path) -> None:
    done = run("--fail-fast", "--workers", "1")
    _, entries = stored(here)
    assert done.exit_code == 1
    assert any(entry.outcome is Outcome.SKIPPED for entry in entries)
    assert list((here / "output").glob("**/diagnostics/summary.md"))


def test_cells_of_the_gpu_are_left_out_visibly(here: Path) -> None:
    (here / "check.yaml").write_text(PLAYBOOK % ("", ", gpu"))
    run("--no-gpu")
    _, entries = stored(here)
    left = [entry for entry in entries if entry.scenario.target.backend == "gpu"]
    assert left and {entry.reason for entry in left} == {"--no-gpu was given"}
    assert {entry.outcome for entry in left} == {Outcome.INAPPLICABLE}


def test_what_would_be_done_is_said_and_nothing_done(here: Path) -> None:
    for words in (("certify", "model", "--tier", "smoke"), ("run", "check.yaml")):
        done = call(*words, "--dry-run", "--json")
        assert done.exit_code == 0 and json.loads(done.stdout)
    assert sorted(path.name for path in here.iterdir()) == ["check.yaml", "model"]


def test_every_model_of_the_registry_can_be_meant(here: Path) -> None:
    done = call("certify", "--all", "--tier", "smoke", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)) == 95


def remarks(*words: str) -> str:
    return call("run", *words, "--dry-run").stderr


def test_a_playbook_is_not_compared_with_its_lock_if_nobody_wants_it(here: Path) -> None:
    folder = here / "playbooks"
    folder.mkdir()
    shutil.copy("check.yaml", folder / "check.yaml")
    assert call("lock-playbooks", "playbooks").exit_code == 0
    (folder / "check.yaml").write_text((folder / "check.yaml").read_text() + "# changed\n")
    assert "lock-playbooks" in remarks("playbooks/check.yaml")
    assert "lock-playbooks" not in remarks("playbooks/check.yaml", "--no-integrity-check")


def test_the_run_before_is_remembered(here: Path) -> None:
    run()
    run()
    header, _ = stored(here)
    tier, _, share = header.environment["earlier_rate"].partition(" ")
    assert tier == "smoke" and 0 <= float(share) <= 1


def test_the_doctor_finds_the_apr_program_or_says_how_to_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(apr_binary.VARIABLE, str(tmp_path / "absent"))
    assert apr_binary.VARIABLE in call("doctor").stdout
    monkeypatch.setenv(apr_binary.VARIABLE, str(install(tmp_path)))
    rows = {row["what"]: row for row in json.loads(call("doctor", "--json").stdout)}
    assert rows["apr program"]["ok"] and "apr 0.70.3" in rows["apr program"]["state"]
