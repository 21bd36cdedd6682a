"""Generated files are what their generators write, and committed files are what their schemas describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from apr_qa import certify, schemas, verify
from apr_qa.evidence import Writer
from apr_qa.gates import GATES
from apr_qa.ledger import END
from apr_qa.vocabulary import Response

ROOT = Path(__file__).parents[1]
CERTIFICATIONS = sorted((ROOT / "certifications").glob("*/evidence.jsonl"))
GENERATED = schemas.documents()


def judge(name: str) -> Any:
    """Return a validator of a committed schema."""
    schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def faults(name: str, value: Any) -> list[str]:
    return [f"{list(fault.path)}: {fault.message}" for fault in judge(name).iter_errors(value)]


def test_schemas_holds_what_is_generated_and_nothing_else() -> None:
    assert {path.name for path in (ROOT / "schemas").iterdir()} == set(GENERATED)


@pytest.mark.parametrize("name", GENERATED)
def test_a_schema_file_is_what_its_generator_writes(name: str) -> None:
    stored = (ROOT / "schemas" / name).read_text(encoding="utf-8")
    assert stored == GENERATED[name], "write it again: python -m apr_qa.schemas"


@pytest.mark.parametrize("name", GENERATED)
def test_a_schema_is_valid_and_says_what_it_is(name: str) -> None:
    schema = json.loads(GENERATED[name])
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"].startswith("apr-qa ") and schema["$schema"] == schemas.DIALECT


def test_the_generator_writes_the_same_files_wherever_it_runs(tmp_path: Path) -> None:
    schemas.write(tmp_path / "schemas")
    assert {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "schemas").iterdir()} == GENERATED


@pytest.mark.parametrize("path", sorted((ROOT / "playbooks").rglob("*.yaml")), ids=lambda path: path.name)
def test_a_committed_playbook_validates(path: Path) -> None:
    if path.name == "playbook.lock.yaml":
        return
    assert not faults("playbook", yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def evidence_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small evidence file, written by the writer."""
    header, entries = GATES.get("G2").corroborates
    response = Response(text=" 4", token_ids=(4, 5), finish_reason="length", duration_s=0.5, tokens_per_s=4.0)
    path = tmp_path_factory.mktemp("evidence") / "evidence.jsonl"
    with Writer(path, header) as writer:
        for entry in entries:
            writer.append(msgspec.structs.replace(entry, response=response, metrics={"garbage": "no"}))
    return path


@pytest.fixture(scope="module")
def lines(evidence_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in evidence_path.read_text(encoding="utf-8").splitlines()]


def test_what_the_evidence_writer_writes_validates(lines: list[dict[str, Any]]) -> None:
    assert len(lines) > 1
    for line in lines:
        assert not faults("evidence", line)


@pytest.mark.parametrize(
    ("number", "field", "value"),
    [
        (0, "tier", "mpv"),
        (0, "planned", "many"),
        (0, "artifacts", [{"format": "gguf"}]),
        (1, "outcome", "passed"),
        (1, "severity", "P9"),
        (1, "scenario", {}),
        (1, "id", None),
    ],
)
def test_a_line_with_a_wrong_value_does_not_validate(
    lines: list[dict[str, Any]], number: int, field: str, value: Any
) -> None:
    assert faults("evidence", {**lines[number], field: value})
    assert faults("evidence", {name: held for name, held in lines[number].items() if name != field})


def test_a_certificate_that_is_issued_validates_and_one_with_another_field_does_not(
    evidence_path: Path,
) -> None:
    issued = certify.judged(evidence_path).certificate
    assert not faults("certificate", issued)
    assert faults("certificate", {**issued, "score_too": 1})


@pytest.mark.parametrize("path", CERTIFICATIONS, ids=lambda path: path.parent.name)
def test_a_committed_certification_validates(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        assert not faults("evidence", json.loads(line)), f"{path}:{number}"
    certificate = json.loads((path.parent / "certificate.json").read_text(encoding="utf-8"))
    assert not faults("certificate", certificate)


def test_model_table_and_readme_follow_from_the_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    differences = list(verify.table(Path("certifications"), Path("README.md")))
    assert not differences, "\n".join(map(str, differences))


def test_a_stale_table_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "certifications").mkdir()
    table = (ROOT / "certifications" / "models.csv").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "certifications" / "models.csv").write_text(table, encoding="utf-8")
    (tmp_path / "README.md").write_text(readme.replace(END, "| not a row |\n" + END), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert list(verify.table(Path("certifications"), Path("README.md")))
