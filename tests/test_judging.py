"""What follows from evidence: always the same, never better for having less of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr_qa import certify, evidence, judge
from apr_qa.errors import EvidenceDamaged
from apr_qa.vocabulary import Evidence, Outcome

COMMITTED = (
    Path(__file__).parents[1] / "certifications" / "HuggingFaceTB--SmolLM2-135M-Instruct" / "evidence.jsonl"
)
HEADER, REAL = evidence.read(COMMITTED)
"""A real run that passes: the committed certification of the embedded model."""

RANK = {"BLOCKED": 0, "PENDING": 1, "PROVISIONAL": 2, "CERTIFIED": 3}


def verdict(entries: Sequence[Evidence]) -> dict[str, Any]:
    return certify.assessed(HEADER, entries, "0" * 64).certificate


def test_the_committed_run_passes() -> None:
    assert verdict(REAL)["status"] == "PROVISIONAL"


def test_no_evidence_scores_nothing_and_is_pending() -> None:
    issued = verdict(())
    assert (issued["status"], issued["score"], issued["grade"]) == ("PENDING", None, "-")


@given(order=st.permutations(REAL))
def test_the_order_of_arrival_is_irrelevant(order: list[Evidence]) -> None:
    assert verdict(order) == verdict(REAL)


@given(removed=st.sets(st.integers(0, len(REAL) - 1), min_size=1))
def test_missing_evidence_never_certifies(removed: set[int]) -> None:
    left = [entry for number, entry in enumerate(REAL) if number not in removed]
    assert RANK[verdict(left)["status"]] < RANK["PROVISIONAL"]


@given(
    index=st.integers(0, len(REAL) - 1),
    outcome=st.sampled_from([o for o in Outcome if o is not Outcome.CORROBORATED]),
)
def test_a_falsification_never_raises_a_score(index: int, outcome: Outcome) -> None:
    if REAL[index].outcome is not Outcome.CORROBORATED:
        return
    spoiled = list(REAL)
    spoiled[index] = msgspec.structs.replace(REAL[index], outcome=outcome)
    before, after = verdict(REAL), verdict(spoiled)
    assert (after["score"] or 0) <= before["score"]
    assert RANK[after["status"]] <= RANK[before["status"]]


def test_judging_stored_evidence_again_changes_nothing() -> None:
    for entry in REAL:
        assert judge.rejudge(entry) == entry


def test_judging_a_written_file_is_judging_what_was_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    with evidence.Writer(path, HEADER) as writer:
        for entry in REAL:
            writer.append(entry)
    assert certify.judged(path) == certify.assessed(HEADER, REAL, evidence.sha256(path))


@pytest.mark.parametrize("gateway", ["G0", "G1", "G2", "G3", "G4"])
def test_every_gateway_of_the_committed_run_is_proven_by_entries_that_exist(gateway: str) -> None:
    found = next(v for v in judge.verdicts(HEADER, REAL) if v.gate_id == gateway)
    assert found.outcome is Outcome.CORROBORATED and set(found.evidence) <= {entry.id for entry in REAL}


def test_garbage_is_looked_for_first_whatever_judges_the_answer() -> None:
    """A sum that is right does not excuse the characters around it."""
    asked = next(entry for entry in REAL if entry.scenario.claim.oracle == "arithmetic" and entry.response)
    assert asked.response is not None and asked.outcome is Outcome.CORROBORATED
    spoiled = msgspec.structs.replace(asked.response, text=f"{asked.response.text}\ufffd\ufffd\x1b[0m")
    judgement, metrics = judge.judge(asked.scenario, spoiled)
    assert judgement.outcome is Outcome.FALSIFIED and judgement.reason == metrics["garbage"]


def spoiled(gate: str) -> list[Evidence]:
    """Return the real run with the first entry of one gate falsified."""
    at = next(number for number, entry in enumerate(REAL) if entry.gate_id == gate)
    return [
        msgspec.structs.replace(entry, outcome=Outcome.FALSIFIED) if number == at else entry
        for number, entry in enumerate(REAL)
    ]


@pytest.mark.parametrize(("gate", "status"), [("G0-PAD-001", "PROVISIONAL"), ("G0-STOP-002", "BLOCKED")])
def test_what_is_only_reported_about_a_file_does_not_close_the_gateway(gate: str, status: str) -> None:
    assert verdict(spoiled(gate))["status"] == status


@pytest.mark.parametrize(
    ("quantization", "texts", "status"),
    [("f16", 2, "BLOCKED"), ("q4_0", 8, "PROVISIONAL"), ("q4_0", 9, "BLOCKED")],
)
def test_a_quantised_file_may_loop_now_and_then_as_the_truth_may(
    quantization: str, texts: int, status: str
) -> None:
    left, entries = texts, []
    for entry in REAL:
        target = msgspec.structs.replace(entry.scenario.target, quantization=quantization)
        text = entry.response is not None and entry.scenario.claim.kind in ("generate", "chat")
        if target.format == "gguf" and text:
            scenario = msgspec.structs.replace(entry.scenario, target=target)
            metrics = {"garbage": "5 times in a row"} if left > 0 else {}
            entry = msgspec.structs.replace(entry, id=scenario.id, scenario=scenario, metrics=metrics)
            left -= 1
        entries.append(entry)
    assert verdict(entries)["status"] == status


def test_facts_of_another_version_are_refused_in_words() -> None:
    entry = next(
        entry for entry in REAL if entry.gate_id == "F-CONTRACT-I1-001" and entry.response is not None
    )
    response = msgspec.structs.replace(entry.response, facts={"measured": {"tokens": 3}})
    with pytest.raises(EvidenceDamaged, match="F-CONTRACT-I1-001 cannot be judged") as refusal:
        judge.rejudge(msgspec.structs.replace(entry, response=response))
    assert "certify anew" in refusal.value.fix
