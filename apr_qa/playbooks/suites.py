"""Suites: blocks of a playbook that ask for more than questions, each read into what is to be measured.

``enabled: false`` switches a suite off; a suite that stands there without the word is on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from apr_qa.playbooks.fields import (
    Block,
    DeviceName,
    FormatName,
    Listed,
    Number,
    QuantizationName,
    Switch,
    Text,
    Whole,
)
from apr_qa.playbooks.gate_names import GateId

Invariant = Annotated[
    Literal["I-1", "I-2", "I-3", "I-4", "I-5"],
    BeforeValidator(lambda text: text.upper() if isinstance(text, str) else text),
]


class Suite(Block):
    """What all suites share."""

    enabled: Switch = True
    """False switches the block off."""
    gates: Listed[GateId] = ()
    """Gates that this block is there for; naming one asks for it and excuses from no other."""


class FormatValidation(Suite):
    """Storage types, alignment and header; always asked of every file."""

    checks: Listed[Literal["dtype_mapping", "tensor_alignment", "header_integrity"]] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        known = {
            "dtype_mapping": "F-ROSETTA-FMT-001",
            "tensor_alignment": "F-ROSETTA-FMT-002",
            "header_integrity": "G0-HEADER-001",
        }
        return (*(known[name] for name in self.checks), *self.gates)


class TensorDiff(Suite):
    """Tensors of an artifact against the ground truth."""

    filter: str = ""
    """For the reader: all tensors are compared, which includes those named here."""


class InferenceCompare(Suite):
    """Predictions of an artifact against the ground truth's."""

    prompt: str = ""
    """Asked of every cell too."""
    max_tokens: Whole = Field(default=10, ge=1, le=8192)
    tolerance: Number = Field(default=1e-5, ge=0)
    """For equal storage types; a quantised type is held to what a healthy quantiser costs."""


class Fingerprint(Suite):
    """Statistics of tensors."""

    tensors: str = "all"
    """For the reader: all tensors are measured."""
    stats: Listed[Literal["mean", "std", "min", "max", "checksum"]] = ()
    """For the reader: all of them are measured."""


class ValidateStats(Suite):
    """Statistics of tensors against the ground truth's."""

    reference: str = ""
    """For the reader: the ground truth of the run is the reference."""
    tolerance: dict[str, Number] = Field(default_factory=dict)
    """For the reader: limits follow from the storage type, and are tighter."""

    @property
    def foreign_reference(self) -> bool:
        """Say whether it names another reference than the ground truth."""
        return self.enabled and self.reference not in ("", "safetensors", "ground_truth")


class DifferentialTests(Block):
    """Comparisons of every artifact with the ground truth."""

    format_validation: FormatValidation | None = None
    tensor_diff: TensorDiff | None = None
    inference_compare: InferenceCompare | None = None
    fingerprint: Fingerprint | None = None
    validate_stats: ValidateStats | None = None


class ProfileAssertions(Block):
    """Limits of a profile; without any, what is measured is recorded."""

    min_throughput: Number | None = Field(default=None, ge=0)
    """Tokens per second, on every device."""
    min_throughput_cpu: Number | None = Field(default=None, ge=0)
    min_throughput_gpu: Number | None = Field(default=None, ge=0)
    max_p99_ms: Number | None = Field(default=None, gt=0)
    """Milliseconds from one token to the next, 99th percentile."""
    max_p50_ms: Number | None = Field(default=None, gt=0)
    max_ttft_ms: Number | None = Field(default=None, gt=0)
    """Milliseconds until the first token, the longest of all repetitions."""
    max_memory_mb: Number | None = Field(default=None, gt=0)

    @property
    def stated(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.model_dump().items() if value is not None}


class ProfileCi(Suite):
    """Speed of repeated generations, warm-up aside."""

    warmup: Whole = Field(default=3, ge=0, le=100)
    measure: Whole = Field(default=10, ge=1, le=1000)
    formats: Listed[FormatName] = ()
    """Default: all of the playbook."""
    backends: Listed[DeviceName] = ()
    assertions: ProfileAssertions = ProfileAssertions()
    min_throughput: Number | None = Field(default=None, ge=0)
    """May stand here instead of under ``assertions``."""
    max_p99_ms: Number | None = Field(default=None, gt=0)
    max_p50_ms: Number | None = Field(default=None, gt=0)

    @property
    def limits(self) -> dict[str, float]:
        """All limits, by name."""
        flat = {name: getattr(self, name) for name in ("min_throughput", "max_p99_ms", "max_p50_ms")}
        return {**{name: float(v) for name, v in flat.items() if v is not None}, **self.assertions.stated}


