"""``apr-qa decontaminate``: which training documents share text with a benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.arguments import writable_file
from apr_qa.cli.console import print_json
from apr_qa.errors import EXIT_FINDING, UsageError
from apr_qa.rendering.visible import visible

SHOWN = 20


@click.command("decontaminate")
@click.argument("documents", type=click.Path(path_type=Path))
@click.option("--against", required=True, help="humaneval, mbpp, or a file of coding problems.")
@click.option("--data", type=click.Path(path_type=Path), help="Where the benchmark is; default: cache, hub.")
@click.option("--n", type=click.IntRange(1, 100), default=10, show_default=True, help="Words of an n-gram.")
@click.option(
    "--threshold",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=0.5,
    show_default=True,
    help="Share of a document's n-grams from which on it is contaminated.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.0, 1.0),
    default=0.01,
    show_default=True,
    help="Contaminated documents must be fewer than this share of all.",
)
@click.option("--output", help="Write the report as JSON to this file too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    documents: Path,
    against: str,
    data: Path | None,
    n: int,
    threshold: float,
    rate: float,
    output: str | None,
    as_json: bool,
) -> None:
    """Compare DOCUMENTS (JSON Lines, or plain text) with a benchmark's prompts, solutions and tests.

    Exit 1 when the corpus reaches the rate; the pairs are reported.

    \b
    Example:
      apr-qa decontaminate train.jsonl --against humaneval --data HumanEval.jsonl.gz
    """
    from apr_qa.evaluation import contamination, datasets

    writable_file(output)
    benchmark = datasets.load(against, data)
    texts = [
        (f"{problem.task_id}: {part}", text)
        for problem in benchmark.problems
        for part, text in (("prompt", problem.prompt), ("solution", problem.solution), ("test", problem.test))
        if text.strip()
    ]
    report = contamination.compare(_documents(documents), texts, n, threshold)
    passed = report["rate"] < rate or not report["contaminated"]
    report = {"documents_file": documents.name, "benchmark": benchmark.name, "passed": passed, **report}
    if output:
        Path(output).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(report)
    else:
        _show(report)
    sys.exit(0 if passed else EXIT_FINDING)


def _documents(path: Path) -> list[tuple[str, str]]:
    from apr_qa.evaluation import contamination, datasets

    if not path.is_file():
        raise UsageError("there is no such file", where=str(path), fix="check the path")
    if not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        return [(path.name, path.read_text(encoding="utf-8", errors="replace"))]
    return [
        (f"{path.name}:{number}", contamination.document_text(row, f"{path}:{number}"))
        for number, row in enumerate(datasets.read_rows(path), 1)
    ]


def _show(report: dict[str, Any]) -> None:
    for pair in report["pairs"][:SHOWN]:
        click.echo(
            f"{visible(pair['document'])}  {visible(pair['benchmark'])}  {100 * pair['overlap']:.0f} % of the "
            f"document, {100 * pair['covered']:.0f} % of the text: {visible(pair['example'])[:100]}"
        )
    if len(report["pairs"]) > SHOWN:
        click.echo(f"and {len(report['pairs']) - SHOWN} more pairs; --json has all")
    click.echo(
        f"{report['contaminated']} of {report['documents']} documents contaminated ({100 * report['rate']:.2f} %) "
        f"by {report['benchmark']}, {report['n']}-grams, threshold {report['threshold']:g}"
    )
