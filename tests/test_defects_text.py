"""Each catalogued defect of tokenizer, template, quantisation, packaging and security is noticed, each control not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apr_qa import plan
from apr_qa.backends.inspect import Inspection
from apr_qa.comparison.claims import FILE_PARITY
from apr_qa.comparison.session import Comparison, open_model
from apr_qa.conversion.convert import convert
from apr_qa.defects import DEFECTS, Inexpressible, Specimen
from apr_qa.errors import AprQaError, Inapplicable, UnsupportedArchitecture
from apr_qa.formats import FORMATS
from apr_qa.gates import GATES
from apr_qa.vocabulary import Outcome

MODELS = Path(__file__).parent / "fixtures" / "models"
CHATML, BEGUN, PADDED = "llama-untied-gqa8x2", "llama-ropescaled-long", "qwen3-qknorm"
LAYERS = ("tokenizer", "template", "quantisation", "packaging", "security")
MODULES = (*LAYERS, "special_tokens", "packed_quantisation")
HEADER = "G0-HEADER-001"

CAUGHT: dict[str, str] = {
    # tokenizer
    "added-tokens-missing": "G0-SPECIAL-001",
    "bos-eos-pad-same-string": "G0-STOP-002",
    "bos-id-bogus": "G0-BOS-001",
    "bos-missing": "F-CONTRACT-I5-001",
    "bos-missing-in-settings": "F-CONTRACT-I5-001",
    "digit-splitting-changed": "F-CONTRACT-I5-001",
    "double-bos": "F-CONTRACT-I5-001 G0-BOS-001",
    "embedding-row-shift": "F-HFP-005",
    "eos-id-is-padding": "G0-GENERATION-EQUAL",
    "eos-id-wrong": "G0-GENERATION-EQUAL",
    "eos-string-contradicts-template": "G0-STOP-001",
    "merges-rank-off-by-one": "F-CONTRACT-I5-001",
    "merges-rank-off-by-one-shifted": "F-CONTRACT-I5-001",
    "merges-truncated": "G0-MERGES-001",
    "pad-equals-eos": "G0-GENERATION-EQUAL",
    "special-token-type-normal": "G0-SPECIAL-001",
    "special-token-type-user-defined": "G0-SPECIAL-001",
    "tokenizer-from-other-model": "F-CONTRACT-I5-001",
    "vocab-padding-beyond": "G0-VOCAB-ROWS",
    "vocab-padding-mismatch": "G0-VOCAB-ROWS",
    # template
    "template-always-generation-prompt": "G0-TEMPLATE-PROMPT",
    "template-drops-system": "G0-TEMPLATE-ROLES",
    "template-missing": "G0-TEMPLATE-001",
    "template-no-generation-prompt": "G0-TEMPLATE-PROMPT",
    "template-raises-on-system": "G0-TEMPLATE-EQUAL",
    "template-stale-in-a-branch": "G0-TEMPLATE-TEXT",
    "template-stale-vs-upstream": "G0-TEMPLATE-EQUAL",
    "template-wrong-family": "G0-SPECIAL-002",
    "template-wrong-family-plain": "G0-SPECIAL-002",
    # quantisation
    "bf16-read-as-f16": "G0-VALIDATE-003",
    "bf16-read-as-f16-everywhere": "G0-VALIDATE-003",
    "bnb-quant-state-missing": "G0-QUANT-PACKED",
    "bnb-row-scales-missing": "G0-QUANT-PACKED",
    "byte-swapped-header": HEADER,
    "byte-swapped-tensor": "G0-VALIDATE-003",
    "f16-read-as-bf16": "G0-VALIDATE-003",
    "fp8-scale-dropped": "G0-QUANT-PACKED",
    "fp8-scale-of-another": "F-CONTRACT-I4-001",
    "gptq-gidx-ignored": "G0-QUANT-PACKED",
    "gptq-gidx-shuffled": "F-CONTRACT-I4-001",
    "gptq-zero-off-by-one": "G0-QUANT-PACKED F-CONTRACT-I4-001",
    "gptq-zero-off-by-one-in-one": "G0-QUANT-PACKED F-CONTRACT-I4-001",
    "imatrix-nan-blocks": "G0-QUANT-SCALES",
    "q3k-scales-as-4bit": "F-CONTRACT-I4-001",
    "q4-nibble-order": "F-CONTRACT-I4-001",
    "q4-twos-complement": "F-CONTRACT-I4-001",
    "requantised-from-quantised": "F-CONTRACT-I4-001",
    "unknown-dtype-as-f32": "G0-LAYOUT-001",
    "unknown-dtype-code": HEADER,
    # packaging
    "companion-files-missing": "G0-INTEGRITY-CONFIG",
    "companion-tokenizer-missing": "G0-TOKENIZER-001",
    "extension-of-a-page": HEADER,
    "extension-of-a-pointer": HEADER,
    "extension-of-nothing": HEADER,
    "extension-or-magic-mismatch": HEADER,
    "file-with-a-hole": "G0-VALIDATE-004",
    "missing-shard": HEADER,
    "provenance-missing": "F-PROV-002",
    "published-file-half-size": "G0-VALIDATE-002",
    "truncated-by-a-few-bytes": HEADER,
    "truncated-file-tail": HEADER,
    "truncated-in-the-header": HEADER,
    # security
    "gguf-alignment-not-a-power": HEADER,
    "gguf-alignment-of-zero": HEADER,
    "gguf-alignment-signed": HEADER,
    "gguf-bad-alignment": HEADER,
    "gguf-dim-overflow": HEADER,
    "gguf-huge-counts": HEADER,
    "gguf-huge-string": HEADER,
    "gguf-huge-tensor-count": HEADER,
    "gguf-lying-dims-oob-read": HEADER,
    "gguf-ndims-over-4": HEADER,
    "jinja-ssti": "G0-TEMPLATE-SAFE",
    "jinja-ssti-by-filter": "G0-TEMPLATE-SAFE",
    "jinja-ssti-by-subclasses": "G0-TEMPLATE-SAFE",
    "jinja-ssti-in-a-branch": "G0-TEMPLATE-SAFE",
    "pickle-payload": "F-SEC-PICKLE-001",
    "pickle-wrapped": "F-SEC-PICKLE-001",
    "st-header-length-bomb": HEADER,
    "st-header-padded": HEADER,
    "st-offsets-negative": HEADER,
    "st-offsets-reversed": HEADER,
    "st-overlapping-tensors": HEADER,
    "st-shape-overflow": HEADER,
    "template-trigger-backdoor": "G0-TEMPLATE-TRIGGER",
    "template-trigger-by-case": "G0-TEMPLATE-TRIGGER",
    "template-trigger-by-length": "G0-TEMPLATE-EQUAL",
}
"""Defect -> gates that must notice it in every container that holds it."""

ON: dict[str, str] = {
    **dict.fromkeys(("bos-missing", "bos-missing-in-settings", "double-bos"), BEGUN),
    **dict.fromkeys(("missing-shard", "digit-splitting-changed"), PADDED),
}
"""Defects that the usual model cannot express."""
NEEDS_WIDE_ROWS = ("q3k-scales-as-4bit",)


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return healthy artifacts: (model, format) -> path; conversions are made once."""
    folder, made = tmp_path_factory.mktemp("healthy"), {}

    def artifact(model: str, format_name: str) -> Path:
        if format_name == "safetensors":
            return MODELS / model
        if (model, format_name) not in made:
            source = FORMATS.get("safetensors").open(MODELS / model)
            made[model, format_name] = convert(source, format_name, folder / f"{model}.{format_name}")
        return made[model, format_name]

    return artifact


