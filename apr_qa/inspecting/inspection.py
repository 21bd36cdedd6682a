"""The file claims about one path, asked outside of a certification."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import asking, judge, plan, runner, workspace
from apr_qa.containers.artifact_files import artifacts_at
from apr_qa.errors import MalformedFile, UsageError
from apr_qa.vocabulary import Artifact, Evidence, Record, Tier


class Inspection(Record, frozen=True):
    """What was found out about one file."""

    header: dict[str, Any]
    evidence: tuple[Evidence, ...]
    tensors: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        gates = [
            {
                "gate_id": e.gate_id,
                "outcome": str(e.outcome),
                "reason": e.reason,
                "facts": e.response.facts if e.response else {},
            }
            for e in self.evidence
        ]
        return {"header": self.header, "gates": gates, "tensors": list(self.tensors)}


def at(path: Path) -> Artifact:
    """Return the artifact that a file or folder holds, the ground truth if there are several.

    Raises UsageError when the path does not exist or holds no model file.
    """
    if not path.exists():
        raise UsageError("there is no such file or folder", where=str(path), fix="check the path")
    found = artifacts_at(path, origin="given", place="given by the user")
    if not found:
        raise UsageError(
            "holds no safetensors, gguf or apr file", where=str(path), fix="name a model file or its folder"
        )
    return found[0]


def inspect(path: Path, *, list_tensors: bool = False) -> Inspection:
    """Return header facts and judged file claims of ``path``; every parser runs in a worker."""
    artifact = at(path)
    entries = _answered([plan.file_batch(path.name, artifact, 0)])
    told = (e.response.facts for e in entries if e.gate_id == plan.HEADER_GATE and e.response)
    header = next(told, None) or asking.ask(artifact, "header")
    rows = asking.ask(artifact, "tensor_list").get("tensors", []) if list_tensors else []
    return Inspection(header=header, evidence=entries, tensors=tuple(rows))


def difference(truth: Path, path: Path, *, logits: bool = False) -> Inspection:
    """Return the judged claims that ``path`` holds the model that ``truth`` holds, in whatever format.

    ``logits`` asks for the next-token distributions too, which loads both files into their engines.
    """
    pair = [at(truth), at(path)]
    headers = [asking.ask(artifact, "header") for artifact in pair]
    for artifact, header in zip(pair, headers, strict=True):
        if "error" in header:
            raise MalformedFile(str(header["error"]), where=artifact.path, fix="apr-qa inspect says more")
    known = [
        msgspec.structs.replace(
            artifact,
            quantization=str(header["quantization"]),
            sha256=workspace.content_sha256(Path(artifact.path)),
        )
        for artifact, header in zip(pair, headers, strict=True)
    ]
    batches = plan.pair_batches(path.name, known[0], known[1], 0, Tier.MVP)
    wanted = [b for b in batches if logits or b.target.engine == "comparison"]
    return Inspection(header=headers[1], evidence=_answered(wanted))


def _answered(batches: list[plan.Batch]) -> tuple[Evidence, ...]:
    entries: list[Evidence] = []
    line = runner.Line("collect_all", entries.append)
    runner.run(batches, line, judge.judge, runner.Limits(), jobs=1, threads=max(1, os.cpu_count() or 1))
    return tuple(entries)
