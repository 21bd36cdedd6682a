"""Chats through the path that a certification takes: plan, worker, judge, evidence.

``python benchmarks/certified_chats.py MODEL PROMPTS.json TOKENS OUTPUT [--one-process-each]`` asks every prompt of
a JSON list, ends where the evidence is whole, and prints what it measured as one line of JSON. With
``--one-process-each`` every scenario gets a process of its own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from msgspec import structs

from apr_qa import clock, evidence, plan, playbook
from apr_qa.collect import collect
from apr_qa.crossing import Crossed
from apr_qa.preparation import Prepared
from apr_qa.resolve import resolve
from apr_qa.settings import Settings, Silent
from apr_qa.vocabulary import (
    Claim,
    EvidenceHeader,
    Model,
    Outcome,
    Scenario,
    Severity,
    Target,
    Tier,
)


def batches(model: str, folder: Path, prompts: list[str], tokens: int, *, alone: bool) -> list[plan.Batch]:
    """Return the prompts as chats of one loaded model, or each with a loading of its own."""
    (artifact,) = resolve(Model(id=model), {"safetensors": folder}, download=False)
    target = Target(
        model=model,
        format="safetensors",
        quantization=artifact.quantization,
        backend="cpu",
        modality="chat",
        engine="transformers_torch",
    )
    claims = [
        Claim(
            gate_id="F-QUAL-004",
            kind="chat",
            severity=Severity.P1,
            messages=(prompt,),
            max_tokens=tokens,
            oracle="garbage",
        )
        for prompt in prompts
    ]
    (whole,) = plan.inference_batches(
        artifact, [Scenario(target=target, claim=claim) for claim in claims], wave=0
    )
    if not alone:
        return [whole]
    return [structs.replace(whole, scenarios=Crossed([(target, (claim,))])) for claim in claims]


def main(arguments: list[str]) -> None:
    """Collect the evidence, check that every prompt was answered at full length, and say how long it took."""
    begun = time.perf_counter()
    folder, prompts, tokens = (
        Path(arguments[0]),
        json.loads(Path(arguments[1]).read_text("utf-8")),
        int(arguments[2]),
    )
    planned = batches("bench/model", folder, prompts, tokens, alone="--one-process-each" in arguments)
    model = Model(id="bench/model")
    book = playbook.for_model(model, Tier.STANDARD)
    header = EvidenceHeader(
        apr_qa="benchmark",
        model=model,
        tier=Tier.STANDARD,
        playbook=book.name,
        playbook_sha256=book.sha256,
        artifacts=(),
        ground_truth="safetensors",
        cells=(),
        planned=sum(len(batch.scenarios) for batch in planned),
        environment={},
        started=clock.now(),
    )
    settings = Settings(jobs=1, policy="collect_all", timeout_s=600.0)
    path = collect(
        Prepared(header=header, batches=tuple(planned)), book, settings, Path(arguments[3]), Silent()
    )
    _, entries = evidence.read(path)
    answers = [
        entry for entry in entries if entry.scenario.claim.kind == "chat" and entry.response is not None
    ]
    whole = [entry for entry in answers if len(entry.response.token_ids or ()) == tokens]
    # The answers of a wave share its duration.
    waves = {entry.response.duration_s for entry in answers}
    print(
        json.dumps(
            {
                "process_s": time.perf_counter() - begun,
                "generation_s": sum(waves),
                "answered": len(answers),
                "whole": len(whole),
                "judged": sum(entry.outcome is not Outcome.SKIPPED for entry in answers),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
