"""Short trainings on the spot: LoRA, preferences (DPO), distillation into fewer layers, and pruning by Wanda.

LoRA: Hu et al. 2021 (arXiv 2106.09685). DPO: Rafailov et al. 2023 (arXiv 2305.18290); an adapter that is zero is
the reference model. Distillation: Hinton et al. 2015 (arXiv 1503.02531). Wanda: Sun et al. 2023 (arXiv
2306.11695): |weight| · norm of its input, the least of each row set to zero. All is seeded; float32 on the CPU.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from apr_qa.derivation.members import Member, Unmeasured
from apr_qa.inference import pretrained

SEED = 7
RANK, ALPHA = 8, 16
LORA_RATE, STUDENT_RATE = 5e-4, 5e-4
BETA = 0.1
"""Of the preference loss."""
MAX_TOKENS = 128
"""Of one text that is trained on."""

Log = list[dict[str, float]]


def loaded(base: Member) -> tuple[Any, Any]:
    """Return model, in float32, and tokenizer."""
    import torch

    with pretrained.blamed_on_engine("loading"):
        torch.manual_seed(SEED)
        return pretrained.load_model(base.model, "cpu").float(), pretrained.load_tokenizer(base.model)


@contextlib.contextmanager
def adapted(model: Any) -> Iterator[list[tuple[Any, Any, Any]]]:
    """Add ``alpha / rank · B·A`` to each linear module of the layers while inside; B begins as zero."""
    import torch

    factors, hooks = [], []
    model.requires_grad_(False)
    for module in _linear(model).values():
        rows, columns = module.weight.shape
        a = torch.randn(RANK, columns).div_(math.sqrt(columns)).requires_grad_()
        b = torch.zeros(rows, RANK, requires_grad=True)
        factors.append((module, a, b))
        hooks.append(module.register_forward_hook(_added(a, b)))
    if not factors:
        raise Unmeasured("the model has no linear module in its layers that an adapter could be put on")
    try:
        yield factors
    finally:
        for hook in hooks:
            hook.remove()


def _added(a: Any, b: Any) -> Any:
    def hook(_: Any, given: tuple[Any, ...], out: Any) -> Any:
        return out + (ALPHA / RANK) * (given[0] @ a.T) @ b.T

    return hook


def merge(factors: Sequence[tuple[Any, Any, Any]]) -> None:
    """Add the product of each pair of factors to its weight."""
    import torch

    with torch.no_grad():
        for module, a, b in factors:
            module.weight += (ALPHA / RANK) * b @ a


def lora(model: Any, tokenizer: Any, texts: Sequence[str], epochs: int) -> Log:
    """Train adapters on texts, merge them into the model, and return the log."""
    batches = [_ids(tokenizer, text) for text in texts]

    def losses() -> Iterator[Any]:
        for ids in batches:
            yield model(input_ids=ids, labels=ids).loss

    with adapted(model) as factors:
        log = _trained([one for _, a, b in factors for one in (a, b)], losses, epochs, LORA_RATE)
    merge(factors)
    return log


def dpo(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str, str]], epochs: int) -> Log:
    """Train adapters to prefer the first answer of each pair and return the log of the preference loss."""
    import torch

    sides = [[(_ids(tokenizer, prompt).shape[1], _ids(tokenizer, prompt + answer)) for answer in answers]
             for prompt, *answers in pairs]  # fmt: skip
    with adapted(model) as factors:
        with torch.inference_mode():
            reference = [[float(_likelihood(model, *side)) for side in pair] for pair in sides]

        def losses() -> Iterator[Any]:
            for pair, (good, bad) in zip(sides, reference, strict=True):
                margin = (_likelihood(model, *pair[0]) - good) - (_likelihood(model, *pair[1]) - bad)
                yield -torch.nn.functional.logsigmoid(BETA * margin)

        return _trained([one for _, a, b in factors for one in (a, b)], losses, epochs, LORA_RATE)


def _likelihood(model: Any, begun: int, ids: Any) -> Any:
    """Return the log-likelihood of the tokens from ``begun`` on."""
    rows = model(input_ids=ids).logits[0, begun - 1 : -1].log_softmax(-1)
    return rows.gather(1, ids[0, begun:, None]).sum()


def shortened(model: Any, share: float = 1 / 3) -> Any:
    """Cut a model down to the first layers; raises Unmeasured where they cannot be found."""
    import torch

    config = model.config
    whole = int(getattr(config, "num_hidden_layers", 0))
    kept = max(1, round(share * whole))
    found = [(m, name, child) for m in model.modules() for name, child in m.named_children()
             if isinstance(child, torch.nn.ModuleList) and len(child) == whole]  # fmt: skip
    if whole < 2 or len(found) != 1:
        raise Unmeasured("the model's layers are no single list that could be cut")
    parent, name, layers = found[0]
    setattr(parent, name, layers[:kept])
    config.num_hidden_layers = kept
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:kept]
    return model


def distil(teacher: Any, student: Any, tokenizer: Any, texts: Sequence[str], epochs: int) -> Log:
    """Train a student's layers on the distributions of its teacher and return the log of the divergence."""
    import torch

    batches = [_ids(tokenizer, text) for text in texts]
    with torch.inference_mode():
        wanted = [teacher(input_ids=ids).logits.softmax(-1) for ids in batches]
    wanted = [one.clone() for one in wanted]  # tensors of inference mode take no part in training
    student.requires_grad_(False)
    weights = [module.weight for module in _linear(student).values()]
    for weight in weights:
        weight.requires_grad_(True)

    def losses() -> Iterator[Any]:
        for ids, target in zip(batches, wanted, strict=True):
            rows = student(input_ids=ids).logits.log_softmax(-1)
            yield torch.nn.functional.kl_div(rows[0], target[0], reduction="batchmean")

    return _trained(weights, losses, epochs, STUDENT_RATE)


def wanda(model: Any, tokenizer: Any, texts: Sequence[str], share: float) -> None:
    """Set the ``share`` of each row with the least |weight| · norm of input to zero."""
    import torch

    sums: dict[Any, Any] = {}

    def seen(module: Any, given: tuple[Any, ...]) -> None:
        squares = given[0].reshape(-1, given[0].shape[-1]).pow(2).sum(0)
        sums[module] = sums.get(module, 0) + squares

    modules = _linear(model)
    hooks = [module.register_forward_pre_hook(seen) for module in modules.values()]
    with torch.inference_mode():
        for text in texts:
            model(input_ids=_ids(tokenizer, text))
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for module in sums:
            scores = module.weight.abs() * sums[module].sqrt()
            count = round(share * scores.shape[1])
            least = scores.topk(count, dim=1, largest=False).indices
            module.weight.scatter_(1, least, 0.0)


def _trained(weights: Sequence[Any], losses: Any, epochs: int, rate: float) -> Log:
    import torch

    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    log: Log = []
    for epoch in range(epochs):
        found = []
        for loss in losses():
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(float(loss.detach()))
        # One record an epoch: texts differ in difficulty, and a trend over them would be that of their order.
        log.append({"epoch": epoch + 1.0, "loss": math.fsum(found) / len(found), "steps": len(found)})
    return log


def _ids(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)["input_ids"]


def _linear(model: Any) -> dict[str, Any]:
    """Return the linear modules of the layers, by name."""
    import torch

    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ("layers." in name or ".h." in name)
    }
