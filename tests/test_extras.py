"""Without optional packages the program works, or says which command installs what it lacks."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import bare_install
import pytest

from apr_qa import extras
from apr_qa.__main__ import main

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def test_what_needs_an_extra_names_its_cure_where_none_can_be_imported() -> None:
    command = [sys.executable, str(Path(bare_install.__file__)), "--hide"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_command_that_ends_otherwise_than_expected_is_reported(tmp_path: Path) -> None:
    wrong = bare_install.Expected(("--help",), 3)
    (fault,) = bare_install.tried(wrong, {"PYTHONPATH": str(Path(__file__).parents[1])}, tmp_path)
    assert "exit 0, not 3" in fault


def test_every_extra_that_a_cure_names_exists() -> None:
    assert extras.EXTRAS.keys() <= PROJECT["optional-dependencies"].keys()
    assert extras.PURPOSES.keys() <= extras.EXTRAS.keys()


def test_the_cure_of_a_module_is_the_extra_that_brings_its_package() -> None:
    owners = importlib.metadata.packages_distributions()
    for extra, modules in extras.EXTRAS.items():
        brought = {re.split(r"[\[><=]", line)[0].lower() for line in PROJECT["optional-dependencies"][extra]}
        for module in modules:
            packages = {name.lower().replace("_", "-") for name in owners.get(module, [])}
            # sse-starlette comes with what llama-cpp-python's server needs.
            assert not packages or packages & brought or module == "sse_starlette", (module, packages)


def test_what_is_no_optional_package_has_no_cure() -> None:
    assert extras.cure("json") == ""
    assert extras.cure("tree_sitter_go.binding") == "pip install 'apr-qa[code]'"
    assert extras.lacking(extras.not_installed("gguf").what)


def test_a_missing_package_is_a_refusal_and_not_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'rich'", name="rich")

    monkeypatch.setattr("apr_qa.cli.command_line.main", lacks)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 3
    assert "pip install 'apr-qa[display]'" in capsys.readouterr().err


def test_a_missing_module_of_ours_stays_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'apr_qa.nothing'", name="apr_qa.nothing")

    monkeypatch.setattr("apr_qa.cli.command_line.main", lacks)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 70
    capsys.readouterr()
