"""Claims about making and loading an artifact."""

from __future__ import annotations

from apr_qa.gates import Facts, Gate, corroborated, enter, falsified
from apr_qa.vocabulary import Judgement, Severity


def loaded(facts: Facts) -> Judgement:
    if facts.get("load_s") is None:
        return falsified("the engine did not say that it was ready")
    return corroborated(f"loaded in {facts['load_s']:.1f} s")


def derived(facts: Facts) -> Judgement:
    if not facts.get("tensors"):
        return falsified("the conversion wrote no tensor")
    if facts["tensors"] != facts["source_tensors"]:
        return falsified(f"{facts['source_tensors']} tensors went in, {facts['tensors']} came out")
    how = "found in the cache" if facts.get("cached") else f"written in {facts['seconds']:.1f} s"
    return corroborated(f"{facts['tensors']} tensors {how}")


enter(
    Gate(
        id="G1-LOAD",
        category="loading",
        severity=Severity.P0,
        hypothesis="The artifact loads in the engine of its format",
        measure="load in a process of its own",
        threshold="the engine says ready within the load time limit",
        check=loaded,
        corroborates={"load_s": 1.5},
        falsifies={"load_s": None},
    )
)
for _format in ("safetensors", "apr", "gguf"):
    enter(
        Gate(
            id=f"G0-FORMAT-{_format.upper()}-001",
            category="conversion",
            severity=Severity.P0,
            hypothesis=f"The artifact can be turned into {_format}",
            measure="the built-in converter, in a process of its own; header of the result read back",
            threshold="as many tensors out as in",
            check=derived,
            corroborates={"tensors": 272, "source_tensors": 272, "seconds": 1.0},
            falsifies={"tensors": 271, "source_tensors": 272, "seconds": 1.0},
        )
    )
