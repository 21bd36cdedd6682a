"""Playbooks that were written for another program load, plan, and ask for what they say."""

from __future__ import annotations

from pathlib import Path

import dialects
import pytest
import yaml

from apr_qa import playbook
from apr_qa.errors import PlaybookError, UsageError
from apr_qa.gates import GATES
from apr_qa.outline import disagreements, outline
from apr_qa.plan import ENGINES
from apr_qa.playbooks import lock
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.remarks import remarks
from apr_qa.preparation import Settings, prepare_endpoint
from apr_qa.scenarios import claims
from apr_qa.suite_claims import Questions, claims_for
from apr_qa.vocabulary import Claim, Target, Tier

ROOT = Path(__file__).parent.parent
FILES = dict(dialects.playbooks())
ONE_OF_EACH = sorted({name.split("-")[0]: name for name in FILES}.values())


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def load(tmp_path: Path, text: str, **variables: str) -> Playbook:
    path = tmp_path / "some.playbook.yaml"
    path.write_text(text, encoding="utf-8")
    return playbook.load(path, variables or dialects.VARIABLES)


def target(
    format_name: str = "gguf", modality: str = "run", device: str = "cpu", kind: str = "q4_k_m"
) -> Target:
    return Target(
        model="m",
        format=format_name,
        quantization=kind,
        backend=device,
        modality=modality,
        engine=ENGINES[format_name],
    )


def asked(book: Playbook, tier: Tier = Tier.MVP, at: Target | None = None) -> list[Claim]:
    return [c for c in claims_for(book, tier, at or target()) if c.kind != "property"]


def test_more_than_a_hundred_playbooks_of_every_dialect_load(tmp_path: Path) -> None:
    assert len(FILES) > 100
    refused = {}
    for name, text in FILES.items():
        try:
            book = load(tmp_path, text)
            assert book.fitting_tier in Tier and book.asked_gates is not None
        except PlaybookError as refusal:
            refused[name] = str(refusal)
    assert refused == {}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_playbook_of_every_dialect_plans_claims_of_registered_gates(tmp_path: Path, name: str) -> None:
    book = load(tmp_path, FILES[name])
    said = outline(book, book.fitting_tier)
    assert said["claims"] or book.fitting_tier is Tier.DIM_SMOKE
    known = set(GATES.names()) | {"F-PERF-004", "F-PERF-005", "F-REGR-001"}
    assert set(said["gates"]) <= known


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_same_playbook_asks_nothing_twice_of_one_target(tmp_path: Path, name: str) -> None:
    book = load(tmp_path, FILES[name])
    questions = Questions(book, Tier.QUICK, claims(book, Tier.QUICK)[:5])
    found = list(questions.of(target(book.formats[0])))
    keys = [
        (c.gate_id, c.kind, c.prompt, c.messages, repr(c.params), c.max_tokens, c.expected) for c in found
    ]
    assert len(keys) == len(set(map(repr, keys)))


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("x-mvp", "mvp"),
        ("x-quick", "quick"),
        ("x-full", "deep"),
        ("x-ci-pipeline", "ci"),
        ("x-dim-smoke", "dim-smoke"),
        ("x-nightly", "deep"),
        ("x-7b", None),
    ],
)
def test_a_tier_may_be_stated_by_the_end_of_the_name(tmp_path: Path, name: str, tier: str | None) -> None:
    assert load(tmp_path, f"name: {name}\nmodel: {{id: a/b}}\n").tier == tier
    assert load(tmp_path, "name: x\nmodel: {id: a/b}\nmetadata: {tier: smoke}\n").tier is Tier.SMOKE


def test_without_a_word_on_the_tier_nothing_is_certified_unless_the_whole_matrix_is_tried(
    tmp_path: Path,
) -> None:
    assert load(tmp_path, "name: x\nmodel: {id: a/b}\n").fitting_tier is Tier.CI
    whole = "name: x\nmodel: {id: a/b}\ntest_matrix: {scenario_count: 100}\n"
    assert load(tmp_path, whole).fitting_tier is Tier.DEEP


# ---- variables and models


