"""Special tokens of one artifact: is each one token, do all places agree, where do texts begin and turns end?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from apr_qa.comparison.generation import ids_of, stated_ids, token_ids, token_text
from apr_qa.errors import AprQaError
from apr_qa.extras import NotInstalled
from apr_qa.formats import OpenModel
from apr_qa.inspecting import template_scan, tokenizer_probe
from apr_qa.inspecting.turn_ends import TURN_ENDS

SHOWN = 20
_BAR = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>")
_WORDED = re.compile(r"<[a-z]+(?:_[a-z]+)+>|\[/?[A-Z][A-Z_]+\]")
_ENDS = re.compile(r"end|eos|eot|eom|eod|stop|return|</s>|^<s>$|�", re.IGNORECASE)
"""Texts of tokens that end something in published vocabularies."""
_STARTS = {
    "<|im_end|>": "<|im_start|>",
    "<|eot_id|>": "<|start_header_id|>",
    "<end_of_turn>": "<start_of_turn>",
}
_PADDING = re.compile(r"\[PAD(\d+)\]")
_FOR_PADDING = re.compile(r"(?:^|[^a-z])pad(?:$|[^a-z])", re.IGNORECASE)
_UNUSED = 5
_ROLES = ("bos", "eos", "pad", "unk")


def special_tokens(model: OpenModel) -> dict[str, Any]:
    """Return which special tokens are not one token each, or are ordinary text to the tokenizer.

    Looked at are the tokens that the settings name, and what the chat template writes in the shape of one.
    """
    try:
        tokenizer = tokenizer_probe.shared(model)
    except NotInstalled:
        raise
    except AprQaError:
        return {"present": False}
    known = token_ids(model)
    named = _named(model)
    later = {
        token_text(entry) for entry in (model.tokenizer_config.get("added_tokens_decoder") or {}).values()
    }
    absent = sorted(
        f"{role} {text}"
        for role, text in named.items()
        if role in ("bos", "eos") and text not in known.keys() | later
    )
    written = template_scan.literals(model.chat_template or "")
    markers = sorted({text for one in written for text in _BAR.findall(one)})
    worded = {text for one in written for text in _WORDED.findall(one) if text in known}
    looked_at = sorted({*markers, *worded, *named.values()} & known.keys())
    split = [text for text in looked_at if len(tokenizer.encode(text, add_special_tokens=False).ids) != 1]
    return {
        "present": True,
        "checked": len(looked_at),
        "absent": absent,
        "split": split[:SHOWN],
        "ordinary": _ordinary(model, named, markers)[:SHOWN],
        "foreign": _foreign(markers, known, named)[:SHOWN],
        "unused_start": _unused_start(model, known, written),
    }


def _named(model: OpenModel) -> dict[str, str]:
    settings = model.tokenizer_config
    return {role: text for role in _ROLES if (text := token_text(settings.get(f"{role}_token"))) is not None}


def _ordinary(model: OpenModel, named: Mapping[str, str], markers: list[str]) -> list[str]:
    """Return the special tokens that the tokenizer does not treat as control tokens.

    In tokenizer.json, markers that are added but not special are in healthy use; GGUF converters
    store everything of that shape as a control token.
    """
    added = {entry["content"]: entry for entry in (model.tokenizer or {}).get("added_tokens") or []}
    looked_at = {named[role] for role in ("bos", "eos") if role in named}
    looked_at |= set(markers) if model.format == "gguf" else set()
    return sorted(text for text in looked_at if text in added and not added[text].get("special"))


def _foreign(markers: list[str], known: Mapping[str, int], named: Mapping[str, str]) -> list[str]:
    """Return the markers of the template that are no tokens, where others of its or the vocabulary's are.

    Some healthy templates write all of their markers as plain text.
    """
    unknown = [text for text in markers if text not in known]
    usual = {text for text in markers if text in known} - set(named.values())
    return unknown if usual or known.keys() & {*TURN_ENDS, *_STARTS.values()} else []


def _unused_start(model: OpenModel, known: Mapping[str, int], written: list[str]) -> str:
    """Return the start of a turn that belongs to the model's end of turn and that its template never writes."""
    ends = stated_ids(model, "eos")
    text = "".join(written)
    for end, start in _STARTS.items():
        if known.get(end) in ends and start in known and text.strip() and start not in text:
            return start
    return ""


