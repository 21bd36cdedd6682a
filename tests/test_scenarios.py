"""The same claims for every cell, on every machine and in every tier; scenarios are made when asked for."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr_qa import playbook
from apr_qa.errors import PlaybookError
from apr_qa.gates import GATES
from apr_qa.oracles import ORACLES
from apr_qa.scenarios import GATE_OF, basic_claims, claims, for_modality, scenarios
from apr_qa.vocabulary import MODALITIES, Claim, Model, Scenario, Target, Tier, digest

MODEL = Model(id="org/any")
ROOT = Path(__file__).parent.parent


def target(modality: str = "run", model: str = "org/any") -> Target:
    return Target(
        model=model, format="gguf", quantization="f16", backend="cpu", modality=modality, engine="llama_cpp"
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def book(tmp_path: Path, text: str) -> playbook.Playbook:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {id: org/any}\n" + text)
    return playbook.load(path)


def drawn(
    tmp_path: Path, count: int, *, seed: int = 42, oracles: str = "[{type: arithmetic}]"
) -> tuple[Claim, ...]:
    text = f"oracles: {oracles}\ntest_matrix: {{scenario_count: {count}, seed: {seed}}}\n"
    return claims(book(tmp_path, text), Tier.QUICK)


# ---- tiers


def test_the_claims_of_a_smaller_tier_begin_those_of_a_larger_one() -> None:
    tiers = [Tier.DIM_SMOKE, Tier.SMOKE, Tier.MVP, Tier.QUICK, Tier.CI, Tier.STANDARD, Tier.DEEP]
    sets = [claims(playbook.template(tier, MODEL), tier) for tier in tiers]
    assert [len(found) for found in sets] == [0, 3, 4, 10, 25, 25, 100]
    for smaller, larger in itertools.pairwise(sets):
        assert larger[: len(smaller)] == smaller


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.nested_given],
)
@given(seed=st.integers(0, 2**32), few=st.integers(0, 60), more=st.integers(0, 200))
def test_for_any_seed_fewer_claims_are_a_prefix_of_more(
    tmp_path: Path, seed: int, few: int, more: int
) -> None:
    small = drawn(tmp_path, few, seed=seed)
    assert drawn(tmp_path, few + more, seed=seed)[:few] == small


def test_dim_smoke_infers_nothing_whatever_the_playbook_says(tmp_path: Path) -> None:
    text = "test_matrix: {scenario_count: 5}\n"
    assert claims(book(tmp_path, text), Tier.DIM_SMOKE) == ()
    assert len(claims(book(tmp_path, text), Tier.MVP)) == 5


# ---- determinism


def test_another_seed_gives_other_claims_and_the_same_seed_the_same(tmp_path: Path) -> None:
    assert drawn(tmp_path, 40) == drawn(tmp_path, 40)
    first, second = drawn(tmp_path, 40), drawn(tmp_path, 40, seed=43)
    fixed = len(basic_claims())
    assert first[:fixed] == second[:fixed]
    assert first[fixed:] != second[fixed:]


_OTHER_PROCESS = """
import sys, pathlib
import apr_qa.registry, apr_qa.resolve, apr_qa.hub  # more modules, which must not matter
from apr_qa import playbook
from apr_qa.scenarios import claims
from apr_qa.vocabulary import Tier, digest
print(digest(claims(playbook.load(pathlib.Path(sys.argv[1])), Tier.QUICK)))
"""


def test_another_process_draws_the_same_and_leaves_its_working_directory_clean(tmp_path: Path) -> None:
    here = digest(drawn(tmp_path, 60))
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, str(tmp_path / "mine.yaml")],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here
    assert list(empty.iterdir()) == []


def test_the_id_of_a_scenario_never_changes() -> None:
    first, *_ = scenarios(basic_claims(), [target()])
    assert first.id == Scenario(target=target(), claim=basic_claims()[0]).id
    assert first.id == "329c0009132b1d1b"
    assert next(scenarios(basic_claims(), [target("chat")])).id == "9056cfc492888215"


# ---- what is claimed


def test_the_basic_claims_are_of_different_kinds_and_their_oracles_can_judge_them() -> None:
    fixed = basic_claims()
    assert {claim.oracle for claim in fixed} == {"arithmetic", "response", "code_syntax"}
    assert [claim.basic for claim in fixed] == [True, True, True, True, False]
    assert sum(bool(claim.messages) for claim in fixed) == 1
    for claim in fixed:
        assert claim.oracle in ORACLES.names()
        assert not claim.prompt.endswith("?"), (
            "a text that ends in a question may rightly be left to end there"
        )


def test_every_claim_is_filed_under_a_registered_gate() -> None:
    for gate in GATE_OF.values():
        assert GATES.get(gate).kind == "text"
    for claim in claims(playbook.template(Tier.STANDARD, MODEL), Tier.STANDARD):
        assert claim.gate_id == GATE_OF[claim.oracle]


def test_the_oracles_take_turns_and_no_question_is_asked_twice() -> None:
    found = claims(playbook.template(Tier.DEEP, MODEL), Tier.DEEP)
    questions = [(claim.prompt, claim.messages) for claim in found]
    assert len(set(questions)) == len(questions)
    kinds = [claim.oracle for claim in found[len(basic_claims()) :]]
    assert all(kinds.count(name) >= 10 for name in GATE_OF)


def test_draws_do_not_begin_with_the_minimal_example_that_hypothesis_tries_first(tmp_path: Path) -> None:
    fixed = len(basic_claims())
    assert len({drawn(tmp_path, fixed + 1, seed=seed)[fixed].prompt for seed in range(5)}) > 1


def test_what_the_playbook_lists_comes_first_and_as_it_was_written(tmp_path: Path) -> None:
    text = """
