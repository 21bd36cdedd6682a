"""``apr-qa tickets``: the findings of a run, grouped by root cause, ready to be filed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from apr_qa.cli.arguments import evidence_file
from apr_qa.cli.console import note, print_json
from apr_qa.errors import UsageError


@click.command("tickets")
@click.argument("evidence", type=click.Path(path_type=Path))
@click.option("-r", "--repo", default="", help="OWNER/NAME that the commands of --ticket-mode create name.")
@click.option(
    "--black-swans-only", is_flag=True, help="Only crashes, hangs and P0 failures seen nowhere else."
)
@click.option(
    "--min-occurrences",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Leave out what happened less often.",
)
@click.option(
    "--ticket-mode",
    type=click.Choice(["draft", "create"]),
    default="draft",
    show_default=True,
    help="draft prints the tickets; create writes a file each and prints the gh commands. Nothing is ever sent.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the files of --ticket-mode create; default: tickets/ beside the evidence.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    evidence: Path,
    repo: str,
    black_swans_only: bool,
    min_occurrences: int,
    ticket_mode: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Group the findings of EVIDENCE by root cause and write them as tickets.

    \b
    Examples:
      apr-qa tickets certifications/HuggingFaceTB--SmolLM2-135M-Instruct
      apr-qa tickets evidence.jsonl --ticket-mode create --repo me/converter
    """
    from apr_qa import certify
    from apr_qa.rendering import tickets

    if ticket_mode == "create" and repo.count("/") != 1:
        raise UsageError("--ticket-mode create needs a repository", fix="give it: --repo OWNER/NAME")
    path = evidence_file(evidence)
    found = [
        ticket
        for ticket in tickets.tickets(certify.judged(path))
        if ticket.occurrences >= min_occurrences and (ticket.black_swan or not black_swans_only)
    ]
    folder = output or path.parent / "tickets"
    if ticket_mode == "create":
        for ticket in found:
            certify.write_atomically(folder / ticket.filename, ticket.body)
    if as_json:
        print_json([{**asdict(ticket), "labels": ticket.labels} for ticket in found])
        return
    for ticket in found:
        if ticket_mode == "create":
            click.echo(tickets.create_command(ticket, repo, str(folder / ticket.filename)))
        else:
            click.echo(f"# {ticket.title}\n\n{', '.join(ticket.labels)}\n\n{ticket.body}")
    note(f"{len(found)} ticket{'s' * (len(found) != 1)}; nothing was sent")
