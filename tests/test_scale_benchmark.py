"""The benchmark of scale: its phases work on a small size, and what it writes says what was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SIZE = 360


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("scale", FOLDER / "scale.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_every_phase_of_a_file_sees_every_row(scale: ModuleType, tmp_path: Path) -> None:
    def steps(name: str) -> dict[str, Any]:
        return dict(scale.PHASES[name](tmp_path, SIZE))

    assert steps("write")["write"]["bytes"] > 100
    assert steps("resume")["resume"]["rows"] == SIZE
    judged = steps("judge")
    assert judged["judge"]["rows"] == SIZE and judged["junit"]["files"] == judged["html"]["files"] == 1
    assert steps("compact")["compact"]["bytes"] < 64
    assert steps("columns")["columns"]["rows"] == SIZE


def test_a_plan_has_as_many_scenarios_as_were_asked_for(scale: ModuleType, tmp_path: Path) -> None:
    ((_, said),) = scale.plan(tmp_path, SIZE)
    assert said["rows"] >= SIZE


def test_the_page_holds_what_was_measured(scale: ModuleType) -> None:
    found = {"seconds": 1.25, "cpu": 1.0, "mib": 77.0, "bytes": 9.5}
    results = {name: {1_000: found, 10_000: found} for name in scale.PHASES}
    assert "| judge | 1.25 s (1.00), 77 | 1.25 s (1.00), 77 | 15 s, 300 MiB |" in scale.table(
        results, (1_000, 10_000)
    )
    said = scale.sentences(results)
    assert "run: 0.125 ms a scenario at 10,000, durable evidence included (wanted: 0.1)" in said
    assert "judge: 1.00 × the processor time for 10.00 × the scenarios" in said


def test_a_plot_of_growth_is_a_drawing(scale: ModuleType) -> None:
    drawn = scale.measured.curves(
        "a < b", {"judge": [(10, 0.1), (100, 1.0)], "one": [(10, 2.0)]}, "rows", "s"
    )
    ElementTree.fromstring(drawn)  # noqa: S314 - we wrote it ourselves
    assert 'points="60.0,' in drawn and "1 s" in drawn and "a &lt; b" in drawn