class TracePayload(Suite):
    """One real forward pass, every layer looked at."""

    prompt: str = "What is 2+2?"


class ContractTests(Suite):
    """Invariants of conversion: inference, names, types, values, tokenizer."""

    invariants: Listed[Invariant] = ("I-1", "I-2", "I-3", "I-4", "I-5")

    @property
    def asked(self) -> tuple[str, ...]:
        return (*(f"F-CONTRACT-{name.replace('-', '')}-001" for name in self.invariants), *self.gates)


class OllamaParity(Suite):
    """The same questions to another runtime over HTTP."""

    model_tag: str = ""
    """Name of the model there. Default: the first that it lists."""
    endpoint: str = ""
    """Its address. Default: ``$OLLAMA_HOST``, else http://127.0.0.1:11434."""
    quantizations: Listed[QuantizationName] = ()
    """Types of GGUF to compare. Default: all of the playbook."""
    prompts: Listed[Text] = ("What is 2+2?",)
    temperature: Number = Field(default=0.0, ge=0, le=2)
    min_perf_ratio: Number = Field(default=0.8, ge=0)


class HfParity(Suite):
    """Logits against those of a stored corpus, and against the ground truth."""

    corpus_path: str = ""
    tolerance: Any = None
    """fp32, fp16, bf16, int8, int4, or ``{atol: …, rtol: …}``; a mapping of those by name is looked up by the
    storage type."""


class KernelProfile(Suite):
    """For the reader: which operations the architecture exercises."""

    family: str = ""
    kernel_ops: Listed[Text] = ()
    prompt_count: Whole | None = Field(default=None, ge=0)
    long_context: Switch = False


class PropertyTests(Suite):
    """Properties that Hypothesis tries to break."""

    cases: Whole = Field(default=100, ge=1, le=10_000)
    max_shrink_iters: Whole = Field(default=1000, ge=0)
    """Cases that are tried to make a counterexample smaller; 0: it is reported as it was found."""
    names: Listed[Text] = ()
    """Only these properties. Default: all."""


class FalsificationGate(Suite):
    """A gate by its id, with a condition whose numbers are taken over."""

    id: GateId
    description: str = ""
    condition: str = ""
    severity: Literal["P0", "P1", "P2"] = "P1"
    """For the reader: the severity of a gate is part of the gate."""


class VerificationGate(Block):
    """What has to hold for a ticket to be closed: a gate, a tool that has to succeed, or that it simply works."""

    id: Text
    description: str = ""
    gate: GateId | None = None
    tool: str = ""
    args: Listed[str] = ()
    """For the reader."""
    condition: str = ""
    severity: Literal["P0", "P1", "P2"] = "P0"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.gate and self.tool:
            raise PydanticCustomError("which", "give either gate or tool, not both")
        if not (self.gate or self.tool or self.condition):
            raise PydanticCustomError("which", "give a gate, a tool or a condition")
        if self.tool and self.tool not in TOOLS:
            said = f"no tool is called {self.tool!r}; there are {', '.join(TOOLS)}"
            raise PydanticCustomError("tool", "{said}", {"said": said, "under": ("tool",)})
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.gate,) if self.gate else TOOLS[self.tool or "qa"]


TOOLS: dict[str, tuple[str, ...]] = {
    "validate": ("G0",),
    "inspect": ("G0-HEADER-001", "G0-INTEGRITY-CONFIG"),
    "check": ("G0", "G1"),
    "run": ("G2", "G4"),
    "chat": ("G2", "G4"),
    "serve": ("F-SERVE-001",),
    "rosetta": ("F-CONTRACT-I2-001", "F-CONTRACT-I4-001", "F-CONTRACT-I5-001"),
    "convert": ("F-CONTRACT-I2-001", "F-CONTRACT-I4-001", "F-CONTRACT-I5-001"),
    "tensors": ("G0-TENSOR-001",),
    "explain": ("G0-HEADER-001",),
    "bench": ("F-PERF-001",),
    "profile": ("F-PERF-001",),
    "trace": ("F-TRACE-PAYLOAD-001",),
    "canary": ("F-CANARY-001", "F-CANARY-002", "F-CANARY-003"),
    "pull": ("PROV-007",),
    "qa": ("G0", "G1", "G2", "G3", "G4"),
}
"""Tool of the ancestor's program -> gates here that ask the same."""
