"""What people write who come from another program: honoured where it means something here, told where it does not.

What can be neither is refused with file, line, field and a suggestion.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import make_llama

from apr_qa import playbook, scenarios
from apr_qa.errors import PlaybookError
from apr_qa.outline import outline
from apr_qa.plan import ENGINES
from apr_qa.playbooks import generators, machine
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.remarks import remarks
from apr_qa.preparation import Settings, prepare
from apr_qa.properties import PROPERTIES
from apr_qa.suite_claims import claims_for
from apr_qa.vocabulary import Claim, Model, Target, Tier

HEAD = "name: some-7b\nversion: 1.0.0\nmodel: {hf_repo: org/some-7B}\ntest_matrix: {scenario_count: 3}\n"


def load(tmp_path: Path, text: str) -> Playbook:
    path = tmp_path / "some.playbook.yaml"
    path.write_text(text, encoding="utf-8")
    return playbook.load(path)


def faults(tmp_path: Path, text: str) -> str:
    with pytest.raises(PlaybookError) as refusal:
        load(tmp_path, text)
    return str(refusal.value)


def target(format_name: str) -> Target:
    return Target(
        model="m",
        format=format_name,
        quantization="f16",
        backend="cpu",
        modality="run",
        engine=ENGINES[format_name],
    )


def asked(book: Playbook, format_name: str = "gguf") -> list[Claim]:
    found = claims_for(book, Tier.MVP, target(format_name))
    return [one for one in found if one.kind != "property"]


@pytest.mark.parametrize(
    ("generator", "oracle"),
    [
        ("multi_turn_chat(turns: 3)", "response"),
        ("qa_prompt()", "response"),
        ("instruction_prompt(task: summarize|translate)", "response"),
        ("reasoning_prompt(type: logic|math|coding)", "response"),
        ("adversarial_prompt()", "garbage"),
        ("edge_case_prompt()", "garbage"),
        ("long_prompt(tokens: 1000..4000)", "garbage"),
        ("any_prompt()", "garbage"),
        ("random_arithmetic", "arithmetic"),
        ("random_code", "code_syntax"),
        ("arithmetic(a: 1..=10, b: 1..=10, op: +)", "arithmetic"),
    ],
)
def test_a_generator_is_known_by_the_words_of_its_name(tmp_path: Path, generator: str, oracle: str) -> None:
    test = f"property_tests: [{{name: some, generator: {generator!r}, oracle: x, count: 2}}]\n"
    (one,) = load(tmp_path, HEAD + test).property_tests or ()  # type: ignore[misc]
    assert one.judge == oracle
    drawn = scenarios.tested(one, 42)
    assert len(drawn) == 2 and {claim.oracle for claim in drawn} == {oracle}


def test_what_a_generator_cannot_be_told_is_remarked_on(tmp_path: Path) -> None:
    told = "property_tests: [{name: talk, generator: 'multi_turn_chat(turns: 3)', oracle: x}]\n"
    assert remarks(load(tmp_path, HEAD + told)) == (
        "property_tests talk: the generator cannot be told turns: 3",
    )


@pytest.mark.parametrize("generator", ["arithmatic()", "frobnicate(3)", "3"])
def test_a_generator_of_no_known_word_is_refused(tmp_path: Path, generator: str) -> None:
    said = faults(tmp_path, f"{HEAD}property_tests: [{{name: a, generator: {generator!r}}}]\n")
    assert ":5: property_tests.0.generator: no generator is called" in said
    assert "did you mean 'arithmetic'" in said or generator != "arithmatic()"


def test_the_texts_of_a_strategy_are_asked_and_its_patterns_told(tmp_path: Path) -> None:
    book = load(
        tmp_path,
        HEAD
        + r"""
property_tests:
  - name: arithmetic_correctness
    generator: |
      proptest::strategy::Union::new(vec![
        Just("2+2="),
        Just("say \"hi\""),
        "[0-9]{1,2}=".prop_map(|s| s),
      ])
    oracle: |
      fn verify(prompt: &str, output: &str) -> bool { true }
""",
    )
    (one,) = book.property_tests or ()  # type: ignore[misc]
    assert [(claim.prompt, claim.oracle) for claim in scenarios.tested(one, 1)] == [
        ("2+2=", "arithmetic"),
        ('say "hi"', "garbage"),
    ]
    assert any("patterns" in said for said in remarks(book))
    empty = HEAD + "property_tests: [{name: a, generator: 'prop_oneof![any::<u8>()]'}]\n"
    assert "writes out no text" in faults(tmp_path, empty)


def test_words_of_generators_belong_to_one_oracle() -> None:
    assert {"arithmetic", "code_syntax", "response", "garbage"} == set(generators.ORACLE_OF.values())
    assert generators.oracle_of("") == ""


def test_a_gate_of_a_ticket_may_state_a_condition_alone_and_its_reproduction_is_asked(tmp_path: Path) -> None:
    book = load(
        tmp_path,
        """
