"""Runs of the no-op engine: thousands of scenarios in a second, through the real runner and real processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from apr_qa import collect, evidence, plan, playbook
from apr_qa.crossing import Lazy
from apr_qa.preparation import Prepared, Settings
from apr_qa.vocabulary import (
    Artifact,
    Claim,
    Evidence,
    EvidenceHeader,
    Model,
    Outcome,
    Scenario,
    Severity,
    Target,
    Tier,
)

FOLDER = Path(__file__).parent / "noop"
TARGET = Target(model="noop", format="gguf", quantization="f32", backend="cpu", modality="run", engine="noop")


def with_engine(patch: pytest.MonkeyPatch) -> None:
    """Let workers find the engine."""
    here = Path(__file__).parents[1]
    patch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER), str(here), os.environ.get("PYTHONPATH", "")]))


class Asked(Lazy):
    """Scenarios that are made when they are looked at, and counted."""

    def __init__(self, count: int, about: str = "number", severity: Severity = Severity.P1) -> None:
        self.count, self.about, self.severity = count, about, severity
        self.count_made = 0

    def __len__(self) -> int:
        return self.count

    def made(self, number: int) -> Scenario:
        self.count_made += 1
        return self._scenario(number)

    def __iter__(self) -> Iterator[Scenario]:
        return (self[number] for number in range(self.count))

    def _scenario(self, number: int) -> Scenario:
        claim = Claim(
            gate_id="F-QUAL-004",
            kind="generate",
            prompt=f"{self.about} {number}",
            max_tokens=4,
            severity=self.severity,
        )
        return Scenario(target=TARGET, claim=claim)


def batch(count: int, about: str = "number", wave: int = 0, **rest: Any) -> plan.Batch:
    """Return a batch of ``count`` questions to the no-op engine."""
    artifact = Artifact(format="gguf", path=str(FOLDER / f"{about}.gguf"), quantization="f32")
    return plan.Batch(target=TARGET, artifact=artifact, scenarios=Asked(count, about, **rest), wave=wave)  # type: ignore[arg-type]


class Silence:
    """A watcher that counts."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.entries: list[Evidence] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def planned(self, scenarios: int) -> None:
        self.total = scenarios

    def happened(self, entry: Evidence) -> None:
        self.entries.append(entry)

    def andon(self, entry: Evidence) -> None:
        self.stopped_by = entry


def run(folder: Path, batches: Sequence[plan.Batch], watcher: Silence | None = None, **settings: Any) -> Path:
    """Run batches as a whole run is run; return the evidence file."""
    header = EvidenceHeader(
        apr_qa="0",
        model=Model(id="noop"),
        tier=Tier.MVP,
        playbook="noop",
        playbook_sha256="",
        artifacts=(),
        ground_truth="safetensors",
        cells=(),
        planned=sum(len(batch.scenarios) for batch in batches),
    )
    book = playbook.for_model(Model(id="org/noop"), Tier.MVP)
    prepared = Prepared(header=header, batches=tuple(batches))
    given = Settings(**{"policy": "collect_all", "jobs": 2, **settings})
    with collect.locked(folder):
        return collect.collect(prepared, book, given, folder, watcher or Silence())


def outcomes(path: Path) -> dict[str, Outcome]:
    """Return what was found out, by id; reading refuses an id that stands twice."""
    _, entries = evidence.read(path)
    return {entry.id: entry.outcome for entry in entries}
