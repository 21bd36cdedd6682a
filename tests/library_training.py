"""Trainings by the field's own libraries: LoRA and DPO by peft, QLoRA by bitsandbytes, distillation by torch.

``python tests/library_training.py lora|qlora|wide BASE LOG`` trains a few steps in a process of its own and writes the
memory that it took: ``wide`` is a QLoRA that leaves the widest modules unpacked.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apr_qa.derivation.lessons import PREFERENCES, PROSE

RANK, ALPHA, STEPS = 4, 12, 8
SHORT = 8
"""Tokens of the text that memory is measured with: weights decide then, and not what is remembered of each token."""
THREADS = 1
"""More of them wait for each other on models this small, and change the last bits of sums."""
MODULES = ["q_proj", "down_proj"]
WIDE = ["gate_proj", "up_proj", "down_proj"]


def load(base: Path, **options: Any) -> tuple[Any, Any]:
    """Return model, in float32, and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(7)
    torch.set_num_threads(THREADS)
    builder: Any = AutoModelForCausalLM
    model = builder.from_pretrained(base, dtype=torch.float32, local_files_only=True, **options)
    return model, AutoTokenizer.from_pretrained(base, local_files_only=True)


def adapted(model: Any) -> Any:
    """Return the model with a fresh adapter of peft."""
    from peft import LoraConfig, get_peft_model

    stated = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM")
    return get_peft_model(model, stated)


def ids_of(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, return_tensors="pt", truncation=True, max_length=48)["input_ids"]


def trained(
    weights: Sequence[Any], losses: Iterator[Any], rate: float, away: bool = False
) -> list[dict[str, Any]]:
    """Step down on each loss, or up where the training is to go ``away``, and return the log."""
    import torch

    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0, maximize=away)
    log = []
    for loss in losses:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        log.append(
            {"step": len(log) + 1, "loss": float(loss.detach()), "epoch": len(log) + 1.0, "rank": RANK}
        )
    return log


def write_log(file: Path, log: list[dict[str, Any]], **fields: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"log_history": [{**row, **fields} for row in log]}))
    return file


def beside(base: Path, folder: Path) -> None:
    """Copy the tokenizer: the library that saves it anew may write one that splits other texts differently."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (base / name).exists():
            shutil.copy(base / name, folder / name)


def free(model: Any) -> list[Any]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def lora(base: Path, folder: Path, texts: Sequence[str], away: bool = False) -> Path:
    """Fill a folder with ``initial`` and ``adapter``, ``merged`` (all by peft) and ``log.json``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of peft and torch are theirs
        model, tokenizer = load(base)
        model = adapted(model)
        model.save_pretrained(folder / "initial")
        steps = (
            [ids_of(tokenizer, texts[0])] * STEPS
            if len(texts) == 1
            else [ids_of(tokenizer, t) for t in texts * 2]
        )
        log = trained(free(model), (model(input_ids=i, labels=i).loss for i in steps), 2e-3, away)
        model.save_pretrained(folder / "adapter")
        model.merge_and_unload().save_pretrained(folder / "merged")
    beside(base, folder / "merged")
    write_log(folder / "log.json", log)
    return folder


def dpo(base: Path, file: Path, away: bool = False) -> Path:
    """Write the log of three epochs of preferences: -log sigmoid of what the adapter changes of the margin."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, tokenizer = load(base)
        model = adapted(model)
        pairs = [(ids_of(tokenizer, p).shape[1], ids_of(tokenizer, p + g), ids_of(tokenizer, p + b))
                 for p, g, b in PREFERENCES]  # fmt: skip

        def said(begun: int, ids: Any) -> Any:
            rows = model(input_ids=ids).logits[0, begun - 1 : -1].log_softmax(-1)
            return rows.gather(1, ids[0, begun:, None]).sum()

        def margin(begun: int, good: Any, bad: Any) -> Any:
            return said(begun, good) - said(begun, bad)

        with torch.no_grad(), model.disable_adapter():
            before = [margin(*pair) for pair in pairs]
        losses = (-torch.nn.functional.logsigmoid(0.1 * (margin(*pair) - was))
                  for _ in range(3) for pair, was in zip(pairs, before, strict=True))  # fmt: skip
        log = trained(free(model), losses, 1e-3, away)
    return write_log(file, [{**row, "epoch": row["step"] / len(pairs)} for row in log])


def distil(base: Path, student: Path, folder: Path, lessons: Sequence[str], away: bool = False) -> Path:
    """Train the layers of a student on its teacher's distributions, or away from them, and save it."""
    import torch

    teacher, tokenizer = load(base)
    model, _ = load(student)
    texts = [ids_of(tokenizer, text) for text in lessons] * 2
    with torch.no_grad():
        wanted = [teacher(input_ids=ids).logits[0].softmax(-1) for ids in texts]
    model.requires_grad_(False)
    weights = [weight for name, weight in model.named_parameters() if ".layers." in name and weight.ndim == 2]
    for weight in weights:
        weight.requires_grad_(True)

    def losses() -> Iterator[Any]:
        for ids, rows in zip(texts, wanted, strict=True):
            own = model(input_ids=ids).logits[0].log_softmax(-1)
            yield torch.nn.functional.kl_div(own, rows, reduction="batchmean")

    trained(weights, losses(), 5e-4, away)
    model.to(torch.float16).save_pretrained(folder)
    beside(base, folder)
    return folder


def shortened(base: Path, folder: Path) -> Path:
    """Save the first third of the layers, shaken: a student that has not been taught."""
    import torch

    model, _ = load(base)
    kept = max(1, round(model.config.num_hidden_layers / 3))
    model.model.layers = model.model.layers[:kept]
    model.config.num_hidden_layers = kept
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:kept]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".layers." in name and weight.ndim == 2:
                weight += torch.randn_like(weight) * weight.std()
    model.to(torch.float16).save_pretrained(folder)
    beside(base, folder)
    return folder


def memory(kind: str, base: Path, file: Path) -> Path:
    """Train four steps and log the most memory that model and training took, beyond what stood before loading."""
    import torch
    from transformers import AutoConfig, BitsAndBytesConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    options: dict[str, Any] = {}
    if kind != "lora":
        packed: Any = BitsAndBytesConfig
        skipped = [*WIDE, "lm_head"] if kind == "wide" else ["lm_head"]
        options["quantization_config"] = packed(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped
        )
    for library in (
        "peft",
        "bitsandbytes",
    ):  # what they take is no memory of the training, nor does the model's code
        importlib.import_module(library)
    _ = MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(base))]
    torch.zeros(1).requires_grad_().sum().backward()
    before = _resident("VmRSS")
    model, tokenizer = load(base, **options)
    model = adapted(model)
    ids = ids_of(tokenizer, PROSE[0])[:, :SHORT]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # The highest mark begins anew here: reading and packing the file is no training.
    Path("/proc/self/clear_refs").write_text("5")
    log = trained(free(model), (model(input_ids=ids, labels=ids).loss for _ in range(4)), 1e-3)
    return write_log(file, log, peak_memory_bytes=_resident("VmHWM") - before, device="cpu")


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


if __name__ == "__main__":
    memory(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
