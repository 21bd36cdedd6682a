"""Questions to one loaded model outside of a certification: what `tools` asks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import asking, judge, plan, registry, resolve, runner
from apr_qa.errors import InferenceFailed, MalformedFile, UsageError
from apr_qa.inspecting import inspection
from apr_qa.vocabulary import Artifact, Claim, Evidence, Outcome, Scenario, Target


def find(name: str, format_name: str = "") -> Artifact:
    """Return the artifact that a path or a model id stands for, with its quantisation.

    Raises ModelUnavailable, MalformedFile, or UsageError for a format that is not there.
    """
    if Path(name).exists():
        found = [inspection.at(Path(name))]
    else:
        found = resolve.resolve(registry.select([name], None, False)[0], {})
    wanted = [artifact for artifact in found if format_name in ("", artifact.format)]
    if not wanted:
        there = ", ".join(artifact.format for artifact in found)
        raise UsageError(
            f"there is no {format_name} of {name}", fix=f"there is {there}; apr-qa convert makes one"
        )
    header = asking.ask(wanted[0], "header")
    if "error" in header:
        raise MalformedFile(str(header["error"]), where=wanted[0].path, fix="apr-qa inspect says more")
    return msgspec.structs.replace(wanted[0], quantization=str(header["quantization"]))


def judged(artifact: Artifact, claims: Sequence[Claim], device: str = "cpu") -> tuple[Evidence, ...]:
    """Load ``artifact`` in a worker of its own, ask all claims and return them judged."""
    target = Target(
        model=Path(artifact.path).name,
        format=artifact.format,
        quantization=artifact.quantization,
        backend=device,
        modality="run",
        engine=plan.ENGINES[artifact.format],
    )
    scenarios = tuple(Scenario(target=target, claim=claim) for claim in claims)
    batch = plan.Batch(target=target, artifact=artifact, scenarios=scenarios)
    entries: list[Evidence] = []
    line = runner.Line("collect_all", entries.append)
    runner.run([batch], line, judge.judge, runner.Limits(), jobs=1, threads=max(1, os.cpu_count() or 1))
    place = {scenario.id: number for number, scenario in enumerate(scenarios)}
    return tuple(sorted(entries, key=lambda entry: place[entry.id]))


def facts(artifact: Artifact, check: str, params: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Load ``artifact`` in a worker of its own and return the facts of one check; raises InferenceFailed."""
    claim = Claim(gate_id="F-CHECK-009", kind="inspect", params={"check": check, **params})
    entry = judged(artifact, [claim], device)[0]
    if entry.response is None:
        raise InferenceFailed(entry.reason, where=artifact.path)
    return entry.response.facts


def validity(evidence: Sequence[Evidence]) -> int | None:
    """Return the share of the claims about a file that hold, from 0 to 100; None when none could be judged."""
    counted = [entry for entry in evidence if entry.outcome.counted]
    held = sum(entry.outcome is Outcome.CORROBORATED for entry in counted)
    return 100 * held // len(counted) if counted else None
