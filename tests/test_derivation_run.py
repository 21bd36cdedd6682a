"""Playbooks that state derivations: every field honoured or refused, 29 criteria executed, every number stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import derivatives as make
import pytest
from click.testing import CliRunner, Result

from apr_qa import playbook
from apr_qa.cli import command_line
from apr_qa.derivation.claims import CRITERIA
from apr_qa.errors import PlaybookError, UsageError
from apr_qa.gates import GATES
from apr_qa.playbooks.derivation import INPUTS, stated_derivations
from apr_qa.vocabulary import Tier

ACCEPTANCE = Path(__file__).parents[1] / "playbooks" / "spec" / "acceptance.yaml"


def run(path: Path, output: Path, variables: Mapping[str, Any]) -> Result:
    arguments = [f"--var={name}={value}" for name, value in variables.items()]
    return CliRunner().invoke(command_line, ["run", str(path), *arguments, "-q", "-o", str(output)])


def rows(result: Result) -> dict[str, tuple[str, str]]:
    """Return criterion -> (outcome, reason) as printed."""
    printed = [line.split("  ", 2) for line in result.stdout.splitlines() if line.startswith("AC-")]
    return {name: (outcome, reason) for name, outcome, reason in printed}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A run that is given a model and a text that it knows, and nothing that was derived from it."""
    folder = tmp_path_factory.mktemp("alone")
    text, task = make.text_file(folder), make.task_file(folder)
    given = {"MODEL": make.BASE, "TEXT": text, "QWEN_TEXT": text, "HUMANEVAL": task, "MBPP": task}
    return run(ACCEPTANCE, folder / "out", given), folder / "out"


MADE = {
    *("AC-002", "AC-003", "AC-004", "AC-006", "AC-007", "AC-008", "AC-009", "AC-014", "AC-016", "AC-018"),
    *("AC-020", "AC-024"),
}
"""Criteria that are measured on what is made on the spot."""


def test_without_anything_given_nothing_is_ticked_by_proxy(alone: tuple[Result, Path]) -> None:
    result, output = alone
    found = rows(result)
    assert sorted(found) == sorted(CRITERIA) and len(found) == 29
    measured = {name for name, (outcome, _) in found.items() if outcome != "inapplicable"}
    assert measured == {"AC-017", "AC-019"} | MADE, (
        "only what the model itself, and what is made of it, can show"
    )
    assert all(reason.strip() for _, reason in found.values())
    assert "only apr can show it" in found["AC-001"][1] and "lacking" in found["AC-001"][1]
    assert "--var INT4_RESULTS=" in found["AC-023"][1]
    page = next(output.rglob("report.html")).read_text()
    assert all(name in page for name in CRITERIA)


def test_what_was_made_on_the_spot_is_measured_and_says_so(alone: tuple[Result, Path]) -> None:
    found = rows(alone[0])
    for name in MADE:
        assert "made on the spot: " in found[name][1], found[name]
    # A model this small may have a student that is better untaught, a draft that is as slow as itself, and specialists
    # in what it has never seen.
    held = MADE - {"AC-003", "AC-018", "AC-024"}
    assert {name: found[name] for name in held if found[name][0] != "corroborated"} == {}
    assert "AC-017" not in MADE and "made" not in found["AC-017"][1]


def test_what_is_given_in_part_is_not_completed_by_something_made(tmp_path: Path) -> None:
    book = playbook.load(ACCEPTANCE, {"SLERP": str(make.BASE), "TEXT": str(make.text_file(tmp_path))})
    stated = {one["criterion"]: one for one in stated_derivations(book.derivation, book.source)}
    assert "makes" not in stated["AC-006"] and stated["AC-006"]["asks"] == ["SLERP_A", "SLERP_B"]
    assert stated["AC-008"]["makes"] == "prune", "a text to measure with is no derivative"


