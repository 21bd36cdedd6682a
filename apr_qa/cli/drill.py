"""``apr-qa drill``: which catalogued defects would the gates have caught in this model?"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.arguments import TIERS, complete_model, one_of, tier_of
from apr_qa.cli.console import Progress, note, print_json, style
from apr_qa.errors import UsageError
from apr_qa.vocabulary import FORMATS, Tier

FIXTURES = Path("tests/fixtures/models")
COLOURS = {"missed": "red", "false alarm": "red", "error": "yellow", "caught": "green", "passed": "green"}


@click.command("drill")
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--playbook", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Whose gates are tried."
)
@click.option(
    "--tier", type=click.Choice(TIERS), default="mvp", show_default=True, help="Whose gates are tried."
)
@click.option("--only", default="*", metavar="GLOB", help="Only the defects whose id fits.")
@click.option("--layer", help="Only one layer: config, tensor-values, control, …")
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="Only one container.")
@click.option(
    "--fixtures",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Models for defects that MODEL cannot express; default: {FIXTURES}, if it is there.",
)
@click.option("--exhaustive", is_flag=True, help="Try every gate, not only up to the first that notices.")
@click.option("--static", is_flag=True, help="Leave the running cells out: files and comparisons only.")
@click.option("--jobs", type=click.IntRange(min=1), help="Trials at the same time.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), help="Seconds a claim may take; default: playbook."
)
@click.option("--offline", is_flag=True, help="Do not ask a model hub.")
@click.option("-o", "--output", default="output", show_default=True, help="Folder for the kill matrix.")
@click.option("--json", "as_json", is_flag=True, help="Print the kill matrix as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """Plant catalogued defects into copies of MODEL and show which gates catch them.

    MODEL is an id (org/name) or a path. The sources stay untouched. Healthy controls are tried too and must
    pass. Ends with 1 if a defect was missed or a control raised an alarm.

    \b
    Examples:
      apr-qa drill HuggingFaceTB/SmolLM2-135M-Instruct
      apr-qa drill ./model --only 'rope-*' --format gguf
    """
    from apr_qa import drill, drill_verdict
    from apr_qa.drill_models import Switch

    if options["layer"]:
        from apr_qa.defects import DEFECTS

        layers = sorted({defect.layer for _, defect in DEFECTS.items()})
        one_of(options["layer"], layers, "layer")
    wanted = drill.chosen(options["only"], options["layer"] or "", options["format_name"] or "")
    cores = len(os.sched_getaffinity(0))
    jobs = options["jobs"] or min(cores, 4, len(wanted))
    started = time.monotonic()
    with Progress(quiet=options["quiet"]) as progress:
        switch = Switch()
        models = _models(options, progress, switch, jobs, max(1, cores // jobs))
        told = _Telling(progress, len(wanted))
        trials = drill.Drill(models, switch, exhaustive=options["exhaustive"], static=options["static"]).run(
            wanted, told, jobs=jobs
        )
    matrix = _matrix(models, trials, time.monotonic() - started)
    folder = Path(options["output"]) / models[0].model.slug
    _write(matrix, folder)
    if options["as_json"]:
        from apr_qa.drill_report import to_json

        print_json(to_json(matrix))
    else:
        _show(matrix, folder)
    sys.exit(drill_verdict.exit_code(trials))


class _Telling:
    """Says how the drill goes on: what went wrong at once, the count now and then."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.total = total
        self.counts: Counter[str] = Counter()
        self._said = time.monotonic()

    def __call__(self, trial: Any) -> None:
        self.counts[trial.verdict] += 1
        done = sum(self.counts.values())
        if trial.verdict in ("missed", "false alarm", "error"):
            words = (trial.verdict, trial.defect, trial.container, trial.quantization, trial.model)
            why = trial.gates[0].reason if trial.gates else trial.reason
            self.progress.say(f"{style('✗', 'red')} {' '.join(filter(None, words))}: {why[:200]}")
        if done == self.total or time.monotonic() - self._said > Progress.PLAIN_EVERY_S:
            self._said = time.monotonic()
            said = ", ".join(f"{number} {verdict}" for verdict, number in self.counts.items())
            self.progress.say(f"{done}/{self.total} {said}")


def _models(options: dict[str, Any], progress: Progress, switch: Any, jobs: int, threads: int) -> list[Any]:
    """Return the model of the command line and the fixture models behind it."""
    from apr_qa import playbook, registry
    from apr_qa.drill_models import Healthy, Watched
    from apr_qa.settings import Settings, Silent

    watched = Watched(switch, timeout_s=options["timeout"] or 0.0, jobs=jobs, threads=threads)
    settings = Settings(jobs=jobs, gpu=False, download=not options["offline"])
    tier = tier_of(options["tier"])
    (model,) = registry.select([options["model"]])
    book = _book(options["playbook"], model, tier)
    models = [Healthy(model, book.tier or tier, book, settings, watched, progress)]
    for folder in _fixtures(options["fixtures"]):
        (fixture,) = registry.select([str(folder.resolve())])
        if fixture.path != model.path:
            fixture_book = playbook.for_model(fixture, tier)
            models.append(Healthy(fixture, tier, fixture_book, settings, watched, Silent()))
    return models


def _book(path: Path | None, model: Any, tier: Tier) -> Any:
    from apr_qa import playbook

    if path is None:
        return playbook.for_model(model, tier)
    return playbook.load(path, {"MODEL_ID": model.id})


def _fixtures(folder: Path | None) -> list[Path]:
    if folder is None:
        folder = FIXTURES
    elif not folder.is_dir():
        raise UsageError("there is no such folder", where=str(folder), fix="name a folder of model folders")
    return sorted(path.parent for path in folder.glob("*/config.json"))


def _matrix(models: list[Any], trials: list[Any], seconds: float) -> Any:
    from apr_qa import __version__, clock
    from apr_qa.drill_report import Matrix, counts

    first = models[0]
    return Matrix(
        apr_qa=__version__,
        model=first.model.id,
        tier=str(first.tier),
        playbook=first.book.name,
        started=clock.now(),
        seconds=round(seconds, 1),
        counts=counts(trials),
        healthy=tuple(f"{model.model.id}: {said}" for model in models for said in dict.fromkeys(model.notes)),
        trials=tuple(trials),
    )


def _write(matrix: Any, folder: Path) -> None:
    import json

    from apr_qa.certify import write_atomically
    from apr_qa.drill_report import junit, markdown, to_json

    write_atomically(folder / "drill.json", json.dumps(to_json(matrix), indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "drill.md", markdown(matrix))
    write_atomically(folder / "drill.xml", junit(matrix))


def _show(matrix: Any, folder: Path) -> None:
    from apr_qa.drill_report import columns, headline, row

    if sys.stdout.isatty():
        _table(matrix)
    else:
        click.echo("\t".join(columns()))
        for trial in matrix.trials:
            click.echo("\t".join(row(trial)))
    bad = any(matrix.counts[name] for name in ("missed", "false alarm", "error"))
    click.echo(style(headline(matrix), "red" if bad else "green", bold=True))
    note(f"kill matrix in {folder / 'drill.md'}")


def _table(matrix: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from apr_qa.drill_report import columns, row

    table = Table(show_lines=False, header_style="bold")
    for heading in columns():
        table.add_column(heading, no_wrap=heading in ("verdict", "seconds"), overflow="fold")
    for trial in matrix.trials:
        cells = [Text(cell) for cell in row(trial)]
        if not os.environ.get("NO_COLOR"):
            cells[0].stylize(COLOURS.get(trial.verdict, "bright_black"))
        table.add_row(*cells)
    Console().print(table)
