"""Two tokenizers compared whole, in a form that does not depend on how a file writes them down.

Prompts miss rare edits, so every token, merge and added token is looked at; encoding two hundred texts is
the second line, and the only one for rules whose two spellings cannot be told from two rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apr_qa.comparison.generation import stated_ids, token_ids, token_text
from apr_qa.comparison.probe_texts import probe_texts
from apr_qa.conversion.pretokenizers import name_of
from apr_qa.errors import AprQaError, UnsupportedArchitecture
from apr_qa.formats import OpenModel
from apr_qa.inspecting import tokenizer_probe

SHOWN = 20
_PADDING = re.compile(r"\[PAD(\d+)\]")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused\d+>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
"""What llama.cpp's converter stores as a control token although tokenizer.json does not call it special
(``does_token_look_special`` in ``convert_hf_to_gguf.py``)."""
_STAGES = ("normalizer", "pre_tokenizer", "decoder")
_PARTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
_WITHOUT_MEANING = {"type", "trim_offsets"}


def tokenizer_differences(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Compare vocabulary, merges, added tokens, stages, special ids and the encoding of the probe texts."""
    if truth.tokenizer is None or artifact.tokenizer is None:
        return _absent(truth, artifact)
    loose = artifact.format == "gguf"
    structure = list(_structure(truth.tokenizer, artifact.tokenizer, loose=loose))
    by_probes = [difference["kind"] for difference in structure if difference.pop("undecided", False)]
    found = [
        *_vocabulary(token_ids(truth), token_ids(artifact)),
        *_merges(truth.tokenizer, artifact.tokenizer),
        *_added(truth.tokenizer, artifact.tokenizer, loose=loose),
        *(difference for difference in structure if difference["kind"] not in by_probes),
        *_special(truth, artifact),
    ]
    probes = _probes(truth, artifact)
    found += probes
    kinds: dict[str, int] = {}
    shown: list[dict[str, Any]] = []
    for difference in found:
        kinds[difference["kind"]] = kinds.get(difference["kind"], 0) + 1
        if kinds[difference["kind"]] <= SHOWN:
            shown.append(difference)
    return {
        "present": True,
        "tokens": len(token_ids(truth)),
        "merges": len((truth.tokenizer.get("model") or {}).get("merges") or []),
        "added": len(truth.tokenizer.get("added_tokens") or []),
        "probes": len(probe_texts()),
        "by_probes": by_probes,
        "kinds": kinds,
        "differences": shown,
    }


