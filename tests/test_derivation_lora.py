"""Adapters in the format of peft, made by peft where it matters: merged is unmerged, zero is the base."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import derivatives as make
import numpy as np
import pytest
from test_derivation import BAD, GOOD, OPEN, judged

from apr_qa.derivation.adapters import read_adapter
from apr_qa.derivation.members import Unmeasured
from apr_qa.vocabulary import Outcome


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``initial`` and ``adapter`` (peft), ``merged`` (peft's own merge) and ``log.jsonl``."""
    folder = tmp_path_factory.mktemp("lora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of peft and torch are theirs
        _train(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(make.BASE / name, folder / "merged" / name)
    return folder


def _train(folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(make.BASE, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(make.BASE, dtype=torch.float32, local_files_only=True)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model, config)
    adapted.save_pretrained(folder / "initial")
    ids = tokenizer("The small model learns one sentence by heart, and nothing else.", return_tensors="pt")[
        "input_ids"
    ]
    optimiser = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=2e-3)
    lines = []
    for step in range(8):
        loss = adapted(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        lines.append(json.dumps({"step": step, "loss": float(loss), "epoch": step / 4}))
    (folder / "log.jsonl").write_text("\n".join(lines))
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")


def ask(child: Path, gate: str, trained: Path, **recipe: Any) -> Any:
    """Judge a merge of the trained adapter with the fixture."""
    adapter = {"adapter": str(trained / "adapter"), **recipe}
    return judged(child, "lora", [str(make.BASE)], gate, **adapter)


def variant(trained: Path, folder: Path, **changes: Any) -> Path:
    """Copy the merge with some tensors replaced."""
    tensors = make.tensors_of(trained / "merged")
    return make.write(folder, {**tensors, **changes})


def test_the_merge_of_peft_is_the_base_with_our_product_added(trained: Path, tmp_path: Path) -> None:
    gate = "F-DERIV-LORA-002"
    good = ask(trained / "merged", gate, trained)
    assert good.outcome is GOOD, good.reason
    base = make.tensors_of()
    never = ask(make.write(tmp_path / "never", base), gate, trained)
    assert never.outcome is BAD and "0.000 times" in never.reason
    adapter = read_adapter(trained / "adapter")
    twice = {n: base[n] + 2 * d if (d := adapter.delta(n)) is not None else base[n] for n in base}
    doubled = ask(make.write(tmp_path / "doubled", twice), gate, trained)
    assert doubled.outcome is BAD and "2.000 times" in doubled.reason
    name = next(iter(adapter.factors))
    spoilt = np.array(make.tensors_of(trained / "merged")[name])
    spoilt[3, 5] += 0.5
    assert ask(variant(trained, tmp_path / "spoilt", **{name: spoilt}), gate, trained).outcome is BAD
    packed = make.quantised(trained / "merged", tmp_path / "m.gguf", "q4_0")
    assert ask(packed, gate, trained).outcome is OPEN, "quantised weights hide an adapter"


def test_a_merge_that_is_stored_in_bf16_is_still_recognised(trained: Path, tmp_path: Path) -> None:
    narrow = make.write(tmp_path / "narrow", make.tensors_of(trained / "merged"), "bf16")
    assert ask(narrow, "F-DERIV-LORA-002", trained).outcome is GOOD
    never = make.write(tmp_path / "never", make.tensors_of(), "bf16")
    assert ask(never, "F-DERIV-LORA-002", trained).outcome is BAD


def test_where_the_adapter_is_zero_the_merge_is_the_base(trained: Path, tmp_path: Path) -> None:
    gate = "F-DERIV-LORA-001"
    initial = str(trained / "initial")
    assert ask(trained / "merged", gate, trained).outcome is GOOD
    assert ask(trained / "merged", gate, trained, initial_adapter=initial).outcome is GOOD
    moved = make.tensors_of()["model.norm.weight"] * np.float32(1.01)
    assert (
        ask(variant(trained, tmp_path / "moved", **{"model.norm.weight": moved}), gate, trained).outcome
        is BAD
    )
    begun = ask(trained / "merged", gate, trained, initial_adapter=str(trained / "adapter"))
    assert begun.outcome is BAD and "initial" in begun.reason


def test_the_loss_of_a_real_training_falls(trained: Path) -> None:
    assert (
        ask(trained / "merged", "F-DERIV-LORA-003", trained, log=str(trained / "log.jsonl")).outcome is GOOD
    )


def test_the_base_must_be_what_it_was(trained: Path, tmp_path: Path) -> None:
    from apr_qa import workspace

    gate, merged = "F-DERIV-LORA-004", trained / "merged"
    sha256 = workspace.content_sha256(make.BASE)
    assert ask(merged, gate, trained, base_sha256=sha256).outcome is GOOD
    assert ask(merged, gate, trained, base_sha256="0" * 64).outcome is BAD
    assert ask(merged, gate, trained).outcome is OPEN
    copy = make.write(tmp_path / "copy", make.tensors_of())
    other = make.write(tmp_path / "other", make.noisy(make.tensors_of(), 5, 0.1))
    assert ask(merged, gate, trained, pristine=str(copy)).outcome is GOOD
    assert ask(merged, gate, trained, pristine=str(other)).outcome is BAD
    assert ask(merged, gate, trained, pristine=str(make.BASE)).outcome is OPEN, (
        "the base is no copy of itself"
    )


@pytest.mark.parametrize("fault", ["absent", "no-json", "dora", "foreign", "half"])
def test_an_adapter_that_is_no_plain_lora_is_not_judged(fault: str, trained: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "adapter"
    shutil.copytree(trained / "adapter", folder)
    config, file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    tensors = load_file(file)
    if fault == "absent":
        file.unlink()
    if fault == "no-json":
        config.write_text("{")
    if fault == "dora":
        config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    if fault == "foreign":
        save_file({**tensors, "base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}, file)
    if fault == "half":
        save_file({name: value for name, value in tensors.items() if "lora_A" in name}, file)
    with pytest.raises(Unmeasured):
        read_adapter(folder)
    verdict = judged(trained / "merged", "lora", [str(make.BASE)], "F-DERIV-LORA-002", adapter=str(folder))
    assert verdict.outcome is Outcome.INCONCLUSIVE