def identities(model: OpenModel) -> dict[str, Any]:
    """Return which ids each place gives to the end of generation, and what the chat template ends a turn with."""
    known = token_ids(model)
    text = _named(model).get("eos")
    sources = {
        "config.json": ids_of(model.config.get("eos_token_id")),
        "generation_config.json": ids_of(model.generation_config.get("eos_token_id")),
        "tokenizer_config.json": {known[text]} if text in known else set(),
    }
    stated = {name: sorted(ids) for name, ids in sources.items() if ids}
    by_id = {index: token for token, index in known.items()}
    turn_end = template_scan.turn_end(model, known)
    primary = min(sources["config.json"] or sources["generation_config.json"], default=None)
    named = _named(model)
    return {
        "stated": stated,
        "contradicting": _contradicting(stated),
        "turn_end": turn_end,
        "turn_end_id": known.get(turn_end),
        "eos_text": by_id.get(primary, "") if primary is not None else "",
        "looks_like_end": primary is None or bool(_ENDS.search(by_id.get(primary, ""))),
        "one_for_all": "bos" in named and named["bos"] == named.get("eos") == named.get("pad"),
        "pad": sorted(stated_ids(model, "pad")),
        "stops": sorted(stated_ids(model, "eos")),
        "pad_token": _padding_token(model),
    }


def _padding_token(model: OpenModel) -> str:
    """Return the text of an added token that is there for padding; empty if the vocabulary has none."""
    added = (entry["content"] for entry in (model.tokenizer or {}).get("added_tokens") or [])
    found = (text for text in added if _FOR_PADDING.search(text) and not _PADDING.fullmatch(text))
    return min(found, default="")


def _contradicting(stated: Mapping[str, list[int]]) -> list[str]:
    """Return the pair of places that have no id in common."""
    names = list(stated)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            if not set(stated[one]) & set(stated[other]):
                rest = [name for name in names if name not in (one, other)]
                if other != "tokenizer_config.json" or not any(
                    set(stated[name]) & set(stated[other]) for name in rest
                ):
                    return [one, other]
    return []


def beginning(model: OpenModel) -> dict[str, Any]:
    """Return what is put before a text, and how often the chat template itself begins with it."""
    named = _named(model).get("bos")
    known = token_ids(model)
    facts: dict[str, Any] = {
        "present": False,
        "adds": model.tokenizer_config.get("add_bos_token") is True,
        "named": named if named in known else None,
        "stated": sorted(stated_ids(model, "bos")),
        "put_before": [],
        "leading": 0,
        "in_turns": 0,
    }
    try:
        tokenizer = tokenizer_probe.shared(model)
    except NotInstalled:
        raise
    except AprQaError:
        return facts
    inner = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), 0)
    facts |= {"present": True, "put_before": whole[:start]}
    rendered = template_scan.rendered(model, [{"role": "user", "content": "a"}], prompt=True)
    first = known.get(named or "")
    if rendered and first is not None:
        ids = tokenizer.encode(rendered, add_special_tokens=False).ids
        facts["leading"] = next((i for i, token in enumerate(ids) if token != first), len(ids))
        facts["in_turns"] = ids.count(first)
    return facts


def padding(model: OpenModel) -> dict[str, Any]:
    """Return how many tokens a GGUF vocabulary lists for how many embedding rows, and padding typed wrongly."""
    vocabulary = getattr(model, "vocabulary", None)
    if vocabulary is None:
        return {"listed": None}
    rows = next(
        (info.shape[0] for name, info in model.tensors.items() if name.endswith("embed_tokens.weight")), None
    )
    wrong = list(_mistyped(vocabulary.tokens, vocabulary.types))
    return {"listed": len(vocabulary.tokens), "rows": rows, "mistyped": wrong[:SHOWN]}


def _mistyped(tokens: Any, types: Any) -> Iterator[str]:
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        match = _PADDING.fullmatch(token)
        if match and int(match[1]) == index and kind != _UNUSED:
            yield token