oracles: [{type: garbage, config: {}}, {type: arithmetic, config: {tolerance: 0.5}}]
scenarios:
- {name: sum, prompt: "What is 3 + 4?", oracle: arithmetic, expected: 7, max_tokens: 8, severity: P0}
- {name: talk, messages: [Hello., "What is 1 + 2?"], oracle: arithmetic, basic: true}
test_matrix: {prompts: [Say something.], scenario_count: 5}
"""
    found = claims(book(tmp_path, text), Tier.MVP)
    assert [claim.question for claim in found[:3]] == ["What is 3 + 4?", "What is 1 + 2?", "Say something."]
    assert (found[0].expected, found[0].max_tokens, found[0].severity) == (7, 8, "P0")
    assert found[0].params["tolerance"] == 0.5
    assert found[2].oracle == "garbage"
    assert found[3:] != basic_claims()[:2]
    assert [claim.prompt for claim in found[3:]] == [claim.prompt for claim in basic_claims()[:2]]


def test_listed_claims_alone_still_give_the_second_gateway_a_basic_prompt(tmp_path: Path) -> None:
    text = "scenarios: [{name: a, prompt: x}, {name: b, prompt: y}]\n"
    assert [claim.basic for claim in claims(book(tmp_path, text), Tier.MVP)] == [True, False]


def test_a_playbook_that_asks_for_more_than_its_oracles_know_is_refused(tmp_path: Path) -> None:
    from apr_qa import scenarios as module

    class Single:
        name = "single"
        params: dict[str, object] = {}  # noqa: RUF012

        def claims(self, params: dict[str, object]) -> st.SearchStrategy[Claim]:
            return st.sampled_from(["a", "b"]).map(
                lambda text: Claim(gate_id="", kind="generate", prompt=text)
            )

    ORACLES.register("single_question")(Single())  # type: ignore[arg-type]
    assert len(list(module._drawn("single_question", 1, {}))) == 2
    with pytest.raises(PlaybookError, match="only 7 different claims"):
        drawn(tmp_path, 8, oracles="[{type: single_question}]")


# ---- targets


def test_a_question_takes_the_form_of_the_modality_and_stays_the_question() -> None:
    claim = basic_claims()[0]
    (run,), (chat,) = for_modality(claim, "run"), for_modality(claim, "chat")
    assert (run.kind, run.prompt, run.messages) == ("generate", claim.prompt, ())
    assert (chat.kind, chat.prompt, chat.messages) == ("chat", "", (claim.prompt,))
    assert for_modality(claim, "serve") == (run, chat)
    assert {form.question for modality in MODALITIES for form in for_modality(claim, modality)} == {
        claim.prompt
    }


def test_a_conversation_has_no_raw_form() -> None:
    talk = basic_claims()[-1]
    assert for_modality(talk, "run") == ()
    assert for_modality(talk, "chat") == for_modality(talk, "serve") == (talk,)
    assert talk.question == talk.messages[-1]


def test_every_target_is_asked_everything_once_and_ids_differ() -> None:
    found = list(scenarios(basic_claims(), [target(modality) for modality in MODALITIES]))
    assert [sum(s.target.modality == modality for s in found) for modality in MODALITIES] == [4, 5, 9]
    assert len({scenario.id for scenario in found}) == len(found)


def test_millions_of_scenarios_are_begun_without_being_made() -> None:
    claim = basic_claims()[0]
    models = (target(model=f"org/m{number}") for number in itertools.count())
    endless = scenarios([claim] * 100, models)
    assert next(itertools.islice(endless, 250, None)).target.model == "org/m2"
    assert next(models).model == "org/m3"