def _copy(source: Path, folder: Path, format_name: str) -> Specimen:
    target = folder / ("model" if source.is_dir() else f"model.{format_name}")
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    return Specimen(target, format_name)


def _falsified(specimen: Specimen, truth: Path | None, only: set[str] | None = None) -> dict[str, str]:
    """Return gate -> reason of every claim about the file, alone and against the truth, that is falsified."""
    try:
        model = open_model(specimen.path, specimen.format)
    except AprQaError as refusal:
        return {HEADER: refusal.what}
    asked: list[tuple[Any, str, str]] = []
    inspection = Inspection(model)
    asked += [(inspection, gate, check) for gate, check, _ in plan.FILE_CLAIMS if check != "provenance"]
    if truth is not None:
        comparison = Comparison(open_model(truth, "safetensors"), model)
        asked += [(comparison, gate, check) for gate, check, _ in FILE_PARITY if check != "lineage"]
    found: dict[str, str] = {}
    known: dict[tuple[int, str], dict[str, Any]] = {}
    for session, gate, check in asked:
        if only is not None and gate not in only:
            continue
        reason = _refuted(session, gate, check, known)
        if reason:
            found[gate] = reason
    return found


def _refuted(session: Any, gate: str, check: str, known: dict[tuple[int, str], dict[str, Any]]) -> str:
    try:
        if (id(session), check) not in known:
            known[id(session), check] = session.facts(check, {"origin": "found"})
        judge = GATES.get(gate).check
        assert judge is not None
        judgement = judge(known[id(session), check])
    except (Inapplicable, UnsupportedArchitecture):
        return ""
    except AprQaError as refusal:
        return refusal.what
    return judgement.reason if judgement.outcome is Outcome.FALSIFIED else ""


