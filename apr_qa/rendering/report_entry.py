"""One entry of the evidence as every rendering shows it: what was said and measured, how to try it again."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from apr_qa.vocabulary import Evidence


def conversation(entry: Evidence) -> list[tuple[str, str]]:
    """Return (role, text) of what was said to the model and what it answered, in order."""
    claim, response = entry.scenario.claim, entry.response
    turns = response.turns if response is not None else ()
    said = [] if claim.messages or not claim.prompt else [("prompt", claim.prompt)]
    for number, message in enumerate(claim.messages):
        said.append(("user", message))
        said.extend([("model", turns[number])] if number < len(turns) else [])
    if response is not None and response.text is not None:
        said.append(("output", response.text))
    return said


def measurements(entry: Evidence) -> dict[str, str]:
    """Return what was measured while the model answered; what was not is left out."""
    response = entry.response
    if response is None:
        return {}
    found: dict[str, Any] = {
        "prompt tokens": response.prompt_tokens,
        "generated tokens": None if response.token_ids is None else len(response.token_ids),
        "finish reason": response.finish_reason,
        "duration": _with_unit(response.duration_s, "s"),
        "first token after": _with_unit(response.time_to_first_token_s, "s"),
        "speed": _with_unit(response.tokens_per_s, "tokens/s"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def numbers(entry: Evidence) -> list[tuple[str, str]]:
    """Return (title, indented JSON) of the parameters, metrics and facts of an entry that has any."""
    facts = entry.response.facts if entry.response is not None else {}
    parts = (("parameters", entry.scenario.claim.params), ("metrics", entry.metrics), ("facts", facts))
    return [(title, _pretty(values)) for title, values in parts if values]


def target_words(entry: Evidence) -> str:
    """Return cell and quantisation of an entry, such as ``gguf·cpu·run q4_1``."""
    target = entry.scenario.target
    return f"{target.cell} {target.quantization}".rstrip()


def replay(entry: Evidence) -> str:
    """Return the command that tries the entry again."""
    return f"apr-qa replay {entry.id}"


def _pretty(values: dict[str, Any]) -> str:
    return json.dumps(msgspec.to_builtins(values), indent=2, ensure_ascii=False, default=str)


def _with_unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:.4g} {unit}"
