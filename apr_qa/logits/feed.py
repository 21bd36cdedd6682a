"""The token ids that both sides of a comparison read, and the positions whose predictions are compared.

All ids come from the ground truth's tokenizer, so that a difference of tokenizers, which has gates of its own,
does not pass for a difference of predictions.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apr_qa.comparison import reference_text
from apr_qa.errors import Inapplicable
from apr_qa.formats import OpenModel

PROMPTS = (
    "The capital of France is a city that everybody who has been there remembers for its",
    "def add(first: int, second: int) -> int:\n    return first +",
    "Question: how much is 17 minus 9, and why does it matter?\nAnswer: 17 minus 9 is",
    "Once upon a time there was a clock that had stopped, and nobody in the house knew when it",
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday,",
)
"""What greedy continuations start from; cut to the length of the shortest, so that no padding is needed."""

NEW_TOKENS = 8
MOST_PROMPT_TOKENS = 12
INNER_TOKENS = 32
"""Of the text, for hidden states and attention."""
LEAST_TOKENS = 8
"""A model whose context is shorter cannot be compared."""
QUICK_TOKENS = 560
THOROUGH_TOKENS = 1024

_WORK = 1.2e12
"""Parameters times tokens: what two cores do in half a minute."""
_LEAST_OF_LARGE = 160
_KEPT_BYTES = 300_000_000
"""Logits of one side, float32."""
_STRIDES = ((128, 1), (512, 8), (1 << 30, 2))
"""Up to which position which share of the text is compared; late positions are why it is long."""


@dataclass(frozen=True)
class Feed:
    """Everything that is fed to an engine."""

    text: tuple[int, ...]
    positions: tuple[int, ...]
    """Those whose predictions are kept; the last token of the text has no successor and is never among them."""
    prompts: tuple[tuple[int, ...], ...]
    """All of one length."""
    new_tokens: int = NEW_TOKENS

    @property
    def following(self) -> list[int]:
        """Return the token that really comes after each kept position."""
        return [self.text[position + 1] for position in self.positions]

    @property
    def inner(self) -> tuple[int, ...]:
        return self.text[:INNER_TOKENS]

    @property
    def key(self) -> list[Any]:
        """Return what tells this feed from any other, as plain JSON values."""
        return [self.text, self.positions, self.prompts, self.new_tokens]


def feed_of(truth: OpenModel, tokens: int = QUICK_TOKENS) -> Feed:
    """Return what to feed to a model and to everything that claims to be it: a text of ``tokens`` at most.

    The text ends where the context does, and earlier for models so large that it would take minutes.
    Raises Inapplicable where the ground truth has no tokenizer or too short a context.
    """
    encode = _encoder(truth)
    context = int(truth.config.get("max_position_embeddings") or tokens)
    parameters = sum(math.prod(info.shape) for info in truth.tensors.values())
    affordable = max(_LEAST_OF_LARGE, int(_WORK / max(1, parameters)))
    text = encode(f"{reference_text.SHORT}\n{reference_text.long_text()}")[: min(tokens, context, affordable)]
    if len(text) < LEAST_TOKENS:
        raise Inapplicable(f"the ground truth reads {len(text)} tokens at once, {LEAST_TOKENS} are needed")
    positions = _spread(len(text) - 1)
    width = max((info.shape[0] for name, info in truth.tensors.items() if "embed_tokens" in name), default=1)
    stride = -(-len(positions) * 4 * width // _KEPT_BYTES)
    room = min(MOST_PROMPT_TOKENS, context - NEW_TOKENS)
    prompts = [encode(prompt)[: max(1, room)] for prompt in PROMPTS]
    length = min(len(prompt) for prompt in prompts)
    return Feed(tuple(text), tuple(positions[::stride]), tuple(tuple(prompt[:length]) for prompt in prompts))


def _spread(end: int) -> list[int]:
    chosen: list[int] = []
    begin = 0
    for limit, stride in _STRIDES:
        chosen += range(begin, min(limit, end), stride)
        begin = limit
    return chosen


def _encoder(truth: OpenModel) -> Any:
    from tokenizers import Tokenizer

    if truth.tokenizer is None:
        raise Inapplicable("the ground truth has no tokenizer.json to make token ids with")
    stored = (truth.path if truth.path.is_dir() else truth.path.parent) / "tokenizer.json"
    try:
        whole = Tokenizer.from_file(str(stored)) if _is_its_own(truth, stored) else None
        whole = whole or Tokenizer.from_str(json.dumps(truth.tokenizer))
    except ValueError as error:
        raise Inapplicable(f"the ground truth's tokenizer.json cannot be read: {error}") from error
    # tokenizers raises a bare Exception for a file that it cannot understand; ValueError is its usual class.
    whole.no_truncation()
    whole.no_padding()
    return lambda text: [int(token) for token in whole.encode(text).ids]


def _is_its_own(truth: OpenModel, stored: Path) -> bool:
    return truth.format == "safetensors" and stored.is_file()