def test_an_unresolved_variable_is_refused_with_line_and_cure(tmp_path: Path) -> None:
    with pytest.raises(PlaybookError) as refusal:
        load(tmp_path, FILES["D9-quick-check"], OTHER="x")
    first = refusal.value.faults[0]
    assert ":1: ${MODEL_NAME} has no value: give it with --var MODEL_NAME=VALUE" in first


def test_one_word_for_the_model_gives_the_others(tmp_path: Path) -> None:
    book = load(tmp_path, FILES["D9-quick-check"], MODEL_ID="org/some-7B")
    assert (book.name, book.subject.id) == ("some-7B-quick-check", "org/some-7B")


def test_a_specification_is_about_the_model_that_the_command_line_names(tmp_path: Path) -> None:
    assert load(tmp_path, FILES["D10-G2-INFER"], MODEL="a/b").subject.id == "a/b"
    local = tmp_path / "my-model"
    local.mkdir()
    book = load(tmp_path, FILES["D10-G2-INFER"], MODEL=str(local))
    assert (book.subject.id, book.subject.path) == ("my-model", str(local))


def test_a_specification_that_names_no_model_loads_and_says_how_to_name_one(tmp_path: Path) -> None:
    book = load(tmp_path, FILES["D10-G2-INFER"], OTHER="x")
    assert not book.named
    with pytest.raises(UsageError) as refusal:
        _ = book.subject
    assert "--var MODEL_ID=org/name" in refusal.value.fix


def test_a_field_without_a_value_is_a_field_that_is_not_there(tmp_path: Path) -> None:
    book = load(tmp_path, "model: {id: a/b}\nmetadata:\noracles:\nprofile_ci:\ntest_matrix:\n")
    assert (book.metadata, book.oracles, book.profile_ci) == ({}, (), None)


def test_a_gate_that_nothing_in_the_plan_asks_is_told(tmp_path: Path) -> None:
    text = "model: {id: a/b}\nfalsification_gates: [{id: F-DERIV-TIES-001}, {id: G3}, {id: F-TRACE-PAYLOAD-001}]\n"
    said = outline(load(tmp_path, text), Tier.MVP)
    assert said["notes"] == ["F-DERIV-TIES-001 is named, but nothing in this tier asks it"]
    assert "F-TRACE-PAYLOAD-001" in said["gates"]


# ---- what each block asks


def test_profile_ci_asks_for_speed_with_the_limit_of_the_device(tmp_path: Path) -> None:
    book = load(tmp_path, FILES["D8-yi-1.5-6b"])
    on_cpu = {c.gate_id: c.params for c in asked(book) if c.params.get("check") == "profile"}
    assert on_cpu["F-PROFILE-CI-001"]["limit"] == 5.0
    assert on_cpu["F-PROFILE-CI-002"]["limit"] == 5000.0
    assert (on_cpu["F-PROFILE-CI-001"]["warmup"], on_cpu["F-PROFILE-CI-001"]["measure"]) == (1, 10)
    on_gpu = [c.gate_id for c in asked(book, at=target(device="gpu"))]
    assert "F-PERF-003" in on_gpu and "F-PERF-003" not in [c.gate_id for c in asked(book)]


def test_profile_ci_can_be_limited_to_formats_and_switched_off(tmp_path: Path) -> None:
    text = "model: {id: a/b}\nprofile_ci: {enabled: %s, formats: [apr]}\n"
    book = load(tmp_path, text % "true")
    assert [c.gate_id for c in asked(book, at=target("apr"))] == ["F-PROFILE-CI-001"]
    assert asked(book) == []
    assert asked(load(tmp_path, text % "'no'"), at=target("apr")) == []


def test_trace_payload_asks_for_layers_and_for_the_text(tmp_path: Path) -> None:
    book = load(tmp_path, "model: {id: a/b}\ntrace_payload: {enabled: true, prompt: '2+2='}\n")
    found = {c.gate_id: c for c in asked(book)}
    assert found["F-TRACE-PAYLOAD-001"].params == {"check": "trace", "text": "2+2="}
    assert (found["F-TRACE-PAYLOAD-002"].prompt, found["F-TRACE-PAYLOAD-002"].oracle) == ("2+2=", "garbage")


