"""``--resume [RUN]``: the same command again, or the folder of a run that was interrupted and knows its command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from apr_qa.errors import UsageError

THE_SAME = "the same command"
"""What ``--resume`` without a value stands for."""


def resume_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--resume [RUN]``."""
    return click.option(
        "--resume",
        is_flag=False,
        flag_value=THE_SAME,
        metavar="[RUN]",
        help="Go on with an interrupted run: the same command again, or only its folder.",
    )(command)


def as_begun(options: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    """Return the options to run with, those of the interrupted run if one is named.

    ``name`` is the command, ``what`` the option that says what it is about. The working directory becomes the one
    in which the run was begun; options that are given now win.
    """
    from apr_qa.collect import PARTIAL_FILE

    run = options["resume"]
    if run is None or run == THE_SAME:
        return {**options, "resume": run is not None, "only": None}
    folder = Path(run).parent if Path(run).name == PARTIAL_FILE else Path(run)
    if not (folder / PARTIAL_FILE).is_file():
        _refuse_complete(folder)
        # A word that is no run belongs to the command: --resume came before it.
        about = (type(options[what][0])(run) if options[what] else _like(what, run), *options[what])
        return {**options, what: about, "resume": True, "only": None}
    if options[what]:
        raise UsageError(f"--resume {run} says what the run is about", fix="leave the other arguments out")
    only = folder.resolve()
    begun = _stored(folder, name)
    os.chdir(begun["directory"])
    stored = {key: _frozen(value) for key, value in begun["options"].items() if key in options}
    stored[what] = tuple(_like(what, word) for word in stored[what])
    return {**options, **stored, **_given_now(what), "resume": True, "only": only}


def how(options: dict[str, Any], name: str) -> str:
    """Return, as JSON, what has to be known to begin the same command again."""
    kept = {key: value for key, value in options.items() if key not in ("resume", "only", "dry_run")}
    return json.dumps({"command": name, "directory": os.getcwd(), "options": kept}, default=str)  # noqa: PTH109


def wanted(options: dict[str, Any], folder: Path) -> bool:
    """Say whether the run in ``folder`` is the one that is to go on, or any is."""
    return options["only"] is None or folder.resolve() == options["only"]


def _refuse_complete(folder: Path) -> None:
    from apr_qa.collect import EVIDENCE_FILE

    if (folder / EVIDENCE_FILE).is_file():
        raise UsageError("this run is complete", where=str(folder), fix="leave --resume out to run it again")


def _stored(folder: Path, name: str) -> dict[str, Any]:
    from apr_qa.collect import COMMAND_FILE

    try:
        begun: dict[str, Any] = json.loads((folder / COMMAND_FILE).read_text(encoding="utf-8"))
        command, directory, options = begun["command"], begun["directory"], begun["options"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise UsageError(
            "how this run was begun is not stored",
            where=str(folder / COMMAND_FILE),
            fix="give the whole command again, with --resume",
        ) from fault
    if command != name:
        raise UsageError(f"this run was begun by apr-qa {command}", fix=f"apr-qa {command} --resume {folder}")
    if not (isinstance(options, dict) and Path(str(directory)).is_dir()):
        raise UsageError(f"the run was begun in {directory}, which is there no more", where=str(folder))
    return begun


def _given_now(what: str) -> dict[str, Any]:
    context = click.get_current_context()
    given = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return {
        key: value
        for key, value in context.params.items()
        if key != what and context.get_parameter_source(key) in given
    }


def _like(what: str, word: Any) -> Any:
    return Path(word) if what == "playbooks" else word


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