name: verify-ticket-190
model: {id: org/some}
test_matrix: {modalities: [run], backends: [cpu]}
reproduction:
  command: "apr run ${MODEL} '2+2=' -n 8"
  expected_exit_code: 0
  expected_output_contains: ["4"]
verification_gates:
  - {id: V-190-001, description: it works again, condition: "exit_code == 0 && !is_garbage(output)"}
""",
    )
    assert {"G0", "G1", "G2", "G3", "G4"} <= set(book.asked_gates)
    judged = {(claim.oracle, str(claim.expected)) for claim in asked(book) if claim.prompt == "2+2="}
    assert ("response", "{'contains': ['4']}") in judged
    assert "give a gate, a tool or a condition" in faults(
        tmp_path, HEAD + "verification_gates: [{id: V-1, description: nothing}]\n"
    )


def test_commands_of_other_tools_ask_for_the_gates_that_ask_the_same(tmp_path: Path) -> None:
    book = load(
        tmp_path,
        HEAD
        + """
tests:
  - {id: T-1, command: "apr validate ${MODEL} --strict"}
  - {id: T-2, command: "apr rosetta convert ${VALID_GGUF_Q4} out.apr"}
  - {id: T-3, command: "apr-qa run some.playbook.yaml --fail-fast"}
""",
    )
    assert {"G0", "F-CONTRACT-I2-001"} <= set(book.asked_gates)
    assert [said for said in remarks(book) if "about a program" in said] == [
        "'apr-qa run some.playbook.yaml --fail-fast' is about a program and not about a model: it is not run"
    ]
    assert "is not understood" in faults(tmp_path, HEAD + "tests: [{id: T-1, command: rm -rf /}]\n")


MACHINE = """
state_machine:
  states:
    init:
      transitions:
        - {event: pull_model, target: cached, action: "apr pull ${MODEL_ID}", guards: ["exit_code == 0"]}
    cached: {transitions: [{event: run_test, target: testing}, {event: unload, target: init, action: unload_model}]}
    testing:
      on_enter: [{action: start_timer}, {action: run_scenario}]
      transitions:
        - {event: test_pass, target: held, guards: [all_gates_passed]}
        - {event: test_fail, target: fallen}
    held: {on_enter: [{action: "record_evidence('CORROBORATED')"}]}
    fallen: {on_enter: [{action: stop_line}]}
"""


def test_actions_may_be_calls_and_commands_and_an_event_that_fails_is_not_walked(tmp_path: Path) -> None:
    path = tmp_path / "some.playbook.yaml"
    path.write_text(HEAD + MACHINE, encoding="utf-8")
    book = playbook.load(path, {"MODEL_ID": "org/some-7B"})
    (walk,) = [claim for claim in asked(book) if claim.gate_id == "F-STATE-MACHINE-001"]
    assert walk.params["start"] == "init"
    assert walk.params["actions"] == {
        "start_timer": "note",
        "run_scenario": "generate",
        "record_evidence('CORROBORATED')": "note",
        "stop_line": "note",
        "apr pull org/some-7B": "load",
        "unload_model": "stop",
    }
    assert "test_fail" in walk.params["failures"] and "test_pass" not in walk.params["failures"]


def test_an_action_that_is_misspelt_is_the_only_fault_of_a_machine(tmp_path: Path) -> None:
    said = faults(
        tmp_path, HEAD + MACHINE.replace("${MODEL_ID}", "x").replace("unload_model", "unlaod_model")
    )
    assert said.count("\n") == 1 and "'unlaod_model' (did you mean 'unload_model'?)" in said
    assert machine.meaning("dance()") == ""


def test_an_oracle_is_told_what_its_documentation_offers(tmp_path: Path) -> None:
    book = load(
        tmp_path,
        HEAD
        + """
oracles:
  - {type: response, config: {min_relevance: 0.3, check_coherence: true}}
  - type: composite
    config:
      mode: any
      oracles: [{type: garbage, config: {max_repetition_ratio: 0.4}}, {type: response}]
