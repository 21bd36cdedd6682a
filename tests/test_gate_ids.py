"""Every id of the catalogue that is about a model has a gate, or a documented replacement."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from apr_qa.cli import command_line
from apr_qa.gates import GATES, Gate
from apr_qa.gates.replaced import REPLACED
from apr_qa.playbooks.gate_names import answers


def numbered(prefix: str, last: int, first: int = 1) -> tuple[str, ...]:
    return tuple(f"{prefix}{number:03}" for number in range(first, last + 1))


CATALOGUE = (
    *("G0-PULL-001", "G0-FORMAT-APR-001", "G0-FORMAT-GGUF-001", "G0-FORMAT-WORKSPACE-001", "G0-VALIDATE-001"),
    *("G0-TENSOR-001", "G0-INTEGRITY-CONFIG", "G0-INTEGRITY-LAYERS", "G0-INTEGRITY-HIDDEN"),
    *("G0-INTEGRITY-VOCAB", "G0-LAYOUT-001", "G0-LAYOUT-CRITICAL", "G1-LOAD", "G2-INFER", "G3-STABLE"),
    *("G4-VALID", "G2-BASIC", "G1-MODEL-LOADS", "G2-BASIC-INFERENCE", "G3-NO-CRASHES", "G4-OUTPUT-QUALITY"),
    *(f"F-A{number}-001" for number in range(1, 7)),
    *numbered("F-RUN-", 5),
    *numbered("F-CHAT-", 4),
    *numbered("F-SERVE-", 5),
    *numbered("F-CPU-", 3),
    *numbered("F-GPU-", 5),
    *numbered("F-INSPECT-", 3),
    "F-INSPECT-META-001",
    *numbered("F-VALIDATE-", 3),
    *numbered("F-BENCH-", 3),
    *numbered("F-PROFILE-", 8),
    *numbered("F-TRACE-", 6),
    *("F-TRACE-004a", "F-TRACE-004b", "F-TRACE-004c", "F-TRACE-DIFF-001", "F-STAGE-*"),
    *numbered("F-CHECK-", 10),
    *numbered("F-TRACELEVEL-", 5),
    *numbered("F-CANARY-", 3),
    *numbered("F-HTTP-", 20),
    "F-HTTP-009b",
    *numbered("F-CONV-", 6),
    *(f"F-CONV-{pair}" for pair in ("G-A", "A-G", "G-S", "S-G", "A-S", "S-A")),
    *numbered("F-CONV-RT-", 4),
    *("F-CONV-RT-BYTE-001", "F-CONV-IDEM-001", "F-CONV-COM-001", "F-CONV-CARD-001", "F-CONV-TOK-001"),
    *numbered("F-CONV-INF-", 4),
    *numbered("F-PERF-", 5),
    "F-PERF-042",
    *numbered("F-INT-", 5),
    *numbered("F-API-", 5),
    *numbered("F-NUM-", 4),
    *numbered("F-PAR-", 3),
    *numbered("F-APR-FORMAT-", 3),
    *numbered("F-PROFILE-CI-", 5),
    *numbered("F-PROFILE-DIFF-", 2),
    *numbered("F-TRACE-PAYLOAD-", 3),
    *numbered("F-OLLAMA-", 5),
    *numbered("F-HF-PARITY-", 4),
    *numbered("PROV-", 9),
    *numbered("F-PROV-", 4),
    *numbered("F-PROC-", 4),
    *numbered("F-SEC-", 3),
    *numbered("F-QUAL-", 3),
    *numbered("F-STAB-", 3),
    *numbered("F-COMP-", 3),
    *numbered("F-EDGE-", 4),
    *numbered("F-REGR-", 2),
    *numbered("ISO-OUT-", 4),
    *numbered("HF-CACHE-", 2),
    *(f"F-CONTRACT-I{number}-001" for number in range(1, 6)),
    *(f"I-{number}" for number in range(1, 6)),
    *("MR-RT", "MR-CARD", "MR-IDEM", "MR-COM", "F-PARITY-001"),
)


@pytest.mark.parametrize("gate_id", CATALOGUE)
def test_an_id_about_a_model_has_a_gate_or_a_replacement(gate_id: str) -> None:
    assert gate_id in GATES.names() or REPLACED[gate_id].why


@pytest.mark.parametrize("gate_id", REPLACED)
def test_what_stands_for_an_id_exists_and_the_id_does_not(gate_id: str) -> None:
    assert gate_id not in GATES.names()
    assert set(REPLACED[gate_id].by) <= set(GATES.names())
    assert REPLACED[gate_id].why


def test_at_least_as_many_gates_are_registered_as_the_catalogue_counts() -> None:
    assert len(GATES.names()) >= 217


def test_a_playbook_may_name_an_id_that_is_replaced() -> None:
    assert answers("F-PROFILE-006") == ("F-PERF-001",)
    assert answers("F-NO-SUCH-001") == ()


def explained(*words: str) -> str:
    done = CliRunner().invoke(command_line, ["gates", "explain", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_an_id_that_is_replaced_is_explained_by_what_replaces_it() -> None:
    text = explained("g2-basic")
    assert "no gate of its own" in text and "G2:" in text
    assert json.loads(explained("G2-BASIC", "--json"))["replaced_by"] == ["G2"]
    assert "nothing" in explained("F-TUNE-001")


def test_an_id_with_a_small_letter_is_found_in_any_case() -> None:
    assert "F-HTTP-009b" in explained("f-http-009B")
    assert "F-TRACE-004b" in explained("F-TRACE-004B")


def sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("gate", [g for _, g in GATES.items() if g.kind == "facts"], ids=lambda g: g.id)
def test_a_judgement_does_not_depend_on_the_order_of_facts(gate: Gate) -> None:
    """Stored facts come back in the order of their names, and are judged again."""
    assert gate.check is not None
    for facts in (gate.corroborates, gate.falsifies):
        assert gate.check(sorted_keys(facts)) == gate.check(facts)


def test_an_id_belongs_to_one_gate() -> None:
    other = GATES.get("G1")
    with pytest.raises(ValueError, match="registered twice"):
        GATES.register("G0")(other)
    assert GATES.get("G0").id == "G0"
