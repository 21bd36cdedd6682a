"""A forward pass through a transformers model with a look at every stage, by forward hooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from apr_qa.errors import Inapplicable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from apr_qa.tracing.stages import Sink

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn")


def observe(model: Any, token_ids: Sequence[int], sink: Sink) -> npt.NDArray[np.float32]:
    """Show ``sink`` every stage of one pass over ``token_ids``; return the logits, [tokens, vocabulary].

    Attention is computed eagerly, so that its weights exist. Raises Inapplicable for a model whose layers
    cannot be told apart.
    """
    import torch

    layers = _layers(model)
    with ExitStack() as stack, torch.inference_mode():
        _watch(stack, model.get_input_embeddings(), lambda out, s: sink("embedding", -1, _rows(out), s))
        for number, layer in enumerate(layers):
            _watch_layer(stack, number, layer, sink)
        if (final := _final_norm(model, layers)) is not None:
            _watch(stack, final, lambda out, s: sink("final_norm", -1, _rows(out), s))
        stack.enter_context(_eager(model))
        ids = torch.tensor([list(token_ids)], device=model.device)
        started = time.perf_counter()
        logits = _rows(model(input_ids=ids, use_cache=False).logits)
        sink("logits", -1, logits, time.perf_counter() - started)
    return logits


def _watch_layer(stack: ExitStack, number: int, layer: Any, sink: Sink) -> None:
    def attention(out: Any, seconds: float) -> None:
        if isinstance(out, tuple) and len(out) > 1 and out[1] is not None:
            sink("attention_weights", number, _numbers(out[1])[0], 0.0)
        sink("attention", number, _rows(out), seconds)

    if (module := _child(layer, _ATTENTION)) is not None:
        _watch(stack, module, attention)
    if (module := _child(layer, _MLP)) is not None:
        _watch(stack, module, lambda out, s: sink("mlp", number, _rows(out), s))
    if (module := next((m for n, m in layer.named_children() if "norm" in n), None)) is not None:
        _watch(stack, module, lambda out, s: sink("norm", number, _unscaled(module, _rows(out)), s))
    _watch(stack, layer, lambda out, s: sink("layer", number, _rows(out), s))


def _unscaled(norm: Any, values: Any) -> Any:
    """Undo the learned scale of a norm, so that what it does to its input can be seen."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if weight is None:
        return values
    import numpy as np

    scale = _numbers(weight)
    values = values if bias is None else values - _numbers(bias)
    scale = scale + 1.0 if "gemma" in type(norm).__name__.lower() else scale
    usable = np.abs(scale) > 1e-6
    return values[:, usable] / scale[usable]


def _watch(stack: ExitStack, module: Any, see: Callable[[Any, float], None]) -> None:
    """Call ``see`` with the output of ``module`` and its seconds as long as the stack is open."""
    begun: list[float] = []
    before = module.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))
    after = module.register_forward_hook(lambda _m, _i, out: see(out, time.perf_counter() - begun.pop()))
    stack.callback(before.remove)
    stack.callback(after.remove)


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    config = model.config
    previous = getattr(config, "_attn_implementation", None)
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if previous and previous != "eager":
            model.set_attn_implementation(previous)


def _layers(model: Any) -> list[Any]:
    """Return the decoder layers: the longest list of modules in the model."""
    import torch

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    longest = max(lists, key=len, default=None)
    if longest is None or _child(longest[0], _ATTENTION) is None:
        raise Inapplicable(f"the layers of a {type(model).__name__} cannot be told apart")
    return list(longest)


def _final_norm(model: Any, layers: Sequence[Any]) -> Any:
    """Return the norm between the last layer and the head: a direct child of what holds the layers."""
    for module in model.modules():
        children = dict(module.named_children())
        if any(len(list(c.children())) and next(iter(c.children())) is layers[0] for c in children.values()):
            return next((c for name, c in children.items() if "norm" in name or name == "ln_f"), None)
    return None


def _child(layer: Any, names: Sequence[str]) -> Any:
    children = dict(layer.named_children())
    return next((children[name] for name in names if name in children), None)


def _rows(output: Any) -> npt.NDArray[np.float32]:
    """Return the hidden states of the one sequence, [positions, width]."""
    states: npt.NDArray[np.float32] = _numbers(output[0] if isinstance(output, tuple) else output)[0]
    return states


def _numbers(tensor: Any) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.asarray(tensor.detach().float().cpu().numpy(), dtype=np.float32)
