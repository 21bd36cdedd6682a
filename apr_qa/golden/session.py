"""The worker's side of a corpus: a loaded model writes it, or is compared with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from apr_qa.backends import Session
from apr_qa.errors import AprQaError, UsageError
from apr_qa.golden import corpus as corpora
from apr_qa.golden.tolerance import agreement, tolerance


def generate(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """Write a corpus into ``params["folder"]`` from ``prompts``, with ``about`` in its manifest."""
    found = {}
    for prompt in params.get("prompts") or corpora.PROMPTS:
        token_ids = session.tokenize(prompt)
        if not token_ids:
            raise UsageError(f"the prompt {prompt!r} has no token", fix="give prompts with text in them")
        found[prompt] = (token_ids, session.logits(token_ids))
    made = corpora.write(Path(params["folder"]), params["about"], found)
    return {"prompts": len(made.prompts), "folder": made.folder}


def compare(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """Compare with the corpus in ``params["folder"]`` at ``tolerance``, token ids included.

    The golden token ids are fed, so that a tokenizer that differs is named as such and does not spoil the logits.
    """
    corpus = corpora.read(Path(params["folder"]))
    allowed = tolerance(str(params.get("tolerance", "fp32")))
    rows = []
    for golden in corpus.prompts:
        found = agreement(corpora.golden_logits(corpus, golden), session.logits(golden.token_ids), allowed)
        rows.append(
            {
                "prompt": golden.prompt,
                "same_tokens": session.tokenize(golden.prompt) == list(golden.token_ids),
                **msgspec.to_builtins(found),
                "largest": found.largest if math.isfinite(found.largest) else None,
            }
        )
    return {"tolerance": str(params.get("tolerance", "fp32")), "prompts": rows}


def manifest(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """Return what the corpus in ``params["folder"]`` holds; a fault is a fact here and not an error."""
    folder = Path(params["folder"])
    facts: dict[str, Any] = {"readable": (folder / corpora.MANIFEST).is_file(), "prompts": 0, "loaded": 0}
    try:
        corpus = corpora.read(folder)
        facts["prompts"] = len(corpus.prompts)
        for golden in corpus.prompts:
            corpora.golden_logits(corpus, golden)
            facts["loaded"] += 1
    except AprQaError as error:
        facts["fault"] = error.what
    return facts
