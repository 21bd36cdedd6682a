"""Ledger: what is read is written back byte for byte, and nothing that was not measured gets a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fixed_run import fixed_run
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa import ledger
from apr_qa.errors import EnvironmentFault, EvidenceDamaged, UsageError
from apr_qa.ledger import Row
from apr_qa.vocabulary import Model

REPOSITORY = Path(__file__).parents[1]
PENDING = Row(model_id="Qwen/Qwen3-0.6B", family="qwen3", parameters="0.6B", size_category="tiny")
HEAD = (
    "model_id,family,parameters,size_category,status,mqs_score,grade,certified_tier,last_certified,g1,g2,g3,g4,"
    "tps_gguf_cpu,tps_gguf_gpu,tps_apr_cpu,tps_apr_gpu,tps_st_cpu,tps_st_gpu,provenance_verified\n"
)
LINE = "Qwen/Qwen3-0.6B,qwen3,0.6B,tiny,PENDING,,-,none,,,,,,,,,,,,false\n"


def issued(**fields: Any) -> dict[str, Any]:
    """Return the certificate of a model that passed, changed by ``fields``."""
    passed = [{"id": f"G{n}", "outcome": "corroborated", "reason": ""} for n in range(5)]
    found = {
        "format": "gguf",
        "quantization": "q4_1",
        "origin": "found",
        "sha256": "ab" * 32,
        "source": "hub",
    }
    return {
        **fixed_run().certificate,
        "model_id": "Qwen/Qwen3-0.6B",
        "status": "PROVISIONAL",
        "score": 800,
        "grade": "B",
        "gateways": passed,
        "artifacts": [found, {**found, "format": "apr", "origin": "derived", "source": "gguf"}],
        **fields,
    }


def entered(**fields: Any) -> Row:
    return ledger.record([PENDING], issued(**fields))[0]


times = st.sampled_from(
    ["", "2026-01-31T00:00:00+00:00", "2026-03-01T12:03:00Z", "2026-02-03T07:08:09.123456+02:00"]
)
speeds = st.from_regex(r"\A[0-9]{1,4}(\.[0-9]{1,2})?\Z") | st.just("")
names = st.text(st.characters(categories=["L", "N"], include_characters='-._,"|'), min_size=1, max_size=12)
flags = st.sampled_from(["true", "false", ""])


@st.composite
def rows(draw: st.DrawFn) -> Row:
    parameters = draw(
        st.sampled_from(["135M", "0.5B", "1B", "2.9B", "3B", "5.9B", "6B", "13B", "39B", "8x7B", "70B", ""])
    )
    row = Row(
        model_id=f"{draw(names)}/{draw(names)}",
        family=draw(names),
        parameters=parameters,
        size_category=ledger.size_category(parameters),
    )
    if draw(st.booleans()):
        return row
    return msgspec.structs.replace(
        row,
        status=draw(st.sampled_from(["BLOCKED", "PENDING"])),
        certified_tier=draw(st.sampled_from(["mvp", "deep"])),
        mqs_score=draw(st.integers(0, 1000).map(str) | st.just("")),
        last_certified=draw(times),
        grade=draw(st.sampled_from(["A+", "F", "-"])),
        **{name: draw(flags) for name in ("g1", "g2", "g3", "g4")},
        **{name: draw(speeds) for name in ledger.COLUMNS if name.startswith("tps_")},
    )


tables = st.lists(rows(), max_size=6, unique_by=lambda row: row.model_id)


# ---- reading and writing


@given(content=tables)
@settings(max_examples=50, deadline=None)
def test_what_is_read_is_written_back_byte_for_byte(
    content: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "models.csv"
    ledger.write(path, content)
    before = path.read_bytes()
    assert ledger.read(path) == content
    ledger.write(path, ledger.read(path))
    assert path.read_bytes() == before


def test_the_columns_are_the_twenty_of_the_format(tmp_path: Path) -> None:
    ledger.write(tmp_path / "models.csv", [PENDING])
    assert (tmp_path / "models.csv").read_text() == HEAD + LINE
    assert len(ledger.COLUMNS) == 20


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("PENDING", "FAIL", "status: 'FAIL' is not one of: CERTIFIED, PROVISIONAL, BLOCKED, PENDING"),
        ("PENDING", "pending", "status: 'pending' is not one of"),
        ("tiny", "gigantic", "size_category: 'gigantic' is not one of: tiny, small, medium, large, "),
        ("tiny", "small", "size_category: 'small', but '0.6B' parameters are 'tiny'"),
        (",-,", ",D,", "grade: 'D' is not one of: A+, A, B+, B, C, F, -"),
        ("none", "full", "certified_tier: 'full' is not one of: none, dim-smoke"),
        (",0.6B", ",many", "parameters: 'many' is not a number of parameters"),
        ("PENDING,,-,none", "BLOCKED,1001,F,mvp", "mqs_score: '1001' is not a whole number from 0 to 1000"),
        ("PENDING,,-,none", "BLOCKED,007,F,mvp", "mqs_score: '007'"),
        ("PENDING,,-,none,", "BLOCKED,0,F,mvp,2026-01-31", "last_certified: '2026-01-31' is not a time"),
        ("none,,,,,,", "mvp,,yes,,,,", "g1: 'yes' is not one of: true, false, empty"),
        ("none,,,,,,", "mvp,,,,,,nan", "tps_gguf_cpu: 'nan' is not a speed"),
        ("none,,,,,,", "mvp,,,,,,-3", "tps_gguf_cpu: '-3' is not a speed"),
        ("false", "", "provenance_verified: '' is not one of: true, false"),
        ("PENDING,,", "PENDING,800,", "mqs_score: holds a value, but the model was never run"),
        ("none,,,,,,", "none,,,,,,17.9", "tps_gguf_cpu: holds a value, but the model was never run"),
        ("PENDING,,-,none,", "CERTIFIED,,A+,deep,", "mqs_score: empty, but the model is CERTIFIED"),
        ("PENDING,,-,none,,,,", "CERTIFIED,980,A+,deep,,,,false", "g3: false, but the model is CERTIFIED"),
        ("PENDING", "CERTIFIED", "status: CERTIFIED -, but the model was never run"),
        ("Qwen/", " Qwen/", "model_id: ' Qwen/Qwen3-0.6B' is not a model id"),
        ("qwen3,", "q\x1bwen3,", "family: 'q\\x1bwen3' is not plain text"),
        (",false", "", "19 columns instead of 20"),
        ("qwen3,0.6B", '"qwen3",0.6B', "quotes without need"),
        ("\n", "\r\n", "carriage return"),
        ("false\n", "false", "an end that is not a single line feed"),
        ("false\n", 'false\n"x', "unexpected end of data"),
    ],
)  # fmt: skip
def test_a_faulty_line_is_refused_with_its_place(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_bytes((HEAD + LINE.replace(old, new, 1)).encode())
    with pytest.raises(UsageError) as refusal:
        ledger.read(path)
    assert complaint in refusal.value.what
    assert refusal.value.what.startswith(("line 2", "line 3"))
    assert refusal.value.where == str(path)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_text(HEAD + LINE.replace("tiny", "wee") + LINE.replace("PENDING", "PARTIAL") + "x\n")
    with pytest.raises(UsageError) as refusal:
        ledger.read(path)
    faults = refusal.value.what.split("\n")
    assert [fault.split(":")[0] for fault in faults] == [
        "line 2, size_category",
        "line 3, model_id",
        "line 3, status",
        "line 4",
    ]


@pytest.mark.parametrize("text", ["", "a,b\n", HEAD.replace("g1,g2", "g2,g1") + LINE, "\ufeff" + HEAD + LINE])
def test_another_head_line_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "models.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="line 1: the columns have to be model_id,family"):
        ledger.read(tmp_path / "models.csv")


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="byte 0 is not UTF-8"):
        ledger.read(tmp_path / "models.csv")
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        ledger.read(tmp_path / "absent.csv")


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    ledger.write(path, [PENDING])
    with pytest.raises(UsageError, match="is not plain text"):
        ledger.write(path, [msgspec.structs.replace(PENDING, family="\ud800")])
    assert [item.name for item in tmp_path.iterdir()] == ["models.csv"]
    assert ledger.read(path) == [PENDING]
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        ledger.write(tmp_path / "absent" / "models.csv", [PENDING])


# ---- sizes


@pytest.mark.parametrize(
    ("text", "count", "size"),
    [
        ("135M", 135e6, "tiny"),
        ("560M", 560e6, "tiny"),
        ("0.5B", 0.5e9, "tiny"),
        ("1B", 1e9, "small"),
        ("3B", 3e9, "medium"),
        ("3.8B", 3.8e9, "medium"),
        ("6B", 6e9, "large"),
        ("13B", 13e9, "xlarge"),
        ("40B", 40e9, "huge"),
        ("8x7B", 56e9, "huge"),
        ("1T", 1e12, "huge"),
    ],
)
def test_a_number_of_parameters_is_understood_in_every_unit(text: str, count: float, size: str) -> None:
    assert ledger.parameter_count(text) == pytest.approx(count)
    assert ledger.size_category(text) == size


@pytest.mark.parametrize("text", ["", "B", "7", "7b", "0B", "-1B", "1,5B", "0x7B", "٣B", "1e9B"])
def test_what_is_no_number_of_parameters_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number of parameters"):
        ledger.parameter_count(text)


# ---- recording


def test_the_gateways_land_in_their_own_columns() -> None:
    for broken in range(1, 5):
        gateways = [
            {"id": f"G{n}", "outcome": "falsified" if n == broken else "corroborated", "reason": ""}
            for n in range(5)
        ]
        row = entered(status="BLOCKED", score=0, grade="F", gateways=gateways)
        assert [row.g1, row.g2, row.g3, row.g4] == ["false" if n == broken else "true" for n in range(1, 5)]


def test_a_broken_g0_does_not_shift_into_g1() -> None:
    gateways = [
        {"id": f"G{n}", "outcome": "falsified" if n == 0 else "corroborated", "reason": ""} for n in range(5)
    ]
    row = entered(status="BLOCKED", score=0, grade="F", gateways=gateways)
    assert [row.g1, row.g2, row.g3, row.g4] == ["true"] * 4


@pytest.mark.parametrize(
    ("outcome", "value"),
    [
        ("corroborated", "true"),
        ("crashed", "false"),
        ("inconclusive", "false"),
        (None, ""),
        ("inapplicable", ""),
    ],
)
def test_a_gateway_that_was_not_decided_stays_empty(outcome: str | None, value: str) -> None:
    row = entered(
        status="PENDING", score=None, grade="-", gateways=[{"id": "G2", "outcome": outcome, "reason": ""}]
    )
    assert (row.g1, row.g2, row.mqs_score) == ("", value, "")


def test_a_certificate_replaces_the_row_of_its_model_only() -> None:
    other = msgspec.structs.replace(PENDING, model_id="Qwen/Qwen3-8B", parameters="8B", size_category="large")
    first, second = ledger.record([other, PENDING], issued())
    assert first == other
    assert (second.status, second.mqs_score, second.grade, second.certified_tier) == (
        "PROVISIONAL",
        "800",
        "B",
        "mvp",
    )
    assert (second.family, second.parameters, second.size_category) == ("qwen3", "0.6B", "tiny")
    assert second.last_certified == "2026-03-01T12:03:00Z"
    assert (second.tps_gguf_cpu, second.tps_gguf_gpu, second.tps_st_cpu, second.tps_apr_cpu) == (
        "88.4",
        "",
        "57.1",
        "58.0",
    )


def test_a_model_that_is_not_listed_is_appended_with_what_is_known() -> None:
    *_, row = ledger.record([PENDING], issued(model_id="me/new"))
    assert (row.model_id, row.parameters, row.size_category) == ("me/new", "", "")


def test_recording_twice_changes_nothing_more() -> None:
    once = ledger.record([PENDING], issued())
    assert ledger.record(once, issued()) == once


@pytest.mark.parametrize(
    ("change", "verified"),
    [
        ({}, "true"),
        ({"sha256": ""}, "false"),
        ({"sha256": "zz" * 32}, "false"),
        ({"origin": "derived", "source": ""}, "false"),
        ({"origin": "derived", "source": "safetensors"}, "true"),
    ],
)
def test_provenance_needs_every_hash_and_every_source(change: dict[str, str], verified: str) -> None:
    first, second = issued()["artifacts"]
    assert entered(artifacts=[{**first, **change}, second]).provenance_verified == verified
    assert entered(artifacts=[]).provenance_verified == "false"


@pytest.mark.parametrize(
    "change",
    [
        {"status": "REJECTED"},
        {"gateways": None},
        {"model_id": 7},
        {"status": "CERTIFIED", "score": None},
        {"finished": "soon"},
    ],
)
def test_a_garbled_certificate_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(EvidenceDamaged) as refusal:
        ledger.record([PENDING], issued(**change))
    assert "apr-qa score" in refusal.value.fix


def test_a_certified_model_with_a_failed_gateway_is_refused() -> None:
    gateways = [{"id": "G2", "outcome": "falsified", "reason": ""}]
    with pytest.raises(EvidenceDamaged, match="g2: false, but the model is CERTIFIED"):
        ledger.record([PENDING], issued(status="CERTIFIED", score=950, grade="A+", gateways=gateways))


def stored(root: Path, text: str) -> Path:
    (root / "Qwen--Qwen3-0.6B").mkdir()
    (root / "Qwen--Qwen3-0.6B" / "certificate.json").write_text(text)
    return root


def test_rows_and_coverage_follow_from_the_stored_certificates(tmp_path: Path) -> None:
    assert ledger.coverage_of(tmp_path / "absent") == {}
    stored(tmp_path, json.dumps(issued()))
    assert ledger.coverage_of(tmp_path) == {"Qwen/Qwen3-0.6B": "7/18"}
    assert ledger.from_certificates([PENDING], tmp_path) == [entered()]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model_id": "a", "coverage": {"covered": null, "planned": 3}}']
)
def test_a_damaged_certificate_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(EvidenceDamaged) as refusal:
        ledger.coverage_of(stored(tmp_path, text))
    assert refusal.value.where.endswith("certificate.json")


# ---- the list in this repository


def test_the_ledger_of_the_repository_is_lawful_and_complete() -> None:
    found = ledger.read(REPOSITORY / "certifications" / "models.csv")
    ids = [row.model_id for row in found]
    assert len(ids) == 95
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in ids
    models = [Model(id=row.model_id, family=row.family, parameters=row.parameters) for row in found]
    never_run = [row for row in ledger.pending_rows(models) if row in found]
    assert all(row in never_run for row in found if row.certified_tier == "none")


def test_a_model_that_was_never_run_has_no_number() -> None:
    (row,) = ledger.pending_rows([Model(id="Qwen/Qwen3-0.6B", family="qwen3", parameters="0.6B")])
    assert row == PENDING
    assert {row.mqs_score, row.last_certified, row.g1, row.g4, row.tps_st_gpu} == {""}


# ---- the README


def test_the_table_sorts_by_family_then_by_number_of_parameters() -> None:
    sizes = ["7B", "135M", "1.5B", "0.5B", "70B"]
    found = ledger.pending_rows([Model(id=f"org/{size}", family="b", parameters=size) for size in sizes])
    found += ledger.pending_rows([Model(id="org/a", family="a", parameters="70B")])
    lines = [line for line in ledger.table(found).split("\n") if line.startswith("| [")]
    assert [line[3:].split("]")[0] for line in lines] == ["a", "135M", "0.5B", "1.5B", "7B", "70B"]


def test_the_table_shows_a_dash_for_what_was_not_measured() -> None:
    line = ledger.table([PENDING]).split("\n")[-1]
    assert line.endswith("![pending](https://img.shields.io/badge/PENDING-lightgray)" + " | –" * 11 + " |")


def test_the_table_shows_what_a_certificate_says() -> None:
    text = ledger.table([entered()], {"Qwen/Qwen3-0.6B": "9/18"})
    assert "(updated: 2026-03-01 12:03 UTC)" in text
    assert "| Provisional | 1/1 |" in text
    assert text.split("\n")[-1] == (
        "| [Qwen3-0.6B](https://huggingface.co/Qwen/Qwen3-0.6B) | qwen3 | 0.6B "
        "| ![provisional](https://img.shields.io/badge/PROVISIONAL-yellow) | 800 | B | 9/18 | ✓ | ✓ "
        "| 88.4 | – | 58.0 | – | 57.1 | – |"
    )


def test_one_refuted_gateway_is_a_cross_and_an_open_one_a_dash() -> None:
    ran = msgspec.structs.replace(
        PENDING, status="BLOCKED", certified_tier="mvp", g1="true", g2="true", g3="true"
    )
    cells = {
        value: ledger.table([msgspec.structs.replace(ran, g4=value)]).split("\n")[-1].split(" | ")[7]
        for value in ("true", "false", "")
    }
    assert cells == {"true": "✓", "false": "✗", "": "–"}


@given(
    content=tables,
    before=st.text(max_size=80),
    after=st.text(max_size=80),
    newline=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=50, deadline=None)
def test_a_splice_leaves_every_other_character_alone(
    content: list[Row], before: str, after: str, newline: str
) -> None:
    readme = f"{before}{ledger.START}{newline}old{newline}{ledger.END}{after}"
    spliced = ledger.splice(readme, content)
    assert spliced.startswith(before + ledger.START + newline)
    assert spliced.endswith(newline + ledger.END + after)
    inside = spliced[len(before) + len(ledger.START) : len(spliced) - len(ledger.END + after)]
    assert inside.replace(newline, "\n") == f"\n{ledger.table(content)}\n"
    assert newline == "\n" or inside.count("\n") == inside.count("\r\n")
    assert ledger.splice(spliced, content) == spliced


@pytest.mark.parametrize(
    "readme",
    [
        "no markers",
        ledger.START,
        ledger.END,
        ledger.END + ledger.START,
        ledger.START + ledger.END + ledger.END,
        ledger.START + ledger.START + ledger.END,
    ],
)
def test_markers_that_are_missing_doubled_or_swapped_are_refused(readme: str) -> None:
    with pytest.raises(UsageError, match="the marker <!-- CERTIFICATION_TABLE_") as refusal:
        ledger.splice(readme, [PENDING])
    assert "each once and in this order" in refusal.value.fix


def test_a_name_cannot_break_the_table_or_bring_a_marker() -> None:
    row = msgspec.structs.replace(PENDING, model_id=f"a|b/{ledger.END}](x)", family="f|g`")
    line = ledger.table([row]).split("\n")[-1]
    assert line.replace("\\|", "").count("|") == 16
    assert ledger.END not in line
