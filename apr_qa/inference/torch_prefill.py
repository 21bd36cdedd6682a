"""The first pass of the transformers engine: prompts into a key-value cache, left-padded to one length.

Where every layer keeps plain keys and values, `prefilling` decides on the passes, and what they leave is put
together into one cache; other models (sliding windows, recurrent states) read all prompts in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from apr_qa.inference import prefilling
from apr_qa.inference.prefilling import Group, Prompt


class Read(NamedTuple):
    """What a model remembers of the prompts, and what it predicts after them."""

    cache: Any
    mask: Any
    """[prompts, positions]: which positions of the cache may be attended to."""
    logits: Any
    """[prompts, vocabulary]."""


def read(model: Any, prompts: Sequence[Prompt]) -> Read:
    """Read ``prompts``; call under ``torch.inference_mode``."""
    if len(prompts) > 1 and _is_plain(_empty(model)):
        found = prefilling.groups(prompts)
        if len(found) > 1 or found[0].shared or len(found[0].passes) > 1:
            return _joined(len(prompts), [one for group in found for one in _group(model, prompts, group)])
    return _pass(model, prompts, None)


def _empty(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def _is_plain(cache: Any) -> bool:
    from transformers.cache_utils import DynamicLayer

    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


def _pass(model: Any, prompts: Sequence[Prompt], before: Any) -> Read:
    """Read ``prompts`` behind the tokens that the cache ``before`` holds, which are the same for all."""
    import torch

    cache = _empty(model) if before is None else before
    shared = cache.get_seq_length() if before is not None else 0
    width = max(len(prompt) for prompt in prompts)
    # Left padding puts every last token at the end; the padding id is never attended to.
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros((len(prompts), shared + width), dtype=torch.long)
    mask[:, :shared] = 1
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, shared + width - len(prompt) :] = 1
    mask = mask.to(model.device)
    output = model(
        input_ids=ids.to(model.device),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Read(cache, mask, output.logits[:, -1])


def _group(model: Any, prompts: Sequence[Prompt], group: Group) -> list[tuple[tuple[int, ...], Read]]:
    """Return what each pass of a group has read, the common beginning included."""
    found = []
    shared = None
    if group.shared:
        shared = _pass(model, [prompts[group.passes[0][0]][: group.shared]], None).cache
    for members in group.passes:
        before = _repeated(shared, len(members), _empty(model)) if shared is not None else None
        rests = [prompts[number][group.shared :] for number in members]
        found.append((members, _pass(model, rests, before)))
    return found


def _repeated(shared: Any, rows: int, cache: Any) -> Any:
    for number, layer in enumerate(shared.layers):
        keys, values = (states.expand(rows, -1, -1, -1) for states in (layer.keys, layer.values))
        cache.update(keys, values, number)
    return cache


def _joined(count: int, parts: Sequence[tuple[tuple[int, ...], Read]]) -> Read:
    """Put the rows of all passes into one cache, in the order of the prompts."""
    import torch

    first = parts[0][1]
    length = max(read.mask.shape[1] for _, read in parts)
    mask = first.mask.new_zeros((count, length))
    logits = first.logits.new_empty((count, first.logits.shape[1]))
    for members, read in parts:
        rows = torch.tensor(members, device=mask.device)
        mask[rows, length - read.mask.shape[1] :] = read.mask
        logits[rows] = read.logits
    cache = type(first.cache)()
    for number in range(len(first.cache.layers)):
        keys, values = (_stacked(count, length, parts, number, name) for name in ("keys", "values"))
        cache.update(keys, values, number)
    return Read(cache, mask, logits)


def _stacked(
    count: int, length: int, parts: Sequence[tuple[tuple[int, ...], Read]], number: int, name: str
) -> Any:
    """Return keys or values of one layer, [prompts, heads, positions, width], padding before them zero."""
    import torch

    some = getattr(parts[0][1].cache.layers[number], name)
    states = some.new_zeros((count, some.shape[1], length, some.shape[3]))
    for members, read in parts:
        part = getattr(read.cache.layers[number], name)
        states[torch.tensor(members, device=some.device), :, length - part.shape[2] :] = part
    return states