def test_conditions_of_gates_give_limits_and_unknown_ones_are_told(tmp_path: Path) -> None:
    book = load(tmp_path, FILES["D12-yi-1.5-6b-2"])
    assert book.limits.assertions == {
        "min_throughput_cpu": 10.0,
        "max_ttft_ms": 5000.0,
        "max_ttft_ms_cpu": 2000.0,
        "max_ttft_ms_gpu": 500.0,
        "min_speedup": 2.0,
        "min_kept": 0.9,
    }
    assert book.limits.min_relevance == 0.3
    assert any("load_time_ms < 60000" in note for note in remarks(book))
    gates = {c.gate_id for c in asked(book, at=target(kind="q8_0"))}
    assert {"F-STAB-002", "F-STAB-003", "F-EDGE-001", "F-REGR-002", "F-STATE-MACHINE-001"} <= gates


def test_naming_a_gate_asks_for_the_oracle_behind_it(tmp_path: Path) -> None:
    text = "model: {id: a/b}\noracles: [{type: garbage}]\ntest_matrix: {scenario_count: 30}\n"
    named = text + "falsification_gates: [{id: F-QUAL-001}]\n"
    drawn = {c.oracle for c in claims(load(tmp_path, text), Tier.QUICK)[5:]}
    extended = {c.oracle for c in claims(load(tmp_path, named), Tier.QUICK)[5:]}
    assert drawn == {"garbage"} and extended == {"garbage", "arithmetic"}


def test_every_row_of_a_matrix_is_put_to_its_cell_alone(tmp_path: Path) -> None:
    book = load(tmp_path, FILES["D9-mvp"])
    rows = yaml.safe_load(FILES["D9-mvp"])["mvp_matrix"]
    for row in rows:
        found = asked(book, at=target(row["format"], row["modality"], row["backend"]))
        questions = {c.question for c in found if c.gate_id.startswith("F-QUAL")}
        assert questions == {row["prompt"]}
    assert all(c.oracle == "arithmetic" for c in asked(book) if c.kind == "generate")


def test_commands_of_a_specification_become_questions_edges_and_refusals(tmp_path: Path) -> None:
    loading = load(tmp_path, FILES["D10-G1-LOAD"])
    damages = {c.params["damage"] for c in asked(loading)}
    assert damages == {"truncated", "missing", "foreign"}
    assert asked(loading, at=target("apr")) == []
    stable = asked(load(tmp_path, FILES["D10-G3-STABLE"]))
    prompts = [c.prompt for c in stable if c.kind == "generate"]
    assert [p for p in prompts if p.startswith("Test ")] == [f"Test {n}" for n in range(1, 11)]
    edges = [c.params for c in stable if c.params.get("check") == "edge"]
    assert [e["tokens"] for e in edges] == [0, 512]
    sane = asked(load(tmp_path, FILES["D10-G4-VALID"]))
    assert [c.params["min_unique_chars"] for c in sane] == [2, 5]


def test_examples_of_garbage_are_tried_on_the_oracle(tmp_path: Path) -> None:
    assert disagreements(load(tmp_path, FILES["D10-G4-VALID"])) == []
    wrong = "spec: {id: G4}\ngarbage_examples: [The answer is 4.]\nvalid_examples: [%s]\n" % ("a" * 30)
    assert len(disagreements(load(tmp_path, wrong))) == 2


def test_named_tests_draw_their_own_questions(tmp_path: Path) -> None:
    sums = "{name: s, generator: 'arithmetic(a: 1..3, b: 5..5, op: +)', count: 3}"
    text = f"model: {{id: a/b}}\nproperty_tests:\n- {sums}\n"
    found = [c for c in asked(load(tmp_path, text)) if c.oracle == "arithmetic"]
    assert sorted(c.prompt for c in found) == [f"What is {n} + 5? The answer is" for n in (1, 2, 3)]
    code = "model: {id: a/b}\nproperty_tests:\n- {name: c, generator: 'code_prompt(lang: rust)', count: 2}\n"
    assert {c.expected for c in asked(load(tmp_path, code))} == {"rust"}


def test_the_block_of_properties_asks_for_as_many_cases_as_it_says(tmp_path: Path) -> None:
    book = load(tmp_path, "model: {id: a/b}\nproperty_tests: {cases: 7, names: [stop_strings]}\n")
    found = [c for c in claims_for(book, Tier.MVP, target()) if c.kind == "property"]
    assert [(c.params["property"], c.params["max_examples"]) for c in found] == [("stop_strings", 7)]


