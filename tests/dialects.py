"""Playbooks as other programs write them: every dialect of the ancestor's, some hundred files of different content.

They are written by rule from the census of those files: the same field sets, spellings and quirks (quoted
booleans, ``1e-5``, names with dots, both shapes of property tests and state machines).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import yaml

Fields = dict[str, object]

MODELS = (
    ("yi-1.5-6b", "01-ai/Yi-1.5-6B-Chat", "large", 300_000),
    ("gemma-2-2b", "google/gemma-2-2b-it", "medium", 120_000),
    ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3", "large", 180_000),
    ("qwen2.5-coder-0.5b", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "tiny", 60_000),
    ("qwen2.5-coder-3b", "Qwen/Qwen2.5-Coder-3B-Instruct", "small", 90_000),
    ("deepseek-coder-1.3b", "deepseek-ai/deepseek-coder-1.3b-instruct", "small", 90_000),
    ("llama-3.1-70b", "meta-llama/Llama-3.1-70B-Instruct", "huge", 600_000),
    ("falcon-40b", "tiiuae/falcon-40b-instruct", "xlarge", 600_000),
    ("internlm2_5-7b-chat", "internlm/internlm2_5-7b-chat", "large", 300_000),
    ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "tiny", 30_000),
)
GATES: Fields = dict.fromkeys(
    ("g1_model_loads", "g2_basic_inference", "g3_no_crashes", "g4_output_quality"), "true"
)
ARITHMETIC: Fields = {"type": "arithmetic", "config": {"tolerance": 0.01}}
GARBAGE: Fields = {"type": "garbage", "config": {"max_repetition_ratio": 0.3, "min_unique_chars": 10}}
CODE: Fields = {
    "type": "code_syntax",
    "config": {"languages": ["python", "rust", "javascript", "go", "java", "cpp"]},
}
RESPONSE: Fields = {"type": "response", "config": {"min_relevance": 0.3}}
INVARIANTS = (["I-2", "I-3"], ["I-2", "I-3", "I-4", "I-5"])


def _model(name: str, repo: str, size: str, **more: object) -> Fields:
    return {
        "hf_repo": repo,
        "formats": ["safetensors", "apr", "gguf"],
        "quantizations": ["q4_k_m"],
        "size_category": size,
        **more,
    }


def _matrix(count: int = 1, timeout: int = 60_000, **more: object) -> Fields:
    return {
        "modalities": ["run", "chat", "serve"],
        "backends": ["cpu", "gpu"],
        "scenario_count": count,
        "seed": 42,
        "timeout_ms": timeout,
        **more,
    }


def _profile(measure: int = 2, **assertions: float) -> Fields:
    return {
        "enabled": "true",
        "warmup": 1,
        "measure": measure,
        "formats": ["safetensors", "apr", "gguf"],
        "backends": ["cpu", "gpu"],
        "assertions": assertions or {"min_throughput_cpu": 5.0, "min_throughput_gpu": 50.0},
    }


def _differential(deep: bool = False) -> Fields:
    found: Fields = {
        "tensor_diff": {
            "enabled": True,
            "filter": "embed,lm_head",
            "gates": ["F-ROSETTA-DIFF-001", "F-ROSETTA-DIFF-002"],
        },
        "inference_compare": {
            "enabled": "true",
            "prompt": "What is 2+2?",
            "max_tokens": 10,
            "tolerance": "1e-5",
            "gates": ["F-ROSETTA-INF-001"],
        },
    }
    if deep:
        found |= {
            "format_validation": {
                "enabled": True,
                "checks": ["dtype_mapping", "tensor_alignment", "header_integrity"],
                "gates": ["F-ROSETTA-FMT-001", "F-ROSETTA-FMT-002"],
            },
            "fingerprint": {
                "enabled": True,
                "tensors": "all",
                "stats": ["mean", "std", "min", "max", "checksum"],
                "gates": ["F-ROSETTA-FP-001", "F-ROSETTA-FP-002"],
            },
            "validate_stats": {
                "enabled": True,
                "tolerance": {"layernorm": 0.001, "embedding": 0.1, "attention": 0.01},
                "gates": ["F-ROSETTA-STATS-001", "F-ROSETTA-STATS-002"],
            },
        }
    return found


def _trace(prompt: str = "2+2=") -> Fields:
    return {"enabled": True, "prompt": prompt, "gates": ["F-TRACE-PAYLOAD-001", "F-TRACE-PAYLOAD-002"]}


PROPERTIES: list[Fields] = [
    {
        "name": "arithmetic_correctness",
        "generator": "arithmetic(a: i32, b: i32, op: +|-|*)",
        "oracle": "eval(a op b) == parse_int(output)",
        "count": 5,
    },
    {
        "name": "code_generation",
        "generator": "code_prompt(lang: python|rust|go|js)",
        "oracle": "is_valid_syntax(output, lang)",
        "count": 5,
    },
]


def _mvp(name: str, repo: str, size: str, timeout: int) -> Fields:
    return {
        "name": f"{name}-mvp",
        "version": "1.0.0",
        "description": f"Surface coverage of {repo}",
        "model": _model(name, repo, size),
        "test_matrix": _matrix(1, timeout),
        "gates": GATES,
        "oracles": [ARITHMETIC, GARBAGE],
        "failure_policy": "collect_all",
        "profile_ci": _profile(),
        "contract_tests": {"invariants": INVARIANTS[len(name) % 2]},
        "metadata": {
            "author": "somebody",
            "tier": "mvp",
            "architecture": "llama",
            "expected_mqs": 88,
            "tags": ["mvp"],
        },
    }


def _full(name: str, repo: str, size: str, timeout: int) -> Fields:
    fields = _mvp(name, repo, size, timeout)
    del fields["contract_tests"], fields["metadata"]
    model = {**_model(name, repo, size), "quantizations": ["q4_k_m", "q5_k_m", "q8_0"]}
    return {
        **fields,
        "name": name,
        "model": model,
        "test_matrix": _matrix(100, timeout),
        "oracles": [ARITHMETIC, GARBAGE, CODE, RESPONSE],
        "failure_policy": "stop_on_p0",
        "property_tests": PROPERTIES,
        "differential_tests": _differential(),
        "profile_ci": {
            "enabled": True,
            "warmup": 3,
            "measure": 10,
            "assertions": {"min_throughput": 3.0, "max_p99_ms": 2000},
            "gates": ["F-PROFILE-CI-001", "F-PROFILE-CI-002"],
        },
        "trace_payload": _trace("Explain the concept of recursion."),
        "metadata": {"author": "somebody", "architecture": "llama", "expected_mqs": 88},
    }


def _quick(name: str, repo: str, *_: object) -> Fields:
    return {
        "name": f"{name}-quick",
        "version": "1.0.0",
        "model": {"hf_repo": repo, "formats": ["gguf"], "quantizations": ["q4_k_m"]},
        "test_matrix": {"modalities": ["run"], "backends": ["cpu"], "scenario_count": 10},
        "oracles": [GARBAGE],
        "property_tests": [
            {"name": "arithmetic", "generator": "arithmetic()", "oracle": "correct", "count": 10}
        ],
        "differential_tests": {
            "inference_compare": {
                "enabled": "yes",
                "prompt": "What is 2+2?",
                "max_tokens": 5,
                "tolerance": "1e-5",
                "gates": ["F-ROSETTA-INF-001", "F-ROSETTA-INF-003"],
            }
        },
        "trace_payload": {"enabled": "on", "prompt": "2+2=", "gates": ["F-TRACE-PAYLOAD-001"]},
    }


def _smoke(name: str, repo: str, size: str, timeout: int) -> Fields:
    fields = _mvp(name, repo, size, timeout)
    del fields["profile_ci"], fields["contract_tests"]
    matrix = {**_matrix(3, timeout), "modalities": ["run"], "backends": ["cpu"]}
    return {**fields, "name": f"{name}-smoke", "test_matrix": matrix, "metadata": {"tier": "smoke"}}


def _kernel(name: str, repo: str, size: str, timeout: int) -> Fields:
    prompts = [
        "What is 123*456? Give the steps.",
        "List all primes below 30.",
        "def fibonacci(n):",
        "What is 0.1+0.2?",
        "What is 999+1?",
    ]
    stated = {
        "expected_hidden_dim": 896,
        "expected_num_layers": 24,
        "expected_num_heads": 14,
        "expected_num_kv_heads": 2,
        "expected_vocab_size": 151936,
        "expected_intermediate_dim": 4864,
    }
    return {
        **_mvp(name, repo, size, timeout),
        "version": "2.0.0",
        "model": _model(name, repo, size, family="qwen2", size_variant="0.5b", **stated),
        "test_matrix": _matrix(1, timeout, prompts=prompts),
        "kernel_profile": {
            "family": "qwen2",
            "kernel_ops": ["RmsNorm", "Rope", "SwiGlu"],
            "prompt_count": 5,
            "long_context": "true",
        },
    }


def _ci(name: str, repo: str, *_: object) -> Fields:
    return {
        "name": f"{name}-ci",
        "version": "1.1.0",
        "model": {"hf_repo": repo, "formats": ["gguf"], "quantizations": ["q4_k_m"]},
        "test_matrix": {"modalities": ["run", "chat"], "backends": ["cpu"], "scenario_count": 25},
        "property_tests": [
            {"name": "arithmetic", "generator": "arithmetic()", "oracle": "correct", "count": 25},
            {"name": "code_completion", "generator": "code_prompt()", "oracle": "valid_syntax", "count": 25},
        ],
        "differential_tests": _differential(),
        "profile_ci": {
            "enabled": True,
            "warmup": 2,
            "measure": 5,
            "assertions": {"min_throughput": 3.0, "max_p99_ms": 1000},
            "gates": ["F-PROFILE-CI-001", "F-PROFILE-CI-002"],
        },
        "trace_payload": _trace(),
    }


def _full_with_contract(*model: object) -> Fields:
    return {**_full(*model), "contract_tests": {"invariants": INVARIANTS[1]}}  # type: ignore[arg-type]


def _ladder(name: str, repo: str, size: str, timeout: int) -> Fields:
    fields = _full_with_contract(name, repo, size, timeout)
    del fields["property_tests"]
    return {
        **fields,
        "name": f"{name}-full",
        "model": {**_model(name, repo, size), "quantizations": ["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]},
        "differential_tests": _differential(deep=True),
        "profile_ci": {
            **_profile(10, min_throughput_cpu=5.0, max_p99_ms=5000.0),
            "gates": ["F-PROFILE-CI-001", "F-PROFILE-CI-002", "F-PERF-003", "F-PERF-005"],
        },
        "ollama_parity": {
            "enabled": True,
            "model_tag": "coder:7b-instruct-q4_k_m",
            "quantizations": ["q4_k_m", "q8_0"],
            "prompts": ["What is 2+2?", "def fibonacci(n):"],
            "temperature": 0.0,
            "min_perf_ratio": 0.8,
            "gates": [f"F-OLLAMA-00{n}" for n in range(1, 6)],
        },
        "metadata": {"tier": "full", "primary_qa_model": True},
    }


def _basic_verify(*_: object) -> Fields:
    verified = [
        {"name": f"{f} loads and runs", "format": f, "prompt": "What is 2+2?", "expect": "4"}
        for f in ("safetensors", "apr", "gguf")
    ]
    verified.append(
        {
            "name": "All formats agree",
            "type": "differential",
            "formats": ["safetensors", "apr", "gguf"],
            "prompt": "Write hello world",
            "tolerance": "semantic",
        }
    )  # type: ignore[dict-item]
    return {
        "name": "basic-verify",
        "version": "1.0.0",
        "model": {
            "hf_repo": "${MODEL_ID}",
            "formats": ["safetensors", "apr", "gguf"],
            "quantizations": ["q4_k_m"],
            "size_category": "auto",
        },
        "test_matrix": {
            "modalities": ["run"],
            "backends": ["cpu"],
            "scenario_count": 3,
            "seed": 42,
            "timeout_ms": 60000,
        },
        "gates": GATES,
        "oracles": [ARITHMETIC, GARBAGE],
        "verification_tests": verified,
        "failure_policy": "collect_all",
    }


def _mvp_matrix(*_: object) -> Fields:
    cells = itertools.product(("safetensors", "apr", "gguf"), ("cpu", "gpu"), ("run", "chat", "serve"))
    rows = [
        {"format": f, "backend": b, "modality": m, "prompt": f"What is {i}+{i}?"}
        for i, (f, b, m) in enumerate(cells)
    ]
    return {
        "name": "mvp-certification",
        "version": "1.0.0",
        "model": _model("", "${MODEL_ID}", "auto"),
        "test_matrix": _matrix(1, 120_000),
        "gates": GATES,
        "oracles": [ARITHMETIC, GARBAGE, RESPONSE],
        "mvp_matrix": rows,
        "failure_policy": "collect_all",
        "metadata": {"tier": "mvp", "estimated_time": "5-10 minutes"},
    }


FALSIFICATION: list[Fields] = [
    {"id": gate, "description": said, "condition": condition, "severity": severity}
    for gate, said, condition, severity in (
        ("G1-LOAD", "Loads", "load_time_ms < 60000 && !error", "P0"),
        ("G2-INFER", "Answers", "output.len() > 0", "P0"),
        ("G3-STABLE", "No crash", "exit_code == 0", "P0"),
        ("G4-VALID", "Not garbage", "!is_garbage(output)", "P0"),
        ("F-QUAL-001", "Sums", "arithmetic_oracle(prompt, output)", "P1"),
        ("F-QUAL-002", "Code", "syntax_check(output, lang)", "P1"),
        ("F-QUAL-003", "Relevant", "semantic_similarity(prompt, output) > 0.3", "P2"),
        ("F-PERF-001", "CPU speed", "backend == 'cpu' => tps >= 10", "P1"),
        ("F-PERF-002", "First token", "ttft_ms < 5000", "P1"),
        ("F-PERF-003", "Time to first token", "ttft < (backend == 'cpu' ? 2000 : 500)", "P1"),
        ("F-PERF-004", "Speedup", "gpu_tps / cpu_tps >= 2.0", "P2"),
        ("F-STAB-001", "Repeatable", "run(seed=42) == run(seed=42)", "P1"),
        ("F-STAB-002", "No leak", "memory_growth_rate < 0.01", "P1"),
        ("F-STAB-003", "Concurrency", "concurrent_success_rate > 0.99", "P2"),
        ("F-COMP-001", "Types", "all_quants_pass", "P1"),
        ("F-COMP-002", "Formats", "gguf_output ≈ apr_output", "P1"),
        ("F-COMP-003", "Devices", "cpu_output ≈ gpu_output", "P2"),
        ("F-EDGE-001", "Empty prompt", "!crash && !garbage", "P2"),
        ("F-EDGE-002", "Long prompt", "!crash && !timeout", "P2"),
        ("F-EDGE-003", "Unicode", "unicode_output_valid", "P2"),
        ("F-EDGE-004", "Token limit", "output_tokens <= max_tokens", "P2"),
        ("F-REGR-001", "No regression", "mqs_score >= baseline_score", "P1"),
        ("F-REGR-002", "Speed kept", "current_tps / baseline_tps > 0.9", "P2"),
        ("F-HTTP-001", "Health", "health_check == 200", "P1"),
        ("F-HTTP-002", "Completions", "completions_valid_json", "P1"),
    )
]


def _template(ending: str, count: int) -> Fields:
    return {
        "name": "${MODEL_NAME}-" + ending,
        "version": "1.0.0",
        "model": {"hf_repo": "${HF_REPO}", "formats": ["gguf", "safetensors"], "quantizations": ["q4_k_m"]},
        "test_matrix": {"modalities": ["run", "chat", "serve"], "backends": ["cpu"], "scenario_count": count},
        "property_tests": [
            {
                "name": "basic_sanity",
                "generator": "arithmetic(a: 1..10, b: 1..10, op: +)",
                "oracle": "output.contains(expected)",
                "count": 10,
            },
            {
                "name": "chat_coherence",
                "generator": "chat_prompt()",
                "oracle": "coherent_response",
                "count": 3,
            },
            {
                "name": "deterministic_with_seed",
                "generator": "any_prompt(seed: fixed)",
                "oracle": "run(seed) == run(seed)",
                "count": 2,
            },
            {
                "name": "no_garbage_output",
                "generator": "any_prompt()",
                "oracle": "!is_garbage(output)",
                "count": 3,
            },
        ],
        "falsification_gates": FALSIFICATION,
    }


SPECS: dict[str, list[Fields]] = {
    "G1-LOAD": [
        {
            "name": "A GGUF of four bits loads",
            "command": "apr run ${VALID_GGUF_Q4} --dry-run",
            "expected": {"exit_code": 0},
            "rationale": "usual",
        },
        {"name": "APR loads", "command": "apr run ${VALID_APR} --dry-run", "expected": {"exit_code": 0}},
        {
            "name": "SafeTensors loads",
            "command": "apr run ${VALID_SAFETENSORS} --dry-run",
            "expected": {"exit_code": 0},
        },
        {
            "name": "No file",
            "command": "apr run /nonexistent/model.gguf --dry-run",
            "expected": {"exit_code": 1, "stderr_contains": "not found", "no_panic": "true"},
        },
        {
            "name": "No model",
            "command": "apr run /etc/passwd --dry-run",
            "expected": {"exit_code": 1, "stderr_contains": "Invalid", "no_panic": True},
        },
        {
            "name": "Cut off",
            "command": "apr run ${TRUNCATED_GGUF} --dry-run",
            "expected": {"exit_code": 1, "stderr_contains": "truncated", "no_panic": True},
        },
    ],
    "G2-INFER": [
        {
            "name": "Sum",
            "command": "apr run ${MODEL} '2+2='",
            "expected": {"exit_code": 0, "stdout_not_empty": True},
        },
        {"name": "Empty prompt", "command": "apr run ${MODEL} ''", "expected": {"exit_code": 0}},
        {"name": "Blanks", "command": "apr run ${MODEL} '   '", "expected": {"exit_code": 0}},
    ],
    "G3-STABLE": [
        {
            "name": "Long output",
            "command": "apr run ${MODEL} 'Write a long story' --max-tokens 500",
            "expected": {"exit_code": 0, "no_panic": True},
        },
        {
            "name": "Long prompt",
            "command": "apr run ${MODEL} '${LONG_PROMPT}' --max-tokens 10",
            "expected": {"no_panic": True, "no_sigsegv": True},
        },
        {
            "name": "Unicode",
            "command": "apr run ${MODEL} '${UNICODE_PROMPT}'",
            "expected": {"no_panic": True},
        },
        {
            "name": "One after the other",
            "command": 'for i in $(seq 1 10); do\n  apr run ${MODEL} "Test $i" --max-tokens 5\ndone\n',
            "expected": {"no_panic": True},
        },
        {
            "name": "No token",
            "command": "apr run ${MODEL} 'Test' --max-tokens 0",
            "expected": {"no_panic": True},
        },
        {
            "name": "Interrupted",
            "timeout_ms": 5000,
            "command": "timeout 2 apr run ${MODEL} 'Write forever' --max-tokens 10000",
            "expected": {"no_panic": True},
        },
    ],
    "G4-VALID": [
        {
            "name": "Sum",
            "command": "apr run ${MODEL} '2+2='",
            "expected": {"garbage_check": False, "min_unique_chars": 2},
        },
        {
            "name": "Fact",
            "command": "apr run ${MODEL} 'The capital of France is'",
            "expected": {"garbage_check": "false", "min_unique_chars": 5},
        },
    ],
}


def _spec(gateway: str) -> Fields:
    fields: Fields = {
        "name": f"spec-gateway-{gateway[:2].lower()}",
        "version": "1.0.0",
        "description": f"What {gateway} asks",
        "spec": {"id": gateway, "section": "7.1", "document": "spec.md", "requirement": "It must.\n"},
        "scenarios": SPECS[gateway],
        "gate": {
            "id": gateway,
            "severity": "P0",
            "condition": "a &&\nb\n",
            "failure_action": "zero_mqs",
            "failure_message": "score zero",
        },
        "metadata": {"author": "somebody", "spec_version": "1.1.0", "last_verified": "2026-01-30"},
    }
    if gateway == "G3-STABLE":
        fields["crash_patterns"] = {"sigsegv": "SIGSEGV|Segmentation fault", "sigabrt": "SIGABRT|Aborted"}
    if gateway == "G4-VALID":
        fields["garbage_oracle"] = {
            "name": "Garbage",
            "conditions": [
                {
                    "name": "excessive_repetition",
                    "description": "a token too often",
                    "threshold": 0.3,
                    "formula": "x > 0.3",
                },
                {"name": "low_uniqueness", "description": "too few characters", "threshold": 10},
                {
                    "name": "non_printable",
                    "description": "control characters",
                    "formula": "has_non_printable(output)",
                },
                {"name": "entropy_collapse", "threshold": 1.0},
            ],
        }
        fields["garbage_examples"] = ["aaaaaaaaaaaaaaaaaaaaaaa", "the the the the the the the the"]
        fields["valid_examples"] = ["4", "The answer is 4.", "Paris"]
    return fields


def _ticket(number: int, *, with_model: bool) -> Fields:
    gates: list[Fields] = [
        {
            "id": f"V-TICKET-{number}-{n:03}",
            "description": "a conversion",
            "gate": f"F-CONV-{n:03}",
            "condition": "diff < 1e-6",
        }
        for n in range(1, 7)
    ]
    gates += [
        {
            "id": f"V-TICKET-{number}-007",
            "description": "round trip",
            "gate": "F-CONV-RT-001",
            "condition": "nan_count == 0 && inf_count == 0",
        },
        {
            "id": f"V-TICKET-{number}-008",
            "description": "accepted",
            "tool": "validate",
            "condition": "exit_code == 0",
        },
        {
            "id": f"V-TICKET-{number}-009",
            "description": "converted",
            "tool": "rosetta",
            "args": ["convert", "model.gguf", "model.safetensors"],
            "condition": "file_exists('tokenizer.json')",
        },
        {
            "id": f"V-TICKET-{number}-010",
            "description": "runs",
            "tool": "run",
            "args": ["model.safetensors", "What is 2+2?", "-n", "32"],
            "condition": "exit_code == 0",
        },
    ]
    fields: Fields = {
        "name": f"verify-ticket-{number}",
        "version": "1.0.0",
        "description": "A ticket is closed",
        "verification_gates": gates,
        "acceptance": {
            "all_gates_pass": True,
            "max_output_diff": "1e-6",
            "no_nan_values": True,
            "mqs_score_minimum": 87,
            "tool_coverage": 100,
        },
        "failure_policy": "stop_on_first",
        "metadata": {"ticket": f"https://example.org/issues/{number}", "severity": "P0"},
    }
    if with_model:
        fields["model"] = {
            "hf_repo": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
            "formats": ["gguf", "apr", "safetensors"],
            "quantizations": ["q4_k_m"],
        }
        fields["test_matrix"] = {
            "modalities": ["run"],
            "backends": ["cpu"],
            "scenario_count": 1,
            "timeout_ms": 120000,
        }
    return fields


def _hypotheses() -> Fields:
    return {
        "name": "verify-ticket-0001",
        "version": "1.0.0",
        "tests": [
            {
                "id": "T-001",
                "name": "answers",
                "hypothesis": "it says something",
                "command": "apr run ${MODEL} 'What is 2+2?' -n 8",
            },
            {
                "id": "T-002",
                "name": "loads",
                "hypothesis": "it loads",
                "command": "apr run ${VALID_GGUF_Q8} --dry-run",
            },
        ],
        "reproduction": {"steps": ["convert", "run"]},
        "expected": "the answer is 4",
        "regression_tests": ["T-001"],
        "tools_required": ["apr"],
    }


NESTED_MACHINE: Fields = {
    "initial": "idle",
    "states": {
        "idle": {"transitions": [{"event": "start", "target": "loading"}]},
        "loading": {
            "on_enter": [{"action": "load_model"}],
            "transitions": [
                {"event": "loaded", "target": "ready", "guards": ["model.is_loaded()"]},
                {"event": "error", "target": "failed"},
            ],
        },
        "ready": {
            "transitions": [{"event": "run_test", "target": "testing"}, {"event": "stop", "target": "idle"}]
        },
        "testing": {
            "on_enter": [{"action": "run_scenario"}],
            "transitions": [
                {"event": "pass", "target": "ready", "action": "record_pass"},
                {"event": "fail", "target": "ready", "action": "record_fail"},
                {"event": "crash", "target": "failed", "action": "record_crash"},
            ],
        },
        "failed": {
            "on_enter": [{"action": "cleanup"}],
            "transitions": [{"event": "reset", "target": "idle"}],
        },
    },
}
FLAT_MACHINE: Fields = {
    "enabled": "true",
    "states": ["idle", "loaded", "answered"],
    "transitions": [
        {"from": "idle", "to": "loaded", "action": "load"},
        {"from": "loaded", "to": "answered", "action": "generate"},
        {"from": "answered", "to": "idle", "action": "stop"},
    ],
}


def _example(name: str, repo: str, size: str, _: int, machine: Fields) -> Fields:
    return {
        "name": f"{name}-qualification",
        "version": "1.0.0",
        "model": {
            "hf_repo": repo,
            "formats": ["gguf", "safetensors", "apr"],
            "quantizations": ["q4_k_m", "q5_k_m", "q8_0"],
        },
        "test_matrix": {
            "modalities": ["run", "chat", "serve"],
            "backends": ["cpu", "gpu"],
            "scenario_count": 100,
        },
        "property_tests": [
            *PROPERTIES,
            {
                "name": "reasoning_tasks",
                "generator": "reasoning_prompt(type: logic|math)",
                "oracle": "reasoning_correct(prompt, output)",
                "count": 3,
            },
        ],
        "falsification_gates": FALSIFICATION,
        "state_machine": machine,
    }


def _readme(_: str, repo: str, *__: object) -> Fields:
    return {
        "version": "1.0",
        "model": {"id": repo, "revision": "main"},
        "test_matrix": {
            "modalities": ["run", "chat"],
            "backends": ["cpu", "gpu"],
            "formats": ["safetensors", "apr", "gguf"],
        },
        "scenarios": [
            {"name": "arithmetic_basic", "prompt": "What is 2 + 2?", "oracle": "arithmetic", "expected": 4},
            {
                "name": "code generation",
                "prompt": "Write a Python function to reverse a string",
                "oracle": "code_syntax",
                "language": "python",
            },
        ],
        "differential_tests": _differential(),
        "profile_ci": {"enabled": True, "assertions": {"min_throughput": 10.0, "max_p99_ms": 500}},
        "trace_payload": {"enabled": True, "gates": ["F-TRACE-PAYLOAD-001", "F-TRACE-PAYLOAD-002"]},
    }


def _bootstrapped(name: str, repo: str, size: str, _: int) -> Fields:
    return {
        "name": f"{name}-mvp",
        "version": "1.0.0",
        "model": {
            **_model(name, repo, size),
            "family": "qwen2",
            "size_variant": "0.5b",
            "expected_hidden_dim": 896,
        },
        "test_matrix": {
            "modalities": ["run", "chat"],
            "backends": ["cpu", "gpu"],
            "scenario_count": 3,
            "prompts": [f"What is {n}+{n}?" for n in range(12)],
        },
        "kernel_profile": {
            "family": "qwen2",
            "kernel_ops": ["fused_q4k_matvec", "rms_norm"],
            "prompt_count": 12,
            "long_context": True,
        },
        "falsification_gates": [
            {"id": f"G{n}", "description": "gateway", "condition": condition, "severity": "P0"}
            for n, condition in enumerate(
                (
                    "config_matches_tensors",
                    "exit_code == 0",
                    "output.len() > 0",
                    "!stderr.contains('panic')",
                    "!garbage_oracle.is_garbage(output)",
                )
            )
        ],
        "differential_tests": {
            "format_validation": {
                "enabled": True,
                "checks": ["dtype_mapping", "tensor_alignment", "header_integrity"],
            }
        },
        "profile_ci": {"enabled": True, "min_throughput": 50.0, "max_p99_ms": 200.0},
        "kernel_proof_ref": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    }


def _corpus(name: str, *_: object) -> Fields:
    return {
        "metadata": {"name": f"{name} HF Parity", "tier": "full"},
        "oracles": [
            {
                "type": "hf_parity",
                "config": {
                    "corpus_path": "${HF_GROUND_TRUTH}/oracle/" + name,
                    "tolerance": {"fp32": {"atol": "1e-5", "rtol": "1e-4"}, "quantized": {"atol": "1e-2"}},
                },
            }
        ],
        "scenarios": [
            {
                "prompt_set": "standard_bench",
                "formats": ["safetensors", "apr", "gguf"],
                "backends": ["cpu", "gpu"],
            }
        ],
    }


def _header(name: str, repo: str, size: str, _: int) -> Fields:
    return {
        "name": f"{name}-dim-smoke",
        "version": "1.0.0",
        "model": {
            **_model(name, repo, size),
            "formats": ["safetensors"],
            "family": "falcon",
            "size_variant": "",
        },
        "test_matrix": {
            "modalities": ["run"],
            "backends": ["cpu"],
            "scenario_count": 1,
            "timeout_ms": 30000,
            "prompts": ["What is 2+2?"],
        },
        "gates": GATES,
        "failure_policy": "collect_all",
        "metadata": {"tier": "dim-smoke"},
    }


VARIABLES = {"MODEL_ID": "Qwen/Qwen2.5-Coder-0.5B-Instruct", "HF_GROUND_TRUTH": "/corpus"}


def playbooks() -> Iterator[tuple[str, str]]:
    """Iterate over (dialect and name, YAML text)."""
    of_models = {
        "D1": _mvp,
        "D2": _full,
        "D3": _quick,
        "D4": _smoke,
        "D5": _kernel,
        "D6": _ci,
        "D7": _full_with_contract,
        "D8": _ladder,
        "D13": _readme,
        "D14": _bootstrapped,
        "D15": _corpus,
        "dim": _header,
    }
    for dialect, write in of_models.items():
        for model in MODELS:
            yield f"{dialect}-{model[0]}", dumped(write(*model))  # type: ignore[operator]
    for model, machine in itertools.product(MODELS[:3], (NESTED_MACHINE, FLAT_MACHINE)):
        yield f"D12-{model[0]}-{len(machine)}", dumped(_example(*model, machine))
    yield "D9-basic-verify", dumped(_basic_verify())
    yield "D9-mvp", dumped(_mvp_matrix())
    for ending, count in (("quick-check", 10), ("ci-pipeline", 25), ("full-qualification", 100)):
        yield f"D9-{ending}", dumped(_template(ending, count))
    for gateway in SPECS:
        yield f"D10-{gateway}", dumped(_spec(gateway))
    for number in (177, 178, 181, 182, 183):
        yield f"D11-{number}", dumped(_ticket(number, with_model=number < 182))
    yield "D11-0001", dumped(_hypotheses())


def dumped(fields: Fields) -> str:
    """Write as the ancestor's files are written: numbers like ``1e-5`` bare."""
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=200)
    for number in ("1e-4", "1e-5", "1e-6", "1e-2"):
        text = text.replace(f": '{number}'", f": {number}").replace(f': "{number}"', f": {number}")
    return text
