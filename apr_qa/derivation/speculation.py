"""Speculative decoding, measured: a draft proposes, its target verifies; same greedy text, and how much faster.

Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding" (arXiv 2211.17192), as transformers
does it (``assistant_model``). Both models compute in float32, so that a difference is none of rounding.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from apr_qa.derivation.behaviour import DEFAULT_PROMPTS
from apr_qa.derivation.members import Member, Unmeasured
from apr_qa.errors import Inapplicable
from apr_qa.inference import pretrained

ROUNDS = 3


def speculative(draft: Member, target: Member, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many texts are the same, and tokens per second with and without the draft, rounds alternating."""
    if draft.sha256 == target.sha256:
        raise Unmeasured("the draft is the target itself")
    if "gguf" in (draft.model.format, target.model.format):
        raise Inapplicable("llama-cpp-python decodes with one model only; bring both as SafeTensors or APR")
    import torch

    prompts = [str(prompt) for prompt in recipe.get("prompts") or DEFAULT_PROMPTS]
    tokens = int(recipe.get("tokens") or 64)
    with pretrained.blamed_on_engine("loading"), torch.inference_mode():
        big = pretrained.load_model(target.model, "cpu").float()
        small = pretrained.load_model(draft.model, "cpu").float()
        tokenizer = pretrained.load_tokenizer(target.model)
        if pretrained.load_tokenizer(draft.model).get_vocab() != tokenizer.get_vocab():
            raise Unmeasured("draft and target have different vocabularies")
        inputs = [tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in prompts]
        for ids in inputs[:1]:  # the first call of each way pays for what is set up once
            _continued(big, None, ids, tokens)
            _continued(big, small, ids, tokens)
        rounds = [[_round(big, helper, inputs, tokens) for helper in (None, small)] for _ in range(ROUNDS)]
    plain, helped = ([one[side] for one in rounds] for side in (0, 1))
    texts = [[tokenizer.decode(ids) for ids in way[0][0]] for way in (plain, helped)]
    same = [one == other for one, other in zip(plain[0][0], helped[0][0], strict=True)]
    speeds = [sum(map(len, way[0][0])) / min(seconds for _, seconds in way) for way in (plain, helped)]
    differing = [pair for pair, equal in zip(zip(*texts, strict=True), same, strict=True) if not equal]
    return {
        "prompts": len(prompts),
        "tokens": sum(map(len, plain[0][0])),
        "same": sum(same),
        "differing": [list(pair) for pair in differing[:3]],
        "plain_tokens_per_s": speeds[0],
        "speculative_tokens_per_s": speeds[1],
        "speedup": speeds[1] / speeds[0],
    }


def _round(big: Any, helper: Any, inputs: list[Any], tokens: int) -> tuple[list[list[int]], float]:
    begun = time.perf_counter()
    found = [_continued(big, helper, ids, tokens) for ids in inputs]
    return found, time.perf_counter() - begun


def _continued(model: Any, helper: Any, ids: Any, tokens: int) -> list[int]:
    import torch

    extra = {} if helper is None else {"assistant_model": helper}
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        **extra,
    )
    return [int(token) for token in out[0, ids.shape[1] :]]
