"""Facts that corroborate and falsify the rules for derived models: (good, bad) by check."""

from __future__ import annotations

from typing import Any

_NORMS: dict[str, Any] = {
    "tensors": 2,
    "worst": {"name": "w", "deviation": 0.0, "norm": 10.0, "parents": [9.9, 10.1]},
    "total": {"deviation": 0.0, "norm": 14.0, "parents": [13.9, 14.1]},
    "copy_of": [],
}
_SIGNS = {"entries": 100, "disagreeing": 20, "conflicts": 8, "naive_conflicts": 20}
_SET = {"name": "a", "compared": 4, "missing": [], "unexpected": [], "mismatched": []}
_TOKENIZER = {"present": True, "parent": "a", "tokens": 320, "merges": 60, "probes": 200, "kinds": {}}
_PERPLEXITY = {"text": "t.txt", "characters": 900, "artifact": 10.2, "parent": 10.0}
_SIZE = {
    "bytes": 1_040,
    "reference_bytes": 3_000,
    "reference": "the parent's file, measured",
    "ratio": 0.347,
    "bits_per_weight": 4.6,
}
_POINTS = {"task": "humaneval", "problems": 164, "artifact": 90.85, "parent": 92.5, "strategy": "standard"}
_MERGED = {"adapted": 4, "absent": [], "outside": [], "gain": 1.0}
_LOSS = {
    "records": 6,
    "not_finite": 0,
    "negative": 0,
    "first": 0.69,
    "last": 0.21,
    "slope": -0.08,
    "epochs": 3.0,
    "backends": ["wgpu"],
    "promised_epochs": None,
}
_MEMORY = {"qlora_bytes": 4e9, "lora_bytes": 1e10, "qlora_rank": 8, "lora_rank": 8, "same_log": False}
_SPEED = {
    "prompts": 3,
    "tokens": 96,
    "same": 3,
    "plain_tokens_per_s": 50.0,
    "speculative_tokens_per_s": 90.0,
    "speedup": 1.8,
}
_SCORES = {
    task: {"percent": percent, "problems": 164, "whole": True, "mode": "inference"}
    for task, percent in (("humaneval", 87.2), ("humaneval-plus", 83.0), ("mbpp", 81.0))
}
_COMPOUND = {
    "least": {"humaneval": 85.0, "mbpp": 80.0},
    "strategy": "standard",
    "groups": [{"strategy": "standard", "way": "w", "scores": _SCORES}],
    "left_out": [],
}
_SHORT = {"humaneval": {"percent": 82.3, "problems": 164, "whole": True, "mode": "inference"}}
_CLEAN = {"n": 10, "documents": 300, "benchmark_texts": 164, "contaminated": 0, "rate": 0.0, "pairs": []}
_TOOL = {"tool": "apr", "field": "all_passed", "value": True, "wants_true": True}
_SPARSE = {"tensors": 7, "weights": 1000, "promised": 0.3, "measured": 0.302, "parent": 0.0}

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "norms": (_NORMS, {**_NORMS, "worst": {**_NORMS["worst"], "deviation": 0.29, "norm": 7.03}}),
    "sign_conflicts": (_SIGNS, {**_SIGNS, "conflicts": 20}),
    "density": (
        {"promised": 0.5, "measured": 0.71, "expected": 0.71},
        {"promised": 0.5, "measured": 1.0, "expected": 0.71},
    ),
    "tensor_set": ({"parents": [_SET]}, {"parents": [{**_SET, "missing": ["lm_head.weight"]}]}),
    "architecture": (
        {"parents": [{"name": "a", "architecture": ["qwen2", "qwen2"], "differing": {}}]},
        {"parents": [{"name": "a", "architecture": ["qwen2", "llama"], "differing": {}}]},
    ),
    "tokenizer": (
        _TOKENIZER,
        {
            "present": False,
            "parent": "a",
            "truth": True,
            "artifact": False,
            "unreadable": "",
            "expected_pre": None,
        },
    ),
    "score": (
        {"benchmarks": [{"metric": "perplexity", "artifact": 9.0, "parents": {"a": 9.5, "b": 12.0}}]},
        {
            "benchmarks": [
                {"metric": "passed", "artifact": 3.0, "parents": {"a": 4.0, "b": 1.0}, "problems": 9}
            ]
        },
    ),
    "sparsity": (_SPARSE, {**_SPARSE, "measured": 0.1}),
    "perplexity": (_PERPLEXITY, {**_PERPLEXITY, "artifact": 14.0}),
    "better_than_untrained": ({**_PERPLEXITY, "artifact": 9.0}, {**_PERPLEXITY, "artifact": 10.0}),
    "size": (_SIZE, {**_SIZE, "bytes": 1_584, "ratio": 0.528}),
    "points": (_POINTS, {**_POINTS, "artifact": 85.37, "parent": 87.8}),
    "zero_adapter": (
        {"checked": 5, "adapted": 2, "moved": [], "begun_nonzero": []},
        {"checked": 5, "adapted": 2, "moved": ["model.norm.weight"], "begun_nonzero": None},
    ),
    "merged_adapter": (_MERGED, {**_MERGED, "gain": 2.0}),
    "base_unchanged": (
        {"expected": "a", "measured": "a", "changed": [], "compared": None},
        {"expected": "a", "measured": "b", "changed": [], "compared": None},
    ),
    "loss": (_LOSS, {**_LOSS, "last": 0.7, "slope": 0.01}),
    "memory": (_MEMORY, {**_MEMORY, "qlora_bytes": 6e9}),
    "speculative": (_SPEED, {**_SPEED, "speedup": 1.1}),
    "same_text": (_SPEED, {**_SPEED, "same": 2}),
    "compound": (_COMPOUND, {**_COMPOUND, "groups": [{"strategy": "scot", "way": "w", "scores": _SHORT}]}),
    "contamination": (_CLEAN, {**_CLEAN, "contaminated": 30, "rate": 0.1}),
    "distinct": (
        {"samples": 5, "temperature": 0.8, "prompts": 2, "distinct": [5, 4], "empty": 0},
        {"samples": 5, "temperature": 0.8, "prompts": 2, "distinct": [1, 4], "empty": 0},
    ),
    "reasoning": (
        {"answers": 3, "with_code": 3, "plan_before_code": 3},
        {"answers": 3, "with_code": 3, "plan_before_code": 0},
    ),
    "tool": (_TOOL, {**_TOOL, "value": False}),
    "tool_stages": ({**_TOOL, "field": "passed", "value": 10}, {**_TOOL, "field": "passed", "value": 9}),
    "tool_least": ({**_TOOL, "value": 97.5}, {**_TOOL, "value": 60.0}),
    "tool_most": ({**_TOOL, "value": 0}, {**_TOOL, "value": 1}),
}
