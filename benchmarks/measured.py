"""What the benchmarks share: sides that alternate, medians, and a page with table, plot, machine and versions."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PAGES = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
_COLOURS = ("#4878a8", "#d08040", "#5a9a5a", "#a05a9a")

Times = dict[str, list[float]]


def interleaved(sides: Mapping[str, Callable[[], Mapping[str, float]]], runs: int) -> Times:
    """Call every side in turn, ``runs`` times; return all numbers under ``side: what``."""
    found: Times = {}
    for number in range(runs):
        for side, work in sides.items():
            begun = time.perf_counter()
            for what, value in work().items():
                found.setdefault(f"{side}: {what}", []).append(value)
            print(f"run {number + 1} of {runs}, {side}: {time.perf_counter() - begun:.1f} s", flush=True)
    return found


def medians(times: Times) -> dict[str, float]:
    """Return the median of every series."""
    return {name: statistics.median(values) for name, values in times.items()}


def machine(*packages: str) -> str:
    """Describe the machine and the versions of what was measured."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = f"load {os.getloadavg()[0]:.1f}"
    versions = [f"{name} {_version(name)}" for name in packages]
    parts = [
        f"{model}, {os.cpu_count()} logical cores, {memory:.0f} GiB, {load}",
        f"Python {platform.python_version()}",
    ]
    return "; ".join([*parts, *versions, time.strftime("%Y-%m-%d", time.gmtime())])


def page(
    name: str,
    title: str,
    method: str,
    rows: Sequence[tuple[str, float, str]],
    said: Sequence[str],
    where: str,
) -> Path:
    """Write ``docs/benchmarks/NAME.md`` and its plot; a row is label, value, unit."""
    unit = rows[0][2]
    drawn = [(label, value) for label, value, one in rows if one == unit]
    table = "\n".join(f"| {label} | {value:,.3g} {unit} |" for label, value, unit in rows)
    table = f"| what | median |\n|---|---|\n{table}"
    return written(name, title, method, table, _bars(title, drawn, unit), said, where)


def written(
    name: str, title: str, method: str, table: str, plot: str, said: Sequence[str], where: str
) -> Path:
    """Write ``docs/benchmarks/NAME.md`` with a Markdown table, and ``plot``, an SVG, beside it."""
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.svg").write_text(plot, encoding="utf-8")
    explained = method.strip()[:1].upper() + method.strip()[1:]
    text = (
        f"# {title}\n\n{explained}\n\n{table}\n\n"
        + "\n".join(f"* {line}" for line in said)
        + f"\n\n![{title}]({name}.svg)\n\nMeasured with `python benchmarks/{name}.py` on: {where}\n"
    )
    path = PAGES / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path


def curves(title: str, series: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> str:
    """Draw series of points on two logarithmic axes, so that a line of slope one is linear growth."""
    points = [point for line in series.values() for point in line]
    left, right = (math.log10(edge(x for x, _ in points)) for edge in (min, max))
    low, high = (
        math.floor(math.log10(min(y for _, y in points))),
        math.ceil(math.log10(max(y for _, y in points))),
    )

    def at(x: float, y: float) -> str:
        return f"{60 + 560 * (math.log10(x) - left) / (right - left or 1):.1f},{_height(y, low, high):.1f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="450" font-family="sans-serif" font-size="12">',
        f'<text x="8" y="18" font-weight="bold">{_escaped(title)}</text>',
    ]
    for power in range(low, high + 1):
        y = _height(10**power, low, high)
        parts.append(f'<path d="M60 {y:.1f}H620" stroke="#ddd"/>')
        parts.append(f'<text x="54" y="{y + 4:.1f}" text-anchor="end">{10**power:g} {_escaped(up)}</text>')
    for x in sorted({x for x, _ in points}):
        place = at(x, 10**low).partition(",")[0]
        parts.append(f'<text x="{place}" y="418" text-anchor="middle">{x:,.0f}</text>')
    for number, (label, line) in enumerate(series.items()):
        colour = f"hsl({number * 360 // len(series)} 60% 40%)"
        drawn = " ".join(at(x, y) for x, y in line)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, _, y = at(*line[-1]).partition(",")
        parts.append(
            f'<text x="{float(x) + 6:.1f}" y="{float(y) + 4:.1f}" fill="{colour}">{_escaped(label)}</text>'
        )
    return "\n".join(
        [*parts, f'<text x="340" y="440" text-anchor="middle">{_escaped(across)}</text></svg>\n']
    )


def _height(value: float, low: int, high: int) -> float:
    return 400 - 360 * (math.log10(value) - low) / (high - low or 1)


def _bars(title: str, rows: Sequence[tuple[str, float]], unit: str) -> str:
    most = max((value for _, value in rows), default=0.0) or 1.0
    height = 24 * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<text x="8" y="18" font-weight="bold">{_escaped(title)}</text>',
    ]
    for number, (label, value) in enumerate(rows):
        top = 30 + 24 * number
        width = max(1.0, 320 * value / most)
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<text x="300" y="{top + 14}" text-anchor="end">{_escaped(label)}</text>')
        parts.append(f'<rect x="308" y="{top}" width="{width:.1f}" height="18" fill="{colour}"/>')
        parts.append(f'<text x="{314 + width:.1f}" y="{top + 14}">{value:,.3g} {_escaped(unit)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []
