"""What the suites of a playbook add to the questions of every cell: claims for one target at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from apr_qa.playbooks.commands import Asked
from apr_qa.playbooks.drawn_tests import PropertyTest
from apr_qa.playbooks.gate_names import ADDED, answers
from apr_qa.playbooks.machine import ACTIONS, FAILURES
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.questions import Expectation, ScenarioBlock
from apr_qa.playbooks.suites import ProfileCi, PropertyTests, TracePayload
from apr_qa.properties import property_claims
from apr_qa.scenarios import GATE_OF, as_text, for_modality, listed, oracle_settings, prompted, tested
from apr_qa.tracing.claims import session_claims
from apr_qa.vocabulary import Claim, Severity, Target, Tier, digest

MOST_TOKENS = 512
"""A command that asks for more is asked for this many: what it is about is that nothing breaks."""
_REFUSALS = {
    "truncated": "F-LOAD-REFUSAL-001",
    "missing": "F-LOAD-REFUSAL-002",
    "foreign": "F-LOAD-REFUSAL-003",
}
_PROFILE: tuple[tuple[str, str, str, Severity], ...] = (
    ("F-PROFILE-CI-001", "min_throughput", "", Severity.P1),
    ("F-PROFILE-CI-002", "max_p99_ms", "F-PROFILE-CI-002", Severity.P1),
    ("F-PROFILE-CI-003", "max_p50_ms", "F-PROFILE-CI-003", Severity.P2),
    ("F-PROFILE-CI-004", "max_ttft_ms", "F-PROFILE-CI-004", Severity.P1),
    ("F-PROFILE-CI-005", "max_memory_mb", "F-PERF-005", Severity.P2),
)
"""Gate, limit, the id whose naming asks for it even without a limit (empty: always), severity."""


def claims_for(
    book: Playbook, tier: Tier, target: Target, baseline: Mapping[str, float] | None = None
) -> tuple[Claim, ...]:
    """Return what the suites ask of one target, each claim in the form that its modality asks for.

    ``baseline``: cell -> tokens per second of a stored run. ``dim-smoke`` is asked nothing.
    """
    if tier is Tier.DIM_SMOKE:
        return ()
    found = [*_questions(book, target), *_properties(book, tier, target)]
    if target.modality == "run" and target.format != "endpoint":
        found += session_claims(tier)
    if target.modality == "run" or (target.modality == "serve" and target.format == "endpoint"):
        found += _measures(book, target, (baseline or {}).get(target.cell))
    return tuple(found)


class Questions:
    """Everything that is asked of inference targets: the claims of every cell and what the suites add."""

    def __init__(
        self, book: Playbook, tier: Tier, drawn: Sequence[Claim], baseline: Mapping[str, float] | None = None
    ) -> None:
        self.book = book
        self.tier = tier
        self.drawn = drawn
        self.baseline = baseline

    def of(self, target: Target) -> Iterator[Claim]:
        """Iterate over the claims about one target, each once."""
        asked: set[str] = set()
        shared = (fitted for claim in self.drawn for fitted in for_modality(claim, target.modality))
        for claim in chain(shared, claims_for(self.book, self.tier, target, self.baseline)):
            key = digest(claim)
            if key not in asked:
                asked.add(key)
                yield claim

    def besides(self, target: Target) -> tuple[Claim, ...]:
        """Return the measurements of a target whose modality the playbook leaves out."""
        found = claims_for(self.book, self.tier, target, self.baseline)
        return tuple(claim for claim in found if claim.kind in ("measure", "inspect"))


# ---- questions of single cells


def _questions(book: Playbook, target: Target) -> Iterator[Claim]:
    settings = oracle_settings(book)
    shared = settings.get("garbage", {})
    for claim in _placed(book, target, settings):
        params = {**shared, **settings.get(claim.oracle, {}), **claim.params}
        yield from for_modality(msgspec.structs.replace(claim, params=params), target.modality)


def _placed(book: Playbook, target: Target, settings: Mapping[str, Any]) -> Iterator[Claim]:
    """Iterate over the questions that are put to this target and not to every cell."""
    for block in book.scenarios:
        if not block.everywhere and not block.command and not block.prompt_set and _meant(block, target):
            yield listed(block)
    for row in book.mvp_matrix:
        if (row.format, row.backend, row.modality) == (target.format, target.backend, target.modality):
            yield prompted(row.prompt, settings)
    for test in book.verification_tests:
        if target.format in (test.format or target.format, *(test.formats or ())):
            yield _verified(test.prompt, test.expect, settings)
    compared = book.differential_tests.inference_compare if book.differential_tests else None
    if compared is not None and compared.enabled and compared.prompt:
        yield prompted(compared.prompt, settings, compared.max_tokens)
    if target.modality == "run":
        yield from _commanded(book, target)
        for one in _drawn_tests(book):
            yield from tested(one, book.test_matrix.seed)


def _commanded(book: Playbook, target: Target) -> Iterator[Claim]:
    """Iterate over the questions that the commands of a specification put to a target."""
    for asked, expected in _commands(book):
        if asked.prompt is not None and not _at_the_edge(asked) and _concerns(asked, target):
            params = {"min_unique_chars": expected.min_unique_chars} if expected.min_unique_chars else {}
            claim = prompted(asked.prompt, {}, asked.max_tokens)
            yield msgspec.structs.replace(claim, params=params)


def _meant(block: ScenarioBlock, target: Target) -> bool:
    return (
        target.format in (block.formats or (target.format,))
        and target.backend in (block.backends or (target.backend,))
        and target.modality in (block.modalities or (target.modality,))
    )


def _verified(prompt: str, expect: str, settings: Mapping[str, Any]) -> Claim:
    claim = prompted(prompt, settings)
    if not expect or claim.oracle == "arithmetic":
        return claim
    return msgspec.structs.replace(
        claim, gate_id=GATE_OF["response"], oracle="response", expected={"contains": [expect]}
    )


def _drawn_tests(book: Playbook) -> list[PropertyTest]:
    tests = book.property_tests
    return [] if tests is None or isinstance(tests, PropertyTests) else [t for t in tests if t.enabled]


# ---- commands of specifications


def _commands(book: Playbook) -> Iterator[tuple[Asked, Expectation]]:
    for block in book.scenarios:
        if block.command:
            for asked in block.asked():
                yield asked, block.expectation
    for test in book.tests:
        for asked in test.asked():
            yield asked, Expectation()


def _concerns(asked: Asked, target: Target) -> bool:
    """Say whether a command is about this target; one that names a type of GGUF is about every GGUF."""
    if asked.on_gpu is not None and asked.on_gpu != (target.backend == "gpu"):
        return False
    name = asked.file.partition(":")[0]
    return name not in ("gguf", "apr", "safetensors", "truncated") or name == target.format


def _at_the_edge(asked: Asked) -> bool:
    return not (asked.prompt or "").strip() or not 1 <= asked.max_tokens <= MOST_TOKENS


def _command_measures(book: Playbook, target: Target) -> Iterator[Claim]:
    for asked, expected in _commands(book):
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
        elif asked.prompt is not None and _at_the_edge(asked) and _concerns(asked, target):
            tokens = min(asked.max_tokens, MOST_TOKENS)
            yield _measure("F-EDGE-001", "edge", Severity.P2, prompts=[asked.prompt], tokens=tokens)


# ---- properties


def _properties(book: Playbook, tier: Tier, target: Target) -> Iterator[Claim]:
    tests = book.property_tests
    if tests is None:
        yield from property_claims(tier, target.modality)
    elif isinstance(tests, PropertyTests) and tests.enabled:
        yield from property_claims(tier, target.modality, tests.names or None, tests.cases)
    named = {ADDED[gate] for gate in book.asked_gates if gate in ADDED and not gate.startswith("F-PERF")}
    if any(test.repeatable for test in _drawn_tests(book)):
        named |= {"greedy_determinism", "seeded_sampling"}
    chosen = sorted(named - {"memory", "batch", "edge", "baseline", "profile"})
    if chosen:
        yield from property_claims(tier, target.modality, chosen, PROPERTY_EXAMPLES)


PROPERTY_EXAMPLES = 20
"""Examples of a property that a playbook asks for by the id of a gate."""


# ---- measurements


def _measures(book: Playbook, target: Target, baseline: float | None) -> Iterator[Claim]:
    yield from _profile(book, target, baseline)
    if target.format == "endpoint":
        return
    yield from _traced(book)
    yield from _command_measures(book, target)
    named = {ADDED.get(gate) for gate in book.asked_gates}
    if "memory" in named:
        yield _measure("F-STAB-002", "memory")
    if "batch" in named:
        yield _measure("F-STAB-003", "batch", Severity.P2)
    if "edge" in named:
        yield _measure("F-EDGE-001", "edge", Severity.P2)
    machine = book.state_machine
    if machine is not None and machine.enabled:
        yield _measure(
            "F-STATE-MACHINE-001",
            "lifecycle",
            start=machine.start,
            edges=[list(edge) for edge in machine.edges],
            entries={name: list(words) for name, words in machine.entries.items() if words},
            exits={name: list(words) for name, words in machine.exits.items() if words},
            actions=ACTIONS,
            failures=list(FAILURES),
        )
    yield from _other_runtime(book, target)
    parity = book.parity
    if parity is not None and parity.corpus_path:
        yield _measure(
            "F-HF-PARITY-001", "golden", Severity.P0, corpus=parity.corpus_path, tolerance=parity.tolerance
        )


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
        if limit is not None or not unless or unless in book.asked_gates:
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
