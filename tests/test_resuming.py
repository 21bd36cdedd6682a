"""``--resume``: the same command again, or only the folder of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from apr_qa import collect
from apr_qa.cli import resuming
from apr_qa.errors import UsageError


def said(*words: str) -> dict[str, Any]:
    """Return the options that a command with ``--resume`` ends up with."""
    found: dict[str, Any] = {}

    @click.command()
    @click.argument("models", nargs=-1)
    @click.option("--tier", default="mvp")
    @click.option("--workers", type=int)
    @click.option("--artifact", "artifacts", multiple=True)
    @resuming.resume_option
    def command(**options: Any) -> None:
        found.update(resuming.as_begun(options, "certify", "models"))

    result = CliRunner().invoke(command, words, catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return found


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "certifications" / "m"
    folder.mkdir(parents=True)
    (folder / collect.PARTIAL_FILE).write_text("{}\n")
    options = {"models": ["m.gguf"], "tier": "quick", "workers": 4, "artifacts": ["gguf=x"], "resume": None}
    (folder / collect.COMMAND_FILE).write_text(resuming.how(options, "certify"))
    return folder


def test_a_run_goes_on_with_the_options_and_in_the_folder_that_it_was_begun_with(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for run in (interrupted, interrupted / collect.PARTIAL_FILE):
        options = said("--resume", str(run))
        assert options["models"] == ("m.gguf",) and options["artifacts"] == ("gguf=x",)
        assert (options["tier"], options["workers"], options["resume"]) == ("quick", 4, True)
        assert Path.cwd() == tmp_path
        assert resuming.wanted(options, Path("certifications/m"))
        assert not resuming.wanted(options, Path("certifications/other"))


def test_options_that_are_given_now_win(interrupted: Path) -> None:
    assert said("--resume", str(interrupted), "--workers", "1")["workers"] == 1


def test_the_same_command_with_resume_means_what_it_meant(interrupted: Path) -> None:
    assert said("m.gguf")["resume"] is False
    for words in (("m.gguf", "--resume"), ("--resume", "m.gguf"), ("--resume", "m.gguf", "--tier", "mvp")):
        options = said(*words)
        assert options["resume"] is True and options["models"] == ("m.gguf",) and options["only"] is None


def test_what_cannot_go_on_is_refused_with_the_way_out(interrupted: Path) -> None:
    with pytest.raises(UsageError, match="says what the run is about"):
        said("m.gguf", "--resume", str(interrupted))
    command = interrupted / collect.COMMAND_FILE
    begun = json.loads(command.read_text())
    for spoiled, reason in (
        ({**begun, "command": "run"}, "apr-qa run"),
        ({**begun, "directory": "/nowhere"}, "there no more"),
        ([], "is not stored"),
    ):
        command.write_text(json.dumps(spoiled))
        with pytest.raises(UsageError, match=reason):
            said("--resume", str(interrupted))
    command.unlink()
    with pytest.raises(UsageError, match="is not stored"):
        said("--resume", str(interrupted))
    (interrupted / collect.PARTIAL_FILE).rename(interrupted / collect.EVIDENCE_FILE)
    with pytest.raises(UsageError, match="this run is complete"):
        said("--resume", str(interrupted))
