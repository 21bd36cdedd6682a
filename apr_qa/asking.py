"""One question to a worker of its own, outside of a run: a file's facts, or a conversion."""

from __future__ import annotations

import queue
from typing import Any

from apr_qa import processes
from apr_qa.plan import HEADER_GATE, conversion_batch
from apr_qa.processes import with_last_words
from apr_qa.protocol import Job, written
from apr_qa.vocabulary import Artifact, Claim, Scenario, Target

READING_LIMIT_S = 300.0
"""For opening a file and for one question about it, each."""
CONVERSION_LIMIT_S = 4 * 3600.0


def ask(artifact: Artifact, check: str) -> dict[str, Any]:
    """Return the facts that a worker of its own finds out about a file; ``error`` if it refuses or dies."""
    target = Target(
        model="", format=artifact.format, quantization="", backend="cpu", modality="inspect", engine="inspect"
    )
    claim = Claim(gate_id=HEADER_GATE, kind="inspect", params={"check": check})
    job = Job(target=target, artifact=artifact, scenarios=(Scenario(target=target, claim=claim),))
    return _single(job, READING_LIMIT_S)


def convert(source: Artifact, wanted: Artifact) -> dict[str, Any]:
    """Convert in a worker of its own and return the facts; ``error`` if it refuses or dies."""
    batch = conversion_batch("", source, wanted, 0)
    job = Job(target=batch.target, artifact=wanted, source=source, scenarios=tuple(batch.scenarios))
    return _single(job, CONVERSION_LIMIT_S)


def _single(job: Job, limit_s: float) -> dict[str, Any]:
    with processes.worker(processes.engine_environment(1)) as child:
        child.send(written(job))
        try:
            while (message := child.receive(limit_s)) is not None:
                processes.blame_machine(message)
                if message.event == "refused":
                    return {"error": message.reason}
                for answer in message.answers:
                    return {"error": answer.reason} if answer.response is None else answer.response.facts
        except queue.Empty:
            return {"error": f"no answer within {limit_s:g} s"}
        return {"error": with_last_words(f"the worker ended: {child.exit_description()}", child)}