""",
    )
    assert book.oracles[0].settings == {"min_relevance": 0.3}
    assert book.oracles[1].settings == {
        "mode": "any",
        "oracles": [
            {"oracle": "garbage", "params": {"max_repetition_ratio": 0.4}},
            {"oracle": "response", "params": {}},
        ],
    }
    assert (
        any(claim.oracle == "composite" for claim in scenarios.claims(book, Tier.MVP))
        or book.scenario_count == 3
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{type: response, config: {check_coherence: false}}", "cannot be switched off"),
        ("{type: composite, config: {mode: some}}", "'some' is not one of all, any"),
        ("{type: composite, config: {oracles: [{type: garbadge}]}}", "did you mean 'garbage'"),
        (
            "{type: composite, config: {oracles: [{type: garbage, config: {ratio: 1}}]}}",
            "no parameter 'ratio'",
        ),
    ],
)
def test_what_an_oracle_cannot_be_told_is_refused(tmp_path: Path, config: str, said: str) -> None:
    assert said in faults(tmp_path, f"{HEAD}oracles: [{config}]\n")


def test_blank_prompts_are_asked_that_nothing_breaks(tmp_path: Path) -> None:
    book = load(tmp_path, 'model: {id: a/b}\ntest_matrix: {prompts: ["", " ", "2+2="]}\n')
    (edge,) = [claim for claim in asked(book) if claim.gate_id == "F-EDGE-001"]
    assert edge.params["prompts"] == ["", " "]
    assert [claim.prompt for claim in scenarios.claims(book, Tier.MVP)] == ["2+2="]


def test_a_reference_that_is_not_the_ground_truth_is_told(tmp_path: Path) -> None:
    block = "differential_tests: {validate_stats: {reference: 'playbooks/references/x.json'}}\n"
    assert any(
        "not with 'playbooks/references/x.json'" in said for said in remarks(load(tmp_path, HEAD + block))
    )


def test_fields_can_be_merged_and_those_beside_win(tmp_path: Path) -> None:
    book = load(
        tmp_path,
        HEAD
        + """
profile_ci: {assertions: &floor {min_throughput_cpu: 1, max_p99_ms: 500}}
differential_tests:
  tensor_diff: &all {enabled: true, gates: [F-ROSETTA-DIFF-001]}
  fingerprint:
    <<: *all
    gates: [F-ROSETTA-FP-001]
""",
    )
    found = book.differential_tests.fingerprint if book.differential_tests else None
    assert found is not None and found.enabled and found.gates == ("F-ROSETTA-FP-001",)
    wrong = HEAD + "profile_ci: {<<: [1, 2]}\n"
    assert "profile_ci.<<: a mapping or a list of mappings goes here" in faults(tmp_path, wrong)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("profile_ci: false", "profile_ci: should be fields with values, not False; write {enabled: false}"),
        ("oracles: [garbage]", "oracles.0: should be fields with values, not 'garbage'"),
        ("version: v1", "version: 'v1' is not a version such as 1.0 or 1.0.0"),
        ("model: {id: a b}", "model.id: 'a b' is not the id of a model: org/name"),
        ("failure_policy: fail-fast", "(did you mean 'fail_fast'?)"),
        ("falsification_gates: [{id: f-qual-001}]", "(did you mean 'F-QUAL-001'?)"),
        ("metadata: {name: ${X}}", "between braces or brackets, ${…} stands in quotes"),
        ("oracles: [{type: code_syntax, config: {languages: 3}}]", "languages: should be a list of names"),
        ("test_matrix: {scenario_count: 2.5}", "test_matrix.scenario_count: should be"),
        ("test_matrix: {seed: 18446744073709551616}", "test_matrix.seed: should be less than"),
    ],
)
def test_a_fault_says_what_would_be_right(tmp_path: Path, block: str, said: str) -> None:
    head = "" if block.startswith("model") else "model: {id: a/b}\n"
    assert said in faults(tmp_path, f"{head}{block}\n")


def test_numbers_and_single_words_are_read_as_they_were_meant(tmp_path: Path) -> None:
    book = load(
        tmp_path,
        """
