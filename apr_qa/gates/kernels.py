"""Whether a model may be judged by its header alone: its operations are known and were proven to work."""

from __future__ import annotations

from apr_qa.gates import Facts, Gate, corroborated, enter, falsified, inconclusive
from apr_qa.vocabulary import Judgement, Severity


def class_is_as_listed(facts: Facts) -> Judgement:
    if not facts["kernel_ops"]:
        return inconclusive("no family contract knows this architecture, so its operations are not known")
    found, listed = facts["kernel_class"], facts["listed"]
    if listed and found != listed:
        return falsified(
            f"the header makes it class {found or 'none'}, but the model is listed as class {listed}"
        )
    if not found:
        return inconclusive(f"no kernel class has exactly these operations: {', '.join(facts['kernel_ops'])}")
    return corroborated(f"class {found}: {', '.join(facts['kernel_ops'])}")


def class_is_proven(facts: Facts) -> Judgement:
    proof = facts["proof"]
    if not facts["kernel_class"]:
        return inconclusive(
            "the kernel class is not known; run a tier that infers: apr-qa certify … --tier mvp"
        )
    if proof is None:
        return inconclusive(f"no stored run proves kernel class {facts['kernel_class']}: {facts['command']}")
    if proof["status"] not in ("PROVISIONAL", "CERTIFIED"):
        return falsified(
            f"the run of {proof['model_id']} that should prove the class ended {proof['status']}"
        )
    return corroborated(
        f"class {facts['kernel_class']} was proven by {proof['model_id']}, tier {proof['tier']}: {proof['status']}"
    )


_FACTS = {
    "family": "llama",
    "kernel_ops": ["RmsNorm", "Rope"],
    "kernel_class": "A",
    "listed": "A",
    "proof": {"model_id": "org/small", "tier": "mvp", "status": "PROVISIONAL", "evidence_sha256": "ab" * 32},
    "command": "apr-qa certify org/small --tier mvp",
}
enter(
    Gate(
        id="G0-KERNEL-CLASS",
        category="integrity",
        severity=Severity.P0,
        hypothesis="The header asks for exactly the operations of the model's kernel class",
        measure="architecture, heads, tying and biases of the header against the family's contract",
        threshold="the same set of operations",
        check=class_is_as_listed,
        corroborates=_FACTS,
        falsifies={**_FACTS, "kernel_class": "B"},
    )
)
enter(
    Gate(
        id="G0-KERNEL-PROOF",
        category="integrity",
        severity=Severity.P0,
        hypothesis="A model of the same kernel class passed a tier that infers",
        measure="stored certificates of all models of the class, each with the evidence that it speaks of",
        threshold="one that is PROVISIONAL or CERTIFIED; without one nothing is proven",
        check=class_is_proven,
        corroborates=_FACTS,
        falsifies={**_FACTS, "proof": {**_FACTS["proof"], "status": "BLOCKED"}},  # type: ignore[dict-item]
    )
)