def _absent(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    pre = artifact.metadata.get("tokenizer.ggml.pre")
    reason = ""
    if artifact.tokenizer is None and pre is not None:
        reason = f"the pre-tokenizer {pre!r} is not known here"
    expected = None
    if truth.tokenizer is not None:
        try:
            expected = name_of(truth.tokenizer)
        except UnsupportedArchitecture:
            expected = None
    return {
        "present": False,
        "truth": truth.tokenizer is not None,
        "artifact": artifact.tokenizer is not None,
        "unreadable": reason,
        "expected_pre": expected,
    }


def _vocabulary(ours: Mapping[str, int], theirs: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for token in ours.keys() | theirs.keys():
        one, other = ours.get(token), theirs.get(token)
        if one != other and not _is_padding(token, one, other):
            yield {"kind": "vocabulary", "token": token, "truth": one, "artifact": other}


def _is_padding(token: str, one: int | None, other: int | None) -> bool:
    match = _PADDING.fullmatch(token)
    return match is not None and None in (one, other) and int(match[1]) in (one, other)


def _merges(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    one, other = _ranked(ours), _ranked(theirs)
    if len(one) != len(other):
        yield {"kind": "merges", "truth": len(one), "artifact": len(other), "what": "number"}
    for rank, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            yield {"kind": "merges", "rank": rank, "truth": left, "artifact": right}


def _ranked(tokenizer: Mapping[str, Any]) -> Sequence[Any]:
    """Return what decides the order of merging: pairs, or for SentencePiece the tokens that they make."""
    model = tokenizer.get("model") or {}
    merges = model.get("merges") or []
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in merges]
    if model.get("byte_fallback"):
        return list(dict.fromkeys("".join(pair) for pair in pairs))
    if isinstance(model.get("vocab"), list):
        return [tuple(entry) for entry in model["vocab"]]
    return pairs


def _added(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, loose: bool) -> Iterator[dict[str, Any]]:
    one, other = ({e["content"]: e for e in side.get("added_tokens") or []} for side in (ours, theirs))
    for token in one.keys() | other.keys():
        left, right = one.get(token), other.get(token)
        if left is None or right is None:
            if not (loose and left is None and _PADDING.fullmatch(token)):
                sides = {"truth": left is not None, "artifact": right is not None}
                yield {"kind": "added_tokens", "token": token, **sides}
            continue
        wanted, found = bool(left.get("special")), bool(right.get("special"))
        if wanted != found and not (loose and found and _LOOKS_SPECIAL.fullmatch(token)):
            yield {"kind": "special", "token": token, "truth": wanted, "artifact": found}
        for flag in () if loose else _FLAGS:
            if bool(left.get(flag)) != bool(right.get(flag)):
                yield {"kind": flag, "token": token, "truth": left.get(flag), "artifact": right.get(flag)}


def _structure(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, loose: bool
) -> Iterator[dict[str, Any]]:
    """Compare the stages; what is spelt differently in GGUF, whose table lacks the truth, is undecided."""
    undecided = loose and not _has_name(ours)
    for stage in _STAGES:
        one, other = flattened(ours.get(stage), stage), flattened(theirs.get(stage), stage)
        if one != other:
            yield {"kind": stage, "truth": _short(one), "artifact": _short(other), "undecided": undecided}
    one_model, other_model = (side.get("model") or {} for side in (ours, theirs))
    for key in ("type", "byte_fallback", "ignore_merges", "unk_token", "dropout"):
        left, right = one_model.get(key) or None, other_model.get(key) or None
        if left != right and not (loose and key == "unk_token"):
            yield {"kind": f"model.{key}", "truth": left, "artifact": right, "undecided": undecided}


def _has_name(tokenizer: Mapping[str, Any]) -> bool:
    try:
        name_of(tokenizer)
    except (UnsupportedArchitecture, AttributeError, KeyError, TypeError):
        return False
    return True


def flattened(stage: Any, name: str) -> list[dict[str, Any]]:
    """Return the steps of a stage of tokenizer.json without nesting and without what changes no result."""
    if not isinstance(stage, Mapping):
        return []
    kind = stage.get("type")
    if kind == "Sequence":
        return [step for part in stage.get(_PARTS[name]) or [] for step in flattened(part, name)]
    step = {key: value for key, value in stage.items() if key not in _WITHOUT_MEANING}
    if kind == "ByteLevel":
        # A decoder looks at none of its settings; a pre-tokenizer takes a missing use_regex for true.
        keys = {
            "add_prefix_space": bool(step.get("add_prefix_space")),
            "use_regex": step.get("use_regex", True),
        }
        step = {} if name == "decoder" else keys
    return [{"type": kind, **step}]


def _short(steps: list[dict[str, Any]]) -> str:
    text = str(steps)
    return text if len(text) <= 300 else text[:300] + "…"


def _special(truth: OpenModel, artifact: OpenModel) -> Iterator[dict[str, Any]]:
    for role in ("unk", "pad"):
        wanted, found = stated_ids(truth, role), stated_ids(artifact, role)
        if wanted and found - wanted:
            yield {"kind": f"{role}_id", "truth": sorted(wanted), "artifact": sorted(found - wanted)}
    settings = artifact.tokenizer_config
    for role in ("bos", "eos"):
        stated, found_flag = (side.tokenizer_config.get(f"add_{role}_token") for side in (truth, artifact))
        # GGUF says it of the tokenizer as a whole, which its surroundings show; settings are copied or changed.
        if artifact.format != "gguf" and isinstance(stated, bool) and (found_flag is True) != stated:
            yield {"kind": f"add_{role}", "truth": stated, "artifact": found_flag}
        elif settings.get(f"add_{role}_token") is True and token_text(settings.get(f"{role}_token")) is None:
            yield {"kind": f"add_{role}", "truth": None, "artifact": f"adds {role}, but names no such token"}


def _probes(truth: OpenModel, artifact: OpenModel) -> list[dict[str, Any]]:
    try:
        one, other = tokenizer_probe.load(truth), tokenizer_probe.load(artifact)
    except AprQaError as error:
        return [{"kind": "load", "artifact": error.what}]
    found = []
    if _around(one) != _around(other):
        found.append({"kind": "surrounding", "truth": _around(one), "artifact": _around(other)})
    texts = [*probe_texts(), *_with_special(truth)]
    pairs = zip(
        *(side.encode_batch_fast(texts, add_special_tokens=False) for side in (one, other)), strict=True
    )
    for text, (left, right) in zip(texts, pairs, strict=True):
        if left.ids != right.ids:
            ids = {"truth": left.ids[:SHOWN], "artifact": right.ids[:SHOWN]}
            found.append({"kind": "encoding", "text": text, **ids})
    return found


def _around(tokenizer: Any) -> list[list[int]]:
    """Return the ids that are put before and after a text."""
    inner = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), len(whole))
    return [whole[:start], whole[start + len(inner) :]]


def _with_special(truth: OpenModel) -> list[str]:
    """Return texts around added tokens, without white space beside them: GGUF has no lstrip and rstrip."""
    added = (truth.tokenizer or {}).get("added_tokens") or []
    return [f"user{entry['content']}text" for entry in added[:SHOWN]]