def test_a_text_that_the_parent_cannot_predict_decides_nothing() -> None:
    facts = {"text": "t", "artifact": 9_000.0, "parent": 30_000.0, "vocabulary": 1024}
    check, merged = (GATES.get(gate).check for gate in ("AC-008", "AC-024"))
    assert check is not None and merged is not None
    assert check(facts).outcome == "inconclusive" and "guess among 1024" in check(facts).reason
    assert check({**facts, "vocabulary": 50_000}).outcome == "corroborated"
    row = {"metric": "perplexity", "artifact": 9_000.0, "parents": {"a": 30_000.0}, "vocabulary": 1024}
    assert merged({"benchmarks": [row]}).outcome == "inconclusive"
    solved = {"metric": "passed", "artifact": 1.0, "parents": {"a": 2.0}, "problems": 2}
    assert merged({"benchmarks": [row, solved]}).outcome == "falsified"


def test_a_model_that_is_too_large_to_train_here_is_told_to_bring_derivatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apr_qa.derivation import making
    from apr_qa.derivation.session import derived
    from apr_qa.vocabulary import Artifact

    monkeypatch.setattr(making, "MAX_WEIGHTS", 1000)
    own = Artifact(format="safetensors", path=str(make.BASE))
    stated = {"kind": "slerp", "makes": "slerp", "asks": ["SLERP"], "criterion": "AC-006"}
    facts = derived(own, own).facts("norms", {"derivation": stated})
    assert "weights" in facts["missing"] and "--var SLERP=" in facts["missing"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ("[]", "lists no derivatives"),
        ('{"SLURP": "a"}', "did you mean 'SLERP'"),
        ('{"SLERP": "absent"}', "is not there"),
        ('{"SLERP": 3}', "is no derivative"),
    ],
)
def test_a_folder_of_derivatives_is_read_strictly(content: str | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "derivatives.json").write_text(content)
    result = run(ACCEPTANCE, tmp_path / "out", {"derivatives": tmp_path})
    assert isinstance(result.exception, UsageError) and told in str(result.exception)


def test_what_is_given_by_name_goes_before_what_the_folder_lists(tmp_path: Path) -> None:
    from apr_qa.cli.arguments import given_variables

    (tmp_path / "derivatives.json").write_text('{"SLERP": "merged", "TEXT": "t.txt"}')
    (tmp_path / "merged").mkdir()
    (tmp_path / "t.txt").touch()
    found = given_variables([f"derivatives={tmp_path}", "TEXT=other"], [ACCEPTANCE])
    assert found == {"SLERP": str(tmp_path / "merged"), "TEXT": "other"}
    merge = ACCEPTANCE.with_name("merge-slerp.yaml")
    assert given_variables([f"derivatives={tmp_path}"], [merge]) == {"TEXT": str(tmp_path / "t.txt")}


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    return make.acceptance(tmp_path_factory.mktemp("acceptance"))


