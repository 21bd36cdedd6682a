"""Family contracts, kernel classes and what follows from them for the models of the registry."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from tiny_models import make_llama, make_qwen2, make_qwen3

from apr_qa import kernel_proof, playbook, registry, schemas
from apr_qa.certify import execute
from apr_qa.cli import command_line
from apr_qa.errors import PlaybookError, UsageError
from apr_qa.families import conformance, contract, kernels
from apr_qa.families.file_facts import contract_facts, kernel_facts
from apr_qa.formats import sniff
from apr_qa.plan import HEADER_CHECKS
from apr_qa.preparation import Settings, prepare
from apr_qa.vocabulary import Evidence, Model, Tier

ROOT = Path(__file__).parent.parent
TWENTY_EIGHT = (
    *(
        "bert",
        "bloom",
        "deepseek",
        "falcon",
        "falcon_h1",
        "gemma",
        "gpt2",
        "gpt_bigcode",
        "gptneox",
        "granite",
    ),
    *(
        "internlm2",
        "llama",
        "mamba",
        "mistral",
        "moonshine",
        "nemotron",
        "olmo",
        "openelm",
        "opt",
        "phi",
        "qwen2",
    ),
    *("qwen3", "qwen3_5", "qwen3_moe", "rwkv7", "stablelm", "starcoder2", "whisper"),
)


def test_there_is_a_contract_for_each_of_the_families_and_each_is_valid_by_its_schema() -> None:
    assert set(TWENTY_EIGHT) <= set(contract.families())
    described = schemas.family()
    jsonschema.Draft202012Validator.check_schema(described)
    judge = jsonschema.Draft202012Validator(described)
    for path in sorted((ROOT / "families").glob("*.yaml")):
        if path.name == contract.CLASSES_FILE:
            continue
        assert list(judge.iter_errors(yaml.safe_load(path.read_text()))) == [], path
        assert path.read_text().startswith("# yaml-language-server: $schema=../schemas/family.schema.json\n")


def test_every_model_of_the_registry_has_org_size_architecture_class_and_capabilities() -> None:
    entries = [registry.entry(model) for model in registry.models()]
    assert len(entries) == 95
    for one in entries:
        assert one.org and one.parameters[-1] in "MB" and one.size_category, one
        assert one.contract and one.architecture.startswith(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")), one
        assert one.kernel_class and "completion" in one.capabilities, one
    assert registry.entry(registry.select(["Qwen/Qwen2.5-Coder-0.5B-Instruct"])[0]).capabilities == (
        "completion",
        "chat",
        "instructions",
        "code",
    )


def test_a_size_of_a_model_is_what_its_family_says_but_for_what_differs() -> None:
    found = contract.member("qwen/qwen2.5-coder-0.5b-instruct")
    assert found is not None
    size = found[0].of_model(found[1])
    assert size.dimensions == {
        "hidden_dim": 896,
        "num_layers": 24,
        "num_heads": 14,
        "num_kv_heads": 2,
        "vocab_size": 151936,
        "intermediate_dim": 4864,
    }
    assert size.tied_embeddings is True and found[0].size("0.5b").tied_embeddings is None
    dolphin = contract.member("cognitivecomputations/dolphin-2.6-mistral-7b")
    assert dolphin is not None and "vocab_size" not in dolphin[0].of_model(dolphin[1]).dimensions


def test_135m_is_less_than_0_5b_and_both_are_tiny() -> None:
    small, larger = registry.select(["HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-3B-Instruct"])
    assert registry.entry(small).size_category == "tiny"
    assert registry.entry(larger).size_category == "medium"


def test_a_wrong_contract_is_refused_with_line_and_field(tmp_path: Path) -> None:
    text = (
        (ROOT / "families" / "qwen2.yaml").read_text().replace("norm_type: rmsnorm", "norm_type: batchnorm")
    )
    path = tmp_path / "qwen2.yaml"
    path.write_text(text)
    with pytest.raises(PlaybookError, match=r"qwen2.yaml:\d+: constraints.norm_type"):
        contract.read(path)
    with pytest.raises(UsageError, match=r"qwen2 has no size '0\.7b'"):
        contract.family("qwen2").size("0.7b")
    with pytest.raises(UsageError, match="did you mean 'qwen2'"):
        contract.family("qwen22")


# ---- kernel classes


def test_fresh_the_table_of_classes_is_the_one_that_follows_from_the_contracts() -> None:
    assert (ROOT / "families" / contract.CLASSES_FILE).read_text() == kernels.table()


def test_a_class_is_a_set_of_operations_and_every_model_is_in_exactly_one() -> None:
    known = list(kernels.classes().values())
    assert len({frozenset(one.kernel_ops) for one in known}) == len(known)
    members = [member for one in known for member in kernels.members_of(one)]
    assert sorted(members) == sorted(model.id for model in registry.models())
    for one in known:
        assert one.models == len(kernels.members_of(one)) and one.representative in kernels.members_of(one)


def test_how_keys_are_shared_is_a_matter_of_the_size() -> None:
    falcon = contract.family("falcon")
    assert "MultiQueryAttention" in kernels.operations(falcon.constraints, falcon.size("7b"))
    assert "GroupedQueryAttention" in kernels.operations(falcon.constraints, falcon.size("40b"))


def test_a_profile_asks_what_leans_on_its_operations() -> None:
    qwen3 = contract.family("qwen3")
    names = [one["name"] for one in kernels.profile(qwen3, qwen3.size("0.6b")).scenarios]
    assert {"equal_words", "shared_heads", "rope_long_context"} <= set(names)
    bloom = contract.family("bloom")
    names = [one["name"] for one in kernels.profile(bloom, bloom.size("560m")).scenarios]
    assert "near_and_far" in names and "rope_long_context" not in names


def test_the_header_of_a_file_tells_its_class(tmp_path: Path) -> None:
    expected = {make_llama: "A", make_qwen2: "C", make_qwen3: "I"}
    for number, (make, name) in enumerate(expected.items()):
        folder = make(tmp_path / str(number))
        found = sniff(folder)
        assert found is not None
        assert kernel_facts(found.open(folder))["kernel_class"] == name


def test_models_of_a_class_can_be_listed_and_an_unknown_class_is_refused() -> None:
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in [model.id for model in registry.of_kernel_class("d")]
    with pytest.raises(UsageError, match="no kernel class is called 'ZZ'"):
        registry.of_kernel_class("ZZ")
    shown = CliRunner().invoke(command_line, ["list-models", "--kernel-classes", "--json"])
    assert [one["name"] for one in json.loads(shown.output)][:2] == ["A", "B"]
    by_size = CliRunner().invoke(command_line, ["list-models", "--size", "huge", "--json"])
    assert {one["size_category"] for one in json.loads(by_size.output)} == {"huge"}


def test_only_a_run_that_passed_with_its_own_evidence_proves_a_class(tmp_path: Path) -> None:
    one = kernels.kernel_class("C")
    folder = tmp_path / one.representative.replace("/", "--")
    folder.mkdir()
    (folder / "evidence.jsonl").write_bytes(b"evidence\n")
    good = {
        "model_id": one.representative,
        "tier": "mvp",
        "status": "PROVISIONAL",
        "evidence_sha256": hashlib.sha256(b"evidence\n").hexdigest(),
    }
    wrong = ({"tier": "smoke"}, {"status": "BLOCKED"}, {"status": "PENDING"}, {"evidence_sha256": "0" * 64})
    for change in wrong:
        (folder / "certificate.json").write_text(json.dumps({**good, **change}))
        assert kernel_proof.find(one, [str(tmp_path)]) is None, change
    (folder / "certificate.json").write_text(json.dumps(good))
    assert kernel_proof.find(one, [str(tmp_path)]) == good
    assert kernel_proof.find(one, [str(tmp_path)], one.representative) == good
    assert kernel_proof.find(one, [str(tmp_path)], "org/another") is None
    assert kernel_proof.command(one) == f"apr-qa certify {one.representative} --tier mvp"


# ---- validate-contract


def test_a_model_that_conforms_and_one_that_does_not(tmp_path: Path) -> None:
    folder = make_qwen2(tmp_path / "good")
    found = sniff(folder)
    assert found is not None
    facts = contract_facts(found.open(folder))
    family = contract.family("qwen2")
    said = conformance.violations(family, facts["config"], facts["shapes"])
    assert [one["what"] for one in said] == ["dimensions"]  # a tiny model is of no known size
    broken = {name: list(shape) for name, shape in facts["shapes"].items()}
    broken["model.embed_tokens.weight"].reverse()
    del broken["model.layers.1.self_attn.q_proj.bias"]
    said = conformance.violations(family, facts["config"], broken)
    assert {(one["what"], one["critical"]) for one in said} == {
        ("dimensions", False),
        ("shape", True),
        ("missing", False),
    }
    assert len(conformance.violations(family, {}, {})) > 1


def test_an_explicit_head_dimension_counts() -> None:
    config = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    assert conformance.evaluate("heads*head_dim", conformance.environment(config)) == 2048


@pytest.mark.parametrize("expression", ["__import__('os')", "hidden**9999", "hidden/2", "nothing", "1 +"])
def test_an_expression_is_arithmetic_over_dimensions_and_nothing_else(expression: str) -> None:
    with pytest.raises(ValueError, match="is no expression"):
        conformance.evaluate(expression, {"hidden": 4})


def test_validate_contract_exits_1_for_what_does_not_conform(tmp_path: Path) -> None:
    folder = make_qwen2(tmp_path / "tiny")
    done = CliRunner().invoke(command_line, ["validate-contract", str(folder), "--format", "json"])
    said = json.loads(done.stdout)
    assert (done.exit_code, said["family"], len(said["violations"])) == (1, "qwen2", 1)
    critical = CliRunner().invoke(command_line, ["validate-contract", str(folder), "--critical-only"])
    assert critical.exit_code == 0 and "conforms" in critical.stdout
    other = CliRunner().invoke(command_line, ["validate-contract", str(folder), "--family", "gpt2"])
    assert other.exit_code == 1 and "wte.weight is missing" in other.stdout


# ---- dim-smoke


def test_dim_smoke_reads_headers_only_and_is_pending_until_the_class_is_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path / "cache"))
    folder = make_llama(tmp_path / "tiny")
    model = Model(id="tiny", path=str(folder))
    book = playbook.template(Tier.DIM_SMOKE, model)
    settings = Settings(output=str(tmp_path / "runs"), download=False)
    planned = prepare(model, Tier.DIM_SMOKE, book, settings, Silent())
    checks = {s.claim.params["check"] for batch in planned.batches for s in batch.scenarios}
    assert checks == {*HEADER_CHECKS, "kernels"} - {"expected"} and planned.header.cells == ()
    unproven = execute(model, Tier.DIM_SMOKE, book, settings, Silent()).certificate
    assert (unproven["status"], unproven["score"]) == ("PENDING", None)
    reasons = [gateway["reason"] for gateway in unproven["gateways"] if gateway["id"] == "G0"]
    assert "kernel class A: apr-qa certify TinyLlama/TinyLlama-1.1B-Chat-v1.0 --tier mvp" in reasons[0]
    tied = Model(id="tied", path=str(make_llama(tmp_path / "tied", tie_word_embeddings=True)))
    # The class of the tied model is proven by the run of SmolLM2-135M that comes with the project.
    proven = execute(tied, Tier.DIM_SMOKE, book, settings, Silent()).certificate
    assert proven["score"] == 699 and "dev check passed" in proven["reason"]


class Silent:
    """Is told how a run goes on, and keeps it to itself."""

    def say(self, text: str) -> None: ...

    def planned(self, scenarios: int) -> None: ...

    def happened(self, entry: Evidence) -> None: ...

    def andon(self, entry: Evidence) -> None: ...
