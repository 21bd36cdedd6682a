"""Every registered member of every family keeps the promises of its family."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from apr_qa.backends import BACKENDS
from apr_qa.errors import AprQaError, MalformedFile, UsageError
from apr_qa.formats import FORMATS
from apr_qa.gates import GATES, Gate, summarise
from apr_qa.judge import judge
from apr_qa.oracles import ORACLES
from apr_qa.plugins import Registry
from apr_qa.reports import REPORTS
from apr_qa.vocabulary import Claim, Outcome, Response, Scenario, Target

GATE_LIST = [gate for _, gate in GATES.items()]
ALL_GATES = pytest.mark.parametrize("gate", GATE_LIST, ids=[gate.id for gate in GATE_LIST])
TARGET = Target(model="m", format="gguf", quantization="", backend="cpu", modality="run", engine="llama_cpp")


def outcome_of(gate: Gate, example: object) -> Outcome | None:
    """Judge an example the way a run judges evidence."""
    if gate.verdict is not None:
        header, evidence = example  # type: ignore[misc]
        return gate.verdict(header, evidence).outcome
    if gate.check is not None:
        return gate.check(example).outcome  # type: ignore[arg-type]
    claim, response = example  # type: ignore[misc]
    return judge(Scenario(target=TARGET, claim=claim), response)[0].outcome


@ALL_GATES
def test_a_gate_has_an_example_that_corroborates_it(gate: Gate) -> None:
    assert outcome_of(gate, gate.corroborates) is Outcome.CORROBORATED


@ALL_GATES
def test_a_gate_has_an_example_that_falsifies_it(gate: Gate) -> None:
    outcome = outcome_of(gate, gate.falsifies)
    assert outcome is not None and outcome.failed


@ALL_GATES
def test_a_gate_is_unproven_on_nothing(gate: Gate) -> None:
    if gate.verdict is None:
        assert summarise(gate, ()).outcome is None
    else:
        header, _ = gate.corroborates
        assert gate.verdict(header, ()).outcome is None


@ALL_GATES
def test_a_gateway_is_blind_to_the_order_of_evidence(gate: Gate) -> None:
    if gate.verdict is None:
        return
    header, good = gate.corroborates
    _, bad = gate.falsifies
    other = msgspec.structs.replace(bad[0], id="0" * 16)
    verdicts = {gate.verdict(header, order) for order in itertools.permutations((*good, other))}
    assert len(verdicts) == 1


@ALL_GATES
def test_a_gate_explains_itself(gate: Gate) -> None:
    assert gate.hypothesis and gate.measure and gate.threshold and gate.category


@pytest.mark.parametrize("name", ORACLES.names())
@pytest.mark.parametrize("text", ["", " \n\t", None])
def test_an_oracle_falsifies_silence(name: str, text: str | None) -> None:
    claim = Claim(gate_id="F-QUAL-001", kind="generate", prompt="What is 2 + 2?", oracle=name)
    assert ORACLES.get(name).check(claim, Response(text=text), {}).outcome is Outcome.FALSIFIED


@pytest.mark.parametrize("name", FORMATS.names())
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"GGUF", b"APR\0", b"\xff" * 64, b"{}" * 40, b"\x10\0\0\0\0\0\0\0{}"]
)
def test_a_format_refuses_empty_truncated_and_foreign_files(
    name: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{name}"
    path.write_bytes(content)
    with pytest.raises(MalformedFile):
        FORMATS.get(name).open(path)


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_backend_says_without_loading_whether_it_can_run(name: str) -> None:
    backend = BACKENDS.get(name)
    target = msgspec.structs.replace(TARGET, engine=name, backend="gpu")
    reason = backend.unavailable(target)
    assert reason is None or reason.strip()


@pytest.mark.parametrize("name", [n for n in BACKENDS.names() if BACKENDS.get(n).formats])
def test_a_backend_refuses_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    backend = BACKENDS.get(name)
    target = msgspec.structs.replace(TARGET, engine=name, format=backend.formats[0])
    with pytest.raises(AprQaError):
        backend.load(target, tmp_path / "absent")


@pytest.mark.parametrize("registry", [BACKENDS, FORMATS, GATES, ORACLES, REPORTS], ids=lambda r: r.family)
def test_a_misspelt_name_is_answered_with_a_suggestion(registry: Registry[object]) -> None:
    name = registry.names()[0]
    with pytest.raises(UsageError) as refusal:
        registry.get(name[:-1] + "_")
    assert "did you mean" in str(refusal.value) or "known:" in str(refusal.value)
