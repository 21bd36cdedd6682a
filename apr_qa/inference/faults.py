"""Faults of an engine, played on a loaded model: what the drill plants where no file can hold the defect.

The variable names the fault (``rope-bf16``); whatever loads the artifact under test asks `played`. The ground
truth is loaded by others and stays healthy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

FAULT_VARIABLE = "APR_QA_FAULT"
"""One of `FAULTS`; or ``crash:TEXT`` or ``hang:TEXT``: die or hang when a question contains TEXT."""

_OVERFLOW = 300.0
_STRIDE = 7919
"""A prime, so that ids are spread over the whole vocabulary."""


def played(loaded: Any) -> Any:
    """Return a session or probe with the fault of the environment, the same object if there is none."""
    play = FAULTS.get(name())
    if play is not None:
        play(loaded)
    return loaded


def name() -> str:
    """Return the fault that is to be played, empty if none is."""
    fault = os.environ.get(FAULT_VARIABLE, "")
    return fault if fault in FAULTS else ""


def _double_wrap(session: Any) -> None:
    """Render what is rendered already: a server that wraps a prompt which its client wrapped."""
    if not hasattr(session, "render_chat"):
        return
    render = session.render_chat
    session.render_chat = lambda messages: render([{"role": "user", "content": render(messages)}])


def _parse_control_tokens(session: Any) -> None:
    """Take control tokens in every text for what they look like."""
    if not hasattr(session, "tokenize"):
        return
    tokenize = session.tokenize

    def careless(text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        found: list[int] = tokenize(text, add_special=add_special, parse_special=True)
        return found

    session.tokenize = careless


def _coarse_rotation(loaded: Any) -> None:
    """Compute rotary angles in bfloat16, which has no more than 256 whole numbers in a row."""
    model = getattr(loaded, "_model", None)
    if model is None:
        return
    import torch

    for module in model.modules():
        if hasattr(module, "inv_freq") and hasattr(module, "attention_scaling"):
            _round_angles(module, torch)


def _round_angles(module: Any, torch: Any) -> None:
    def forward(x: Any, position_ids: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        frequencies = module.inv_freq.to(torch.bfloat16)[None, None, :]
        angles = (position_ids.to(torch.bfloat16)[:, :, None] * frequencies).float()
        both = torch.cat((angles, angles), dim=-1)
        scaling = module.attention_scaling
        return (both.cos() * scaling).to(x.dtype), (both.sin() * scaling).to(x.dtype)

    module.forward = forward


def _half_attention(loaded: Any) -> None:
    """Multiply queries by keys in float16, at a scale at which the products exceed it."""
    model = getattr(loaded, "_model", None)
    if model is None:
        return
    import torch

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float = 1.0, **_: Any
    ) -> tuple[Any, None]:
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        products = (query * _OVERFLOW).half() @ (key * _OVERFLOW).half().transpose(2, 3)
        scores = products.float() / _OVERFLOW**2 * scaling
        if mask is not None:
            scores = scores + mask[..., : key.shape[-2]].float()
        else:
            count = scores.shape[-1]
            future = torch.ones(scores.shape[-2], count, dtype=torch.bool).triu(count - scores.shape[-2] + 1)
            scores = scores.masked_fill(future, float("-inf"))
        return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).contiguous(), None

    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register("half_overflow", attention)
    AttentionMaskInterface.register("half_overflow", eager_mask)
    model.set_attn_implementation("half_overflow")
    model.set_attn_implementation = lambda *_args, **_kwargs: None


def _foreign_rows(loaded: Any) -> None:
    """Look tokens up where their rows are not, as an engine does that takes blocks of an embedding for floats."""
    for method in ("logits", "decoded", "inner", "prefill", "step"):
        if hasattr(loaded, method):
            setattr(loaded, method, _misled(getattr(loaded, method), method == "step"))


def _misled(call: Callable[..., Any], second: bool) -> Callable[..., Any]:
    def misled(first: Any, *rest: Any, **named: Any) -> Any:
        if second:
            return call(first, _moved(rest[0]), *rest[1:], **named)
        return call(_moved(first), *rest, **named)

    return misled


def _moved(ids: Any) -> Any:
    if isinstance(ids, list | tuple):
        return [_moved(one) for one in ids]
    # Any vocabulary has some hundred ids: stay among those, far from the right one.
    return (int(ids) * _STRIDE + 17) % 256


FAULTS: Mapping[str, Callable[[Any], None]] = {
    "double-wrap": _double_wrap,
    "parse-control-tokens": _parse_control_tokens,
    "rope-bf16": _coarse_rotation,
    "half-attention": _half_attention,
    "raw-embedding": _foreign_rows,
}
"""Name -> what plays it on a session or probe."""