version: 1.0.0-rc1
model: {id: a/b, size_variant: 7}
test_matrix: {scenario_count: 1e2, seed: 18446744073709551615}
oracles: [{type: code_syntax, config: {languages: python}}]
property_tests: [{name: c, generator: 'code_prompt(lang: cpp)', count: 1e1}]
""",
    )
    assert (book.version, book.scenario_count, book.model.size_variant) == ("1.0.0-rc1", 100, "7")
    assert book.oracles[0].config == {"languages": ["python"]}
    assert remarks(book) == ("property_tests c: no parser for cpp: nothing is asked",)


def test_a_question_may_be_piped_into_a_chat(tmp_path: Path) -> None:
    line = "scenarios: [{name: a, command: \"echo '2+2=' | apr chat ${MODEL} --json\"}]"
    book = load(tmp_path, f"model: {{id: a/b}}\n{line}\n")
    assert "2+2=" in [claim.prompt for claim in asked(book)]


@pytest.mark.parametrize("gate", ["G1-LOADS", "G0-INTEGRITY", "G2-SOME-WORDS"])
def test_a_gateway_with_words_behind_it_is_that_gateway(tmp_path: Path, gate: str) -> None:
    book = load(tmp_path, f"{HEAD}falsification_gates: [{{id: {gate}, description: d, condition: c}}]\n")
    assert gate[:2] in outline(book, Tier.MVP)["gates"]


def test_a_look_inside_that_is_named_is_asked_in_every_tier(tmp_path: Path) -> None:
    named = "verification_gates: [{id: V-1, tool: canary}]\nfalsification_gates: [{id: F-CHECK-006}]\n"
    found = {claim.gate_id for claim in asked(load(tmp_path, HEAD + named))}
    assert {"F-CANARY-001", "F-CANARY-002", "F-CANARY-003", "F-CHECK-006"} <= found
    assert "F-CHECK-006" not in {claim.gate_id for claim in asked(load(tmp_path, HEAD))}


def test_a_property_is_tried_where_its_gate_is_named(tmp_path: Path) -> None:
    one = PROPERTIES.get("batch_invariance")
    named = f"property_tests: {{enabled: false}}\nfalsification_gates: [{{id: {one.gate_id}}}]\n"
    found = claims_for(load(tmp_path, HEAD + named), Tier.SMOKE, target("gguf"))
    assert [claim.params["property"] for claim in found if claim.kind == "property"] == [one.name]


def test_a_gate_about_no_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    said = faults(tmp_path, HEAD + "falsification_gates: [{id: F-DRIFT-001}, {id: F-QUAL-901}]\n")
    assert "F-DRIFT-001 asks nothing of a model: it is about an algorithm" in said
    assert "'F-QUAL-901' (did you mean 'F-QUAL-001'?)" in said


def test_a_single_word_where_a_list_goes_is_refused_with_the_list(tmp_path: Path) -> None:
    said = faults(tmp_path, "model: {id: a/b}\ntest_matrix: {modalities: run}\n")
    assert ":2: test_matrix.modalities: should be a list, not 'run'; write [run]" in said


def test_the_limit_of_shrinking_is_honoured_and_the_usual_one_leaves_ids_alone(tmp_path: Path) -> None:
    def limits(iterations: str) -> set[object]:
        book = load(tmp_path, f"{HEAD}property_tests: {{cases: 5, max_shrink_iters: {iterations}}}\n")
        return {
            one.params.get("max_shrinks")
            for one in claims_for(book, Tier.MVP, target("gguf"))
            if one.kind == "property"
        }

    assert limits("7") == {7} and limits("1000") == {None}


def test_what_the_output_of_a_command_must_hold_is_asked(tmp_path: Path) -> None:
    spec = (
        "spec: {id: G2-INFER}\nscenarios: [{name: a, command: \"apr run ${MODEL} '2+2='\", expected: %s}]\n"
    )
    book = load(tmp_path, "name: s\n" + spec % "{exit_code: 0, stdout_contains: '4'}")
    assert {"contains": ["4"]} in [claim.expected for claim in asked(book) if claim.oracle == "response"]


def test_the_model_that_has_to_prove_a_kernel_class_can_be_named(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "tiny")
    settings = Settings(output=str(tmp_path / "runs"), download=False)
    found = []
    for line in ("", "kernel_proof_ref: org/some\n"):
        book = load(tmp_path, f"model: {{id: tiny, formats: [safetensors]}}\n{line}")
        model = Model(id="tiny", path=str(folder))
        planned = prepare(model, Tier.DIM_SMOKE, book, settings, Silent())
        asked_of = [
            s.claim for batch in planned.batches for s in batch.scenarios if s.claim.kind == "measure"
        ]
        found.append({claim.params.get("proof") for claim in asked_of})
    assert found == [{None}, {"org/some"}]


class Silent:
    """Somebody who watches and says nothing."""

    def say(self, line: str) -> None: ...


@pytest.mark.parametrize("name", ["Qwen2.5-Coder-0.5B-Instruct", "Qwen2.5-Coder-0.5B.gguf", "a b"])
@pytest.mark.parametrize("text", ["model: {id: '${MODEL_ID}'}\n", "spec: {id: G1-LOAD}\n"])
def test_a_model_may_be_a_path_and_keeps_the_dots_of_its_name(tmp_path: Path, name: str, text: str) -> None:
    model = tmp_path / name
    model.mkdir()
    path = tmp_path / "some.yaml"
    path.write_text(text, encoding="utf-8")
    book = playbook.load(path, {"MODEL_ID": str(model)})
    said = {"Qwen2.5-Coder-0.5B.gguf": "Qwen2.5-Coder-0.5B", "a b": "a-b"}.get(name, name)
    assert (book.subject.id, book.subject.path) == (said, str(model))
