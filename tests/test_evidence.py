"""Evidence files: what is written is what is read, damage is named, and nothing is lost or doubled."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr_qa import evidence
from apr_qa.errors import EnvironmentFault, EvidenceDamaged
from apr_qa.vocabulary import Claim, Evidence, Outcome, Response, Scenario, Severity, Target

COMMITTED = (
    Path(__file__).parents[1] / "certifications" / "HuggingFaceTB--SmolLM2-135M-Instruct" / "evidence.jsonl"
)
HEADER, ENTRIES = evidence.read(COMMITTED)
TARGET = Target(model="m", format="gguf", quantization="", backend="cpu", modality="run", engine="llama_cpp")
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@st.composite
def entries(draw: st.DrawFn) -> Evidence:
    claim = Claim(gate_id="F-QUAL-004", kind="generate", prompt=draw(TEXT), seed=draw(st.integers(0, 2**31)))
    scenario = Scenario(target=TARGET, claim=claim)
    return Evidence(
        id=scenario.id,
        gate_id=claim.gate_id,
        severity=Severity.P1,
        scenario=scenario,
        outcome=draw(st.sampled_from(Outcome)),
        reason=draw(TEXT),
        response=draw(
            st.none()
            | st.builds(
                Response,
                text=TEXT,
                token_ids=st.lists(st.integers(0, 10**6), max_size=5).map(tuple),
                duration_s=st.none() | st.floats(0, 1e6),
                facts=st.dictionaries(TEXT, st.integers() | TEXT | st.booleans() | st.none(), max_size=3),
            )
        ),
        timestamp="2026-01-01T00:00:00.000Z",
    )


def write(path: Path, items: list[Evidence]) -> None:
    with evidence.Writer(path, HEADER) as writer:
        for item in items:
            writer.append(item)


@given(items=st.lists(entries(), max_size=6, unique_by=lambda entry: entry.id))
def test_what_is_written_is_what_is_read(
    items: list[Evidence], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("evidence") / "evidence.jsonl"
    write(path, items)
    header, read = evidence.read(path)
    assert header == HEADER and list(read) == items


def test_an_entry_holds_the_fields_that_others_rely_on(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    write(path, list(ENTRIES))
    for line in path.read_text().splitlines()[1:]:
        entry = json.loads(line)
        for field in [
            "id",
            "gate_id",
            "severity",
            "scenario",
            "outcome",
            "reason",
            "response",
            "metrics",
            "timestamp",
        ]:
            assert field in entry
        assert set(entry["scenario"]["target"]) >= {"model", "format", "quantization", "backend", "modality"}


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ("", "evidence.jsonl", "empty"),
        ("{}\n", "evidence.jsonl:1", "header"),
        ("not json\n", "evidence.jsonl:1", "header"),
        ("HEADER\nnot json\n", "evidence.jsonl:2", "entry"),
        ("HEADER\nENTRY\nENTRY\n", "evidence.jsonl:3", "second time"),
        ("HEADER\nEDITED\n", "evidence.jsonl:2", "edited"),
    ],
)
def test_a_damaged_file_is_refused_with_its_place(
    tmp_path: Path, content: str, where: str, what: str
) -> None:
    entry = msgspec.to_builtins(ENTRIES[0])
    edited = {**entry, "id": "0" * 16}
    filled = content.replace("HEADER", msgspec.json.encode(HEADER).decode())
    filled = filled.replace("ENTRY", json.dumps(entry)).replace("EDITED", json.dumps(edited))
    path = tmp_path / "evidence.jsonl"
    path.write_text(filled)
    with pytest.raises(EvidenceDamaged) as refusal:
        evidence.read(path)
    assert refusal.value.where.endswith(where) and what in str(refusal.value)


def test_a_torn_last_line_is_cut_off_and_writing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    first, second, third = ENTRIES[:3]
    write(path, [first, second])
    path.write_bytes(path.read_bytes()[:-20])
    evidence.repair(path)
    with evidence.Writer(path, HEADER, resume=True) as writer:
        writer.append(third)
    assert evidence.read(path)[1] == (first, third)


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    with evidence.Writer(path, HEADER), pytest.raises(EnvironmentFault, match="another run"):
        evidence.Writer(path, HEADER)
