"""Evidence in columns: the same entries come back, whatever is edited is refused, and every command reads it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evidence import HEADER, entries
from test_tally import COMMITTED, REAL, made

from apr_qa import certify, evidence, evidence_columns, judge, verify
from apr_qa.cli import command_line
from apr_qa.errors import EngineMissing, EvidenceDamaged
from apr_qa.tally import tallied
from apr_qa.vocabulary import Evidence, Outcome

TIMES = st.sampled_from(["2026-01-01T00:00:00.000Z", "2026-12-31T23:59:59.999Z"])


@given(
    items=st.lists(entries(), max_size=8, unique_by=lambda entry: entry.id),
    times=st.lists(TIMES | st.text(st.characters(codec="utf-8"), max_size=9), min_size=8, max_size=8),
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_what_is_read(
    items: list[Evidence], times: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("columns") / "evidence.parquet"
    items = [msgspec.structs.replace(one, timestamp=time) for one, time in zip(items, times, strict=False)]
    evidence_columns.write(path, HEADER, items)
    header, read = evidence.read(path)
    assert header == HEADER and list(read) == items
    assert evidence.count(path)[1] == tallied(items)


def columns_of(tmp_path: Path, items: tuple[Evidence, ...] = REAL) -> Path:
    path = tmp_path / "evidence.parquet"
    evidence_columns.write(path, HEADER, items)
    return path


def test_a_real_run_is_judged_in_columns_as_it_is_in_lines(tmp_path: Path) -> None:
    path = columns_of(tmp_path)
    assert certify.judged(path) == certify.judged(COMMITTED)
    assert evidence.sha256(path) == evidence.sha256(COMMITTED)
    assert path.stat().st_size < 64 * len(REAL)


def test_numbers_of_claims_begin_anew_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_columns, "MOST_CLAIMS", 7)
    monkeypatch.setattr(evidence_columns, "ROWS", 10)
    items = tuple(made(n) for n in range(40))
    assert evidence.read(columns_of(tmp_path, items))[1] == items


def edited(path: Path, column: str, change: Any) -> None:
    """Write a file anew with one value of a column changed."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    place = next(number for number, value in enumerate(values) if value)
    values[place] = change(values[place])
    place = table.schema.get_field_index(column)
    changed = pa.array(values, table.schema.field(column).type)
    metadata = pq.ParquetFile(path).metadata.metadata
    spoilt = table.set_column(place, table.schema.field(column), changed)
    pq.write_table(spoilt.replace_schema_metadata({"apr_qa": metadata[b"apr_qa"]}), path)


@pytest.mark.parametrize(
    ("column", "old", "new"), [("claim", "What is", "What was"), ("target", "gguf", "apr")]
)
def test_an_edited_scenario_is_refused(tmp_path: Path, column: str, old: str, new: str) -> None:
    path = columns_of(tmp_path, tuple(made(n) for n in range(9)))
    edited(path, column, lambda text: text.replace(old, new))
    with pytest.raises(EvidenceDamaged, match="edited"):
        evidence.count(path)
    with pytest.raises(EvidenceDamaged, match="edited"):
        evidence.read(path)


@pytest.mark.parametrize("column", ["reason", "text", "outcome"])
def test_an_edited_answer_is_refused_by_whoever_reads_all_of_it(tmp_path: Path, column: str) -> None:
    path = columns_of(tmp_path, tuple(made(n) for n in range(9)))
    edited(path, column, lambda _: "falsified")
    with pytest.raises(EvidenceDamaged, match="edited"):
        evidence.read(path)


def test_a_column_with_values_that_nobody_writes_is_refused(tmp_path: Path) -> None:
    path = columns_of(tmp_path, tuple(made(n) for n in range(9)))
    edited(path, "outcome", lambda _: "perfect")
    for read in (evidence.count, evidence.read):
        with pytest.raises(EvidenceDamaged):
            read(path)


@pytest.mark.parametrize("column", ["text", "metrics", "timestamp", "tokens_per_s", "severity"])
def test_a_column_of_another_kind_is_refused(tmp_path: Path, column: str) -> None:
    path = columns_of(tmp_path, tuple(made(n) for n in range(9)))
    table, metadata = pq.read_table(path), pq.ParquetFile(path).metadata.metadata
    place = table.schema.get_field_index(column)
    other = table.set_column(place, column, pa.array([[b"no"]] * 9))
    pq.write_table(other.replace_schema_metadata({"apr_qa": metadata[b"apr_qa"]}), path)
    for read in (evidence.count, evidence.read):
        with pytest.raises(EvidenceDamaged):
            read(path)