def _cases() -> Iterator[tuple[str, str]]:
    for name, gates in CAUGHT.items():
        assert gates
        if name not in NEEDS_WIDE_ROWS:
            yield from ((name, format_name) for format_name in DEFECTS.get(name).formats)


@pytest.mark.parametrize(("name", "format_name"), list(_cases()))
def test_a_planted_defect_is_noticed_by_the_gate_of_its_class(
    name: str, format_name: str, healthy: Any, tmp_path: Path
) -> None:
    model = ON.get(name, CHATML)
    specimen = _copy(healthy(model, format_name), tmp_path, format_name)
    gates = set(CAUGHT[name].split())

    DEFECTS.get(name).plant(specimen)

    assert gates & set(_falsified(specimen, MODELS / model, gates))


def test_every_defect_of_these_layers_has_a_gate_that_is_said_to_notice_it() -> None:
    entered = {name for name, defect in DEFECTS.items() if defect.layer in LAYERS and not defect.runtime}

    assert entered == set(CAUGHT)


def test_scales_of_q3_k_that_were_cut_are_noticed_against_the_source(tmp_path: Path) -> None:
    import tiny_models

    source = tiny_models.make_llama(tmp_path / "source", intermediate_size=256)
    truth = FORMATS.get("safetensors").open(source)
    specimen = Specimen(convert(truth, "gguf", tmp_path / "model.gguf"), "gguf")

    DEFECTS.get("q3k-scales-as-4bit").plant(specimen)

    assert "F-CONTRACT-I4-001" in _falsified(specimen, source, {"F-CONTRACT-I4-001"})


_CONTROLS = [
    name
    for name, defect in DEFECTS.items()
    if defect.expected == "pass" and defect.plant.__module__.rpartition(".")[2] in MODULES
]
_OTHER_CONTROLS = ["merges-in-the-other-form"]


@pytest.mark.parametrize("name", [*_CONTROLS, *_OTHER_CONTROLS])
def test_a_healthy_control_raises_no_alarm(name: str, tmp_path: Path) -> None:
    defect = DEFECTS.get(name)
    planted = 0
    for model in (CHATML, PADDED, "gemma-norms", "mistral-sliding"):
        (tmp_path / model).mkdir()
        specimen = _copy(MODELS / model, tmp_path / model, "safetensors")
        try:
            defect.plant(specimen)
        except Inexpressible:
            continue
        planted += 1
        assert _falsified(specimen, None if defect.alone else MODELS / model) == {}

    assert planted


@pytest.mark.parametrize("model", sorted(path.name for path in MODELS.iterdir()))
def test_the_trained_fixture_models_raise_no_alarm(model: str) -> None:
    assert _falsified(Specimen(MODELS / model, "safetensors"), MODELS / model) == {}


@pytest.mark.parametrize("format_name", ["gguf", "apr"])
@pytest.mark.parametrize("model", [CHATML, BEGUN, PADDED])
def test_healthy_conversions_raise_no_alarm(model: str, format_name: str, healthy: Any) -> None:
    assert _falsified(Specimen(healthy(model, format_name), format_name), MODELS / model) == {}


def test_a_defect_says_what_a_model_lacks_that_cannot_express_it(healthy: Any, tmp_path: Path) -> None:
    specimen = _copy(healthy("moe-4experts", "safetensors"), tmp_path, "safetensors")

    with pytest.raises(Inexpressible, match="first token"):
        DEFECTS.get("double-bos").plant(specimen)
