"""Counted evidence: the order of arrival is irrelevant, nothing that a gate asks for is lost, memory is bounded."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa import certify, evidence, evidence_columns, judge, tally
from apr_qa.errors import EvidenceDamaged
from apr_qa.evidence_rows import ENCODER
from apr_qa.gates import GATES
from apr_qa.groups import LISTED, SHOWN
from apr_qa.tally import Tally, tallied
from apr_qa.vocabulary import (
    EARLIER,
    Claim,
    Evidence,
    EvidenceHeader,
    GateVerdict,
    Outcome,
    Response,
    Scenario,
    Severity,
    Target,
)

COMMITTED = (
    Path(__file__).parents[1] / "certifications" / "HuggingFaceTB--SmolLM2-135M-Instruct" / "evidence.jsonl"
)
HEADER, REAL = evidence.read(COMMITTED)
TARGET = Target(model="m", format="gguf", quantization="", backend="cpu", modality="run", engine="llama_cpp")
ACROSS = [gate for _, gate in GATES.items() if gate.verdict is not None]


class Apart(Tally):
    """Every entry is a group of its own, so nothing is mixed."""

    def group(self, key: tally.Key) -> int:
        target, traits, severity, what = key
        return super().group((target, (*traits, len(self._numbers)), severity, what))


def apart(entries: list[Evidence]) -> Apart:
    found = Apart()
    for entry in entries:
        found.add([entry])
    return found


def spoilt(seed: int, share: float) -> list[Evidence]:
    """Return the committed run with other answers and outcomes in places, in another order."""
    rng = random.Random(seed)
    entries = [_spoilt(entry, rng, share) for entry in REAL if rng.random() > 0.05]
    rng.shuffle(entries)
    return entries


def _spoilt(entry: Evidence, rng: random.Random, share: float) -> Evidence:
    asks = entry.scenario.claim.kind in tally.TEXT_KINDS
    if rng.random() > (share if asks else share / 20):
        return entry
    reasons = ("no", "CUDA error: out of memory", "signal SIGILL")
    changes = {"outcome": rng.choice(list(Outcome)), "reason": f"{rng.choice(reasons)} {entry.id[:4]}"}
    if not asks:
        return msgspec.structs.replace(entry, **changes)
    response = Response(
        text=rng.choice([None, "", " \n", "word", "\u2003", "слово"]),
        finish_reason=rng.choice([None, "stop", "length"]),
        prompt_tokens=rng.choice([None, 0, 3, 40]),
        duration_s=rng.choice([None, 0.0, 1.0, 61.0]),
        tokens_per_s=rng.choice([None, 0.0, 5.5]),
    )
    metrics = {"garbage": f"it loops {entry.id[:3]}"} if rng.random() < 0.4 else {}
    return msgspec.structs.replace(entry, response=rng.choice([None, response]), metrics=metrics, **changes)


def judged_by(header: EvidenceHeader, counted: Tally) -> list[GateVerdict]:
    return [gate.verdict(header, counted) for gate in ACROSS if gate.verdict is not None]


@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.02, 0.6]), once=st.sampled_from([1, 7, 4096]))
@settings(max_examples=15, deadline=None)
def test_lines_columns_and_memory_are_counted_alike(
    seed: int, share: float, once: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    entries, folder = spoilt(seed, share), tmp_path_factory.mktemp("alike")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "_AT_ONCE", once)
        patch.setattr(evidence, "_BLOCK", 1 << 12 << once % 8)
        patch.setattr(evidence_columns, "_READ", once)
        of_lines = evidence.count(written(folder / "evidence.jsonl", lines(*entries)))
        evidence_columns.write(folder / "evidence.parquet", HEADER, entries)
        assert of_lines == evidence.count(folder / "evidence.parquet")
        assert of_lines[1] == tallied(entries) and of_lines[1].total == len(entries)
    assert of_lines[1].entries() == sorted(entries, key=lambda entry: entry.id)
    assert of_lines[1].outcomes() == Counter(entry.outcome for entry in entries)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_outcome_that_somebody_edited_is_counted_in_another_group(outcome: Outcome) -> None:
    counted = tallied([made(1), made(2, outcome)])
    assert len(counted.all.groups) == (1 if outcome is Outcome.CORROBORATED else 2)


@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.02, 0.2, 0.6]), earlier=st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_groups_mix_no_gate_asks_for(seed: int, share: float, earlier: bool) -> None:
    entries = spoilt(seed, share)
    environment = {**HEADER.environment, EARLIER: f"{HEADER.tier} 0.97"} if earlier else HEADER.environment
    header = msgspec.structs.replace(HEADER, environment=environment)
    assert judged_by(header, tallied(entries)) == judged_by(header, apart(entries))
    assert (
        certify.assessed(header, entries, "").certificate
        == certify.assessed(header, apart(entries), "").certificate
    )


def test_a_gate_that_asks_for_what_groups_mix_would_be_seen() -> None:
    mixed = tallied(REAL).texts.where(lambda entry: entry.id < "8")
    true = apart(list(REAL)).texts.where(lambda entry: entry.id < "8")
    assert len(mixed) != len(true)


def made(number: int, outcome: Outcome = Outcome.CORROBORATED, target: Target = TARGET) -> Evidence:
    claim = Claim(gate_id="F-QUAL-001", kind="generate", prompt=f"What is {number} + 1?")
    scenario = Scenario(target=target, claim=claim)
    return Evidence(
        id=scenario.id,
        gate_id=claim.gate_id,
        severity=Severity.P1,
        scenario=scenario,
        outcome=outcome,
        reason=f"reason {number}",
        response=Response(text="4", tokens_per_s=float(number)),
        timestamp=f"2026-01-01T00:00:{number % 60:02}.000Z",
    )


@pytest.mark.parametrize("whole", [0, 5_000])
def test_the_order_of_arrival_is_irrelevant(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "WHOLE", whole)
    entries = [made(n, Outcome.FALSIFIED if n % 3 else Outcome.CORROBORATED) for n in range(400)]
    forth, back = tallied(entries), tallied(reversed(entries))
    assert forth == back and forth.entries() == back.entries()
    assert forth.complete is (whole > 0)
    assert forth != tallied(entries[1:])


def test_a_run_that_is_too_large_keeps_the_entries_with_the_smallest_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tally, "WHOLE", 50)
    good, bad = [made(n) for n in range(300)], [made(n, Outcome.FALSIFIED) for n in range(300, 600)]
    counted = tallied([*good, *bad])
    assert counted.total == 600 and not counted.complete
    kept = {entry.id for entry in counted.entries()}
    first = sorted(entry.id for entry in good)[:SHOWN] + sorted(entry.id for entry in bad)[:LISTED]
    assert kept == set(first)


def test_a_small_run_is_kept_whole() -> None:
    assert tallied(REAL).entries() == sorted(REAL, key=lambda entry: entry.id)


def test_a_file_is_counted_as_its_entries_are() -> None:
    header, counted, sha256 = evidence.count(COMMITTED)
    assert header == HEADER and counted == tallied(REAL) and sha256 == evidence.sha256(COMMITTED)
    assert counted.entries() == tallied(REAL).entries()


def test_a_verdict_names_a_hundred_entries_at_most() -> None:
    verdicts = judge.verdicts(HEADER, [made(n, Outcome.FALSIFIED) for n in range(300)])
    found = next(verdict for verdict in verdicts if verdict.gate_id == "F-QUAL-001")
    assert len(found.evidence) == LISTED and found.reason.startswith("300 of 300 failed")


def lines(*entries: Evidence) -> list[bytes]:
    return [ENCODER.encode(one) for one in (HEADER, *entries)]


def written(path: Path, rows: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"What is 2 + 1?", b"What is 2 + 2?", "edited"),
        (b'"format":"gguf"', b'"format":"apr"', "edited"),
        (b'"gate_id":"F-QUAL-001"', b'"gate_id":"F-QUAL-002"', "edited"),
        (b'"outcome":"corroborated"', b'"outcome":"perfect"', "not an evidence entry"),
        (b'"seed"', b'"seed', "edited"),
        (b'"claim":{', b'"claim":{"basic":"no",', "not an evidence entry"),
    ],
)
def test_an_edited_line_is_refused_in_counting(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    rows = lines(made(1), made(2), made(3))
    if old == b'"seed"':  # nothing to replace: the id itself is another one
        rows[2] = rows[2].replace(made(2).id.encode(), b"0" * 16)
    rows[2] = rows[2].replace(old, new)
    with pytest.raises(EvidenceDamaged, match=said) as refusal:
        evidence.count(written(tmp_path / "evidence.jsonl", rows))
    assert refusal.value.where.endswith("evidence.jsonl:3")


def test_an_entry_that_stands_twice_is_refused_in_counting(tmp_path: Path) -> None:
    rows = lines(made(1), made(2), made(1))
    with pytest.raises(EvidenceDamaged, match="second time, first in line 2") as refusal:
        evidence.count(written(tmp_path / "evidence.jsonl", rows))
    assert refusal.value.where.endswith(":4")


def test_a_line_in_other_words_is_the_same_entry(tmp_path: Path) -> None:
    spaced = msgspec.json.format(ENCODER.encode(made(1)), indent=0)
    rows = [*lines(made(2)), spaced.replace(b'"prompt"', b'"basic": false, "prompt"')]
    _, counted, _ = evidence.count(written(tmp_path / "evidence.jsonl", rows))
    assert counted == tallied([made(1), made(2)])


def test_a_torn_line_is_refused_in_counting(tmp_path: Path) -> None:
    path = written(tmp_path / "evidence.jsonl", lines(made(1), made(2)))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(EvidenceDamaged, match="not an evidence entry"):
        evidence.count(path)


def test_many_numbers_are_searched_for_a_repetition_too() -> None:
    many = tally.array("Q", range(200_000))
    assert tally.repeated(many) is None
    many.append(77)
    assert tally.repeated(many) == 77
    assert tally.repeated(tally.array("Q", [3, 5, 3])) == 3


def test_claims_that_do_not_fit_in_memory_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apr_qa.evidence_rows.MOST_BYTES", 900)
    entries = [made(n) for n in range(40)]
    _, counted, _ = evidence.count(written(tmp_path / "evidence.jsonl", lines(*entries)))
    assert counted == tallied(entries)


@pytest.mark.parametrize("tokens", [-1, 2**32, 2**63 - 1, 2**80])
def test_a_number_of_tokens_that_cannot_be_counts_as_none(tmp_path: Path, tokens: int) -> None:
    entry = made(1)
    entry = msgspec.structs.replace(entry, response=Response(text="4", prompt_tokens=tokens))
    assert tallied([entry]).total == 1
    if tokens < 2**63:
        assert evidence.count(written(tmp_path / "evidence.jsonl", lines(entry)))[1].total == 1
