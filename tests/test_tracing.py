"""Looking inside a model: every engine shows the same stages, and what is planted is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from apr_qa.backends import BACKENDS
from apr_qa.cli import command_line
from apr_qa.errors import Inapplicable, UsageError
from apr_qa.tracing import canary, profile
from apr_qa.tracing.session_checks import CHECKS
from apr_qa.tracing.stages import LEVELS, summary
from apr_qa.vocabulary import Target

FIXTURES = Path(__file__).parent / "fixtures" / "models"


def loaded(path: Path, form: str, engine: str) -> Any:
    target = Target(model="m", format=form, quantization="", backend="cpu", modality="run", engine=engine)
    return BACKENDS.get(engine).load(target, path, threads=1)


@pytest.fixture(scope="module")
def torch_session(tiny_llama: Path) -> Any:
    return loaded(tiny_llama, "safetensors", "transformers_torch")


@pytest.fixture(scope="module")
def llama_session(tiny_gguf: Path) -> Any:
    return loaded(tiny_gguf, "gguf", "llama_cpp")


def stages_of(session: Any, tokens: list[int]) -> dict[tuple[str, int], np.ndarray]:
    seen: dict[tuple[str, int], np.ndarray] = {}
    session.observe(tokens, lambda stage, layer, values, _: seen.update({(stage, layer): values.copy()}))
    return seen


def test_both_engines_see_the_same_values_at_the_same_stages(torch_session: Any, llama_session: Any) -> None:
    tokens = torch_session.tokenize("The capital of France is Paris.")
    one, other = stages_of(torch_session, tokens), stages_of(llama_session, tokens)
    shared = [
        ("embedding", -1),
        ("final_norm", -1),
        ("logits", -1),
        ("layer", 0),
        ("mlp", 0),
        ("attention", 0),
    ]
    assert set(shared) <= set(one) and set(shared) <= set(other)
    for stage in shared:
        assert one[stage].shape[-1] == other[stage].shape[-1], stage
        rows = min(len(one[stage]), len(other[stage]))
        assert np.allclose(one[stage][-rows:], other[stage][-rows:], atol=2e-3), stage


@pytest.mark.parametrize(
    "name", ["gemma-norms", "moe-4experts", "phi-partial-rotary", "mistral-sliding", "qwen3-qknorm"]
)
def test_the_layers_of_every_architecture_are_told_apart(name: str) -> None:
    session = loaded(FIXTURES / name, "safetensors", "transformers_torch")
    config = json.loads((FIXTURES / name / "config.json").read_text())
    facts = session.facts("trace", {})
    assert facts["layers"] == config["num_hidden_layers"] and facts["not_finite"] == []
    assert facts["norm_error"] < 0.01 and facts["attention_sum_error"] < 0.01


@pytest.mark.parametrize("check", sorted(name for name in CHECKS if not name.startswith("golden")))
def test_every_check_answers_with_plain_values(check: str, torch_session: Any, llama_session: Any) -> None:
    for session in (torch_session, llama_session):
        facts = session.facts(check, {"repetitions": 2, "tokens": 3} if check == "benchmark" else {})
        assert facts and json.loads(json.dumps(facts)) == facts


def test_a_check_that_is_asked_of_servers_is_inapplicable(llama_session: Any) -> None:
    with pytest.raises(Inapplicable, match="asked of servers"):
        llama_session.facts("models", {})


def test_what_tracing_raises_inside_the_engine_comes_out(llama_session: Any) -> None:
    def spoil(*_: Any) -> None:
        raise UsageError("seen enough")

    with pytest.raises(UsageError, match="seen enough"):
        llama_session.observe(llama_session.tokenize("Hello"), spoil)


def test_a_level_shows_what_it_promises(llama_session: Any) -> None:
    facts = {level: llama_session.facts("trace", {"level": level}) for level in LEVELS}
    assert "seconds" not in facts["none"] and "stages" not in facts["basic"]
    assert not facts["layer"]["stages"][0]["values"] and facts["payload"]["stages"][0]["values"]
    with pytest.raises(UsageError, match="no trace level"):
        llama_session.facts("trace", {"level": "everything"})


def test_statistics_of_nothing_finite_are_unknown_and_not_zero() -> None:
    seen = summary("layer", 0, np.full((2, 2), np.nan, dtype=np.float32), None)
    assert (seen.mean, seen.max, seen.nan, seen.finite) == (None, None, 4, False)


def test_a_model_that_ignores_positions_is_noticed(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(FIXTURES / "llama-untied-gqa8x2", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    # A rotation so slow that nothing turns within a text.
    spoiled = config | {"rope_theta": 1e30, "rope_scaling": {"rope_type": "linear", "factor": 1e30}}
    spoiled.pop("rope_parameters", None)
    (tmp_path / "model" / "config.json").write_text(json.dumps(spoiled))
    healthy = loaded(FIXTURES / "llama-untied-gqa8x2", "safetensors", "transformers_torch")
    broken = loaded(tmp_path / "model", "safetensors", "transformers_torch")
    assert healthy.facts("positions", {})["change"] > 1e-2
    assert broken.facts("positions", {})["change"] < healthy.facts("positions", {})["change"] / 3


def test_a_canary_is_silent_about_itself_and_refuses_another_kind_of_file(llama_session: Any) -> None:
    saved = llama_session.facts("canary_snapshot", {})
    assert canary.drift(saved, saved).changed == ()
    for content in ({}, {"version": 7, "prompts": []}, {"version": 1, "prompts": []}):
        with pytest.raises(UsageError):
            canary.drift(content, saved)


def test_time_is_shared_out_by_stage_or_by_layer(llama_session: Any) -> None:
    stages = llama_session.facts("trace", {})["stages"]
    assert abs(sum(row["share"] for row in profile.shares(stages)) - 1) < 0.01
    assert {row["stage"].split(".")[-1] for row in profile.shares(stages, "mlp")} == {"mlp"}
    assert profile.folded(stages, "mlp").startswith("forward;layer 0;mlp ")
    with pytest.raises(UsageError, match="to focus on"):
        profile.shares(stages, "nothing")


def test_the_command_finds_a_nan_that_is_only_seen_inside(tiny_llama: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command_line, ["tools", "trace", str(tiny_llama), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["not_finite"] == []


def test_bench_exits_with_a_finding_when_a_limit_is_missed(tiny_gguf: Path) -> None:
    arguments = ["tools", "bench", str(tiny_gguf), "--tokens", "3", "--repetitions", "2", "--json"]
    assert CliRunner().invoke(command_line, arguments).exit_code == 0
    missed = CliRunner().invoke(command_line, [*arguments, "--assert-throughput", "1e9"])
    assert missed.exit_code == 1 and json.loads(missed.stdout)["missed"]


def test_a_canary_sings_when_the_model_is_another_one(
    tiny_llama: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    saved = str(tmp_path / "canary.json")
    assert CliRunner().invoke(command_line, ["tools", "canary", "save", str(tiny_gguf), saved]).exit_code == 0
    assert (
        CliRunner().invoke(command_line, ["tools", "canary", "compare", str(tiny_gguf), saved]).exit_code == 0
    )
    other = str(FIXTURES / "qwen2-tied-bias")
    assert CliRunner().invoke(command_line, ["tools", "canary", "compare", other, saved]).exit_code == 1
    refused = CliRunner().invoke(command_line, ["tools", "canary", "compare", other, other + "/config.json"])
    assert isinstance(refused.exception, UsageError)
