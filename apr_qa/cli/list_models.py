"""``apr-qa list-models``: what the registry knows."""

from __future__ import annotations

import click

from apr_qa.cli.arguments import complete_family
from apr_qa.cli.console import print_json

SIZES = ("tiny", "small", "medium", "large", "xlarge", "huge")


@click.command("list-models")
@click.option("--family", help="Only this family.", shell_complete=complete_family)
@click.option("--size", type=click.Choice(SIZES), help="Only this size category.")
@click.option("--architecture", help="Only models of this class, e.g. Qwen2ForCausalLM.")
@click.option("--kernel-class", help="Only models of this kernel class, e.g. A.")
@click.option("--kernel-classes", "as_classes", is_flag=True, help="List the kernel classes instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    family: str | None,
    size: str | None,
    architecture: str | None,
    kernel_class: str | None,
    as_classes: bool,
    as_json: bool,
) -> None:
    """List the models of the registry with size, family, architecture, kernel class and capabilities.

    \b
    Examples:
      apr-qa list-models --family qwen-coder
      apr-qa list-models --kernel-classes
    """
    from apr_qa import registry
    from apr_qa.families import kernels

    if as_classes:
        _list_classes(as_json=as_json)
        return
    wanted = registry.family(family) if family else registry.models()
    entries = [registry.entry(model) for model in wanted]
    of_class = kernels.kernel_class(kernel_class).name if kernel_class else None
    shown = [
        one
        for one in entries
        if (size is None or one.size_category == size)
        and (architecture is None or one.architecture.lower() == architecture.lower())
        and (of_class is None or one.kernel_class == of_class)
    ]
    if as_json:
        print_json([one.as_json() for one in shown])
        return
    width = max((len(one.id) for one in shown), default=0)
    for one in shown:
        said = f"{one.architecture:22}  {one.kernel_class:>2}  {' '.join(one.capabilities)}"
        click.echo(f"{one.id:{width}}  {one.parameters:>6}  {one.family:18}  {said}".rstrip())


def _list_classes(*, as_json: bool) -> None:
    from apr_qa.families import kernels

    known = kernels.classes().values()
    if as_json:
        print_json([one.model_dump() for one in known])
        return
    for one in known:
        click.echo(f"{one.name:>2}  {one.models:>2} models, proven by {one.representative}")
        click.echo(f"    {' '.join(one.kernel_ops)}")
