"""The command line: one file a command; parse, call, print, nothing else.

Commands are imported when they are used, so that ``apr-qa --help`` costs what click costs.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS = {
    "certify": "Certify models: resolve, run, judge, publish.",
    "run": "Run one playbook and write evidence and reports.",
    "score": "Recompute the score of stored evidence.",
    "report": "Render reports from stored evidence.",
    "replay": "Try one stored entry again.",
    "shrink": "Make a stored failure smaller.",
    "verify": "Recompute everything published and fail on the first difference.",
    "list-models": "List the models of the registry.",
    "bootstrap": "Write a playbook for a model from its family's contract.",
    "lock-playbooks": "Record the hash of every playbook, or check them.",
    "validate-contract": "Hold a model's tensors and dimensions against its family's contract.",
    "generate": "Print the scenarios that a tier would run for a model.",
    "convert": "Convert a model between safetensors, gguf and apr.",
    "inspect": "Show what a model file holds and check it.",
    "serve": "Serve a model over an OpenAI-compatible HTTP interface.",
    "tools": "Look inside one model: validate, check, trace, profile, bench, canary.",
    "drill": "Plant known defects into a copy and see which gates notice.",
    "eval": "Evaluate a model: coding problems in a sandbox, or perplexity.",
    "decontaminate": "Find training documents that share text with a benchmark.",
    "parity": "Keep golden logits of a ground truth and compare others with them.",
    "gates": "List the gates, or explain one.",
    "readme-sync": "Bring the README's model table up to date, or check it.",
    "diff": "Compare two files that claim to hold the same model.",
    "tickets": "Group the findings of a run by root cause.",
    "export-evidence": "Write stored evidence as one JSON document.",
    "export-csv": "Write the model table from stored certificates.",
    "cache": "Show what is kept between runs, and remove it.",
    "doctor": "Say what is installed, what is missing and how to get it.",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"apr_qa.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from apr_qa import __version__

        click.echo(f"apr-qa {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Completion in bash: eval "$(_APR_QA_COMPLETE=bash_source apr-qa)"; also zsh_source, fish_source.',
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def command_line() -> None:
    """Decide whether a language-model artifact is fit to ship.

    \b
    Example:
      apr-qa certify HuggingFaceTB/SmolLM2-135M-Instruct --tier mvp
    """
