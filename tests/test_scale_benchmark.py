"""The benchmark of scale: its phases work on a small size, and what it writes says what was measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scale.py"
SIZE = 360


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_phase_of_a_file_sees_every_row(scale: ModuleType, tmp_path: Path) -> None:
    assert scale.write(tmp_path, SIZE)["bytes a row"] > 100
    assert scale.judge(tmp_path, SIZE)["rows"] == scale.resume(tmp_path, SIZE)["rows"] == SIZE
    assert scale.compact(tmp_path, SIZE)["bytes a row"] < 64
    assert scale.columns(tmp_path, SIZE)["rows"] == SIZE
    assert scale.junit(tmp_path, SIZE)["bytes"] > 0 and scale.html(tmp_path, SIZE)["files"] == 1


def test_a_plan_has_as_many_scenarios_as_were_asked_for(scale: ModuleType, tmp_path: Path) -> None:
    assert scale.plan(tmp_path, SIZE)["rows"] >= SIZE


def test_the_documents_hold_what_was_measured(scale: ModuleType) -> None:
    found = {"seconds": 1.25, "cpu": 1.0, "mib": 77.0, "bytes a row": 9.5}
    results = {name: {1_000: found, 10_000: found} for name in scale.PHASES}
    text = scale.table(results, (1_000, 10_000))
    assert "| judge | 1.25 s (1.00), 77 | 1.25 s (1.00), 77 | 15 s, 300 MiB |" in text
    ElementTree.fromstring(scale.plot(results))  # noqa: S314 - we wrote it ourselves
