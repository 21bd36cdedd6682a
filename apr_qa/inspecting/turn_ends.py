"""Tokens that end a turn: only models that were trained on conversations stop at them."""

from __future__ import annotations

TURN_ENDS = frozenset(
    (
        *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<end_of_utterance>"),
        *("<|END_OF_TURN_TOKEN|>", "<|end_of_turn|>", "<|return|>", "<|eot|>"),
    )
)
