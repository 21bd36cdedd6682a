"""Which token ids mean beginning, end and padding, wherever a model says so, and where generation stops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr_qa.containers.gguf_vocabulary import END_OF_GENERATION
from apr_qa.formats import OpenModel

ROLES = ("bos", "eos", "pad")


def ids_of(value: Any) -> set[int]:
    """Return the token ids that a field holds: a number, a list of them, or nothing (-1 means nothing)."""
    values = value if isinstance(value, list) else [value]
    return {item for item in values if type(item) is int and item >= 0}


def token_ids(model: OpenModel) -> dict[str, int]:
    """Return text -> id of every token, added ones included; empty without a tokenizer."""
    tokenizer = model.tokenizer or {}
    inner = tokenizer.get("model") or {}
    vocab = inner.get("vocab") or {}
    found = dict(vocab) if isinstance(vocab, Mapping) else {entry[0]: i for i, entry in enumerate(vocab)}
    return found | {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or []}


def token_text(value: Any) -> str | None:
    """Return the text of a special token as tokenizer_config.json writes it: plain, or an object."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def stated_ids(model: OpenModel, role: str) -> set[int]:
    """Return every id that configuration, generation settings or tokenizer settings give to ``role``."""
    found = ids_of(model.config.get(f"{role}_token_id"))
    found |= ids_of(model.generation_config.get(f"{role}_token_id"))
    text = token_text(model.tokenizer_config.get(f"{role}_token"))
    if text is not None:
        found |= {index for index in [token_ids(model).get(text)] if index is not None}
    return found


def wrong_ids(role: str, truth: OpenModel, artifact: OpenModel) -> list[int]:
    """Return the ids that the artifact gives to ``role`` and the truth does not, else nothing.

    The end of a turn may be among the ends although the truth leaves it to its chat template. For a role
    that the truth does not use at all, any id is foreign but padding, which no engine shows to the model.
    """
    wanted = stated_ids(truth, role)
    if role == "eos":
        primary = ids_of(artifact.config.get("eos_token_id"))
        turn_ends = _turn_ends(truth)
        return sorted((primary - wanted) | (stated_ids(artifact, role) - wanted - turn_ends))
    if role == "pad" and not wanted:
        return []
    return sorted(stated_ids(artifact, role) - wanted)


def generation(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Compare where generation begins, stops and pads; facts hold sorted ids."""
    wanted, stated = stated_ids(truth, "eos"), stated_ids(artifact, "eos")
    stops = stated | (_turn_ends(artifact) if artifact.format == "gguf" else set())
    begins = stated_ids(artifact, "bos")
    return {
        "truth_stops": sorted(wanted),
        "artifact_stops": sorted(stated),
        "lost_stops": sorted(wanted - stops) if stated else sorted(wanted),
        "foreign": {role: found for role in ROLES if (found := wrong_ids(role, truth, artifact))},
        "lost_begin": sorted(stated_ids(truth, "bos")) if _lost_begin(truth, artifact, begins) else [],
        "compared": len(wanted | stated) + len(ROLES),
    }


def _lost_begin(truth: OpenModel, artifact: OpenModel, begins: set[int]) -> bool:
    """Say whether the artifact adds, or its truth knows, a first token that the artifact does not name."""
    adds = artifact.tokenizer_config.get("add_bos_token") is True
    return not begins and (adds or bool(token_text(truth.tokenizer_config.get("bos_token"))))


def _turn_ends(model: OpenModel) -> set[int]:
    tokens = token_ids(model)
    return {tokens[text] for text in END_OF_GENERATION if text in tokens}
