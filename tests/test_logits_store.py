"""What is kept of a model's predictions is served for the same content alone: one changed byte is another model."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from apr_qa import workspace
from apr_qa.logits import store
from apr_qa.logits.feed import Feed
from apr_qa.logits.readings import Readings

MODEL = Path(__file__).parent / "fixtures" / "models" / "llama-untied-gqa8x2"
FEED = Feed(text=(1, 2, 3, 4), positions=(0, 1, 2), prompts=((1, 2), (3, 4)))
ENGINE = "transformers_torch"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    return folder


def readings() -> Readings:
    zeros = np.zeros((3, 5), np.float32)
    ids = np.zeros((2, 8), np.int64)
    return Readings(zeros, ids, ids, np.zeros((2, 8), np.float32), np.zeros((1, 4, 2), np.float32))


def name(folder: Path, feed: Feed = FEED, engine: str = ENGINE, dtype: str = "f32") -> str:
    return store.name_of(workspace.content_sha256(folder), feed, engine, dtype)


def test_what_was_kept_is_served_for_the_same_content(model: Path) -> None:
    store.keep(name(model), readings())
    assert store.stored(name(model)) is not None


def test_reading_makes_young_again_what_the_cache_would_remove_first(model: Path) -> None:
    store.keep(name(model), readings())
    store.remember("limits", {"kl_mean": 0.5})
    kept = list((workspace.root() / "logits").iterdir())
    for path in kept:
        os.utime(path, (1, 1))
    assert store.stored(name(model)) is not None
    assert store.remembered("limits") == {"kl_mean": 0.5}
    assert [path.name for path in kept if path.stat().st_mtime == 1] == []
    assert len(kept) == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("file", sorted(file.name for file in workspace.artifact_files(MODEL)))
def test_one_changed_byte_of_any_file_of_a_model_finds_nothing(model: Path, file: str, share: float) -> None:
    store.keep(name(model), readings())
    data = bytearray((model / file).read_bytes())
    data[int(share * len(data))] ^= 1
    (model / file).write_bytes(data)
    assert store.stored(name(model)) is None


@pytest.mark.parametrize(
    "change",
    [{"text": (1, 2, 3, 5)}, {"positions": (0, 1)}, {"prompts": ((1, 2), (3, 5))}, {"new_tokens": 7}],
)
def test_what_is_asked_belongs_to_the_name(model: Path, change: dict[str, object]) -> None:
    store.keep(name(model), readings())
    assert store.stored(name(model, dataclasses.replace(FEED, **change))) is None  # type: ignore[arg-type]
    assert store.stored(name(model, dtype="bf16")) is None
    assert store.stored(name(model, engine="llama_cpp")) is None


def test_another_build_of_the_same_version_of_an_engine_finds_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "site" / "engine_of_ours" / "lib" / "libengine.so"
    library.parent.mkdir(parents=True)
    (library.parent.parent / "__init__.py").touch()
    library.write_bytes(b"machine code" * 400_000)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(store._LIBRARIES, "llama_cpp", ("engine_of_ours", "lib/*"))
    store.keep(name(model, engine="llama_cpp"), readings())
    assert store.stored(name(model, engine="llama_cpp")) is not None
    data = bytearray(library.read_bytes())
    data[1000] ^= 1
    library.write_bytes(data)
    assert store.stored(name(model, engine="llama_cpp")) is None


def test_another_version_of_ours_finds_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.keep(name(model), readings())
    monkeypatch.setattr(store, "__version__", "0.0.0")
    assert store.stored(name(model)) is None
