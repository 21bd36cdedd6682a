"""Which engine runs a format and which converter makes one, where the person at the command line chooses."""

from __future__ import annotations

import msgspec

from apr_qa import plan
from apr_qa.backends import BACKENDS
from apr_qa.errors import UsageError

CONVERTERS = {"apr_cli": "apr_conversion"}
"""Name of a converter under test -> the engine that answers claims about it."""


def engine_of(chosen: str, format_name: str) -> str:
    """Return the engine that runs a format: the chosen one if it takes the format, else the usual one."""
    if chosen and format_name in BACKENDS.get(chosen).formats:
        return chosen
    return plan.ENGINES[format_name]


def known_engine(name: str) -> str:
    """Return ``name`` if it is an engine that runs files, or nothing; raises UsageError."""
    if name and name not in _running():
        raise UsageError(
            f"no engine that runs files is called {name!r}", fix=f"one of {', '.join(_running())}"
        )
    return name


def _running() -> list[str]:
    return [name for name in BACKENDS.names() if name not in ("inspect", "openai_http")]


def is_usual(engine: str) -> bool:
    """Say whether an engine is one that comes with the program; another one may be missing without fault."""
    return engine in plan.ENGINES.values()


def made_by(stock: plan.Stock, converter: str) -> plan.Stock:
    """Return the stock with conversions done by a converter under test; the ground truth is never its work."""
    if not converter:
        return stock
    return msgspec.structs.replace(
        stock, conversions=tuple(_made_by(batch, CONVERTERS[converter]) for batch in stock.conversions)
    )


def _made_by(batch: plan.Batch, engine: str) -> plan.Batch:
    if batch.target.format == "safetensors":
        return batch
    target = msgspec.structs.replace(batch.target, engine=engine)
    scenarios = tuple(msgspec.structs.replace(one, target=target) for one in batch.scenarios)
    return msgspec.structs.replace(batch, target=target, scenarios=scenarios)


def without_comparisons(batches: list[plan.Batch]) -> list[plan.Batch]:
    """Return the batches, those that compare formats marked as left out."""
    reason = "--skip-conversion-tests was given"
    return [
        msgspec.structs.replace(batch, inapplicable=reason) if batch.target.modality == "compare" else batch
        for batch in batches
    ]