def test_each_criterion_is_met_by_good_derivatives_and_broken_by_bad_ones(
    derivatives: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    """AC-018 needs a timing, AC-017 and AC-019 are about the fixture itself, and no fixture has seven billion
    parameters: these have tests of their own."""
    unshown = {"AC-010", "AC-011", "AC-026", "AC-027", "AC-028"}
    others = {"AC-017", "AC-018", "AC-019", "AC-021", "AC-022", *unshown}
    good, bad = (
        rows(run(ACCEPTANCE, tmp_path / name, chosen)) for name, chosen in zip("gb", derivatives, strict=True)
    )
    assert {name: row for name, row in good.items() if row[0] != "corroborated" and name not in others} == {}
    assert {name: row for name, row in bad.items() if row[0] != "falsified" and name not in others} == {}
    assert all(good[name][0] == "inapplicable" and "lacking" in good[name][1] for name in unshown)
    for name in ("AC-021", "AC-022"):
        outcome, reason = good[name]
        assert outcome == "inapplicable" and "hidden_size 3584" in reason, "another model is no proxy"


def test_scores_of_seven_billion_parameters_are_judged_by_all_their_numbers() -> None:
    models = [{"architecture": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28}]
    score = {"problems": 164, "whole": True, "mode": "inference"}

    def outcome(gate: str, **percents: float) -> str:
        scores = {name.replace("_", "-"): {**score, "percent": value} for name, value in percents.items()}
        groups = [{"strategy": "standard", "way": "w", "scores": scores}] if scores else []
        check = GATES.get(gate).check
        assert check is not None
        facts = {"models": models, "least": {}, "strategy": "standard", "groups": groups, "left_out": []}
        return str(check(facts).outcome)

    assert outcome("AC-021", humaneval=85.37) == "corroborated"
    assert outcome("AC-021", humaneval=84.7) == "falsified"
    assert outcome("AC-022", humaneval=85.37, humaneval_plus=82.3, mbpp=80.2) == "corroborated"
    assert outcome("AC-022", humaneval=87.2, humaneval_plus=83.0, mbpp=76.2) == "falsified"
    assert outcome("AC-022", humaneval=87.2, mbpp=80.2) == "inconclusive", "HumanEval+ was not measured"
    assert outcome("AC-022", humaneval=87.2, mbpp=76.2) == "falsified"
    assert outcome("AC-021") == "inconclusive"


def test_what_was_printed_is_what_was_stored_and_can_be_judged_again(alone: tuple[Result, Path]) -> None:
    from apr_qa import evidence
    from apr_qa.judge import rejudge

    result, output = alone
    _, entries = evidence.read(next(output.rglob("evidence.jsonl")))
    stored = {entry.gate_id: entry for entry in entries if entry.gate_id.startswith("AC-")}
    for name, (outcome, _) in rows(result).items():
        assert stored[name].outcome == outcome
        again = rejudge(stored[name])
        assert (again.outcome, again.reason) == (stored[name].outcome, stored[name].reason)


def test_the_playbook_of_criteria_uses_every_input_and_no_other() -> None:
    text = ACCEPTANCE.read_text()
    assert all(f"${{{name}}}" in text for name in INPUTS)


@pytest.mark.parametrize(
    ("derivation", "told"),
    [
        ("{kind: slurp}", "did you mean 'slerp'"),
        ("{kind: ties, recipe: {densty: 0.5}}", "did you mean 'density'"),
        ("{kind: ties, recipe: {density: much}}", "is not what density can be"),
        ("{kind: merge, recipe: {limit: -1}}", "is not what limit can be"),
        ("{kind: compound, recipe: {results: r.json}}", "is not what results can be"),
        ("{kind: compound, recipe: {least: 85}}", "is not what least can be"),
        ("{kind: slerp, recipe: {t: 0.5}}", "has no 't'"),
        ("{kind: ties, parent: [a]}", "did you mean 'parents'"),
        ("[{kind: slerp}]", "names its criterion"),
        ("[{kind: slerp, criterion: AC-006}, {kind: slerp, criterion: AC-006}]", "AC-006 is there twice"),
        ("[{kind: slerp, criterion: AC-030}]", "no criterion 'AC-030'"),
        ("[{kind: prune, criterion: AC-006}]", "measured as norms"),
    ],
)
def test_a_derivation_that_cannot_be_honoured_is_refused(derivation: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"model: {{id: m}}\nderivation: {derivation}\n")
    with pytest.raises(PlaybookError) as refusal:
        playbook.load(path)
    assert told in str(refusal.value) and f"{path}:2" in str(refusal.value)


def test_a_derived_model_is_asked_about_beside_everything_else(tmp_path: Path) -> None:
    from apr_qa.preparation import Settings, prepare

    class Silent:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    path = tmp_path / "p.yaml"
    parents = [str(make.write(tmp_path / name, make.tensors_of())) for name in "ab"]
    path.write_text(
        f"model: {{id: merged, local_path: {make.BASE}}}\n"
        "test_matrix: {modalities: [run], backends: [cpu], formats: [safetensors], scenario_count: 1}\n"
        "derivation: {kind: slerp, parents: [a, b]}\n"
    )
    book = playbook.load(path)
    prepared = prepare(book.subject, Tier.SMOKE, book, Settings(), Silent())
    batch = next(batch for batch in prepared.batches if batch.target.engine == "derivation")
    assert len(prepared.batches) > 2
    claim = next(s.claim for s in batch.scenarios if s.claim.gate_id == "F-DERIV-SLERP-001")
    assert claim.params["derivation"]["parents"] == parents, "paths are found beside the playbook"
