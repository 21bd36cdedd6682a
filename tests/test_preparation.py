"""What is decided before a run: which file is the ground truth, and what is compared with what."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import make_llama

from apr_qa.conversion.convert import convert
from apr_qa.formats import FORMATS
from apr_qa.playbook import template
from apr_qa.preparation import Prepared, Settings, prepare
from apr_qa.vocabulary import Evidence, Model, Tier


class Silent:
    """A watcher that nobody listens to."""

    def say(self, text: str) -> None: ...

    def planned(self, scenarios: int) -> None: ...

    def happened(self, entry: Evidence) -> None: ...

    def andon(self, entry: Evidence) -> None: ...


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("found") / "model", dtype="bf16")


def prepared(path: Path, **given: Path) -> Prepared:
    settings = Settings(given={name: str(at) for name, at in given.items()}, gpu=False, download=False)
    return prepare(
        Model(id="local", path=str(path)),
        Tier.MVP,
        template(Tier.MVP, Model(id="local", path=str(path))),
        settings,
        Silent(),
    )


def truths(run: Prepared) -> set[str]:
    return {
        batch.source.path
        for batch in run.batches
        if batch.source is not None and batch.target.engine in ("comparison", "conversion")
    }


def test_a_brought_safetensors_is_compared_with_the_one_that_the_model_resolves_to(
    found: Path, tmp_path: Path
) -> None:
    brought = make_llama(tmp_path / "brought", seed=9)
    run = prepared(found, safetensors=brought)
    assert [(a.format, a.origin) for a in run.header.artifacts if a.origin != "derived"] == [
        ("safetensors", "given"),
        ("safetensors", "source"),
    ]
    assert run.header.ground_truth == "safetensors" and truths(run) == {str(found)}
    compared = [b.artifact.path for b in run.batches if b.target.engine in ("comparison", "logits")]
    assert str(brought) in compared and str(found) not in compared
    # The truth is looked at but not run; what is derived keeps its type.
    assert {b.target.engine for b in run.batches if b.artifact.path == str(found)} == {"inspect"}
    assert {a.quantization for a in run.header.artifacts if a.format == "apr"} == {"bf16"}


def test_a_brought_safetensors_that_is_the_found_one_is_not_compared_with_itself(found: Path) -> None:
    for given in (found, found / "model.safetensors"):
        run = prepared(found, safetensors=given)
        assert [a.origin for a in run.header.artifacts if a.format == "safetensors"] == ["given"]


def test_a_brought_safetensors_is_the_truth_where_there_is_no_other(found: Path, tmp_path: Path) -> None:
    gguf = convert(
        FORMATS.get("safetensors").open(found), "gguf", tmp_path / "m" / "model.gguf", quantization="f16"
    )
    run = prepared(gguf, safetensors=found)
    assert truths(run) == {str(found)}
    assert any(b.artifact.path == str(gguf) for b in run.batches if b.target.engine == "comparison")


def test_an_apr_is_compared_with_each_gguf_after_both_met_the_truth(found: Path) -> None:
    run = prepared(found)
    siblings = [b for b in run.batches if b.source is not None and b.source.format == "apr"]
    assert [b.target.engine for b in siblings] == ["logits"]
    met = [b for b in run.batches if b.target.engine == "logits" and b not in siblings]
    assert len(met) == 2 and siblings[0].wave >= max(b.wave for b in met)
    assert all(run.batches.index(b) < run.batches.index(siblings[0]) for b in met)
    assert {s.claim.gate_id for s in siblings[0].scenarios} == {"F-CONV-INF-001", "F-CONV-G-A-INF-001"}


def test_round_trips_begin_before_what_only_looks_at_files(found: Path) -> None:
    batches = prepared(found).batches
    (trips,) = (b for b in batches if b.target.engine == "trips")
    looks = [b for b in batches if b.wave == trips.wave and b.target.modality in ("compare", "inspect")]
    assert looks[0] is trips and len(looks) > 3
