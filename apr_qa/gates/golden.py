"""A model agrees with the golden logits of a corpus that the playbook names."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inconclusive
from apr_qa.vocabulary import Judgement, Severity


def tokens_agree(facts: Facts) -> Judgement:
    rows = facts["prompts"]
    if not rows:
        return inconclusive("no prompt was compared")
    bad = [row["prompt"] for row in rows if not row["same_tokens"]]
    if bad:
        return falsified(f"{len(bad)} of {len(rows)} prompts have other token ids; first {bad[0]!r}")
    return corroborated(f"{len(rows)} prompts have the golden token ids")


def manifest_is_there(facts: Facts) -> Judgement:
    if not facts["readable"]:
        return falsified("the corpus has no manifest")
    return corroborated("the corpus has a manifest")


def manifest_lists_prompts(facts: Facts) -> Judgement:
    if not facts["prompts"]:
        return falsified(f"the manifest lists no prompt: {facts.get('fault', 'it is empty')}")
    return corroborated(f"the manifest lists {facts['prompts']} prompts")


def golden_logits_load(facts: Facts) -> Judgement:
    if not facts["prompts"] or facts["loaded"] != facts["prompts"]:
        return falsified(
            f"{facts['loaded']} of {facts['prompts']} golden logits load: {facts.get('fault', '')}"
        )
    return corroborated(f"{facts['loaded']} golden logits load, unchanged since they were made")


_ROW = {"prompt": "x", "agrees": True, "same_tokens": True, "mismatched": 0, "elements": 100}
_COMPARED: dict[str, Any] = {"tolerance": "fp32", "prompts": [_ROW]}
_CORPUS: dict[str, Any] = {"readable": True, "prompts": 5, "loaded": 5}

_ROWS: tuple[tuple[str, str, str, Check, dict[str, Any], dict[str, Any]], ...] = (
    (
        "F-PARITY-TOKENS-001",
        "The prompts of the corpus have the golden token ids",
        "equal",
        tokens_agree,
        _COMPARED,
        {"prompts": [{**_ROW, "same_tokens": False}]},
    ),
    (
        "F-HF-PARITY-002",
        "The corpus has a manifest",
        "manifest.json is a file",
        manifest_is_there,
        _CORPUS,
        {"readable": False},
    ),
    (
        "F-HF-PARITY-003",
        "The manifest lists prompts",
        "at least one",
        manifest_lists_prompts,
        _CORPUS,
        {"prompts": 0},
    ),
    (
        "F-HF-PARITY-004",
        "The golden logits load and are unchanged",
        "one file a prompt, each with the recorded hash",
        golden_logits_load,
        _CORPUS,
        {"loaded": 3},
    ),
)

for _id, _hypothesis, _threshold, _check, _healthy, _change in _ROWS:
    enter(
        Gate(
            id=_id,
            category="parity",
            severity=Severity.P0,
            hypothesis=_hypothesis,
            measure="golden token ids through the model, logits compared element by element",
            threshold=_threshold,
            source="levels: apr_qa/golden/tolerance.py",
            check=_check,
            corroborates=_healthy,
            falsifies={**_healthy, **_change},
        )
    )
