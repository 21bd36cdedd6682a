"""What README and CONTRIBUTING show is what the program understands, and what they point to is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from apr_qa.cli import COMMANDS, command_line

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[list[str]]:
    """Return the lines of every fenced code block."""
    return [
        body.strip("\n").split("\n")
        for body in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every ``apr-qa …`` command line in code blocks and in code spans."""
    lines = [line for block in blocks(text) for line in block]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in lines:
        for part in re.split(r"&&|\|\||;", line):
            words = shlex.split(part, comments=True) if part.strip().startswith("apr-qa ") else []
            if words:
                yield words[1:]


def parse(command: click.Command, words: Sequence[str]) -> None:
    """Parse words as the command line would, without running anything; raises click.UsageError."""
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(command)
        name, found, rest = command.resolve_command(context, list(words))
        assert name is not None and found is not None
        parse(found, rest)
        return
    command.make_context(command.name, list(words))


SHOWN = [(name, shlex.join(words)) for name in DOCUMENTS for words in commands(text_of(name))]


def test_the_first_code_block_sets_everything_up_in_two_commands() -> None:
    install, test = blocks(text_of("README.md"))[0]
    extras = re.match(r'python -m pip install "\.\[([\w,]+)\]" && apr-qa certify ', install)
    assert extras is not None
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert "apr-qa" in project["scripts"]
    assert test == "python -m pip install nox && nox"


def test_the_readme_shows_commands() -> None:
    assert len({line for name, line in SHOWN if name == "README.md"}) >= 8


@pytest.mark.parametrize(("document", "line"), SHOWN)
def test_a_command_that_is_shown_is_understood(document: str, line: str) -> None:
    refused = ""
    try:
        parse(command_line, shlex.split(line))
    except click.UsageError as refusal:
        refused = refusal.format_message()
    assert not refused, f"{document}: apr-qa {line}"


@pytest.mark.parametrize(
    "line", ["certfy x", "certify x --teir mvp", "certify x --tier mpv", "gates explain"]
)
def test_a_command_that_does_not_exist_would_be_noticed(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(command_line, shlex.split(line))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_the_help_are_understood(name: str) -> None:
    command = command_line.get_command(click.Context(command_line), name)
    assert command is not None
    examples = [
        line.strip() for line in (command.help or "").splitlines() if line.strip().startswith("apr-qa")
    ]
    assert examples
    for example in examples:
        parse(command_line, shlex.split(example)[1:])


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_a_relative_link_leads_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if not re.match(r"[a-z]+:|#", target):
            assert (ROOT / target.partition("#")[0]).exists(), f"{document}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_session_that_is_shown_exists(document: str) -> None:
    sessions = set(re.findall(r"^def (\w+)\(session", text_of("noxfile.py"), re.MULTILINE))
    assert set(re.findall(r"nox -s (\w+)", text_of(document))) <= sessions


def test_every_exit_code_of_the_program_is_explained() -> None:
    from apr_qa import errors

    said = text_of("README.md")
    for name in ("EXIT_OK", "EXIT_FINDING", "EXIT_USAGE", "EXIT_ENVIRONMENT", "EXIT_INTERRUPTED"):
        assert re.search(rf"\b{getattr(errors, name)}\b", said), name
