"""Round trips: a healthy model comes back bit for bit, and every way of not coming back is seen."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_llama, make_qwen2, make_qwen3, tensors_of, write_safetensors

from apr_qa import workspace
from apr_qa.containers.file_access import MappedFiles
from apr_qa.conversion.convert import convert
from apr_qa.conversion.failures import (
    CLASSES,
    ConfigContradicted,
    TensorNamesWrong,
    ValuesUnreadable,
    failure_class,
)
from apr_qa.errors import (
    AprQaError,
    EngineMissing,
    EnvironmentFault,
    Inapplicable,
    InferenceFailed,
    MalformedFile,
    ModelUnavailable,
    UnsupportedArchitecture,
    UsageError,
)
from apr_qa.formats import FORMATS, OpenModel
from apr_qa.gates import GATES
from apr_qa.trips import excerpt, sameness, session
from apr_qa.trips.claims import trip_claims
from apr_qa.trips.session import Trips
from apr_qa.vocabulary import Artifact, Claim, Judgement, Outcome, Tier

MAKERS: list[Callable[..., Path]] = [make_llama, make_qwen2, make_qwen3]
FIXTURES = Path(__file__).parent / "fixtures" / "models"
SOURCE = Artifact(format="safetensors", path="", quantization="f32", sha256="ab" * 32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def artifact(path: Path, format_name: str = "safetensors") -> Artifact:
    return Artifact(format=format_name, path=str(path), sha256="ab" * 32)


def judged(trips: Trips, claim: Claim) -> Judgement:
    check = GATES.get(claim.gate_id).check
    assert check is not None
    return check(trips.facts(claim.params["check"], claim.params))


def claims(format_name: str, tier: Tier) -> tuple[Claim, ...]:
    return trip_claims(SOURCE, Artifact(format=format_name, path=""), tier)


def claim(gate_id: str, format_name: str = "apr", tier: Tier = Tier.STANDARD) -> Claim:
    return next(one for one in claims(format_name, tier) if one.gate_id == gate_id)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Path], Trips]]:
    made: list[Trips] = []

    def begin(path: Path) -> Trips:
        format_name = "gguf" if path.suffix == ".gguf" else "safetensors"
        made.append(session.start(artifact(path), artifact(path, format_name)))
        return made[-1]

    yield begin
    for trips in made:
        trips.close()


Begin = Callable[[Path], Trips]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_healthy_model_survives_every_trip(
    make: Callable[..., Path], dtype: str, tmp_path: Path, opened: Begin
) -> None:
    trips = opened(make(tmp_path / "model", dtype=dtype))
    for one in claims("apr", Tier.STANDARD):
        judgement = judged(trips, one)
        assert judgement.outcome is Outcome.CORROBORATED, f"{one.gate_id}: {judgement.reason}"


@pytest.mark.parametrize(
    "name", ["llama-untied-gqa8x2", "qwen2-tied-bias", "qwen3-qknorm", "llama-ropescaled-long"]
)
def test_trained_models_survive_every_trip(name: str, opened: Begin) -> None:
    trips = opened(FIXTURES / name)
    for one in (*claims("apr", Tier.STANDARD), *claims("apr", Tier.MVP)):
        judgement = judged(trips, one)
        assert judgement.outcome is Outcome.CORROBORATED, f"{one.gate_id}: {judgement.reason}"


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q4_0"])
def test_a_gguf_file_survives_every_trip_that_begins_with_it(
    quantization: str, tmp_path: Path, opened: Begin
) -> None:
    source = FORMATS.get("safetensors").open(
        make_llama(tmp_path / "model", hidden_size=256, intermediate_size=256)
    )
    path = convert(source, "gguf", tmp_path / "model.gguf", quantization=quantization)
    trips = opened(path)
    for one in claims("gguf", Tier.STANDARD):
        judgement = judged(trips, one)
        assert judgement.outcome is Outcome.CORROBORATED, f"{one.gate_id}: {judgement.reason}"


def test_nothing_is_left_behind_and_the_source_is_not_touched(tmp_path: Path, cache: Path) -> None:
    source = make_llama(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    trips = session.start(artifact(source), artifact(source))
    for one in claims("apr", Tier.STANDARD):
        judged(trips, one)
    trips.close()
    assert not list((cache / "trips").iterdir())
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before


def test_what_a_killed_worker_left_is_removed_by_the_next(tmp_path: Path, cache: Path, opened: Begin) -> None:
    dead = cache / "trips" / "999999999-abc"
    living = cache / "trips" / f"{os.getpid()}-abc"
    for folder in (dead, living):
        folder.mkdir(parents=True)
    judged(opened(make_llama(tmp_path / "model")), claim("F-CONV-RT-002"))
    assert not dead.exists() and living.exists()


def test_an_architecture_that_does_not_convert_is_refused_with_the_converters_reason(tmp_path: Path) -> None:
    source = make_llama(tmp_path / "model", model_type="mamba")
    with pytest.raises(UnsupportedArchitecture, match="mamba"):
        session.start(artifact(source), artifact(source))


def test_a_full_disk_is_no_fault_of_the_model(
    tmp_path: Path, opened: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 0})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(Inapplicable, match="MiB"):
        judged(opened(make_llama(tmp_path / "model")), claim("F-CONV-RT-002"))


def test_a_check_that_does_not_exist_is_refused(tmp_path: Path, opened: Begin) -> None:
    with pytest.raises(UsageError, match="no trip"):
        opened(make_llama(tmp_path / "model")).facts("tour", {})


# ---- every relation fails when it is broken


class Spoiled:
    """A model like another but for one tensor."""

    def __init__(self, model: OpenModel, name: str, change: Callable[[Any], Any]) -> None:
        self._model = model
        self._name = name
        self._change = change

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._model, attribute)

    def read(self, name: str) -> Any:
        values = self._model.read(name)
        return self._change(values) if name == self._name else values


def spoil(trips: Trips, path: str, name: str, change: Callable[[Any], Any]) -> None:
    trips.facts("trip", {"path": path})
    trips._made[path] = Spoiled(trips.make(path), name, change)


def nudge(values: Any) -> Any:
    changed = values.copy()
    changed.reshape(-1)[7] = np.nextafter(changed.reshape(-1)[7], np.float32(np.inf))
    return changed


@pytest.mark.parametrize(
    ("gate_id", "path"),
    [
        ("F-CONV-RT-002", "SAGS"),
        ("F-CONV-RT-003", "SAGAS"),
        ("F-CONV-RT-004", "SAGA"),
        ("F-CONV-012", "SAS"),
        ("F-CONV-014", "SGS"),
        ("F-CONV-COM-001", "SGA"),
    ],
)
@pytest.mark.parametrize(
    "change", [nudge, lambda v: v[::-1].copy(), lambda v: v * 0, lambda v: v * np.float32("nan")]
)
def test_a_value_that_changed_by_one_bit_breaks_a_trip(
    gate_id: str, path: str, change: Callable[[Any], Any], tmp_path: Path, opened: Begin
) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    spoil(trips, path, "model.layers.1.self_attn.k_proj.weight", change)
    assert judged(trips, claim(gate_id)).outcome is Outcome.FALSIFIED


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("tokenizer", None),
        ("chat_template", "{{ messages[0]['content'] }}"),
        ("generation_config", {"eos_token_id": 5}),
    ],
)
def test_a_companion_that_changed_breaks_a_trip(
    attribute: str, value: Any, tmp_path: Path, opened: Begin
) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    trips.facts("trip", {"path": "SAGS"})
    trips._made["SAGS"] = dataclasses.replace(trips.make("SAGS"), **{attribute: value})  # type: ignore[type-var]
    assert judged(trips, claim("F-CONV-RT-002")).outcome is Outcome.FALSIFIED


def test_a_config_field_that_changed_breaks_a_trip(tmp_path: Path, opened: Begin) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    trips.facts("trip", {"path": "SAGS"})
    trips.make("SAGS").config["rms_norm_eps"] = 1e-6
    judgement = judged(trips, claim("F-CONV-RT-002"))
    assert judgement.outcome is Outcome.FALSIFIED and "rms_norm_eps" in judgement.reason
    failure = judged(trips, claim("F-CONV-CONFIG-001"))
    assert failure.outcome is Outcome.FALSIFIED and "rms_norm_eps" in failure.reason


def renamed(model: OpenModel, name: str, **changes: Any) -> OpenModel:
    tensors = dict(model.tensors)
    info = tensors.pop(name)
    if changes:
        info = dataclasses.replace(info, **changes)
        tensors[info.name] = info
    return dataclasses.replace(model, tensors=tensors)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "gate_id", ["F-CONV-CARD-001", "F-CONV-NAME-001", "F-CONV-TNAME-001", "F-CONV-RT-002"]
)
def test_a_tensor_that_got_lost_on_the_way_is_missed(gate_id: str, tmp_path: Path, opened: Begin) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    trips.facts("trip", {"path": "SAGS"})
    trips._made["SAGS"] = renamed(trips.make("SAGS"), "model.norm.weight")
    assert judged(trips, claim(gate_id)).outcome is Outcome.FALSIFIED


def test_a_gguf_tensor_under_a_name_of_our_own_is_found(tmp_path: Path, opened: Begin) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    trips.facts("trip", {"path": "SAGS"})
    trips._made["SAG"] = renamed(trips.make("SAG"), "model.norm.weight", stored_name="norm.weight")
    judgement = judged(trips, claim("F-CONV-NAME-001"))
    assert judgement.outcome is Outcome.FALSIFIED and "output_norm" in judgement.reason


def test_a_tied_head_counts_once_whether_it_is_stored_or_not(tmp_path: Path, opened: Begin) -> None:
    source = make_qwen2(tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    tensors = tensors_of(config)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    write_safetensors(source / "model.safetensors", tensors)
    trips = opened(source)
    for gate_id in ("F-CONV-CARD-001", "F-CONV-NAME-001", "F-CONV-RT-002"):
        assert judged(trips, claim(gate_id)).outcome is Outcome.CORROBORATED


def test_other_bytes_break_the_comparison_of_payloads(tmp_path: Path, opened: Begin) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    trips.facts("payloads", {"paths": ["SA", "SAGA"]})
    path = trips.make("SAGA").path
    content = bytearray(path.read_bytes())
    info = trips.make("SAGA").tensors["model.norm.weight"]
    content[info.offset] ^= 1
    path.write_bytes(content)
    trips._made["SAGA"] = _reopened(trips.make("SAGA"))
    judgement = judged(trips, claim("F-CONV-RT-BYTE-001"))
    assert judgement.outcome is Outcome.FALSIFIED and "model.norm.weight" in judgement.reason


def _reopened(model: OpenModel) -> OpenModel:
    """Return the same header over a fresh map: the checksum in the footer no longer holds, on purpose."""
    return dataclasses.replace(model, _maps=MappedFiles())  # type: ignore[type-var]


def test_a_converter_that_writes_the_time_into_its_files_is_not_idempotent(
    tmp_path: Path, opened: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = convert, iter(range(100))

    def stamped(source: OpenModel, format: str, destination: Path, **rest: Any) -> Path:
        return real(source, format, destination, **{**rest, "source_sha256": f"{next(count):064}"})

    monkeypatch.setattr(session, "convert", stamped)
    judgement = judged(opened(make_llama(tmp_path / "model")), claim("F-CONV-IDEM-001"))
    assert judgement.outcome is Outcome.FALSIFIED


def test_a_second_rounding_on_the_way_is_more_than_half_precision_costs(
    tmp_path: Path, opened: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    one = claim("F-CONV-013")
    assert judged(trips, one).outcome is Outcome.CORROBORATED
    real = convert

    def rough(source: OpenModel, format: str, destination: Path, **rest: Any) -> Path:
        kind = "bf16" if format == "gguf" else rest["quantization"]
        return real(source, format, destination, **{**rest, "quantization": kind})

    trips._made = {"S": trips.make("S")}
    trips.close()
    monkeypatch.setattr(session, "convert", rough)
    again = opened(tmp_path / "model")
    assert judged(again, one).outcome is Outcome.FALSIFIED


# ---- classes of failures


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TensorNamesWrong("finance"), "tensor_names"),
        (ConfigContradicted("tensor name mismatch"), "config"),
        (ValuesUnreadable("config.json not found"), "values"),
        (UsageError("a finite weight does not fit f16"), "values"),
        (ModelUnavailable("x"), "missing"),
        (InferenceFailed("x"), "inference"),
        (MalformedFile("quantization nan"), "unknown"),
        (UnsupportedArchitecture("x"), ""),
        (EngineMissing("x"), ""),
        (EnvironmentFault("x"), ""),
        (Inapplicable("x"), ""),
    ],
)
def test_the_type_of_an_error_decides_its_class_and_not_its_words(error: AprQaError, expected: str) -> None:
    assert failure_class(error) == expected
    assert not expected or expected in CLASSES


def outcomes(trips: Trips) -> dict[str, Outcome]:
    return {
        one.gate_id: judged(trips, one).outcome
        for one in claims("apr", Tier.MVP)
        if one.params["check"] == "failures"
    }


def test_a_model_without_one_of_its_tensors_fails_over_names_alone(tmp_path: Path, opened: Begin) -> None:
    source = make_llama(tmp_path / "model")
    tensors = tensors_of(json.loads((source / "config.json").read_text()))
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    write_safetensors(source / "model.safetensors", tensors)
    found = outcomes(opened(source))
    assert found.pop("F-CONV-TNAME-001") is Outcome.FALSIFIED
    assert set(found.values()) == {Outcome.INCONCLUSIVE}


def test_a_config_that_contradicts_the_tensors_fails_over_the_config_alone(
    tmp_path: Path, opened: Begin
) -> None:
    source = make_llama(tmp_path / "model")
    text = (source / "config.json").read_text().replace('"intermediate_size": 128', '"intermediate_size": 96')
    (source / "config.json").write_text(text)
    found = outcomes(opened(source))
    assert found.pop("F-CONV-CONFIG-001") is Outcome.FALSIFIED
    assert set(found.values()) == {Outcome.INCONCLUSIVE}


def test_a_tokenizer_that_is_lost_on_the_way_is_missing(tmp_path: Path, opened: Begin) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    trips.facts("trip", {"path": "SAGS", "values": 1})
    trips.make("SAGS").tokenizer = None
    found = outcomes(trips)
    assert found.pop("F-CONV-MISSING-001") is Outcome.FALSIFIED
    assert set(found.values()) == {Outcome.CORROBORATED}


def test_an_error_of_no_known_class_is_a_class_of_its_own(
    tmp_path: Path, opened: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Path:
        raise MalformedFile("the writer does not like Tuesdays")

    monkeypatch.setattr(session, "convert", refuse)
    found = outcomes(opened(make_llama(tmp_path / "model")))
    assert found.pop("F-CONV-UNKNOWN-002") is Outcome.FALSIFIED
    assert set(found.values()) == {Outcome.INCONCLUSIVE}


# ---- what is asked when


def test_the_surface_tier_sends_one_layer_along_one_chain(tmp_path: Path, opened: Begin) -> None:
    asked = claims("apr", Tier.MVP)
    assert {one.params.get("path", "SAGS") for one in asked} == {"SAGS"}
    trips = opened(make_llama(tmp_path / "model"))
    facts = trips.facts("trip", asked[0].params)
    assert (facts["layers"], facts["of_layers"]) == (1, 2)
    assert "1 of 2 layers" in judged(trips, asked[0]).reason


@pytest.mark.parametrize("tier", [Tier.SMOKE, Tier.DIM_SMOKE])
def test_the_smallest_tiers_send_nothing_anywhere(tier: Tier) -> None:
    assert not any(claims(name, tier) for name in ("apr", "gguf", "safetensors"))


@pytest.mark.parametrize("tier", list(Tier))
def test_no_claim_is_asked_twice(tier: Tier) -> None:
    for name in ("apr", "gguf"):
        ids = [one.gate_id for one in claims(name, tier)]
        assert len(ids) == len(set(ids))


def test_the_catalogues_ids_are_all_asked_in_the_standard_tier() -> None:
    asked = {one.gate_id for name in ("apr", "gguf") for one in claims(name, Tier.STANDARD)}
    numbered = {f"F-CONV-{number:03d}" for number in (1, 2, 3, 5, 12, 13, 14)}
    trips = {f"F-CONV-RT-{number:03d}" for number in (1, 2, 3, 4)}
    relations = {f"F-CONV-{name}-001" for name in ("RT-BYTE", "IDEM", "COM", "CARD", "NAME")}
    assert numbered | trips | relations <= asked


# ---- excerpts


def test_an_excerpt_is_a_model_of_its_own_with_fewer_layers(tmp_path: Path) -> None:
    model = FORMATS.get("safetensors").open(make_llama(tmp_path / "model", num_hidden_layers=3))
    cut, layers = excerpt.within(model, 1)
    assert layers == 1 and cut.config["num_hidden_layers"] == 1
    assert not any(".layers.1." in name for name in cut.tensors)
    assert np.array_equal(cut.read("model.norm.weight"), model.read("model.norm.weight"))
    assert excerpt.within(model, 10**9) == (model, 3)


def test_a_model_too_large_for_the_time_of_a_claim_is_left_out_with_a_word(
    tmp_path: Path, opened: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LARGEST", 10)
    with pytest.raises(Inapplicable, match="too many"):
        judged(opened(make_llama(tmp_path / "model")), claim("F-CONV-RT-002"))


def test_the_checksum_depends_on_values_and_not_on_the_container(tmp_path: Path, opened: Begin) -> None:
    trips = opened(make_llama(tmp_path / "model"))
    trips.facts("trip", {"path": "SAGS"})
    sums = {sameness.checksum(trips.make(path)) for path in ("S", "SA", "SAG", "SAGS")}
    assert len(sums) == 1
    other = session.start(artifact(make_llama(tmp_path / "other", seed=1)), artifact(tmp_path / "other"))
    other.facts("checksum", {"path": "SAS"})
    assert sameness.checksum(other.make("S")) not in sums
    other.close()
    assert workspace.root().name == "cache"
