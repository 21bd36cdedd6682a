"""Options that certify and run have in common, and what they do before and after a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from apr_qa.cli.console import note
from apr_qa.errors import UsageError
from apr_qa.rendering.visible import visible

F = TypeVar("F", bound=Callable[..., Any])

CONVERTERS = ("apr_cli",)
"""Converters under test that can take the place of the built-in one."""
_OPTIONS = (
    click.option(
        "--engine",
        "engine",
        multiple=True,
        metavar="NAME",
        help="Where targets run: local, dask, ray; or what runs the formats that it takes, e.g. apr_cli.",
    ),
    click.option(
        "--scheduler", metavar="ADDRESS", help="The dask or ray cluster; default: one on this machine."
    ),
    click.option(
        "--converter", type=click.Choice(CONVERTERS), help="Let it derive what is missing, to test it."
    ),
    click.option(
        "--apr-binary", metavar="PATH", help="The external apr; default: APR_QA_APR_BINARY, or on PATH."
    ),
    click.option(
        "--model-cache", metavar="FOLDER", help="For derived and downloaded files; default: APR_QA_CACHE."
    ),
    click.option("--no-integrity-check", is_flag=True, help="Do not compare playbooks with their lock."),
    click.option(
        "--auto-ticket", is_flag=True, help="Print the findings as tickets afterwards; send nothing."
    ),
    click.option(
        "--ticket-repo",
        metavar="OWNER/NAME",
        help="With --auto-ticket: write the tickets, and print the commands that would open them there.",
    ),
)


def shared_options(command: F) -> F:
    """Give a command the options of this module."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def dispatch(names: Sequence[str], scheduler: str | None) -> tuple[str, str]:
    """Return what dispatches targets and the engine that runs them, each as named or as usual."""
    from apr_qa.clusters import ENGINES, require

    where = [name for name in names if name in ENGINES]
    engines = [name for name in names if name not in ENGINES]
    if len(where) > 1 or len(engines) > 1:
        said = " and ".join(where if len(where) > 1 else engines)
        raise UsageError(f"--engine {said} were given together", fix="choose one of them")
    cluster = where[0] if where else "local"
    if scheduler and cluster == "local":
        raise UsageError("--scheduler is the address of a cluster", fix="add --engine dask or --engine ray")
    require(cluster)
    return cluster, engines[0] if engines else ""


def prepare_machine(options: dict[str, Any]) -> None:
    """Check the options of this module, and let this process and its children see what they name."""
    repository = options["ticket_repo"]
    if repository and repository.strip("/").count("/") != 1:
        raise UsageError(
            f"--ticket-repo {repository!r} is not OWNER/NAME", fix="e.g. --ticket-repo me/converter"
        )
    if repository and not options["auto_ticket"]:
        raise UsageError(
            "--ticket-repo says where tickets belong, and there are none", fix="add --auto-ticket"
        )
    if options["apr_binary"]:
        _use_program(options["apr_binary"])
    if options["model_cache"]:
        folder = Path(options["model_cache"]).expanduser().absolute()
        if folder.exists() and not folder.is_dir():
            raise UsageError("--model-cache is no folder", where=str(folder), fix="name a folder")
        os.environ["APR_QA_CACHE"] = str(folder)


def _use_program(path: str) -> None:
    from apr_qa import apr_binary

    found = shutil.which(path)
    if found is None:
        raise UsageError(
            f"--apr-binary {path}: there is no such program", fix="name a file that can be executed"
        )
    os.environ[apr_binary.VARIABLE] = str(Path(found).absolute())


def print_tickets(run: Any, folder: Path, options: dict[str, Any]) -> None:
    """Print the findings of a run as tickets if that was asked for: on standard error beside JSON."""
    if not options["auto_ticket"]:
        return
    from apr_qa.certify import write_atomically
    from apr_qa.rendering import tickets

    found = tickets.tickets(run)
    for ticket in found:
        if options["ticket_repo"]:
            path = folder / "tickets" / ticket.filename
            write_atomically(path, ticket.body)
            text = tickets.create_command(ticket, options["ticket_repo"], str(path))
        else:
            text = f"# {ticket.title}\n\n{', '.join(ticket.labels)}\n\n{ticket.body}"
        click.echo(visible(text), err=options["as_json"])
    note(f"{len(found)} ticket{'s' * (len(found) != 1)}; nothing was sent")
