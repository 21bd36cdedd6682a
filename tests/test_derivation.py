"""Derived models: every promise holds for the good derivative and breaks for the bad one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import derivatives as make
import numpy as np
import pytest

from apr_qa.derivation.claims import PROMISES, derivation_claims
from apr_qa.derivation.members import find
from apr_qa.derivation.session import derived
from apr_qa.derivation.speculation import speculative
from apr_qa.gates import GATES
from apr_qa.vocabulary import Artifact, Judgement, Outcome

GOOD, BAD = Outcome.CORROBORATED, Outcome.FALSIFIED
OPEN = Outcome.INCONCLUSIVE


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make.text_file(tmp_path_factory.mktemp("text")))


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> tuple[make.Tensors, make.Tensors, list[str]]:
    """Two specialists of one base, noise of 40 % each."""
    folder = tmp_path_factory.mktemp("parents")
    base = make.tensors_of()
    models = [make.noisy(base, seed, 0.4) for seed in (1, 2)]
    paths = [str(make.write(folder / name, model)) for name, model in zip("ab", models, strict=True)]
    return models[0], models[1], paths


def judged(child: Path, kind: str, parents: list[str], gate: str, **recipe: Any) -> Judgement:
    """Ask one gate of a derivation the way a worker and the judge do."""
    stated = {"kind": kind, "parents": parents, "recipe": recipe}
    claim = next(claim for claim in derivation_claims(stated) if claim.gate_id == gate)
    artifact = Artifact(format="gguf" if child.suffix == ".gguf" else "safetensors", path=str(child))
    facts = derived(artifact, artifact).facts(str(claim.params["check"]), claim.params)
    json.dumps(facts, allow_nan=False)
    check = GATES.get(gate).check
    assert check is not None
    return check(facts)


def test_every_promise_names_a_gate_and_a_check_that_exist() -> None:
    from apr_qa.derivation.session import _CHECKS

    for kind, promises in PROMISES.items():
        for gate, check, severity in promises:
            assert GATES.get(gate).severity is severity, (kind, gate)
            assert check in _CHECKS


# ---- merges


def test_slerp_keeps_norms_where_a_mean_of_strangers_loses_them(tmp_path: Path) -> None:
    one = make.tensors_of()
    other = {name: make.turned(values) for name, values in one.items()}
    paths = [str(make.write(tmp_path / "one", one)), str(make.write(tmp_path / "other", other))]
    good = make.write(tmp_path / "slerp", make.each(make.slerp, one, other))
    bad = make.write(tmp_path / "mean", make.each(make.mean, one, other))
    assert judged(good, "slerp", paths, "F-DERIV-SLERP-001").outcome is GOOD
    verdict = judged(bad, "slerp", paths, "F-DERIV-SLERP-001")
    assert verdict.outcome is BAD and "outside" in verdict.reason


def test_a_copy_of_one_parent_is_no_slerp(tmp_path: Path, parents: Any) -> None:
    copy = make.write(tmp_path / "copy", parents[0])
    verdict = judged(copy, "slerp", parents[2], "F-DERIV-SLERP-001")
    assert verdict.outcome is BAD and "copy" in verdict.reason


def test_equal_parents_prove_nothing(tmp_path: Path, parents: Any) -> None:
    copy = make.write(tmp_path / "copy", parents[0])
    twice = [parents[2][0], parents[2][0]]
    assert judged(copy, "slerp", twice, "F-DERIV-SLERP-001").outcome is OPEN
    assert judged(copy, "slerp", parents[2][:1], "F-DERIV-SLERP-001").outcome is OPEN


def test_ties_has_fewer_conflicts_and_its_density_where_the_sum_has_neither(
    tmp_path: Path, parents: Any
) -> None:
    one, other, paths = parents
    base = make.tensors_of()
    good = make.write(tmp_path / "ties", make.each(make.ties(0.4), base, one, other))
    bad = make.write(tmp_path / "sum", make.each(make.naive_sum, base, one, other))
    recipe: dict[str, Any] = {"base": str(make.BASE), "density": 0.4}
    for gate in ("F-DERIV-TIES-001", "F-DERIV-TIES-002"):
        assert judged(good, "ties", paths, gate, **recipe).outcome is GOOD
        assert judged(bad, "ties", paths, gate, **recipe).outcome is BAD
    assert judged(good, "ties", paths, "F-DERIV-TIES-001").outcome is OPEN, "no base was named"


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_rounding_resolves_no_conflict(dtype: str, tmp_path: Path) -> None:
    """Steps close to the rounding of the type that a sum is stored in vanish in it, and that is no merit of a merge."""
    base = make.tensors_of()
    models = [make.noisy(base, seed, 0.004) for seed in (1, 2)]
    paths = [str(make.write(tmp_path / name, model)) for name, model in zip("ab", models, strict=True)]
    bad = make.write(tmp_path / "sum", make.each(make.naive_sum, base, *models), dtype)
    verdict = judged(bad, "ties", paths, "F-DERIV-TIES-001", base=str(make.BASE))
    assert verdict.outcome is BAD, verdict.reason


def test_a_merge_must_reach_its_best_parent(tmp_path: Path, parents: Any, text: str) -> None:
    one, other, paths = parents
    good = make.write(tmp_path / "mean", make.each(make.mean, one, other))
    bad = make.write(tmp_path / "far", make.each(lambda a, b: 2 * a - b, one, other))
    assert judged(good, "merge", paths, "F-DERIV-MERGE-001", text=text).outcome is GOOD
    assert judged(bad, "merge", paths, "F-DERIV-MERGE-001", text=text).outcome is BAD
    assert judged(good, "merge", paths, "F-DERIV-MERGE-001").outcome is OPEN, "no benchmark was named"


def test_a_merge_keeps_tensors_architecture_and_tokenizer(tmp_path: Path, parents: Any) -> None:
    one, other, paths = parents
    merged = make.each(make.mean, one, other)
    good = make.write(tmp_path / "good", merged)
    last = max(name for name in merged if "layers" in name)
    lacking = make.write(tmp_path / "lacking", {n: v for n, v in merged.items() if n != last})
    renamed = make.write(tmp_path / "renamed", merged, num_attention_heads=2)
    mute = make.write(tmp_path / "mute", merged)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (mute / name).unlink()
    gates = ("F-DERIV-TENSORS-001", "F-DERIV-ARCH-001", "F-DERIV-TOK-001")
    for gate, bad in zip(gates, (lacking, renamed, mute), strict=True):
        assert judged(good, "merge", paths, gate).outcome is GOOD
        assert judged(bad, "merge", paths, gate).outcome is BAD


# ---- pruning and quantisation


def test_pruning_reaches_its_sparsity_and_keeps_the_perplexity(tmp_path: Path, text: str) -> None:
    base = make.tensors_of()
    parents = [str(make.BASE)]
    good = make.write(tmp_path / "good", make.pruned(base, 0.1))
    bad = make.write(tmp_path / "bad", make.pruned(base, 0.8))
    recipe: dict[str, Any] = {"sparsity": 0.1, "text": text}
    for gate in ("F-DERIV-PRUNE-001", "F-DERIV-PRUNE-002"):
        assert judged(good, "prune", parents, gate, **recipe).outcome is GOOD
        assert judged(bad, "prune", parents, gate, **recipe).outcome is BAD
    assert judged(good, "prune", parents, "F-DERIV-PRUNE-001").outcome is OPEN
    assert judged(good, "prune", parents, "F-DERIV-PRUNE-002").outcome is OPEN


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packed")
    kinds = ("q4_0", "q8_0", "f16")
    return {kind: make.quantised(make.BASE, folder / f"model-{kind}.gguf", kind) for kind in kinds}


def test_int4_is_under_half_of_a_measured_file_and_int8_is_not(packed: dict[str, Path]) -> None:
    gate = "F-DERIV-QUANT-001"
    assert judged(packed["q4_0"], "quantize", [str(packed["f16"])], gate).outcome is GOOD
    assert judged(packed["q8_0"], "quantize", [str(packed["f16"])], gate).outcome is BAD


def test_the_reference_size_never_follows_the_artifact(packed: dict[str, Path], tmp_path: Path) -> None:
    """A reference that is computed back from the artifact always gives the same ratio, and the gate cannot fail."""
    from apr_qa.derivation import storage

    wide = make.write(tmp_path / "f32", make.tensors_of())
    for parent, how in ((packed["f16"], "file, measured"), (wide, "written as f16")):
        found = [storage.size(find(str(packed[kind])), [find(str(parent))]) for kind in ("q4_0", "q8_0")]
        assert found[0]["reference_bytes"] == found[1]["reference_bytes"] and how in found[0]["reference"]
        assert found[0]["ratio"] < 0.5 < found[1]["ratio"]
        assert [one["bytes"] for one in found] == [packed[kind].stat().st_size for kind in ("q4_0", "q8_0")]
    for parents in ([], [str(packed["q4_0"])]):
        assert judged(packed["q4_0"], "quantize", parents, "F-DERIV-QUANT-001").outcome is OPEN


def test_quantisation_keeps_solving_and_a_ruin_does_not(packed: dict[str, Path], tmp_path: Path) -> None:
    task = str(make.task_file(tmp_path))
    ruin = make.quantised(
        make.write(tmp_path / "ruin", make.noisy(make.tensors_of(), 3, 3.0)), tmp_path / "ruin.gguf", "q4_0"
    )
    parents, gate = [str(packed["f16"])], "F-DERIV-QUANT-002"
    recipe: dict[str, Any] = {"task": task, "max_tokens": 24, "completion": True}
    good = judged(packed["q4_0"], "quantize", parents, gate, **recipe)
    assert good.outcome is GOOD, good.reason
    assert judged(ruin, "quantize", parents, gate, **recipe).outcome is BAD
    assert judged(packed["q4_0"], "quantize", [str(ruin)], gate, **recipe).outcome is OPEN, (
        "a parent that solves none"
    )
    for name in ("F-DERIV-TOK-001", "F-DERIV-ARCH-001"):
        for parent in (parents, [str(make.BASE)]):
            assert judged(packed["q4_0"], "quantize", parent, name).outcome is GOOD


# ---- training


def test_the_loss_must_fall(tmp_path: Path) -> None:
    falling = str(make.log(tmp_path / "trainer_state.json", [2.0, 1.6, 1.7, 1.2, 1.1, 1.0]))
    rising = str(make.log(tmp_path / "rising.json", [1.0, 1.1, 1.0, 1.3]))
    broken = str(make.log(tmp_path / "nan.json", [1.0, 0.9, float("nan")]))
    single = str(make.log(tmp_path / "single.json", [1.0]))
    lines = tmp_path / "log.jsonl"
    lines.write_text('{"train_loss": 0.9, "step": 1}\n{"note": "x"}\n{"train_loss": 0.5, "step": 2}\n')
    for gate, kind in (
        ("F-DERIV-TRAIN-001", "training"),
        ("F-DERIV-DPO-001", "dpo"),
        ("F-DERIV-LORA-003", "lora"),
    ):
        for file, wanted in (
            (falling, GOOD),
            (str(lines), GOOD),
            (rising, BAD),
            (broken, BAD),
            (single, OPEN),
        ):
            assert judged(make.BASE, kind, [], gate, log=file).outcome is wanted, (gate, file)
        assert judged(make.BASE, kind, [], gate, log=falling, epochs=9).outcome is OPEN
        assert judged(make.BASE, kind, [], gate, log=str(tmp_path / "absent")).outcome is OPEN
    facts = derived(Artifact(format="", path=""), Artifact(format="", path="")).facts(
        "loss", {"derivation": {"kind": "training", "recipe": {"log": falling, "epochs": 2}}}
    )
    wgpu = GATES.get("AC-029").check
    assert wgpu is not None and wgpu(facts).outcome is OPEN, "another backend is no proxy"
    assert wgpu({**facts, "backends": ["wgpu:vulkan"]}).outcome is GOOD
    negative = str(make.log(tmp_path / "negative.json", [0.5, 0.1, -0.2]))
    assert judged(make.BASE, "dpo", [], "F-DERIV-DPO-001", log=negative).outcome is BAD


def test_qlora_is_judged_by_measured_memory_of_equal_ranks(tmp_path: Path) -> None:
    lora = str(make.log(tmp_path / "lora.json", [1.0, 0.9], peak_memory_mb=1000, rank=8))
    small = str(make.log(tmp_path / "small.json", [1.0, 0.8], peak_memory_mb=400, rank=8))
    large = str(make.log(tmp_path / "large.json", [1.0, 0.8], peak_memory_gb=0.6, rank=8))
    other = str(make.log(tmp_path / "other.json", [1.0, 0.8], peak_memory_mb=100, rank=2))
    empty = str(make.log(tmp_path / "empty.json", [1.0, 0.8], peak_memory_mb=None, rank=8))
    for file, wanted in ((small, GOOD), (large, BAD), (other, OPEN), (empty, OPEN), (lora, OPEN)):
        verdict = judged(make.BASE, "qlora", [], "F-DERIV-QLORA-001", log=file, lora_log=lora)
        assert verdict.outcome is wanted, (file, verdict.reason)


def test_a_student_must_beat_its_untrained_self(tmp_path: Path, text: str) -> None:
    untrained = make.write(tmp_path / "untrained", make.noisy(make.tensors_of(), 4, 1.0))
    gate = "F-DERIV-DISTILL-001"
    assert judged(make.BASE, "distill", [str(untrained)], gate, text=text).outcome is GOOD
    assert judged(untrained, "distill", [str(make.BASE)], gate, text=text).outcome is BAD
    assert judged(make.BASE, "distill", [str(make.BASE)], gate, text=text).outcome is OPEN


# ---- scores


def test_scores_are_of_one_model_and_one_strategy(tmp_path: Path) -> None:
    from apr_qa import workspace

    own = workspace.content_sha256(make.BASE)
    gate, least = "F-DERIV-COMPOUND-001", {"humaneval": 85, "mbpp": 80}

    def verdict(*rows: tuple[str, str, int, str]) -> Judgement:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for i, (sha, task, passed, strategy) in enumerate(rows):
            whole = {"humaneval": 164, "mbpp": 500}[task]
            make.result(folder / f"{i}.json", sha, task, passed, strategy, whole)
        return judged(make.BASE, "compound", [], gate, results=[str(folder)], least=least)

    assert verdict((own, "humaneval", 140, "standard"), (own, "mbpp", 405, "standard")).outcome is GOOD
    assert verdict((own, "humaneval", 143, "standard"), (own, "mbpp", 381, "standard")).outcome is BAD
    # the best of two models, or of two strategies, is the score of nobody
    assert verdict((own, "humaneval", 140, "standard"), ("f" * 64, "mbpp", 450, "standard")).outcome is OPEN
    assert verdict((own, "humaneval", 140, "few-shot"), (own, "mbpp", 405, "standard")).outcome is OPEN
    assert verdict(("f" * 64, "humaneval", 149, "standard")).outcome is OPEN


def test_part_of_a_benchmark_is_no_score_on_it(tmp_path: Path) -> None:
    from apr_qa import workspace

    own = workspace.content_sha256(make.BASE)
    file = make.result(tmp_path / "r.json", own, "humaneval", 20, whole=20)
    found = judged(
        make.BASE, "compound", [], "F-DERIV-COMPOUND-001", results=[str(file)], least={"humaneval": 85}
    )
    assert found.outcome is OPEN and "20 problems" in found.reason


# ---- speculation, samples, data, tools


def test_a_draft_changes_no_text(tmp_path: Path) -> None:
    target = find(str(make.deepened(tmp_path / "deep", 4)))
    facts = speculative(find(str(make.BASE)), target, {"tokens": 8, "prompts": ["The capital of France is"]})
    text, speed = (GATES.get(f"F-DERIV-SPEC-{number}").check for number in ("001", "002"))
    assert text is not None and speed is not None
    assert text(facts).outcome is GOOD
    assert speed({**facts, "speedup": 1.5}).outcome is GOOD, "how fast it is depends on the machine"
    assert speed({**facts, "speedup": 1.49}).outcome is BAD
    assert (
        text({**facts, "same": 0}).outcome is BAD and speed({**facts, "same": 0, "speedup": 3}).outcome is BAD
    )
    assert facts["speedup"] == pytest.approx(facts["speculative_tokens_per_s"] / facts["plain_tokens_per_s"])
    assert judged(make.BASE, "speculative", [str(make.BASE)], "F-DERIV-SPEC-001").outcome is OPEN


def test_samples_of_a_flat_model_differ_and_those_of_a_peaked_one_do_not(tmp_path: Path) -> None:
    tensors = make.tensors_of()
    flat = make.write(
        tmp_path / "flat", {n: v * (0.3 if n == "model.norm.weight" else 1) for n, v in tensors.items()}
    )
    peaked = make.write(
        tmp_path / "peaked", {n: v * (50 if n == "model.norm.weight" else 1) for n, v in tensors.items()}
    )
    recipe: dict[str, Any] = {"prompts": ["The", "Once"], "samples": 4, "tokens": 8, "temperature": 1.0}
    assert judged(flat, "sampling", [], "F-DERIV-SAMPLE-001", **recipe).outcome is GOOD
    assert judged(peaked, "sampling", [], "F-DERIV-SAMPLE-001", **recipe).outcome is BAD


def test_training_data_are_compared_with_the_benchmark_itself(tmp_path: Path) -> None:
    task = make.task_file(tmp_path)
    words = " ".join(f"word{i}" for i in range(40))
    clean, dirty = tmp_path / "clean.jsonl", tmp_path / "dirty.jsonl"
    clean.write_text(json.dumps({"text": words}) + "\n")
    whole = f"{make.PROBLEMS[0]['prompt']}\n\n{make.PROBLEMS[0]['test']}"
    dirty.write_text(json.dumps({"text": whole}) + "\n")
    for file, wanted in ((clean, GOOD), (dirty, BAD)):
        found = judged(make.BASE, "data", [], "F-DERIV-DATA-001", documents=str(file), benchmarks=[str(task)])
        assert found.outcome is wanted, found.reason


def test_a_tool_is_believed_by_a_field_of_its_report_only(tmp_path: Path) -> None:
    report = tmp_path / "check.json"
    report.write_text('{"all_passed": false, "stages": {"failed": 2}, "exit_code": 0}')

    def verdict(**recipe: Any) -> Outcome:
        return judged(
            make.BASE, "external", [], "F-DERIV-TOOL-001", tool="apr-no-such-tool", **recipe
        ).outcome

    assert verdict(report=str(report), true="all_passed") is BAD
    assert verdict(report=str(report), field="stages.failed", most=2) is GOOD
    assert verdict(report=str(report), field="stages.failed") is OPEN
    assert verdict(report=str(report), true="passed") is OPEN
    assert verdict() is Outcome.INAPPLICABLE
    assert verdict(report="") is Outcome.INAPPLICABLE


def test_a_parent_that_is_not_there_is_nobodys_fault(tmp_path: Path) -> None:
    absent = [str(tmp_path / "a"), str(tmp_path / "b")]
    for gate, _, _ in PROMISES["slerp"]:
        assert judged(make.BASE, "slerp", absent, gate).outcome is OPEN


def test_no_measurement_writes_beside_the_models(tmp_path: Path, text: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(make.BASE, copy)
    before = sorted(copy.iterdir())
    judged(make.write(tmp_path / "child", make.tensors_of()), "quantize", [str(copy)], "F-DERIV-QUANT-001")
    assert sorted(copy.iterdir()) == before
    assert np.isfinite(make.tensors_of(copy)["model.norm.weight"]).all()
