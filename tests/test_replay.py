"""What failed once is kept, tried first by the next run, replayed alone and made smaller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr_qa import regressions, replay, shrink
from apr_qa.conversion.convert import convert
from apr_qa.deletion import Trials, smallest
from apr_qa.errors import EvidenceDamaged, UsageError
from apr_qa.formats import FORMATS
from apr_qa.plan import Batch, Stock
from apr_qa.properties import PAIR, PROPERTIES, claim, property_claims
from apr_qa.property_plan import beside_truth
from apr_qa.vocabulary import Artifact, Claim, Evidence, Outcome, Response, Scenario, Severity, Target, Tier

TARGET = Target(
    model="m", format="gguf", quantization="f32", backend="cpu", modality="run", engine="llama_cpp"
)
TRUTH = Artifact(format="safetensors", path="truth", quantization="f32", origin="derived")
FILE = Artifact(format="gguf", path="file", quantization="f32")
DECODE = PROPERTIES.get("decode_encode")


def entry(asked: Claim, outcome: Outcome, **known: Any) -> Evidence:
    scenario = Scenario(target=TARGET, claim=asked)
    return Evidence(
        id=scenario.id,
        gate_id=asked.gate_id,
        severity=asked.severity,
        scenario=scenario,
        outcome=outcome,
        reason="",
        **known,
    )


def broken(case: dict[str, Any], asked: Claim | None = None) -> Evidence:
    facts = {
        "property": "decode_encode",
        "examples": 3,
        "counterexample": case,
        "observed": "",
        "expected": "b",
    }
    return entry(asked or claim(DECODE, 10, 1.0), Outcome.FALSIFIED, response=Response(facts=facts))


# ---- what is kept


def test_a_counterexample_is_kept_once_and_comes_back(tmp_path: Path) -> None:
    for _ in range(2):
        regressions.keep(tmp_path, [broken({"text": "¼"}), broken({"text": "b"})])
    assert regressions.stored(tmp_path) == {"decode_encode": [{"text": "¼"}, {"text": "b"}]}
    lines = (tmp_path / regressions.FILE).read_text().splitlines()
    assert [json.loads(line)["property"] for line in lines] == ["decode_encode"] * 2


def test_a_run_without_counterexamples_writes_nothing(tmp_path: Path) -> None:
    regressions.keep(
        tmp_path, [entry(claim(DECODE, 1, 1.0), Outcome.CORROBORATED, response=Response(facts={}))]
    )
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_of_many_counterexamples_are_forgotten(tmp_path: Path) -> None:
    for number in range(regressions.MOST + 3):
        regressions.keep(tmp_path, [broken({"text": str(number)})])
    kept = regressions.stored(tmp_path)["decode_encode"]
    assert len(kept) == regressions.MOST and kept[-1] == {"text": str(regressions.MOST + 2)}


def test_a_damaged_file_of_counterexamples_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / regressions.FILE).write_text('{"property": "a", "case": {}}\nnonsense\n')
    with pytest.raises(EvidenceDamaged, match=r"regressions.jsonl:2"):
        regressions.stored(tmp_path)


# ---- what is planned


def stock(wave_of_truth: int) -> Stock:
    return Stock(
        artifacts=(FILE, TRUTH),
        ready={"gguf f32": 1, "safetensors f32": wave_of_truth},
        conversions=(),
        refusals={},
        ground_truth="",
        truth=TRUTH,
    )


def batch(*claims: Claim, **known: Any) -> Batch:
    scenarios = tuple(Scenario(target=TARGET, claim=one) for one in claims)
    return Batch(target=TARGET, artifact=FILE, scenarios=scenarios, wave=1, **known)


def names(found: Batch) -> set[str]:
    return {scenario.claim.params["property"] for scenario in found.scenarios}


def test_a_batch_that_runs_beside_the_truth_knows_it() -> None:
    (ready,) = beside_truth([batch(*property_claims(Tier.MVP, "run"))], stock(1), {})
    assert ready.truth == TRUTH


def test_what_needs_a_truth_that_is_made_later_waits_for_it() -> None:
    now, later = beside_truth([batch(*property_claims(Tier.MVP, "run"))], stock(2), {})
    assert (now.truth, now.wave, later.truth, later.wave) == (None, 1, TRUTH, 2)
    pairs = {name for name, member in PROPERTIES.items() if member.needs == PAIR}
    assert names(later) <= pairs and not names(now) & pairs and names(later)


def test_old_counterexamples_are_asked_before_the_search_with_ids_that_stay() -> None:
    asked = property_claims(Tier.MVP, "run", ["decode_encode"])
    cases = {"decode_encode": [{"text": "¼"}], "encode_equality": [{"text": "b", "special": False}]}
    first, second = (beside_truth([batch(*asked)], stock(1), cases)[0] for _ in range(2))
    assert [one.claim.params.get("examples") for one in first.scenarios] == [[{"text": "¼"}], None]
    assert [one.id for one in first.scenarios] == [one.id for one in second.scenarios]


def test_a_batch_that_cannot_run_or_has_no_property_is_left_alone() -> None:
    plain = batch(Claim(gate_id="F-QUAL-001", kind="generate", prompt="x"))
    absent = batch(*property_claims(Tier.MVP, "run"), inapplicable="no GPU")
    assert beside_truth([plain, absent], stock(2), {"decode_encode": [{"text": "b"}]}) == [plain, absent]


# ---- replaying


def test_a_broken_property_is_replayed_with_its_counterexample_alone() -> None:
    again = replay.narrowed(broken({"text": "¼"}))
    assert (again.params["examples"], again.params["max_examples"]) == ([{"text": "¼"}], 0)


def test_everything_else_is_replayed_as_it_was() -> None:
    held = entry(claim(DECODE, 10, 1.0), Outcome.CORROBORATED, response=Response(facts={"examples": 10}))
    asked = entry(Claim(gate_id="F-QUAL-001", kind="generate", prompt="x"), Outcome.FALSIFIED)
    for one in (held, asked):
        assert replay.narrowed(one) == one.scenario.claim


# ---- shrinking


@given(st.lists(st.text(max_size=6), max_size=6), st.sampled_from("abc"))
def test_deletion_leaves_only_what_is_needed(words: list[str], needed: str) -> None:
    value = {"role": "user", "words": [*words, f"x{needed}y"]}
    found = smallest(value, lambda part: any(needed in word for word in part["words"]), Trials(5000))
    assert found == {"role": "user", "words": [needed]}


def test_deletion_stops_when_its_trials_are_used_up() -> None:
    tries: list[str] = []

    def fails(part: str) -> bool:
        tries.append(part)
        return False

    smallest("a" * 100, fails, Trials(5))
    assert len(tries) == 5


def asks_too_much(found: Sequence[Scenario]) -> list[Evidence]:
    raise AssertionError("nothing should be asked")


REFUSED = {
    "it did not fail": (Claim(gate_id="F-QUAL-001", kind="generate", prompt="x"), Outcome.CORROBORATED),
    "it ended as crashed": (Claim(gate_id="F-QUAL-001", kind="generate", prompt="x"), Outcome.CRASHED),
    "has no prompt": (Claim(gate_id="G0-HEADER-001", kind="inspect"), Outcome.FALSIFIED),
    "every turn depends": (
        Claim(gate_id="F-QUAL-003", kind="chat", messages=("a", "b")),
        Outcome.FALSIFIED,
    ),
    "for this very prompt": (
        Claim(
            gate_id="F-QUAL-003", kind="generate", prompt="x", oracle="response", expected={"contains": ["y"]}
        ),
        Outcome.FALSIFIED,
    ),
    "cannot say what is right": (
        Claim(gate_id="F-QUAL-003", kind="generate", prompt="x", oracle="response"),
        Outcome.FALSIFIED,
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_nothing_smaller_can_stand_for_is_refused_with_the_reason(reason: str) -> None:
    asked, outcome = REFUSED[reason]
    with pytest.raises(UsageError, match=reason):
        shrink.prompts(entry(asked, outcome), asks_too_much, 10)


def test_a_prompt_is_shrunk_to_the_words_that_break_the_model() -> None:
    def ask(scenarios: Sequence[Scenario]) -> list[Evidence]:
        return [
            entry(one.claim, Outcome.FALSIFIED if "17 * 3" in one.claim.prompt else Outcome.CORROBORATED)
            for one in scenarios
        ]

    asked = Claim(
        gate_id="F-QUAL-001", kind="generate", prompt="What is 17 * 3? The answer is", oracle="arithmetic"
    )
    found = shrink.prompts(entry(asked, Outcome.FALSIFIED), ask, 100)
    assert found.scenario.claim.prompt == "17 * 3"


def test_a_prompt_that_holds_now_is_given_back_as_it_was() -> None:
    def ask(scenarios: Sequence[Scenario]) -> list[Evidence]:
        return [entry(one.claim, Outcome.CORROBORATED) for one in scenarios]

    stored = entry(Claim(gate_id="F-QUAL-004", kind="generate", prompt="a b"), Outcome.FALSIFIED)
    assert shrink.prompts(stored, ask, 10) is stored


# ---- the whole way, with a planted defect


def apr_qa(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "apr_qa", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


BOOK = """
model: {id: tiny, local_path: tiny, formats: [safetensors, gguf]}
tier: mvp
failure_policy: collect_all
test_matrix: {modalities: [run], backends: [cpu], scenario_count: 1}
property_tests: {names: [encode_equality, decode_encode], cases: 200}
"""


@pytest.fixture(scope="module")
def planted(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a GGUF whose pre-tokenizer is another model's, and a playbook."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "tiny").symlink_to(tiny_llama, target_is_directory=True)
    path = convert(
        FORMATS.get("safetensors").open(tiny_llama), "gguf", folder / "wrong.gguf", quantization="f32"
    )
    path.write_bytes(path.read_bytes().replace(b"\x06\0\0\0\0\0\0\0smollm", b"\x06\0\0\0\0\0\0\0falcon"))
    (folder / "book.yaml").write_text(BOOK)
    return folder


def property_entries(folder: Path) -> list[dict[str, Any]]:
    found = next((folder / "out").rglob("evidence.jsonl"))
    entries = [json.loads(line) for line in found.read_text().splitlines()[1:]]
    return [one for one in entries if one["scenario"]["claim"]["kind"] == "property"]


def test_a_counterexample_travels_from_the_run_to_the_next_run_replay_and_shrink(planted: Path) -> None:
    run = ("run", "book.yaml", "--artifact", "gguf=wrong.gguf", "--output", "out", "-q")
    first = apr_qa(*run, cwd=planted)
    assert first.returncode == 1, first.stdout + first.stderr
    (found,) = [one for one in property_entries(planted) if one["outcome"] == "falsified"]
    case = found["response"]["facts"]["counterexample"]
    assert found["gate_id"] == "F-PROP-ENCODE-001" and len(case["text"]) <= 2

    arguments = ("--root", "out", "--model", "tiny", "--artifact", "gguf=wrong.gguf", "--json", "-q")
    for command in ("replay", "shrink"):
        again = apr_qa(command, found["id"], *arguments, cwd=planted)
        assert again.returncode == 1, again.stdout + again.stderr
        now = json.loads(again.stdout)["now"]
        assert now["outcome"] == "falsified"
        assert len(now["response"]["facts"]["counterexample"]["text"]) <= len(case["text"])

    apr_qa(*run, cwd=planted)
    asked = [one for one in property_entries(planted) if one["scenario"]["claim"]["params"].get("examples")]
    assert {one["scenario"]["target"]["format"]: one["outcome"] for one in asked} == {
        "gguf": "falsified",
        "safetensors": "corroborated",
    }
    assert all(one["scenario"]["claim"]["params"]["examples"] == [case] for one in asked)
    assert Severity.P0 in {one["severity"] for one in asked}


def test_a_replayed_claim_is_json(tmp_path: Path) -> None:
    stored = broken({"text": "¼"})
    assert msgspec.json.decode(msgspec.json.encode(replay.narrowed(stored)), type=Claim) == replay.narrowed(
        stored
    )