def test_questions_of_languages_are_limited_to_those_and_the_others_are_told(tmp_path: Path) -> None:
    text = "model: {id: a/b}\noracles: [{type: code_syntax, config: {languages: [rust, cpp]}}]\n"
    book = load(tmp_path, text + "test_matrix: {scenario_count: 8}\n")
    assert {c.expected for c in claims(book, Tier.QUICK) if c.oracle == "code_syntax" and not c.basic} == {
        "rust"
    }
    assert any("no parser for cpp" in note for note in remarks(book))


def test_a_corpus_is_compared_by_the_tolerance_of_the_storage_type(tmp_path: Path) -> None:
    (found,) = [c for c in asked(load(tmp_path, FILES["D15-yi-1.5-6b"])) if c.kind == "measure"]
    assert found.gate_id == "F-HF-PARITY-001"
    assert found.params["corpus"] == "/corpus/oracle/yi-1.5-6b"
    assert found.params["tolerance"]["fp32"] == {"atol": 1e-5, "rtol": 1e-4}


def test_another_runtime_is_asked_about_the_types_that_are_listed(tmp_path: Path) -> None:
    book = load(tmp_path, FILES["D8-yi-1.5-6b"])
    gates = [c.gate_id for c in asked(book) if c.params.get("check") == "other_runtime"]
    assert gates == [f"F-OLLAMA-00{n}" for n in range(1, 6)]
    assert not [c for c in asked(book, at=target(kind="q6_k")) if c.params.get("check") == "other_runtime"]


def test_skips_beside_the_playbook_leave_cells_out_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "some.skip.yaml").write_text(
        "- {format_or_backend: gpu, reason: no card, tracking_issue: '#7'}\n"
    )
    book = load(tmp_path, "model: {id: a/b}\n")
    assert book.skipped("gguf", "gpu") == "the playbook skips gpu: no card (#7)"
    assert book.skipped("gguf", "cpu") == ""
    (tmp_path / "some.skip.yaml").write_text("- {format: gpu}\n")
    with pytest.raises(PlaybookError, match=r"some.skip.yaml:1: "):
        load(tmp_path, "model: {id: a/b}\n")


def test_dim_smoke_asks_nothing_of_a_loaded_model(tmp_path: Path) -> None:
    book = load(tmp_path, FILES["D8-yi-1.5-6b"])
    assert claims_for(book, Tier.DIM_SMOKE, target()) == ()


def test_a_server_is_asked_the_questions_and_its_speed(tmp_path: Path) -> None:
    book = load(tmp_path, FILES["D14-yi-1.5-6b"])
    prepared = prepare_endpoint(book.subject, Tier.MVP, book, Settings(endpoint="http://127.0.0.1:9"))
    kinds = {s.claim.kind for batch in prepared.batches for s in batch.scenarios}
    assert {"generate", "chat", "measure", "http", "load"} <= kinds


# ---- what is committed


COMMITTED = [
    path
    for folder in ("models", "spec", "templates", "verify")
    for path in sorted((ROOT / "playbooks" / folder).glob("*.yaml"))
]


@pytest.mark.parametrize("folder", ["spec", "templates", "verify"])
def test_every_committed_playbook_plans(folder: str) -> None:
    for path in sorted((ROOT / "playbooks" / folder).glob("*.yaml")):
        book = playbook.load(path, {"MODEL_ID": "org/name"})
        said = outline(book, book.fitting_tier)
        assert said["claims"] or book.fitting_tier is Tier.DIM_SMOKE, path
        assert not [note for note in said["notes"] if "garbage oracle" in note]


def test_every_committed_playbook_loads_and_says_where_its_schema_is() -> None:
    assert len(COMMITTED) >= 95 + 5 + 7 + 2
    for path in COMMITTED:
        playbook.load(path, {"MODEL_ID": "org/name"})
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first == "# yaml-language-server: $schema=../../schemas/playbook.schema.json", path


def test_fresh_the_lock_is_that_of_the_committed_playbooks() -> None:
    assert lock.differences(ROOT / "playbooks", ROOT / "playbooks" / lock.FILE) == []
