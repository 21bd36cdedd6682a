"""What somebody needs who has to find out why a run failed fast: one folder, nothing to ask back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from apr_qa.rendering.visible import visible
from apr_qa.vocabulary import Evidence, EvidenceHeader


def documents(header: EvidenceHeader, failure: Evidence) -> dict[str, str]:
    """Return file name -> content of the diagnostic bundle of one failure."""
    return {
        "summary.md": _summary(header, failure),
        "failure.json": _json(failure),
        "run.json": _json(header),
        "environment.json": _json(header.environment),
    }


def folder_of(certification: Path) -> Path:
    """Return where the bundle of a certification lies."""
    return certification / "diagnostics"


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _summary(header: EvidenceHeader, failure: Evidence) -> str:
    target, claim = failure.scenario.target, failure.scenario.claim
    artifacts = "".join(
        f"* {a.format} {a.quantization} ({a.origin}): {a.source}, sha256 {a.sha256 or 'not known yet'}\n"
        for a in header.artifacts
    )
    output = failure.response.text if failure.response is not None else None
    shown = "".join(f"    {line}\n" for line in visible(output or "(none)").splitlines())
    asked = "".join(
        f"    {line}\n" for line in visible(claim.question or "(a claim about the file)").splitlines()
    )
    return (
        f"# {failure.gate_id} {failure.outcome} on {header.model.id}\n\n"
        f"* target: {target.format} {target.quantization} {target.backend} {target.modality}, engine {target.engine}\n"
        f"* severity: {failure.severity}\n"
        f"* reason: {visible(failure.reason)}\n"
        f"* replay: `apr-qa replay {failure.id}`\n\n"
        f"## Asked\n\n{asked}\n## Output\n\n{shown}\n## Artifacts\n\n{artifacts}"
    )
