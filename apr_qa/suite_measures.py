"""What the suites of a playbook measure of a loaded model, besides the questions that they put to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apr_qa.playbooks.commands import Asked
from apr_qa.playbooks.gate_names import ADDED, answers
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.questions import Expectation
from apr_qa.playbooks.suites import ProfileCi, TracePayload
from apr_qa.scenarios import as_text, oracle_settings
from apr_qa.vocabulary import Claim, Severity, Target

MOST_TOKENS = 512
"""A command that asks for more is asked for this many: what it is about is that nothing breaks."""
_REFUSALS = {
    "truncated": "F-LOAD-REFUSAL-001",
    "missing": "F-LOAD-REFUSAL-002",
    "foreign": "F-LOAD-REFUSAL-003",
}
_BY_ID = (
    ("memory", "F-STAB-002", Severity.P1),
    ("batch", "F-STAB-003", Severity.P2),
    ("edge", "F-EDGE-001", Severity.P2),
    ("fallback", "F-STATE-FALLBACK-001", Severity.P1),
)
"""Measurement, the gate that asks for it by its id, severity."""
_OF_CORPUS = {
    "F-PARITY-TOKENS-001": "golden_compare",
    **dict.fromkeys(("F-HF-PARITY-002", "F-HF-PARITY-003", "F-HF-PARITY-004"), "golden_manifest"),
}
"""Gates about a corpus with a manifest, asked where they are named: not every corpus has one."""
_PROFILE: tuple[tuple[str, str, str, Severity], ...] = (
    ("F-PROFILE-CI-001", "min_throughput", "", Severity.P1),
    ("F-PROFILE-CI-002", "max_p99_ms", "F-PROFILE-CI-002", Severity.P1),
    ("F-PROFILE-CI-003", "max_p50_ms", "F-PROFILE-CI-003", Severity.P2),
    ("F-PROFILE-CI-004", "max_ttft_ms", "F-PROFILE-CI-004", Severity.P1),
    ("F-PROFILE-CI-005", "max_memory_mb", "F-PERF-005", Severity.P2),
)
"""Gate, limit, another id whose naming asks for it even without a limit (empty: always asked), severity."""


def measures(book: Playbook, target: Target, baseline: float | None) -> Iterator[Claim]:
    """Iterate over the measurements that are asked of one target.

    ``baseline``: tokens per second of a stored run.
    """
    yield from _profile(book, target, baseline)
    if target.format == "endpoint":
        return
    yield from _traced(book)
    yield from _command_measures(book, target)
    yield from _named(book)
    machine = book.state_machine
    if machine is not None and machine.enabled:
        yield _measure(
            "F-STATE-MACHINE-001",
            "lifecycle",
            start=machine.start,
            edges=[list(edge) for edge in machine.edges],
            entries={name: list(words) for name, words in machine.entries.items() if words},
            exits={name: list(words) for name, words in machine.exits.items() if words},
            actions=machine.words,
            failures=list(machine.failures),
        )
    yield from _other_runtime(book, target)
    parity = book.parity
    if parity is not None and parity.corpus_path:
        yield _measure(
            "F-HF-PARITY-001", "golden", Severity.P0, corpus=parity.corpus_path, tolerance=parity.tolerance
        )


def _named(book: Playbook) -> Iterator[Claim]:
    """Iterate over the measurements that a playbook asks for by the ids of gates."""
    named = {ADDED.get(gate) for gate in book.asked_gates}
    for check, gate, severity in _BY_ID:
        if check in named:
            yield _measure(gate, check, severity)
    for damage, gate in _REFUSALS.items():
        if gate in book.asked_gates:
            yield _measure(gate, "refusal", damage=damage)
    folder = book.parity.corpus_path if book.parity is not None else ""
    for gate in book.asked_gates if folder else ():
        if gate in _OF_CORPUS:
            params = {"check": _OF_CORPUS[gate], "folder": folder}
            yield Claim(gate_id=gate, kind="inspect", severity=Severity.P0, params=params)


def _traced(book: Playbook) -> Iterator[Claim]:
    block = book.trace_payload
    if block is None and any(gate.startswith("F-TRACE-PAYLOAD-") for gate in book.asked_gates):
        block = TracePayload()
    if block is None or not block.enabled:
        return
    params = {"check": "trace", "text": block.prompt}
    yield Claim(gate_id="F-TRACE-PAYLOAD-001", kind="inspect", severity=Severity.P0, params=params)
    yield Claim(gate_id="F-TRACE-PAYLOAD-003", kind="inspect", severity=Severity.P2, params=params)
    said = as_text(block.prompt)
    yield Claim(
        gate_id="F-TRACE-PAYLOAD-002",
        kind="generate",
        severity=Severity.P1,
        prompt=said,
        oracle="garbage",
        params=dict(oracle_settings(book).get("garbage", {})),
    )


def _profile(book: Playbook, target: Target, baseline: float | None) -> Iterator[Claim]:
    block = book.profile_ci
    stated = book.limits.assertions
    on = block is not None and block.enabled
    if not on and not stated and not _names_a_speed(book):
        return
    block = block if block is not None and on else ProfileCi()
    limits = {**stated, **(block.limits if on else {})}
    if target.format != "endpoint":
        if block.formats and target.format not in block.formats:
            return
        if block.backends and target.backend not in block.backends:
            return
    repeated: dict[str, Any] = {"warmup": block.warmup, "measure": block.measure}
    for gate, name, unless, severity in _PROFILE:
        limit = limits.get(f"{name}_{target.backend}", limits.get(name))
        if limit is not None or not unless or {gate, unless} & set(book.asked_gates):
            yield _measure(gate, "profile", severity, limit=limit, **repeated)
    if target.backend == "gpu" and ("min_speedup" in limits or "F-PERF-003" in book.asked_gates):
        yield _measure("F-PERF-003", "speedup", limit=limits.get("min_speedup", 1.0), **repeated)
    if "min_kept" in limits:
        yield _measure(
            "F-REGR-002", "profile", Severity.P2, limit=limits["min_kept"], baseline=baseline, **repeated
        )


def _names_a_speed(book: Playbook) -> bool:
    named = (*book.asked_gates, *(ours for gate in book.asked_gates for ours in answers(gate)))
    return any(ADDED.get(gate) == "profile" or gate.startswith("F-PROFILE-CI-") for gate in named)


def _other_runtime(book: Playbook, target: Target) -> Iterator[Claim]:
    block = book.ollama_parity
    if block is None or not block.enabled or target.format != "gguf":
        return
    if block.quantizations and target.quantization not in block.quantizations:
        return
    asked: dict[str, Any] = {
        "endpoint": block.endpoint,
        "model": block.model_tag,
        "prompts": list(block.prompts),
        "temperature": block.temperature,
        "least_ratio": block.min_perf_ratio,
    }
    for number in range(1, 5):
        yield _measure(f"F-OLLAMA-{number:03}", "other_runtime", **asked)
    if "F-OLLAMA-005" in block.gates:
        yield _measure("F-OLLAMA-005", "other_runtime", **asked, load=True)


def _measure(gate: str, check: str, severity: Severity = Severity.P1, **params: Any) -> Claim:
    return Claim(gate_id=gate, kind="measure", severity=severity, params={"check": check, **params})


# ---- commands of specifications


def commands(book: Playbook) -> Iterator[tuple[Asked, Expectation]]:
    """Iterate over what the command lines of a playbook ask, each with what has to happen."""
    for block in book.scenarios:
        if block.command:
            for asked in block.asked():
                yield asked, block.expectation
    for test in book.tests:
        for asked in test.asked():
            yield asked, Expectation()
    if book.reproduction is not None:
        for asked in book.reproduction.asked():
            yield asked, Expectation()


def concerns(asked: Asked, target: Target) -> bool:
    """Say whether a command is about this target; one that names a type of GGUF is about every GGUF."""
    if asked.on_gpu is not None and asked.on_gpu != (target.backend == "gpu"):
        return False
    name = asked.file.partition(":")[0]
    return name not in ("gguf", "apr", "safetensors", "truncated") or name == target.format


def at_the_edge(asked: Asked) -> bool:
    """Say whether a command asks for so little or so much that all it shows is that nothing breaks."""
    return not (asked.prompt or "").strip() or not 1 <= asked.max_tokens <= MOST_TOKENS


def _command_measures(book: Playbook, target: Target) -> Iterator[Claim]:
    if book.test_matrix.blanks:
        yield _measure("F-EDGE-001", "edge", Severity.P2, prompts=list(book.test_matrix.blanks), tokens=32)
    for asked, expected in commands(book):
        if expected.refusal:
            damage = (
                "truncated"
                if asked.file == "truncated"
                else "missing"
                if "nonexist" in asked.file
                else "foreign"
            )
            wanted = "gguf" if "gguf" in book.formats else book.formats[0]
            if target.format == wanted:
                yield _measure(_REFUSALS[damage], "refusal", damage=damage)
        elif asked.prompt is not None and at_the_edge(asked) and concerns(asked, target):
            tokens = min(asked.max_tokens, MOST_TOKENS)
            yield _measure("F-EDGE-001", "edge", Severity.P2, prompts=[asked.prompt], tokens=tokens)
