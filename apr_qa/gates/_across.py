"""What gates that look across targets have in common: ordering, cells, verdicts and small example runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from apr_qa.gates import Gate, enter, over_all
from apr_qa.groups import Selection
from apr_qa.tally import Tally
from apr_qa.vocabulary import (
    Artifact,
    Claim,
    Evidence,
    EvidenceHeader,
    GateVerdict,
    Model,
    Outcome,
    Response,
    Scenario,
    Severity,
    Target,
    Tier,
)

SHOWN = 20


def verdict(
    gate_id: str,
    severity: Severity,
    outcome: Outcome | None,
    reason: str,
    deciding: Selection | Iterable[str] = (),
) -> GateVerdict:
    """Return a verdict that names at most `SHOWN` entries, in an order that does not depend on arrival."""
    ids = deciding.ids(SHOWN) if isinstance(deciding, Selection) else tuple(sorted(deciding))[:SHOWN]
    return GateVerdict(gate_id=gate_id, severity=severity, outcome=outcome, reason=reason, evidence=ids)


def where(entry: Evidence) -> str:
    """Return cell and type of the artifact of an entry."""
    target = entry.scenario.target
    return f"{target.cell} {target.quantization}".rstrip()


def across(
    gate_id: str,
    severity: Severity,
    hypothesis: str,
    threshold: str,
    judge: Callable[[EvidenceHeader, Tally], GateVerdict],
    holds: Any,
    fails: Any,
    **rest: str,
) -> None:
    """Register a gate that looks at all evidence of a run."""
    enter(
        Gate(
            id=gate_id,
            category=rest.get("category", "across targets"),
            severity=severity,
            hypothesis=hypothesis,
            measure=rest.get("measure", "all evidence of the run"),
            threshold=threshold,
            source=rest.get("source", ""),
            verdict=over_all(judge),
            corroborates=holds,
            falsifies=fails,
        )
    )


def example_run(*entries: Evidence, cells: Sequence[str] = ()) -> tuple[EvidenceHeader, tuple[Evidence, ...]]:
    """Return a run of a few entries."""
    header = EvidenceHeader(
        apr_qa="0",
        model=Model(id="example"),
        tier=Tier.MVP,
        playbook="example",
        playbook_sha256="",
        artifacts=(
            Artifact(format="safetensors", path="", quantization="f32"),
            Artifact(format="gguf", path="", quantization="q8_0", origin="derived"),
        ),
        ground_truth="safetensors",
        cells=tuple(cells) or tuple(sorted({entry.scenario.target.cell for entry in entries})),
        planned=len(entries),
    )
    return header, entries


def example(
    gate_id: str, place: str, kind: str, outcome: Outcome, text: str | None = None, **more: Any
) -> Evidence:
    """Return one entry; ``place`` is a cell such as ``gguf·cpu·run``."""
    format_name, device, modality = place.split("·")
    engine = {"gguf": "llama_cpp", "safetensors": "transformers_torch"}.get(format_name, "transformers_torch")
    target = Target(
        model="example",
        format=format_name,
        quantization="q8_0" if format_name == "gguf" else "f32",
        backend=device,
        modality=modality,
        engine=str(more.get("engine", engine)),
    )
    severity = more.get("severity", Severity.P1)
    claim = Claim(
        gate_id=gate_id,
        kind=kind,
        severity=severity,
        prompt=str(more.get("prompt", "What is 2 + 2?")),
        basic=True,
        seed=int(more.get("seed", 0)),
    )
    scenario = Scenario(target=target, claim=claim)
    facts = more.get("facts")
    response = None
    if text is not None or facts is not None:
        response = Response(
            text=text,
            facts=facts or {},
            finish_reason=more.get("finish_reason"),
            duration_s=more.get("duration_s"),
        )
    return Evidence(
        id=scenario.id,
        gate_id=gate_id,
        severity=severity,
        scenario=scenario,
        outcome=outcome,
        reason=str(more.get("reason", "example")),
        response=response,
        metrics=more.get("metrics", {}),
    )
