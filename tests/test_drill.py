"""The drill: what is caught, what is missed, and how it is said."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner, Result

from apr_qa import clock, playbook, registry
from apr_qa.cli import command_line
from apr_qa.defects import DEFECTS, Defect, Inexpressible, Specimen
from apr_qa.defects._editing import editing
from apr_qa.drill import Drill, chosen
from apr_qa.drill_models import Healthy, Switch, Watched, unstated
from apr_qa.drill_report import Matrix, counts, junit, markdown
from apr_qa.drill_verdict import (
    ALARM,
    CAUGHT,
    ERROR,
    MISSED,
    NOT,
    ORDER,
    PASSED,
    Catch,
    Trial,
    catches,
    exit_code,
    judged,
)
from apr_qa.errors import EngineMissing, UsageError
from apr_qa.settings import Settings, Silent
from apr_qa.vocabulary import Artifact, Claim, Evidence, Outcome, Scenario, Severity, Target, Tier

MODEL = Path(__file__).parent / "fixtures" / "models" / "qwen2-tied-bias"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let everything derived lie in one folder of its own, so that it is made once."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("APR_QA_CACHE")
    os.environ["APR_QA_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["APR_QA_CACHE"]
    else:
        os.environ["APR_QA_CACHE"] = before


@pytest.fixture(scope="module")
def healthy(cache: Path) -> Healthy:
    return model_at(MODEL)


def model_at(path: Path) -> Healthy:
    (model,) = registry.select([str(path)])
    book = playbook.template(Tier.MVP, model)
    watched = Watched(Switch(), timeout_s=120.0, jobs=2, threads=1)
    return Healthy(model, Tier.MVP, book, Settings(gpu=False, download=False), watched, Silent())


def defect(plant: object, expected: str = "reject") -> Defect:
    return Defect("planted", "config", ("safetensors",), expected, "something", plant)  # type: ignore[arg-type]


def other_epsilon(specimen: Specimen) -> None:
    with editing(specimen) as image:
        image.set_config("rms_norm_eps", 2e-5)


def nothing(specimen: Specimen) -> None:
    """Leave the copy healthy."""


def beyond(specimen: Specimen) -> None:
    raise Inexpressible("needs a third eye")


def without_engine(specimen: Specimen) -> None:
    raise EngineMissing("no quantiser is installed", fix="install it")


def trial(healthy: Healthy, planted: Defect) -> Trial:
    return Drill([healthy], Switch(), static=True).trial(planted, "safetensors")


def test_a_defect_is_caught_by_a_gate_that_the_healthy_copy_passes(healthy: Healthy) -> None:
    found = trial(healthy, defect(other_epsilon))
    assert found.verdict == CAUGHT
    assert {catch.gate for catch in found.gates} == {"G0-CONFIG-EQUAL"}
    assert found.gates[0].severity is Severity.P0 and "rms_norm_eps" in found.gates[0].reason


def test_a_defect_that_no_gate_notices_is_missed(healthy: Healthy) -> None:
    assert trial(healthy, defect(nothing)).verdict == MISSED


def test_a_control_that_a_gate_objects_to_is_a_false_alarm(healthy: Healthy) -> None:
    assert trial(healthy, defect(other_epsilon, "pass")).verdict == ALARM


def test_a_healthy_control_passes(healthy: Healthy) -> None:
    assert trial(healthy, defect(nothing, "pass")).verdict == PASSED


def test_what_no_model_can_express_says_why(healthy: Healthy) -> None:
    found = trial(healthy, defect(beyond))
    assert found.verdict == NOT and found.reason == "needs a third eye"


def test_a_missing_engine_is_an_error_and_no_catch(healthy: Healthy) -> None:
    found = trial(healthy, defect(without_engine))
    assert found.verdict == ERROR and exit_code([found]) == 3


def test_the_sources_stay_untouched_and_no_copy_is_left(healthy: Healthy, cache: Path) -> None:
    before = {file.name: file.read_bytes() for file in MODEL.iterdir()}
    trial(healthy, defect(other_epsilon))
    assert {file.name: file.read_bytes() for file in MODEL.iterdir()} == before
    assert not list((cache / "drill").glob("*"))


def test_what_the_healthy_copy_fails_is_counted_for_nothing() -> None:
    target = Target(
        model="m", format="gguf", quantization="", backend="cpu", modality="inspect", engine="inspect"
    )
    claim = Claim(gate_id="G0-X", kind="inspect", severity=Severity.P1)
    entry = Evidence(
        id="1", gate_id="G0-X", severity=Severity.P1, scenario=Scenario(target=target, claim=claim),
        outcome=Outcome.CRASHED, reason="gone",
    )  # fmt: skip
    assert catches(defect(nothing), entry, frozenset())
    assert not catches(defect(nothing), entry, frozenset({"G0-X"}))
    light = msgspec.structs.replace(entry, severity=Severity.P2)
    assert not catches(defect(nothing), light, frozenset()) and catches(
        defect(nothing, "warn"), light, frozenset()
    )


def answers(failed: int, of: int) -> list[Evidence]:
    """Return that many answers to prompts, some of them falsified."""
    target = Target(
        model="m", format="gguf", quantization="q4_0", backend="cpu", modality="chat", engine="llama_cpp"
    )
    found = []
    for number in range(of):
        claim = Claim(gate_id="F-QUAL-001", kind="chat", messages=(str(number),), oracle="arithmetic")
        scenario = Scenario(target=target, claim=claim)
        outcome = Outcome.FALSIFIED if number < failed else Outcome.CORROBORATED
        found.append(
            Evidence(
                id=scenario.id,
                gate_id="F-QUAL-001",
                severity=Severity.P1,
                scenario=scenario,
                outcome=outcome,
                reason="expected 4",
            )
        )
    return found


@pytest.mark.parametrize(("failed", "verdict"), [(0, PASSED), (2, PASSED), (3, ALARM)])
def test_a_control_may_lose_as_many_answers_as_the_tiers_forgive(failed: int, verdict: str) -> None:
    artifact = Artifact(format="gguf", path="", quantization="q4_0")
    control = defect(nothing, "pass")
    assert judged(control, "gguf", "m", artifact, answers(failed, 20), frozenset()).verdict == verdict


def test_a_crash_speaks_against_a_control_whatever_was_asked() -> None:
    (crashed,) = answers(1, 1)
    crashed = msgspec.structs.replace(crashed, outcome=Outcome.CRASHED)
    assert catches(defect(nothing, "pass"), crashed, frozenset())


def test_what_a_playbook_states_about_the_healthy_model_is_not_held_against_a_model_of_its_own(
    healthy: Healthy,
) -> None:
    block = healthy.book.model.model_copy(update={"expected_vocab_size": 512})
    book = healthy.book.model_copy(update={"model": block})
    assert book.expected_dimensions == {"vocab_size": 512}
    assert unstated(book).expected_dimensions == {}
    assert unstated(book).name == book.name


def test_a_defect_is_planted_into_the_first_model_that_expresses_it(healthy: Healthy) -> None:
    other = model_at(MODEL.parent / "llama-untied-gqa8x2")
    found = Drill([healthy, other], Switch(), static=True).trial(
        DEFECTS.get("tie-flag-true-beside-own-head"), "safetensors"
    )
    assert (found.verdict, found.model) == (CAUGHT, other.model.id)


def test_an_interrupted_drill_leaves_nothing_behind(cache: Path) -> None:
    switch = Switch()
    (model,) = registry.select([str(MODEL)])
    book = playbook.template(Tier.MVP, model)
    watched = Watched(switch, timeout_s=120.0, jobs=1, threads=1)
    drill = Drill(
        [Healthy(model, Tier.MVP, book, Settings(gpu=False), watched, Silent())], switch, static=True
    )
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        drill.run([(defect(nothing), "safetensors")] * 40, lambda _: None, jobs=1)
    timer.join()
    assert not list((cache / "drill").glob("*"))


def test_defects_are_chosen_by_id_layer_and_container() -> None:
    wanted = chosen("rope-*", "config", "gguf")
    assert wanted and all(d.id.startswith("rope-") and c == "gguf" and d.layer == "config" for d, c in wanted)


def test_a_choice_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no defect fits"):
        chosen("no-such-*")


# ---- the command


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command_line, ["drill", *arguments])


def test_the_command_prints_the_matrix_and_writes_it(cache: Path, tmp_path: Path) -> None:
    asked = (
        "--only",
        "architecture-tag-f*",
        "--format",
        "safetensors",
        "--static",
        "--offline",
        "--json",
        "-q",
    )
    result = invoke(str(MODEL), *asked, "--fixtures", str(MODEL.parent), "-o", str(tmp_path))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["counts"][CAUGHT] == 1 and [t["defect"] for t in told["trials"]] == [
        "architecture-tag-foreign"
    ]
    assert set(told["trials"][0]) >= {"container", "model", "gates", "seconds", "expected", "verdict"}
    folder = tmp_path / told["model"]
    assert json.loads((folder / "drill.json").read_text()) == told
    assert "architecture-tag-foreign" in (folder / "drill.md").read_text()
    assert ElementTree.parse(folder / "drill.xml").getroot().find(".//testcase") is not None  # noqa: S314


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--only", "no-such-defect"), 2),
        (("--layer", "confg"), 2),
        (("--fixtures", "/no/such/folder", "--only", "rms-*"), 2),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(arguments: tuple[str, ...], code: int) -> None:
    result = invoke(str(MODEL), *arguments)
    assert isinstance(result.exception, UsageError) or result.exit_code == code


# ---- the report


def one(verdict: str, name: str = "a", **more: object) -> Trial:
    expected = "pass" if verdict in (ALARM, PASSED) else "reject"
    catch = Catch(
        gate="G0-X", severity=Severity.P0, outcome=Outcome.FALSIFIED, stage="inspect", reason="<b>|`x`\n\0"
    )
    gates = (catch,) if verdict in (CAUGHT, ALARM) else ()
    known = {"defect": name, "layer": "config", "container": "gguf", "expected": expected, "gates": gates}
    return Trial(verdict=verdict, seconds=0.5, **{**known, **more})  # type: ignore[arg-type]


def matrix(*trials: Trial) -> Matrix:
    return Matrix(
        apr_qa="1", model="m", tier="mvp", playbook="p", started=clock.now(), seconds=1.0,
        counts=counts(trials), healthy=("m: a | note",), trials=trials,
    )  # fmt: skip


def test_missed_defects_come_first_and_false_alarms_second() -> None:
    assert ORDER[:2] == (MISSED, ALARM)
    drill = Drill([], Switch())
    drill.trial = lambda d, c: one({"x": CAUGHT, "y": MISSED, "z": ALARM}[d.id], d.id)  # type: ignore[method-assign]
    wanted = [(Defect(name, "config", ("gguf",), "reject", "", nothing), "gguf") for name in "xzy"]
    assert [t.verdict for t in drill.run(wanted, lambda _: None, jobs=2)] == [MISSED, ALARM, CAUGHT]


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [((CAUGHT, PASSED, NOT), 0), ((CAUGHT, MISSED), 1), ((ALARM, ERROR), 1), ((CAUGHT, ERROR), 3)],
)
def test_the_exit_code_says_whether_anything_was_missed(verdicts: tuple[str, ...], code: int) -> None:
    assert exit_code([one(verdict) for verdict in verdicts]) == code


def test_hostile_text_breaks_neither_page_nor_xml() -> None:
    found = matrix(*(one(verdict) for verdict in ORDER))
    page = markdown(found)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == len(ORDER) + 1 and "<b>" not in page and "\0" not in page
    suite = ElementTree.fromstring(junit(found).split("\n", 1)[1])  # noqa: S314
    cases = suite.findall(".//testcase")
    assert [case.find("failure") is not None for case in cases[:2]] == [True, True]
    assert len(suite.findall(".//skipped")) == 1 and len(suite.findall(".//error")) == 1
