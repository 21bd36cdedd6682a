"""One line of the ledger: its columns, and what a lawful value of each is.

Size categories by number of parameters: tiny below 1 B, small below 3 B, medium below 6 B, large below 13 B,
xlarge below 40 B, huge from there on. ``8x7B`` counts every expert in full.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime

from apr_qa.errors import UsageError
from apr_qa.rendering.visible import one_line, visible
from apr_qa.vocabulary import Record, Tier

STATUSES = ("CERTIFIED", "PROVISIONAL", "BLOCKED", "PENDING")
SIZES = (
    ("tiny", 1e9),
    ("small", 3e9),
    ("medium", 6e9),
    ("large", 13e9),
    ("xlarge", 40e9),
    ("huge", math.inf),
)
GRADES = ("A+", "A", "B+", "B", "C", "F", "-")
TIERS = ("none", *(tier.value for tier in Tier))
GATEWAYS = ("g1", "g2", "g3", "g4")
SPEEDS = {
    "tps_gguf_cpu": "gguf_cpu",
    "tps_gguf_gpu": "gguf_gpu",
    "tps_apr_cpu": "apr_cpu",
    "tps_apr_gpu": "apr_gpu",
    "tps_st_cpu": "safetensors_cpu",
    "tps_st_gpu": "safetensors_gpu",
}


class Row(Record, frozen=True, omit_defaults=False):
    """One model. Values are the strings of the file, so that what was read is written back unchanged.

    An empty string is what was not measured or not decided; a model that was never run is PENDING, its
    tier is ``none`` and its results are empty.
    """

    model_id: str
    family: str
    parameters: str
    size_category: str
    status: str = "PENDING"
    mqs_score: str = ""
    grade: str = "-"
    certified_tier: str = "none"
    """The tier of the run that the row reports, whatever came out of it."""
    last_certified: str = ""
    g1: str = ""
    g2: str = ""
    g3: str = ""
    g4: str = ""
    tps_gguf_cpu: str = ""
    tps_gguf_gpu: str = ""
    tps_apr_cpu: str = ""
    tps_apr_gpu: str = ""
    tps_st_cpu: str = ""
    tps_st_gpu: str = ""
    provenance_verified: str = "false"


COLUMNS: tuple[str, ...] = Row.__struct_fields__
_RESULTS = ("mqs_score", "last_certified", *GATEWAYS, *SPEEDS)


def parameter_count(text: str) -> float:
    """Return the number of parameters that ``135M``, ``0.5B`` or ``8x7B`` stands for; raises UsageError."""
    match = re.fullmatch(r"(?:([1-9]\d*)x)?(\d+(?:\.\d+)?)([MBT])", text, re.ASCII)
    if match is None or not float(match[2]):
        raise UsageError(f"{text!r} is not a number of parameters", fix="write it like 135M, 0.5B or 8x7B")
    return int(match[1] or 1) * float(match[2]) * {"M": 1e6, "B": 1e9, "T": 1e12}[match[3]]


def size_category(parameters: str) -> str:
    """Return the size category of a number of parameters; empty where the number is unknown."""
    return next(name for name, below in SIZES if parameter_count(parameters) < below) if parameters else ""


def _one_of(*words: str) -> Callable[[str], str | None]:
    shown = ", ".join(word or "empty" for word in words)
    return lambda value: None if value in words else f"{value!r} is not one of: {shown}"


def _model_id(value: str) -> str | None:
    plain = value and value == value.strip() and visible(value) == value and not re.search(r"[\n\t]", value)
    return None if plain else f"{value!r} is not a model id"


def _family(value: str) -> str | None:
    return None if one_line(value, 200) == value else f"{value!r} is not plain text"


def _parameters(value: str) -> str | None:
    try:
        size_category(value)
    except UsageError as error:
        return f"{error.what} ({error.fix})"
    return None


def _score(value: str) -> str | None:
    lawful = not value or (re.fullmatch(r"0|[1-9]\d{0,3}", value, re.ASCII) and int(value) <= 1000)
    return None if lawful else f"{value!r} is not a whole number from 0 to 1000, nor empty"


def _moment(value: str) -> str | None:
    try:
        lawful = not value or datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        lawful = False
    return None if lawful else f"{value!r} is not a time with its offset from UTC, nor empty"


def _speed(value: str) -> str | None:
    lawful = not value or re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII)
    return None if lawful else f"{value!r} is not a speed in tokens per second, nor empty"


_RULES: dict[str, Callable[[str], str | None]] = {
    "model_id": _model_id,
    "family": _family,
    "parameters": _parameters,
    "size_category": _one_of(*(name for name, _ in SIZES), ""),
    "status": _one_of(*STATUSES),
    "mqs_score": _score,
    "grade": _one_of(*GRADES),
    "certified_tier": _one_of(*TIERS),
    "last_certified": _moment,
    **dict.fromkeys(GATEWAYS, _one_of("true", "false", "")),
    **dict.fromkeys(SPEEDS, _speed),
    "provenance_verified": _one_of("true", "false"),
}


def faults_of(row: Row) -> Iterator[str]:
    """Yield what is wrong with single values, then what contradicts each other."""
    faults = [f"{name}: {fault}" for name in COLUMNS if (fault := _RULES[name](getattr(row, name)))]
    yield from faults
    if faults:
        return
    size = size_category(row.parameters)
    if row.size_category != size:
        yield f"size_category: {row.size_category!r}, but {row.parameters!r} parameters are {size!r}"
    if row.certified_tier == "none":
        yield from (
            f"{name}: holds a value, but the model was never run" for name in _RESULTS if getattr(row, name)
        )
        if row.status != "PENDING" or row.grade != "-":
            yield f"status: {row.status} {row.grade}, but the model was never run"
    if row.status in ("CERTIFIED", "PROVISIONAL"):
        refuted = [name for name in GATEWAYS if getattr(row, name) == "false"]
        yield from (f"{name}: false, but the model is {row.status}" for name in refuted)
        if not row.mqs_score:
            yield f"mqs_score: empty, but the model is {row.status}"
