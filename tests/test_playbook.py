"""Every field of a playbook is honoured or refused, and a refusal says where and how to mend it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr_qa import playbook
from apr_qa.errors import PlaybookError, UsageError
from apr_qa.playbooks.described import descriptions
from apr_qa.playbooks.fields import Block
from apr_qa.playbooks.model import BUDGET_S
from apr_qa.playbooks.remarks import remarks
from apr_qa.vocabulary import Model, Tier

ROOT = Path(__file__).parent.parent
MODEL = Model(id="Qwen/Qwen3-0.6B")

README_EXAMPLE = """
version: "1.0"
model:
  id: "Qwen/Qwen2.5-Coder-1.5B"
  revision: "main"
test_matrix:
  modalities: [run, chat]
  backends: [cpu, gpu]
  formats: [safetensors, apr, gguf]
scenarios:
  - name: "arithmetic_basic"
    prompt: "What is 2 + 2?"
    oracle: arithmetic
    expected: 4
"""

FULL = """
name: qwen2.5-0.5b
version: 1.2.3
description: all that may be said
tier: full
model:
  hf_repo: Qwen/Qwen2.5-0.5B-Instruct
  revision: v1.0
  local_path: models/qwen
  formats: [gguf, safetensors]
  quantizations: [q4_k_m, q8_0]
  size_category: tiny
  expected_hidden_dim: 896
  expected_num_layers: "24"
  family: qwen
  size_variant: 0.5b
test_matrix:
  modalities: [run]
  backends: [cpu]
  scenario_count: 7
  prompts: [Hello]
  seed: 7
  timeout_ms: "3e4"
gates:
  g1_model_loads: "true"
  g2_basic_inference: yes
oracles:
  - type: arithmetic
    config: {tolerance: 1e-5}
failure_policy: collect_all
budget_s: 12.5
scenarios:
  - {name: one.a, prompt: "2 + 2 =", oracle: arithmetic, expected: 4, max_tokens: 8, basic: on, severity: P0}
  - {name: two, messages: [Hello., Goodbye.]}
metadata: {author: somebody, anything: [1, {deep: true}]}
differential_tests:
  tensor_diff: {enabled: false, filter: "embed", gates: [F-ROSETTA-DIFF-001]}
  inference_compare: {enabled: "false", prompt: x, max_tokens: 10, tolerance: 1e-5}
  format_validation: {enabled: false, checks: [dtype_mapping]}
  fingerprint: {enabled: false, stats: [mean]}
  validate_stats: {enabled: false, tolerance: {layernorm: 1e-3}}
profile_ci: {enabled: off, warmup: 3, assertions: {min_throughput: "10", max_p99_ms: 500}}
trace_payload: {enabled: false, prompt: x}
contract_tests: {enabled: false, invariants: [I-2, I-3]}
ollama_parity: {enabled: false, model_tag: "x:7b", quantizations: [q4_k_m]}
state_machine: {enabled: false, initial: idle, states: {idle: {}}}
kernel_profile: {enabled: false, kernel_ops: [RmsNorm]}
property_tests: {enabled: false, cases: 10}
falsification_gates: [{id: F-QUAL-001, condition: x, enabled: false}]
"""


def load(tmp_path: Path, text: str, **variables: str) -> playbook.Playbook:
    path = tmp_path / "some-model.playbook.yaml"
    path.write_text(text, encoding="utf-8")
    return playbook.load(path, variables)


def faults(tmp_path: Path, text: str, **variables: str) -> list[str]:
    with pytest.raises(PlaybookError) as refusal:
        load(tmp_path, text, **variables)
    prefix = f"{tmp_path / 'some-model.playbook.yaml'}:"
    assert all(fault.startswith(prefix) for fault in refusal.value.faults)
    return [fault.removeprefix(prefix) for fault in refusal.value.faults]


# ---- honoured


def test_the_short_form_takes_its_name_from_the_file_and_the_rest_from_defaults(tmp_path: Path) -> None:
    book = load(tmp_path, README_EXAMPLE)
    assert book.name == "some-model"
    assert book.formats == ("safetensors", "apr", "gguf")
    assert (book.modalities, book.backends) == (("run", "chat"), ("cpu", "gpu"))
    assert (book.timeout_s, book.budget_s, book.failure_policy) == (60.0, 0.0, "stop_on_p0")
    assert book.scenario_count == 1
    assert book.subject == Model(id="Qwen/Qwen2.5-Coder-1.5B")


def test_every_field_parses_and_loose_spellings_mean_what_they_say(tmp_path: Path) -> None:
    book = load(tmp_path, FULL)
    assert book.tier is Tier.DEEP
    assert book.formats == ("safetensors", "gguf")
    assert book.quantizations == ("q4_k_m", "q8_0")
    assert (book.timeout_s, book.budget_s, book.scenario_count) == (30.0, 12.5, 7)
    assert book.subject == Model(
        id="Qwen/Qwen2.5-0.5B-Instruct", family="qwen", revision="v1.0", path="models/qwen"
    )
    assert book.expected_dimensions == {"hidden_dim": 896, "num_layers": 24}
    assert book.oracles[0].config == {"tolerance": 1e-5}
    assert [scenario.basic for scenario in book.scenarios] == [True, False]


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    book = load(tmp_path, README_EXAMPLE)
    assert book.sha256 == hashlib.sha256(README_EXAMPLE.encode()).hexdigest()
    assert book.source.endswith("some-model.playbook.yaml")


def test_the_budget_is_that_of_the_tier_unless_the_file_says_one(tmp_path: Path) -> None:
    for tier, budget in BUDGET_S.items():
        assert load(tmp_path, README_EXAMPLE + f"tier: {tier}\n").budget_s == budget
    assert load(tmp_path, README_EXAMPLE + "tier: mvp\nbudget_s: 5\n").budget_s == 5


def test_variables_are_put_into_text_and_cannot_become_structure(tmp_path: Path) -> None:
    text = 'model: {id: "${MODEL_ID}"}\ndescription: "${WHO} pays $${PRICE}"\n'
    book = load(tmp_path, text, MODEL_ID="a/b", WHO="x: [1]\ny: 2")
    assert book.subject.id == "a/b"
    assert book.description == "x: [1]\ny: 2 pays ${PRICE}"


# ---- refused


def test_all_faults_are_told_at_once_with_line_field_and_suggestion(tmp_path: Path) -> None:
    text = """modle: 3
model:
  id: a/b
  formats: [ggfu]
test_matrix:
  timeot_ms: 3
  timeout_ms: 3
failure_policy: collect-all
oracles:
  - type: arithmetc
  - type: arithmetic
    config: {tolerence: 0.1}
