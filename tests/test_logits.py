"""What the comparison of predictions promises: healthy conversions pass, broken ones fail, the cache never lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_llama, make_qwen2, tensors_of, write_safetensors

from apr_qa import workspace
from apr_qa.comparison.divergence_budget import budget, combined, noise_budget
from apr_qa.comparison.session import open_model
from apr_qa.conversion.convert import convert
from apr_qa.errors import Inapplicable, InferenceFailed, UsageError
from apr_qa.gates import GATES
from apr_qa.logits import every_id, inner, readings, store, twins
from apr_qa.logits.claims import logit_claims
from apr_qa.logits.feed import QUICK_TOKENS, Feed, feed_of
from apr_qa.logits.llama_probe import LlamaProbe
from apr_qa.logits.readings import Readings, take
from apr_qa.logits.session import LogitParity, compare_logits
from apr_qa.logits.sides import side_of
from apr_qa.logits.torch_probe import Recast, TorchProbe
from apr_qa.plan import PAIRED, pair_batches
from apr_qa.vocabulary import Artifact, Outcome, Tier
from apr_qa.worker import PAIRED as LOADERS

Edit = Callable[[dict[str, Any], dict[str, np.ndarray]], None]
FIXTURES = Path(__file__).parent / "fixtures" / "models"
SUFFIX = {"gguf": ".gguf", "apr": ".apr", "safetensors": ""}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small models are slower on several threads than on one, most of all beside other work."""
    import torch

    threads = torch.get_num_threads()
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    patch.undo()


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained Llama of twelve layers, untied, two key-value heads of eight."""
    folder = tmp_path_factory.mktemp("truth") / "llama"
    shutil.copytree(FIXTURES / "llama-untied-gqa8x2", folder)
    return folder


def artifact(path: Path, format_name: str = "", origin: str = "given") -> Artifact:
    kind = format_name or {".gguf": "gguf", ".apr": "apr"}.get(path.suffix, "safetensors")
    return Artifact(format=kind, path=str(path), origin=origin)


def converted(source: Path, format_name: str, dtype: str, folder: Path) -> Path:
    return convert(
        open_model(source), format_name, folder / f"model-{dtype}{SUFFIX[format_name]}", quantization=dtype
    )


def edited(source: Path, folder: Path, edit: Edit) -> Path:
    """Copy a model with its config and tensors changed."""
    opened = open_model(source)
    config = dict(opened.config)
    tensors = {name: opened.read(name).copy() for name in opened.tensors}
    edit(config, tensors)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def judged(session: LogitParity, tier: Tier = Tier.MVP) -> dict[str, Outcome]:
    """Ask everything that a run asks and judge the facts as they come out of a worker: through JSON."""
    found: dict[str, Outcome] = {}
    truth_, artifact_ = (Artifact(format=s.model.format, path="") for s in (session.truth, session.artifact))
    for claim in logit_claims(truth_, artifact_, tier):
        check = GATES.get(claim.gate_id).check
        assert check is not None
        try:
            facts = session.facts(claim.params["check"], dict(claim.params))
        except InferenceFailed:
            found[claim.gate_id] = Outcome.FALSIFIED
            continue
        found[claim.gate_id] = check(json.loads(json.dumps(facts, allow_nan=False))).outcome
    session.close()
    return found


def compared(truth: Path, other: Path) -> dict[str, Outcome]:
    return judged(compare_logits(artifact(truth), artifact(other)))


# ---- healthy conversions


@pytest.mark.parametrize(
    ("format_name", "dtype"),
    [
        *(("gguf", dtype) for dtype in ("f32", "f16", "q8_0", "q4_k_m", "q4_0")),
        *(("apr", "f16"), ("apr", "f32"), ("safetensors", "bf16")),
    ],
)
def test_a_healthy_conversion_passes_every_gate(
    truth: Path, tmp_path: Path, format_name: str, dtype: str
) -> None:
    found = compared(truth, converted(truth, format_name, dtype, tmp_path))
    assert {gate: o for gate, o in found.items() if o is not Outcome.CORROBORATED} == {
        gate: Outcome.INAPPLICABLE
        for gate in ("F-PAR-001", "F-CONV-BE-001", "F-CONV-BE-002", "F-CONV-BE-003", "F-HFP-003")
        if gate in found and not (gate == "F-HFP-003" and format_name != "gguf")
    }


def test_a_tied_model_with_biases_passes(tmp_path: Path) -> None:
    source = make_qwen2(tmp_path / "qwen2", dtype="bf16")
    found = compared(source, converted(source, "gguf", "q8_0", tmp_path))
    assert not any(outcome.failed for outcome in found.values())


# ---- broken ones


def theta(config: dict[str, Any], _: dict[str, np.ndarray]) -> None:
    config["rope_theta"] *= 1.1


def scaling(config: dict[str, Any], _: dict[str, np.ndarray]) -> None:
    config["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}


def swapped(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.5.")]:
        other = name.replace(".5.", ".6.", 1)
        tensors[name], tensors[other] = tensors[other], tensors[name]


def reset_norm(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["model.norm.weight"][:] = 1


def zeroed_tail(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    head = tensors["lm_head.weight"]
    head[-len(head) // 10 :] = 0


def flipped(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["model.layers.6.mlp.up_proj.weight"] *= -1


def unpermuted(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Order the rows so that the GGUF writer's permutation of them gives the Hugging Face order."""
    for name, tensor in tensors.items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        if heads:
            halves = tensor.reshape(config[heads], -1, 2, tensor.shape[1])
            tensors[name] = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


