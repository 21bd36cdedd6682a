"""The model that is evaluated: found, in the format that was asked for, with its hash and storage type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import asking, plan, runner, workspace
from apr_qa.devices import usable_cores
from apr_qa.errors import MalformedFile, UsageError
from apr_qa.resolve import resolve
from apr_qa.vocabulary import Artifact, Claim, Evidence, Judgement, Model, Outcome, Record, Scenario, Target


class Subject(Record, frozen=True):
    """One artifact, and what its header says."""

    model: Model
    artifact: Artifact
    has_template: bool = False
    header_error: str | None = None
    """Why nothing is known of its header; whether it runs is another question."""

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.model.id,
            "format": self.artifact.format,
            "dtype": self.artifact.quantization or None,
            "sha256": self.artifact.sha256,
            "source": self.artifact.source,
            "header_error": self.header_error,
        }


def subject(model: Model, format_name: str, say: Callable[[str], None]) -> Subject:
    """Return the artifact of ``model`` in a format, derived from another one if it is not there.

    Without a format it is the first that was found, the ground truth before the others. A header that cannot be
    read is no reason to stop: loading will fail, and that is the result.
    """
    found = resolve(model, {})
    known = {artifact.format: artifact for artifact in found}
    if not format_name or format_name in known:
        artifact, facts = _read(known[format_name] if format_name else found[0])
    else:
        say(f"deriving {format_name} from {found[0].format}")
        artifact, facts = _read(_derived(_read(found[0])[0], format_name))
    error = facts.get("error")
    if error:
        say(f"the header of {artifact.path} cannot be read: {error}")
    template = bool(facts.get("chat_template"))
    return Subject(model=model, artifact=artifact, has_template=template, header_error=error)


def _read(artifact: Artifact) -> tuple[Artifact, dict[str, Any]]:
    facts = asking.ask(artifact, "header")
    known = msgspec.structs.replace(
        artifact,
        sha256=workspace.content_sha256(Path(artifact.path)),
        quantization=str(facts.get("quantization") or ""),
    )
    return known, facts


def _derived(source: Artifact, format_name: str) -> Artifact:
    kept = source.quantization if source.quantization in ("f32", "f16", "bf16") else "f32"
    wanted = Artifact(
        format=format_name,
        path=str(workspace.derived_path(source.sha256, format_name, kept)),
        quantization=kept,
        origin="derived",
        source=f"converted from {source.format} {source.quantization}".strip(),
    )
    facts = asking.convert(source, wanted)
    if "error" in facts:
        raise MalformedFile(
            facts["error"], where=source.path, fix=f"convert it yourself and name the {format_name} file"
        )
    return wanted


class Answers:
    """What one model answers to claims, through the runner: a worker that dies costs only its own question."""

    def __init__(self, subject: Subject, happened: Callable[[Evidence], None]) -> None:
        self._subject = subject
        self._happened = happened

    def to(self, claims: list[Claim], *, modality: str, limit_s: float) -> list[Evidence]:
        """Return one entry a claim, in order; ``limit_s`` is for each group that is answered together."""
        artifact = self._subject.artifact
        target = Target(
            model=self._subject.model.id,
            format=artifact.format,
            quantization=artifact.quantization,
            backend="cpu",
            modality=modality,
            engine=plan.ENGINES[artifact.format],
        )
        scenarios = tuple(Scenario(target=target, claim=claim) for claim in claims)
        if len({scenario.id for scenario in scenarios}) != len(scenarios):
            raise UsageError("two questions are the same", fix="give every problem an id of its own")
        entries: dict[str, Evidence] = {}

        def record(entry: Evidence) -> None:
            entries[entry.id] = entry
            self._happened(entry)

        line = runner.Line("collect_all", record)
        batch = plan.Batch(target=target, artifact=artifact, scenarios=scenarios)
        limits = runner.Limits(scenario_s=limit_s)
        runner.run([batch], line, _answered, limits, jobs=1, threads=usable_cores())
        return [entries[scenario.id] for scenario in scenarios]


def _answered(scenario: Scenario, response: Any) -> tuple[Judgement, dict[str, Any]]:
    """An answer is an answer; whether it is right is found out by running it."""
    return Judgement(outcome=Outcome.CORROBORATED, reason="answered"), {}