"""
    assert faults(tmp_path, text) == [
        "1: modle: there is no such field (did you mean 'model'?)",
        "4: model.formats.0: 'ggfu' is not one of safetensors, apr, gguf (did you mean 'gguf'?)",
        "6: test_matrix.timeot_ms: there is no such field (did you mean 'timeout_ms'?)",
        "7: test_matrix.timeout_ms: should be greater than or equal to 1000, not 3",
        "8: failure_policy: 'collect-all' is not one of stop_on_first, stop_on_p0, collect_all, fail_fast"
        " (did you mean 'collect_all'?)",
        "10: oracles.0.type: no oracle is called 'arithmetc' (did you mean 'arithmetic'?)",
        "12: oracles.1.config.tolerence: oracle arithmetic has no parameter 'tolerence'"
        " (did you mean 'tolerance'?); it has tolerance",
    ]


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        (
            "differential_tests: {tensor_dif: {}}",
            "3: differential_tests.tensor_dif: there is no such field (did",
        ),
        (
            "profile_ci: {gates: [F-PROFILE-CI-01]}",
            "3: profile_ci.gates.0: no gate is called 'F-PROFILE-CI-01'",
        ),
        (
            "profile_ci: {assertions: {min_speed: 3}}",
            "3: profile_ci.assertions.min_speed: there is no such field",
        ),
        ("contract_tests: {invariants: [I-9]}", "3: contract_tests.invariants.0: 'I-9' is not one of"),
        ("trace_payload: {enabled: perhaps}", "3: trace_payload.enabled: should be a valid boolean"),
        (
            "property_tests: [{name: x, generator: dice()}]",
            "3: property_tests.0.generator: no generator is called",
        ),
        ("falsification_gates: [{id: X-1}]", "3: falsification_gates.0.id: no gate is called 'X-1'"),
        ("verification_gates: [{id: a}]", "3: verification_gates.0: give a gate, a tool or a condition"),
        (
            "verification_gates: [{id: a, tool: hammer}]",
            "3: verification_gates.0.tool: no tool is called 'hammer'",
        ),
        (
            "acceptance: {no_nan_values: false}",
            "3: acceptance.no_nan_values: cannot be waived; remove the line",
        ),
        (
            "state_machine: {states: [a, b]}",
            "3: state_machine.states: the state 'b' cannot be reached from 'a'",
        ),
        (
            "state_machine: {states: [a], transitions: [{from: a, to: b}]}",
            "3: state_machine.states: no state is called 'b'",
        ),
        (
            "state_machine: {states: {a: {on_enter: [{action: dance}]}}}",
            "3: state_machine.states.a.on_enter.0: no action is called 'dance'",
        ),
        (
            "scenarios: [{name: x, command: rm -rf /}]",
            "3: scenarios.0.command: is not understood: only commands",
        ),
        (
            "scenarios: [{prompt_set: dreams}]",
            "3: scenarios.0.prompt_set: no set of prompts is called 'dreams'",
        ),
        (
            "mvp_matrix: [{format: gguf, backend: gpu, modality: run, prompt: a}]\ntest_matrix: {backends: [cpu]}",
            "3: mvp_matrix.0: gpu is not among the backends of this playbook (cpu)",
        ),
        (
            "hf_parity: {corpus: x}",
            "3: hf_parity.corpus: there is no such field (did you mean 'corpus_path'?)",
        ),
        ("skips: [{format_or_backend: npu, reason: x}]", "3: skips.0.format_or_backend: 'npu' is not one of"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name_and_line(tmp_path: Path, block: str, fault: str) -> None:
    found = faults(tmp_path, f"model: {{id: a/b}}\n\n{block}\n")
    assert any(one.startswith(fault) for one in found), found


def test_more_questions_than_scenario_count_are_all_asked_and_that_is_told(tmp_path: Path) -> None:
    book = load(tmp_path, "model: {id: a/b}\ntest_matrix: {scenario_count: 1, prompts: [a, b, c]}\n")
    assert book.scenario_count == 3
    assert remarks(book) == ("scenario_count is 1, but 3 questions are listed: all are asked",)


def test_a_version_may_be_a_bare_number(tmp_path: Path) -> None:
    assert load(tmp_path, "model: {id: a/b}\nversion: 1.0\n").version == "1.0"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name: x\n", "1: model: is needed"),
        ("model: {}\n", "1: model: name the model with id or hf_repo"),
        ("model: {id: a/b, hf_repo: a/c}\n", "1: model: id and hf_repo name different models"),
        ("model: {id: a/b, formats: []}\n", "1: model.formats: the list is empty"),
        ("model: {id: a/b, formats: [apr, apr]}\n", "1: model.formats: 'apr' is listed twice"),
        ("model: {id: a/b}\nname: [1]\n", "2: name: should be a valid string, not [1]"),
        ("model: {id: a/b}\nversion: [1]\n", "2: version: should be a valid string, not [1]"),
        ("model: {id: a/b}\nbudget_s: soon\n", "2: budget_s: should be a valid number, not 'soon'"),
        ("model: {id: a/b}\nbudget_s: -1\n", "2: budget_s: should be greater than or equal to 0, not -1"),
        ("model: {id: a/b}\ntier: huge\n", "2: tier: 'huge' is not one of"),
        (
            "model: {id: a/b}\ngates:\n  g4_output_quality: no\n",
            "3: gates.g4_output_quality: a gateway cannot",
        ),
        (
            "model: {id: a/b}\ntest_matrix: {scenario_count: 1.5}\n",
            "2: test_matrix.scenario_count: should be",
        ),
        (
            "model: {id: a/b}\ntest_matrix: {scenario_count: 1001}\n",
            "2: test_matrix.scenario_count: should be",
        ),
        (
            "model: {id: a/b, formats: [gguf]}\ntest_matrix:\n  formats: [apr]\n",
            "3: test_matrix.formats: differs from model.formats",
        ),
        (
            "model: {id: a/b}\nscenarios:\n- {name: x, prompt: a}\n- {name: x, prompt: b}\n",
            "4: scenarios.1.name: another scenario has this name",
        ),
        (
            "model: {id: a/b}\nscenarios:\n- {name: x, prompt: a, messages: [b]}\n",
            "3: scenarios.0: give either prompt or messages",
        ),
        (
            "model: {id: a/b}\nscenarios:\n- {name: x, prompt: a, orcle: garbage}\n",
            "3: scenarios.0.orcle: there is no such field (did you mean 'oracle'?)",
        ),
        ("model: {id: '${WHO}'}\n", "1: ${WHO} has no value"),
        ("- a\n", "1: a playbook is a mapping of fields"),
        ("", "1: the file is empty"),
    ],
)
def test_a_fault_names_its_line_and_field(tmp_path: Path, text: str, fault: str) -> None:
    found = faults(tmp_path, text)
    assert any(one.startswith(fault) for one in found), found


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        playbook.load(tmp_path / "gone.yaml")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from([*playbook.Playbook.model_fields, "modle"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(_FIELDS, _VALUES, max_size=5))
def test_any_value_in_any_field_is_honoured_or_refused_never_a_crash(
    tmp_path: Path, value: dict[str, object]
) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    try:
        playbook.load(path)
    except PlaybookError as refusal:
        assert all(re.match(rf"{re.escape(str(path))}:\d+: ", fault) for fault in refusal.faults)


# ---- templates and playbooks of models


@pytest.mark.parametrize("tier", list(Tier))
def test_every_tier_has_a_template_that_says_what_it_is_for(tier: Tier) -> None:
    book = playbook.template(tier, MODEL)
    assert (book.tier, book.name, book.subject.id) == (tier, str(tier), MODEL.id)
    first, second, *_ = Path(book.source).read_text().splitlines()
    assert first == "# yaml-language-server: $schema=../../schemas/playbook.schema.json"
    assert second.startswith("# ") and second.endswith(".")
    assert book.budget_s == BUDGET_S[tier]


@pytest.mark.parametrize(
    ("tier", "cells", "count"),
    [
        ("dim-smoke", 0, 0),
        ("smoke", 1, 3),
        ("mvp", 18, 4),
        ("quick", 18, 10),
        ("standard", 18, 25),
        ("deep", 18, 100),
    ],
)
def test_the_templates_span_the_cells_and_scenarios_of_their_tier(tier: str, cells: int, count: int) -> None:
    book = playbook.template(Tier(tier), MODEL)
    assert len(book.formats) * len(book.backends) * len(book.modalities) == cells
    assert book.scenario_count == count


def test_a_larger_tier_tries_every_quantisation_of_a_smaller_one() -> None:
    tried = [set(playbook.template(Tier(t), MODEL).quantizations) for t in ("mvp", "standard", "deep")]
    assert tried[0] < tried[1] < tried[2]
    assert {"q8_0", "q4_k_m"} <= tried[1]


def test_a_template_works_for_a_model_that_is_only_a_path() -> None:
    assert playbook.template(Tier.MVP, Model(id="my-merge", path="./my-merge")).subject.id == "my-merge"


def test_a_playbook_of_the_model_goes_before_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unlisted = Model(id="some/model")
    assert playbook.for_model(unlisted, Tier.MVP).name == "mvp"
    own = tmp_path / "playbooks" / "models" / "some--model.mvp.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("model: {id: '${MODEL_ID}'}\n")
    assert playbook.for_model(unlisted, Tier.MVP).name == "some--model.mvp"
    assert playbook.for_model(unlisted, Tier.QUICK).name == "quick"
    own.write_text("model: {id: Qwen/Qwen3-8B}\n")
    with pytest.raises(PlaybookError, match=r"is for Qwen/Qwen3-8B"):
        playbook.for_model(unlisted, Tier.MVP)


# ---- schema


def test_fresh_the_schema_file_is_the_one_that_the_code_describes() -> None:
    stored = json.loads((ROOT / playbook.SCHEMA_FILE).read_text(encoding="utf-8"))
    assert stored == playbook.schema()


def test_the_schema_is_valid_accepts_the_templates_and_refuses_what_the_loader_refuses(
    tmp_path: Path,
) -> None:
    described = playbook.schema()
    jsonschema.Draft202012Validator.check_schema(described)
    judge = jsonschema.Draft202012Validator(described)
    for path in sorted((ROOT / "playbooks").glob("*/*.yaml")):
        if path.parent.name in ("spec", "verify"):  # YAML 1.1, which this reader speaks, has other numbers
            continue
        assert list(judge.iter_errors(yaml.safe_load(path.read_text()))) == [], path
    assert judge.is_valid(yaml.safe_load(README_EXAMPLE))
    for wrong in (
        "modle: 1\nmodel: {id: a/b}",
        "model: {id: a/b, formats: [x]}",
        "model: {id: a/b, formats: []}",
    ):
        assert not judge.is_valid(yaml.safe_load(wrong)), wrong
        assert faults(tmp_path, wrong)


def test_every_field_of_the_schema_that_a_person_may_set_is_explained() -> None:
    definitions = playbook.schema()["$defs"]
    for block in ("ModelBlock", "MatrixBlock", "OracleBlock"):
        silent = [
            name
            for name, field in definitions[block]["properties"].items()
            if "description" not in field and not name.startswith("expected_")
        ]
        assert silent == [], block


DEMANDED = ("Acceptance", "GatesBlock", "Step.guards")
"""What is refused unless it says what is asked anyway."""
READ_AS_A_WHOLE = ("ProfileAssertions", "ProfileCi", "DifferentialTests", "ModelBlock.expected_")
"""What is read by looping over the fields."""


def blocks(of: type[Block] = Block) -> list[type[Block]]:
    return [one for child in of.__subclasses__() for one in (child, *blocks(child))]


def test_no_field_is_read_and_then_forgotten() -> None:
    """Every field is used somewhere, or says that it is for the reader."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "apr_qa").rglob("*.py"))
    used = set(re.findall(r"\.([a-z_]\w*)\b", code))
    forgotten = []
    for block in blocks():
        if "For the reader" in (block.__doc__ or "") or not block.__module__.startswith("apr_qa.playbooks"):
            continue
        said = descriptions(block)
        for name in block.model_fields:
            whole = f"{block.__name__}.{name}".startswith((*DEMANDED, *READ_AS_A_WHOLE))
            told = "or the reader" in said.get(name, "") or name in FOR_THE_READER
            if name not in used and not whole and not told:
                forgotten.append(f"{block.__name__}.{name}")
    assert forgotten == []


FOR_THE_READER = ("regression_tests", "tools_required", "no_sigsegv", "stdout_not_empty", "garbage_check")
"""Explained by the field before them, which says "as the next ones"."""