BROKEN = (theta, scaling, swapped, reset_norm, zeroed_tail, flipped, unpermuted)


@pytest.mark.parametrize(
    ("edit", "dtype"),
    [*((edit, "f16") for edit in BROKEN), (theta, "q8_0"), (swapped, "q8_0")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_conversion_fails(truth: Path, tmp_path: Path, edit: Edit, dtype: str) -> None:
    broken = converted(edited(truth, tmp_path / "broken", edit), "gguf", dtype, tmp_path)
    found = compared(truth, broken)
    assert found["F-CONTRACT-I1-001"] is Outcome.FALSIFIED
    assert found["F-CONV-INF-002"] is Outcome.FALSIFIED


def test_a_rotary_drift_is_worst_at_late_positions(truth: Path, tmp_path: Path) -> None:
    broken = converted(edited(truth, tmp_path / "broken", theta), "gguf", "q8_0", tmp_path)
    facts = compare_logits(artifact(truth), artifact(broken)).facts("logits", {})
    buckets = facts["measured"]["buckets"]
    assert buckets["128-511"]["kl_mean"] > 20 * buckets["0-31"]["kl_mean"]
    assert any(o["what"] == "kl_mean at positions 128-511" for o in facts["overruns"])


def test_a_broken_layer_is_named_by_the_hidden_states(truth: Path, tmp_path: Path) -> None:
    broken = converted(edited(truth, tmp_path / "broken", flipped), "apr", "f32", tmp_path)
    session = compare_logits(artifact(truth), artifact(broken))
    check = GATES.get("F-HFP-004").check
    assert check is not None
    # State 0 is the embedding, state n what layer n - 1 leaves behind.
    assert "first number 7:" in check(session.facts("inner", {})).reason
    assert judged(session)["F-HFP-003"] is Outcome.FALSIFIED


def test_logits_that_are_not_finite_fail_and_are_no_crash(truth: Path, tmp_path: Path) -> None:
    def infinite(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.3.mlp.down_proj.weight"][:] = np.nan

    broken = edited(truth, tmp_path / "broken", infinite)
    found = compared(truth, broken)
    assert found["F-CONTRACT-I1-001"] is Outcome.FALSIFIED


def test_an_artifact_with_fewer_ids_than_the_truth_fails(truth: Path, tmp_path: Path) -> None:
    def cut(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        config["vocab_size"] = 100
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:100]

    found = compared(truth, edited(truth, tmp_path / "broken", cut))
    assert found["F-CONTRACT-I1-001"] is Outcome.FALSIFIED


def test_a_truth_that_cannot_run_is_no_fault_of_the_artifact(truth: Path, tmp_path: Path) -> None:
    def nan(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        tensors["model.norm.weight"][:] = np.nan

    session = compare_logits(artifact(edited(truth, tmp_path / "nan", nan)), artifact(truth))
    with pytest.raises(Inapplicable, match="ground truth"):
        session.facts("logits", {})


def test_an_unknown_check_is_refused(truth: Path) -> None:
    with pytest.raises(UsageError, match="nothing"):
        compare_logits(artifact(truth), artifact(truth)).facts("nothing", {})


# ---- where the limits come from


def test_a_fault_of_the_converter_cannot_hide_in_the_limits(truth: Path, tmp_path: Path) -> None:
    """The artifact is the very file that the converted twin is: only the rounded twin can tell that it is broken."""
    session = compare_logits(artifact(truth), artifact(truth))
    twin = workspace.derived_path(session.truth.sha256, "gguf", "q8_0")
    broken = converted(edited(truth, tmp_path / "broken", unpermuted), "gguf", "q8_0", tmp_path)
    kept = twin.read_bytes() if twin.exists() else None
    twin.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(broken, twin)
    try:
        limits = compare_logits(artifact(truth), artifact(broken)).facts("logits", {})["limits"]
        assert limits["calibration"] == "rounded" and "same bytes" in limits["converted"]
        assert compared(truth, broken)["F-CONTRACT-I1-001"] is Outcome.FALSIFIED
        # Another file of the same type does not get its limits from the broken twin either.
        other = converted(edited(truth, tmp_path / "other", flipped), "gguf", "q8_0", tmp_path / "other")
        limits = compare_logits(artifact(truth), artifact(other)).facts("logits", {})["limits"]
        assert limits["calibration"] == "rounded" and "not healthy" in limits["converted"]
        assert compared(truth, other)["F-CONTRACT-I1-001"] is Outcome.FALSIFIED
    finally:
        if kept is None:
            twin.unlink()
        else:
            twin.write_bytes(kept)


def test_the_rounded_twin_is_the_truth_where_nothing_is_rounded(truth: Path) -> None:
    opened, feed = open_model(truth), feed_of(open_model(truth), 64)
    plain = TorchProbe(Recast(opened, "f32")).logits([feed.text], feed.positions)
    handed = TorchProbe(Recast(opened, "f32", lambda _, values: values)).logits([feed.text], feed.positions)
    assert np.array_equal(plain, handed)


def test_the_twin_is_loaded_as_it_is_stored_only_where_nothing_is_rounded(
    truth: Path, tmp_path: Path
) -> None:
    opened = open_model(converted(truth, "safetensors", "bf16", tmp_path))
    names = list(opened.tensors)
    assert twins._rounding(opened, dict.fromkeys(names, "bf16")) is None
    assert twins._rounding(opened, dict.fromkeys(names, "f32")) is None
    for other in ("f16", "q8_0"):
        rounding = twins._rounding(opened, {**dict.fromkeys(names, "bf16"), names[-1]: other})
        assert rounding is not None
        matrix = np.full((2, 32), 2.0**-30, np.float32)
        assert np.array_equal(rounding(names[0], matrix), matrix)
        assert not rounding(names[-1], matrix).any()


def test_a_closed_model_leaves_room_for_the_next_one(tmp_path: Path) -> None:
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4}
    model = Recast(open_model(make_llama(tmp_path, **sizes)), "f32", lambda _, values: values)
    bytes_of_weights = 4 * sum(int(np.prod(info.shape)) for info in model.tensors.values())
    TorchProbe(model).close()  # what is imported on the way stays
    before = _own_bytes()
    probe = TorchProbe(model)
    probe.decoded([[1, 2, 3]], None, 4)
    assert _own_bytes() - before > 0.9 * bytes_of_weights
    probe.close()
    assert _own_bytes() - before < 0.2 * bytes_of_weights


def _own_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def test_limits_of_two_conversions_are_wider_than_those_of_each() -> None:
    one, other = noise_budget("f32"), budget("q8_0", None)
    both = combined(one, other)
    for key in ("kl_mean", "kl_p99", "kl_max", "logit_difference", "tie"):
        assert max(one[key], other[key]) < both[key] < 4 * max(one[key], other[key])
    assert both["top1"] <= min(one["top1"], other["top1"]) and not both["calibrated"]


def test_limits_of_inner_states_follow_the_twin_but_never_fall_below_the_noise() -> None:
    assert inner.limits("f32", None)["hidden"] == inner.HIDDEN_FLOORS["f32"]
    twin = {"hidden": [0.0, 0.5], "attention": []}
    assert inner.limits("q4_0", twin)["hidden"] == pytest.approx(1.5)
    assert inner.limits("f16", {"hidden": [0.0], "attention": []})["hidden"] == inner.HIDDEN_FLOORS["f16"]


# ---- both engines, one feed


def test_the_feed_fits_the_context_and_reaches_late_positions(truth: Path, tmp_path: Path) -> None:
    feed = feed_of(open_model(truth))
    assert len(feed.text) == 512 and max(feed.positions) > 450 and len(feed.positions) < 300
    assert all(position + 1 < len(feed.text) for position in feed.positions)
    assert len({len(prompt) for prompt in feed.prompts}) == 1
    short = make_llama(tmp_path / "short", max_position_embeddings=40)
    narrow = feed_of(open_model(short))
    assert len(narrow.text) == 40 and len(narrow.prompts[0]) + narrow.new_tokens <= 40


def test_a_truth_without_tokenizer_or_context_cannot_be_compared(tmp_path: Path) -> None:
    source = make_llama(tmp_path / "tiny", max_position_embeddings=4)
    with pytest.raises(Inapplicable, match="tokens at once"):
        feed_of(open_model(source))
    (source / "tokenizer.json").unlink()
    with pytest.raises(Inapplicable, match=r"tokenizer\.json"):
        feed_of(open_model(source))


def test_logits_of_large_vocabularies_are_thinned_out(truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apr_qa.logits.feed._KEPT_BYTES", 100 * 4 * 1024)
    feed = feed_of(open_model(truth))
    assert len(feed.positions) <= 100 and max(feed.positions) > 400


def test_both_engines_agree_in_float32_on_all_that_both_give_out(truth: Path, tmp_path: Path) -> None:
    gguf = converted(truth, "gguf", "f32", tmp_path)
    feed = feed_of(open_model(truth), 96)
    torch = take(TorchProbe(Recast(open_model(truth), "f32")), feed)
    probe = LlamaProbe(gguf)
    llama = take(probe, feed, torch.continuations)
    probe.close()
    assert np.abs(torch.text - llama.text).max() < 1e-3
    assert np.array_equal(torch.choices, llama.choices)
    assert inner.distances(torch, llama)["hidden"][0] < 1e-5
    for side in (torch, llama):
        assert side.noted["incremental"]["kl_max"] < 1e-8


def test_inner_states_that_cannot_be_compared_are_an_error() -> None:
    def of(hidden: np.ndarray, attention: np.ndarray | None = None) -> Readings:
        empty = np.zeros((1, 1))
        return Readings(empty, empty.astype(int), empty.astype(int), empty, hidden, attention)

    good = np.ones((3, 4, 5), np.float32)
    assert inner.distances(of(good), of(good * 2))["hidden"] == [1.0, 1.0, 1.0]
    assert inner.distances(of(good), of(good[:1]))["hidden"] == [0.0]
    for bad in (good[:, :, :4], good[:2], good * np.nan, np.zeros((0, 4, 5))):
        with pytest.raises(InferenceFailed):
            inner.distances(of(good), of(bad))
    with pytest.raises(InferenceFailed):
        inner.distances(of(good, np.ones((2, 2, 4, 4))), of(good, np.ones((3, 2, 4, 4))))


# ---- the cache


def test_what_the_truth_predicts_is_computed_once(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = converted(truth, "gguf", "f16", tmp_path)
    first = compare_logits(artifact(truth), artifact(gguf)).facts("logits", {})

    def refuse(*_: Any) -> None:
        raise AssertionError("torch was loaded")

    monkeypatch.setattr("apr_qa.logits.torch_probe.TorchProbe.__init__", refuse)
    again = compare_logits(artifact(truth), artifact(gguf)).facts("logits", {})
    assert again["limits"] == first["limits"] and again["measured"] == first["measured"]


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_byte_never_hits_the_cache(truth: Path, tmp_path: Path, file: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(truth, copy)
    name = _reference_name(copy)
    assert name == _reference_name(truth)  # the place does not matter
    data = bytearray((copy / file).read_bytes())
    data[-2 if file != "model.safetensors" else -1] ^= 0x20 if file != "model.safetensors" else 1
    (copy / file).write_bytes(data)
    assert workspace.content_sha256(copy) != workspace.content_sha256(truth)
    if file == "model.safetensors":
        assert _reference_name(copy) != name


def _reference_name(folder: Path) -> str:
    side = side_of(artifact(folder))
    return store.name_of(side.sha256, feed_of(side.model), "transformers_torch", "f32")


def test_tokens_engine_and_type_are_part_of_the_name(truth: Path) -> None:
    feed = feed_of(open_model(truth))
    names = {
        store.name_of(sha, one, engine, dtype)
        for sha in ("a", "b")
        for one in (feed, replace(feed, text=(*feed.text[:-1], 7)), replace(feed, prompts=feed.prompts[1:]))
        for engine in ("transformers_torch", "llama_cpp")
        for dtype in ("f32", "bf16")
    }
    assert len(names) == 24


def test_readings_come_back_as_they_were_stored_and_damage_is_absence() -> None:
    taken = Readings(
        text=np.ones((2, 3), np.float32),
        continuations=np.ones((1, 2), np.int64),
        choices=np.ones((1, 2), np.int64),
        leads=np.ones((1, 2), np.float32),
        hidden=np.ones((1, 2, 3), np.float32),
        noted={"engine": "x"},
    )
    store.keep("some-name", taken)
    found = store.stored("some-name")
    assert found is not None and np.array_equal(found.text, taken.text)
    assert found.attention is None and found.noted == {"engine": "x"}
    path = workspace.root() / "logits" / "some-name.npz"
    for damage in (b"", path.read_bytes()[:100], b"PK\x03\x04" + bytes(50)):
        path.write_bytes(damage)
        assert store.stored("some-name") is None
    (workspace.root() / "logits" / "other.json").write_text("[1]")
    assert store.remembered("other") is None and store.remembered("absent") is None


# ---- every id


def test_every_id_passes_and_agrees_with_the_truth(truth: Path, tmp_path: Path) -> None:
    gguf = converted(truth, "gguf", "q8_0", tmp_path)
    session = compare_logits(artifact(truth), artifact(gguf))
    facts = session.facts("every_id", {"limit_s": 300})
    session.close()
    assert facts["passed"] == facts["vocabulary"] == facts["compared"] == 1024 and not facts["apart"]


def test_an_id_that_gives_nan_is_named_and_so_is_one_whose_own_logit_does(
    truth: Path, tmp_path: Path
) -> None:
    def spoil(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][[700, 1023]] = np.nan
        tensors["lm_head.weight"][321] = np.nan

    gguf = converted(edited(truth, tmp_path / "broken", spoil), "gguf", "f32", tmp_path)
    session = compare_logits(artifact(truth), artifact(gguf))
    facts = session.facts("every_id", {"limit_s": 300})
    session.close()
    assert facts["bad_columns"] == [321] and facts["bad_ids"] == [700, 1023]
    check = GATES.get("F-PARITY-VOCAB-001").check
    assert check is not None and check(facts).outcome is Outcome.FALSIFIED


def test_a_row_that_no_text_reaches_is_found_by_the_pass_of_all_ids(truth: Path, tmp_path: Path) -> None:
    def shuffle(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        rows = tensors["model.embed_tokens.weight"]
        rows[900] = -rows[900]

    session = compare_logits(artifact(truth), artifact(edited(truth, tmp_path / "broken", shuffle)))
    facts = session.facts("every_id", {"limit_s": 300})
    assert facts["apart"] and min(facts["apart"]) == 900
    check = GATES.get("F-PARITY-VOCAB-001").check
    assert check is not None and check(facts).outcome is Outcome.FALSIFIED


def test_a_pass_that_was_cut_off_is_no_pass(truth: Path, tmp_path: Path) -> None:
    session = compare_logits(artifact(truth), artifact(truth))
    facts = session.facts("every_id", {"limit_s": 1e-9})
    check = GATES.get("F-PARITY-VOCAB-001").check
    assert facts["passed"] == 0 and check is not None
    assert check(facts).outcome is Outcome.INAPPLICABLE


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(InferenceFailed):
        every_id.agreement({0: np.ones((2, 3), np.float32)}, {2: np.ones((2, 3), np.float32)})


# ---- siblings


def test_two_conversions_are_compared_with_each_other(truth: Path, tmp_path: Path) -> None:
    apr = artifact(converted(truth, "apr", "f16", tmp_path))
    good = artifact(converted(truth, "gguf", "q8_0", tmp_path))
    for one in (apr, good):
        compare_logits(artifact(truth), one).facts("logits", {})
    assert judged(compare_logits(apr, good)) == dict.fromkeys(
        ("F-CONV-INF-001", "F-CONV-G-A-INF-001"), Outcome.CORROBORATED
    )
    broken = artifact(converted(edited(truth, tmp_path / "b", flipped), "gguf", "q8_0", tmp_path / "b"))
    compare_logits(artifact(truth), broken).facts("logits", {})
    assert set(judged(compare_logits(apr, broken)).values()) == {Outcome.FALSIFIED}


def test_siblings_that_never_met_the_truth_are_run(tmp_path: Path) -> None:
    source = make_llama(tmp_path / "llama", seed=5)
    apr = artifact(converted(source, "apr", "f32", tmp_path))
    facts = compare_logits(apr, artifact(converted(source, "gguf", "f32", tmp_path))).facts("siblings", {})
    assert facts["measured"]["kl_max"] < 1e-5 and not facts["limits"]["calibrated"]


# ---- what is asked, and when


def test_the_tiers_ask_more_as_they_cost_more() -> None:
    source, made = Artifact(format="safetensors", path=""), Artifact(format="gguf", path="")
    asked = {tier: {claim.gate_id for claim in logit_claims(source, made, tier)} for tier in Tier}
    assert not asked[Tier.DIM_SMOKE] and not asked[Tier.SMOKE]
    assert asked[Tier.DEEP] - asked[Tier.MVP] == {"F-PARITY-VOCAB-001"} and asked[Tier.MVP] < asked[Tier.DEEP]
    assert all(GATES.get(gate).check for gates in asked.values() for gate in gates)


def test_each_pair_of_formats_has_its_own_ids() -> None:
    def asked(one: str, other: str) -> set[str]:
        pair = (Artifact(format=one, path=""), Artifact(format=other, path=""))
        return {claim.gate_id for claim in logit_claims(*pair, Tier.MVP)}

    assert {"F-CONV-INF-002", "F-PARITY-001", "F-PAR-002"} <= asked("safetensors", "gguf")
    assert "F-CONV-INF-003" in asked("safetensors", "apr") and "F-PAR-002" not in asked("safetensors", "apr")
    assert asked("apr", "gguf") == {"F-CONV-INF-001", "F-CONV-G-A-INF-001"}


def test_the_engine_is_known_to_plan_and_worker() -> None:
    assert "logits" in PAIRED and LOADERS["logits"] == "apr_qa.logits.session:compare_logits"
    source, made = Artifact(format="safetensors", path="a"), Artifact(format="gguf", path="b")
    batch = next(b for b in pair_batches("m", source, made, 1, Tier.MVP) if b.target.engine == "logits")
    assert batch.scenarios[0].claim.gate_id == "F-CONTRACT-I1-001" and batch.source == source


def test_tensors_are_random_enough_to_tell_models_apart() -> None:
    """The fixtures of this file would be worthless if two seeds gave the same model."""
    config = {"hidden_size": 8, "vocab_size": 4, "num_hidden_layers": 0, "tie_word_embeddings": True}
    one, other = (tensors_of(config, seed)["model.embed_tokens.weight"] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_the_feed_key_is_all_that_is_fed() -> None:
    feed = Feed((1, 2, 3), (0, 1), ((4, 5),))
    assert feed.following == [2, 3] and feed.key == [(1, 2, 3), (0, 1), ((4, 5),), feed.new_tokens]
    assert QUICK_TOKENS > 512 and readings.Readings and twins.limits_for
