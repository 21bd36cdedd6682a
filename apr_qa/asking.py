"""One question to a worker of its own, outside of a run: a file's facts, or a conversion."""

from __future__ import annotations

from typing import Any

import msgspec

from apr_qa import processes
from apr_qa.plan import HEADER_GATE, conversion_batch
from apr_qa.processes import with_last_words
from apr_qa.vocabulary import Artifact, Claim, Scenario, Target
from apr_qa.worker import Job

LIMIT_S = 600.0


def ask(artifact: Artifact, check: str) -> dict[str, Any]:
    """Return the facts that a worker of its own finds out about a file; ``error`` if it refuses or dies."""
    target = Target(
        model="", format=artifact.format, quantization="", backend="cpu", modality="inspect", engine="inspect"
    )
    claim = Claim(gate_id=HEADER_GATE, kind="inspect", params={"check": check})
    return _single(Job(target=target, artifact=artifact, scenarios=(Scenario(target=target, claim=claim),)))


def convert(source: Artifact, wanted: Artifact) -> dict[str, Any]:
    """Convert in a worker of its own and return the facts; ``error`` if it refuses or dies."""
    batch = conversion_batch("", source, wanted, 0)
    return _single(Job(target=batch.target, artifact=wanted, source=source, scenarios=batch.scenarios))


def _single(job: Job) -> dict[str, Any]:
    with processes.worker(processes.engine_environment(1)) as child:
        child.send(msgspec.json.encode(job))
        while (message := child.receive(LIMIT_S)) is not None:
            if message["event"] in ("refused", "failed"):
                return {"error": message["reason"]}
            if message["event"] == "answer":
                return dict(message["response"]["facts"])
        return {"error": with_last_words(f"the worker ended: {child.exit_description()}", child)}