def test_an_entry_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceDamaged, match="twice"):
        evidence.count(columns_of(tmp_path, (made(1), made(2), made(1))))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a parquet file at all" * 9])
def test_what_is_no_parquet_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evidence.parquet"
    path.write_bytes(content)
    with pytest.raises(EvidenceDamaged, match="Parquet"):
        evidence.count(path)


def test_a_parquet_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evidence.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(EvidenceDamaged, match="no evidence of apr-qa"):
        evidence.count(path)


def test_without_pyarrow_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = columns_of(tmp_path, (made(1),))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EngineMissing) as refusal:
        evidence.count(path)
    assert "pip install 'apr-qa[parquet]'" in refusal.value.fix


# ---- commands


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command_line, arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "org--name"
    place.mkdir()
    shutil.copy(COMMITTED, place / "evidence.jsonl")
    certify.publish(certify.judged(place / "evidence.jsonl"), place)
    return place


def test_compacting_puts_columns_in_the_place_of_lines_and_changes_no_verdict(folder: Path) -> None:
    before = run("score", str(folder), "--json").output
    done = run("export-evidence", str(folder), "--compact")
    assert done.exit_code == 0, done.output
    assert [path.name for path in folder.glob("evidence.*")] == ["evidence.parquet"]
    assert run("score", str(folder), "--json").output == before
    assert run("tickets", str(folder)).exit_code == 0
    assert run("report", str(folder), "-o", str(folder / "out")).exit_code == 0
    for name in ("report.html", "report.xml", "certificate.json"):
        assert (folder / "out" / name).read_bytes() == (folder / name).read_bytes()
    again = run("export-evidence", str(folder), "--compact")
    assert "compacted already" in str(again.exception)


def test_lines_come_back_from_columns_byte_by_byte(folder: Path) -> None:
    run("export-evidence", str(folder), "--compact")
    done = run("export-evidence", str(folder), "--format", "jsonl", "-o", str(folder / "evidence.jsonl"))
    assert done.exit_code == 0, done.output
    assert (folder / "evidence.jsonl").read_bytes() == COMMITTED.read_bytes()


def test_one_document_is_the_same_from_lines_and_from_columns(folder: Path) -> None:
    run("export-evidence", str(folder), "-o", str(folder / "one.json"))
    run("export-evidence", str(folder), "--compact")
    run("export-evidence", str(folder), "-o", str(folder / "other.json"))
    assert (folder / "one.json").read_bytes() == (folder / "other.json").read_bytes()
    assert len(msgspec.json.decode((folder / "one.json").read_bytes())["evidence"]) == len(REAL)


def test_lines_that_somebody_else_wrote_are_not_thrown_away(folder: Path) -> None:
    path = folder / "evidence.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"metrics":{}', b'"metrics": {}', 1))
    done = run("export-evidence", str(folder), "--compact")
    assert "not the bytes" in str(done.exception) or "not the bytes" in done.output
    assert path.exists() and not (folder / "evidence.parquet").exists()


def test_an_entry_is_found_in_columns(folder: Path) -> None:
    from apr_qa import replay

    run("export-evidence", str(folder), "--compact")
    wanted = next(entry for entry in REAL if entry.outcome is Outcome.CORROBORATED)
    assert replay.find(wanted.id, [folder])[1] == wanted


def test_what_was_published_is_verified_from_columns(tmp_path: Path) -> None:
    found = tuple(judge.rejudge(made(n)) for n in range(6))
    header = msgspec.structs.replace(HEADER, planned=6)
    evidence_columns.write(tmp_path / "evidence.parquet", header, found)
    certify.publish(certify.judged(tmp_path / "evidence.parquet"), tmp_path)
    assert list(verify.folder(tmp_path)) == []
    evidence_columns.write(tmp_path / "evidence.parquet", header, found[1:])
    said = [str(difference) for difference in verify.folder(tmp_path)]
    assert any("number of entries: stored 5, recomputed 6" in line for line in said)
    assert any("evidence_sha256" in line for line in said)
