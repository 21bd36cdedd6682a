"""``apr-qa lock-playbooks``: hashes of committed playbooks."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from apr_qa.cli.console import print_json
from apr_qa.errors import EXIT_FINDING, UsageError


@click.command("lock-playbooks")
@click.argument("folder", default="playbooks", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The lock. Default: playbook.lock.yaml in FOLDER."
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a playbook is not as locked.")
@click.option("--validate", is_flag=True, help="Write nothing; read every playbook and tell every fault.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(folder: Path, output: Path | None, check: bool, validate: bool, as_json: bool) -> None:
    """Record the SHA-256 of every playbook in FOLDER, check them against it, or validate them.

    \b
    Examples:
      apr-qa lock-playbooks
      apr-qa lock-playbooks playbooks --check
      apr-qa lock-playbooks my-playbooks --validate
    """
    from apr_qa.playbooks import lock

    if check and validate:
        raise UsageError("--check and --validate were given together", fix="choose one of them")
    if validate:
        _validate(folder, as_json=as_json)
        return
    file = output or folder / lock.FILE
    if check:
        found = lock.differences(folder, file)
        if as_json:
            print_json({"lock": str(file), "playbooks": len(lock.read(file)), "differences": found})
        else:
            for line in found:
                click.echo(line)
            if not found:
                click.echo(f"all as {file} says")
        sys.exit(EXIT_FINDING if found else 0)
    from apr_qa.certify import write_atomically

    write_atomically(file, lock.text(folder))
    count = len(lock.read(file))
    if as_json:
        print_json({"lock": str(file), "playbooks": count})
    else:
        click.echo(f"{file}: {count} playbooks")


def _validate(folder: Path, *, as_json: bool) -> None:
    """Read all playbooks; whatever leaves the model to the command line is read for a model that stands in."""
    from apr_qa import playbook
    from apr_qa.playbooks import lock

    names = [name for name in lock.hashes(folder) if not name.endswith(".skip.yaml")]
    if not names:
        raise UsageError("there is no playbook here", where=str(folder), fix="name a folder of playbooks")
    books = playbook.load_all([folder / name for name in names], {"MODEL_ID": STAND_IN})
    if as_json:
        print_json(
            [{"playbook": book.source, "name": book.name, "tier": str(book.fitting_tier)} for book in books]
        )
    else:
        click.echo(f"{folder}: {len(books)} playbooks are in order")


STAND_IN = "org/name"
