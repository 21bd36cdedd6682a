"""Finding a stored entry and what is needed to try it again, for the commands that do so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from apr_qa.cli.arguments import given_artifacts
from apr_qa.cli.console import MARKS, style
from apr_qa.errors import ModelUnavailable, UsageError
from apr_qa.rendering.visible import visible
from apr_qa.vocabulary import Evidence, EvidenceHeader, Model

if TYPE_CHECKING:
    from apr_qa.playbook import Playbook
    from apr_qa.preparation import Settings

SHOWN = 400


class Found(NamedTuple):
    """An entry and everything that loads its target."""

    header: EvidenceHeader
    stored: Evidence
    model: Model
    book: Playbook
    settings: Settings


def find(evidence_id: str, roots: tuple[Path, ...], named: str | None, artifacts: tuple[str, ...]) -> Found:
    """Return the entry of an id; raises UsageError for folders and ids that do not exist."""
    from apr_qa import playbook, registry, replay
    from apr_qa.preparation import Settings

    missing = [str(path) for path in roots if not path.is_dir()]
    if missing or not evidence_id:
        raise UsageError(
            "there is no such folder" if missing else "the id is empty",
            where=", ".join(missing),
            fix="name the folder of the evidence with --root" if missing else "copy it from a report",
        )
    places = list(roots) or [path for path in (Path("certifications"), Path("output")) if path.is_dir()]
    header, stored = replay.find(evidence_id, places)
    model = registry.select([named], None, False)[0] if named else header.model
    book = playbook.for_model(model, header.tier)
    return Found(header, stored, model, book, Settings(given=given_artifacts(artifacts)))


@contextmanager
def model_named(found: Found, named: str | None) -> Iterator[None]:
    """Say how to name a model that the evidence knows by no path."""
    try:
        yield
    except ModelUnavailable as refusal:
        if named or "/" in found.model.id:
            raise
        fix = "the evidence knows no path: say where the model is with --model PATH"
        raise ModelUnavailable(refusal.what, where=refusal.where, fix=fix) from None


def show_question(stored: Evidence) -> None:
    """Print what the entry is about."""
    claim, target = stored.scenario.claim, stored.scenario.target
    click.echo(f"{stored.gate_id} on {target.cell} {target.quantization}")
    if claim.question:
        click.echo(f"prompt  {visible(claim.question)}")


def show(word: str, entry: Evidence) -> None:
    """Print one outcome, its reason and the text that was generated."""
    mark, colour = MARKS[entry.outcome]
    click.echo(f"{word:7} {style(mark, colour)} {entry.outcome}: {visible(entry.reason)}")
    if entry.response is not None and entry.response.text is not None:
        click.echo(f"        {visible(entry.response.text)!r}")
