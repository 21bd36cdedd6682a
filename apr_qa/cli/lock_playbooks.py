"""``apr-qa lock-playbooks``: hashes of committed playbooks."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from apr_qa.cli.console import print_json
from apr_qa.errors import EXIT_FINDING


@click.command("lock-playbooks")
@click.argument("folder", default="playbooks", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The lock. Default: playbook.lock.yaml in FOLDER."
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a playbook is not as locked.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(folder: Path, output: Path | None, check: bool, as_json: bool) -> None:
    """Record the SHA-256 of every playbook in FOLDER, or check them.

    \b
    Examples:
      apr-qa lock-playbooks
      apr-qa lock-playbooks playbooks --check
    """
    from apr_qa.certify import write_atomically
    from apr_qa.playbooks import lock

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
    write_atomically(file, lock.text(folder))
    count = len(lock.read(file))
    if as_json:
        print_json({"lock": str(file), "playbooks": count})
    else:
        click.echo(f"{file}: {count} playbooks")
