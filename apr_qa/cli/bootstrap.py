"""``apr-qa bootstrap``: playbooks from family contracts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from apr_qa.cli.arguments import TIERS, tier_of
from apr_qa.cli.console import note
from apr_qa.errors import UsageError


@click.command("bootstrap")
@click.argument("family", required=False)
@click.argument("size", required=False)
@click.option("--hf-repo", help="The model, org/name.")
@click.option("--tier", type=click.Choice(TIERS), default="mvp", show_default=True, help="How much is tried.")
@click.option("-o", "--output", help="File to write. Default: playbooks/models/<org>--<name>.<tier>.yaml.")
@click.option(
    "--contracts-path",
    type=click.Path(path_type=Path, exists=True),
    help="A family contract, or a folder of them. Default: those that come with the program.",
)
@click.option("--all", "every", is_flag=True, help="Write the playbooks of all models of the registry.")
@click.option("--classes", is_flag=True, help="Write families/kernel-classes.yaml.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--dry-run", is_flag=True, help="Print, and write nothing.")
def command(**options: Any) -> None:
    """Write a playbook for a model of FAMILY and SIZE from the family's contract.

    \b
    Example:
      apr-qa bootstrap qwen2 0.5b --hf-repo Qwen/Qwen2.5-Coder-0.5B-Instruct --tier mvp --dry-run
    """
    from apr_qa import bootstrap, registry
    from apr_qa.families import kernels

    tier = tier_of(options["tier"])
    if options["classes"]:
        _write({"families/kernel-classes.yaml": kernels.table()}, options)
        return
    if options["every"]:
        _write(dict(bootstrap.of_model(model, tier) for model in registry.models()), options)
        return
    if not (options["family"] and options["size"] and options["hf_repo"]):
        raise UsageError(
            "a family, a size and --hf-repo are needed",
            fix="apr-qa bootstrap qwen2 0.5b --hf-repo org/name, or --all for the registry",
        )
    (model,) = registry.select([options["hf_repo"]])
    contract = _contract(options["family"], options["contracts_path"])
    text = bootstrap.playbook(contract, options["size"], model.id, tier)
    _write({options["output"] or bootstrap.path_of(model.id, tier): text}, options)


def _contract(name: str, path: Path | None) -> Any:
    from apr_qa.families import contract

    if path is None:
        return contract.family(name)
    file = path / f"{name}.yaml" if path.is_dir() else path
    found = contract.read(file)
    if found.family != name:
        raise UsageError(
            f"the contract is of family {found.family!r}", where=str(file), fix=f"name {found.family}"
        )
    return found


def _write(texts: dict[str, str], options: dict[str, Any]) -> None:
    from apr_qa.certify import write_atomically

    if options["dry_run"]:
        for text in texts.values():
            click.echo(text, nl=False)
        return
    changed = {name: text for name, text in texts.items() if not _same(Path(name), text)}
    held = [name for name in changed if Path(name).exists()]
    if held and not options["force"]:
        raise UsageError(
            "exists already and differs", where=held[0], fix="choose another --output, or use --force"
        )
    for name, text in changed.items():
        write_atomically(Path(name), text)
    if len(texts) > 1:
        note(f"{len(changed)} of {len(texts)} files written")
    for name in changed:
        click.echo(name)


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text
