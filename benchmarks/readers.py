"""Reading files against what is commonly used for it: ``python benchmarks/readers.py``.

Method: every side runs in a process of its own, sides alternate, medians of ``--runs`` (3). Times are processor
seconds of reading alone, imports excluded; memory is by how much the process's resident memory grows at its peak.
Each line says ours, theirs, and their ratio (above 1: ours takes less).

* header: a GGUF with 152,000 tokens and 150,000 merges, opened and validated; theirs is ``gguf.GGUFReader``.
* finite: every value of a SafeTensors file looked at; theirs is ``numpy.isfinite`` over the file's map (bf16 widened).
* hash: SHA-256 of the same file, which the second look takes from the record; theirs is ``hashlib``.
* inspect: all claims of ``apr-qa inspect`` about the file; no other side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TOKENS, MERGES = 152_000, 150_000
_MEASURED = """
import json, re, sys, time
from pathlib import Path
path = Path(sys.argv[1])

def memory(of):
    return int(re.search(of + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

{setup}
Path("/proc/self/clear_refs").write_text("5")
before, begun = memory("VmRSS"), time.process_time()
{work}
seconds = time.process_time() - begun
print(json.dumps([seconds, memory("VmHWM") - before, memory("VmHWM")]))
"""
_SIDES = {
    "header, ours": (
        "from apr_qa.formats import FORMATS\nimport numpy, gguf\nreader = FORMATS.get('gguf')",
        "model = reader.open(path)",
    ),
    "header, theirs": ("import gguf", "gguf.GGUFReader(path)"),
    "finite, ours": (
        "import numpy\nfrom apr_qa.formats import FORMATS\nfrom apr_qa.inspecting.tensor_scan import scan\n"
        "model = FORMATS.get('safetensors').open(path)",
        "assert not scan(model).nonfinite",
    ),
    "finite, theirs": (
        "import numpy\nfrom apr_qa.formats import FORMATS\nmodel = FORMATS.get('safetensors').open(path)\n"
        "halves = {'f16': '<f2', 'f32': '<f4'}",
        "for name, info in model.tensors.items():\n"
        "    raw = model.raw(name)\n"
        "    values = raw.view(halves[info.dtype]) if info.dtype in halves else model.read(name)\n"
        "    assert numpy.isfinite(values).all()",
    ),
    "hash, ours": ("from apr_qa import workspace", "workspace.content_sha256(path)"),
    "hash, theirs": ("import hashlib", "hashlib.file_digest(open(path, 'rb'), 'sha256').hexdigest()"),
}


def main() -> int:
    """Print the table; return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--megabytes", type=int, default=256, help="size of each SafeTensors file")
    given = arguments.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        header = _gguf(folder / "vocabulary.gguf")
        _compare("header", header, given.runs, folder)
        for dtype in ("F32", "F16", "BF16"):
            file = _weights(folder / f"{dtype}.safetensors", dtype, given.megabytes)
            for what in ("finite", "hash"):
                _compare(what, file, given.runs, folder)
            _inspect(file, folder)
            file.unlink()
    return 0


def _compare(what: str, file: Path, runs: int, folder: Path) -> None:
    found: dict[str, list[list[float]]] = {"ours": [], "theirs": []}
    for _ in range(runs):
        for side, results in found.items():
            results.append(_measured(f"{what}, {side}", file, folder))
    ours, theirs = ([statistics.median(column) for column in zip(*found[s], strict=True)] for s in found)
    gigabytes = file.stat().st_size / 1e9
    whole = f" (whole processes {ours[2]:.0f} and {theirs[2]:.0f} MiB)"
    rate = whole if what == "header" else f" ({gigabytes / ours[0]:.2f} and {gigabytes / theirs[0]:.2f} GB/s)"
    print(
        f"{what:7} {file.name:18} {1000 * ours[0]:7.1f} ms {ours[1]:6.1f} MiB; theirs {1000 * theirs[0]:8.1f} ms "
        f"{theirs[1]:6.1f} MiB; ratio {theirs[0] / ours[0]:5.1f}{rate}"
    )


def _measured(side: str, file: Path, folder: Path) -> list[float]:
    setup, work = _SIDES[side]
    # A cache of its own for each process: nothing is remembered.
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        answer = subprocess.run(
            [sys.executable, "-c", _MEASURED.format(setup=setup, work=work), str(file)],
            env={**os.environ, "APR_QA_CACHE": cache},
            capture_output=True,
            text=True,
            check=True,
        )
    measured: list[float] = json.loads(answer.stdout)
    return measured


def _inspect(file: Path, folder: Path) -> None:
    for look in ("first", "second"):
        before = os.times()
        command = [sys.executable, "-m", "apr_qa", "inspect", str(file)]
        environment = {**os.environ, "APR_QA_CACHE": str(folder / "cache")}
        subprocess.run(command, env=environment, capture_output=True, check=False)
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"inspect {file.name:18} {seconds:7.2f} s of processor time at the {look} look")


def _gguf(path: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"token{number:06d}" for number in range(TOKENS)])
    writer.add_token_types([1] * TOKENS)
    writer.add_token_merges([f"tok{number} en{number}" for number in range(MERGES)])
    writer.add_tensor("token_embd.weight", np.zeros((TOKENS, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(path: Path, dtype: str, megabytes: int) -> Path:
    from apr_qa.containers.byte_layout import to_bf16

    count, width = 8, 1024
    rows = megabytes * 10**6 // count // width // (4 if dtype == "F32" else 2)
    values = (np.random.default_rng(0).standard_normal((rows, width)) * 0.02).astype(np.float32)
    stored = {"F32": values, "F16": values.astype(np.float16), "BF16": to_bf16(values)}[dtype]
    header = {
        f"model.layers.{n}.mlp.up_proj.weight": {
            "dtype": dtype,
            "shape": [rows, width],
            "data_offsets": [n * stored.nbytes, (n + 1) * stored.nbytes],
        }
        for n in range(count)
    }
    text = json.dumps(header).encode()
    with path.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            handle.write(stored.tobytes())
    return path


if __name__ == "__main__":
    sys.exit(main())
