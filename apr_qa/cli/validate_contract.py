"""``apr-qa validate-contract``: a model against its family's contract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.console import print_json, style
from apr_qa.errors import EXIT_FINDING, MalformedFile, UsageError

SHOWN = 20


@click.command("validate-contract")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--family", help="Name of the family. Default: by the model's architecture.")
@click.option(
    "--contract-path", type=click.Path(path_type=Path, exists=True), help="A contract file of your own."
)
@click.option("--critical-only", is_flag=True, help="Only tensors that ruin every answer.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="How the result is printed.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def command(
    model: Path,
    family: str | None,
    contract_path: Path | None,
    critical_only: bool,
    form: str,
    as_json: bool,
) -> None:
    """Hold MODEL (a file or folder) against the contract of its family: exit 0 if it conforms, else 1.

    \b
    Example:
      apr-qa validate-contract my-model/ --family qwen2
    """
    from apr_qa.families import conformance

    facts = _opened(model)
    contract = _contract(facts, family, contract_path, str(model))
    found = conformance.violations(contract, facts["config"], facts["shapes"])
    shown = [one for one in found if one["critical"]] if critical_only else found
    size = conformance.fitting(contract, facts["config"])
    if as_json or form == "json":
        print_json(
            {"model": str(model), "family": contract.family, "size": size and size[0], "violations": shown}
        )
    else:
        for one in shown[:SHOWN]:
            mark = style("critical", "red") if one["critical"] else "        "
            click.echo(f"{mark} {one['said']}")
        if len(shown) > SHOWN:
            click.echo(f"         … and {len(shown) - SHOWN} more")
        said = f"{len(shown)} violations" if shown else "conforms"
        click.echo(f"{model}: {said}, family {contract.family}, size {size[0] if size else 'unknown'}")
    sys.exit(EXIT_FINDING if shown else 0)


def _opened(model: Path) -> dict[str, Any]:
    """Return the configuration and the shapes that a worker of its own reads."""
    from apr_qa import asking
    from apr_qa.inspecting import inspection

    facts = asking.ask(inspection.at(model), "contract")
    if "error" in facts:
        raise MalformedFile(facts["error"], where=str(model), fix="apr-qa inspect says more")
    return facts


def _contract(facts: dict[str, Any], name: str | None, path: Path | None, where: str) -> Any:
    from apr_qa.families import contract

    if path is not None:
        return contract.read(path)
    if name is not None:
        return contract.family(name)
    found = contract.by_architecture(str(facts["architecture"]))
    if found is None:
        raise UsageError(
            f"no family has the architecture {facts['architecture']!r}",
            where=where,
            fix=f"name one with --family: {', '.join(contract.families())}",
        )
    return found
