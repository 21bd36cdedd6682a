"""Blocks that a playbook may hold but that this version cannot honour: parsed, and refused when enabled.

A block that is accepted and then ignored would promise a test that never runs.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator
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

_SAID = "this version cannot honour it; set enabled: false or remove it"


class RefusedBlock(Block):
    """Refused unless it says ``enabled: false``."""

    enabled: Switch = True

    @model_validator(mode="after")
    def _refused(self) -> Self:
        if self.enabled:
            raise PydanticCustomError("refused", _SAID)
        return self


class FormatValidation(RefusedBlock):
    checks: Listed[Literal["dtype_mapping", "tensor_alignment", "header_integrity"]] = ()
    gates: Listed[str] = ()


class TensorDiff(RefusedBlock):
    filter: str = ""
    gates: Listed[str] = ()


class InferenceCompare(RefusedBlock):
    prompt: str = ""
    max_tokens: Whole = Field(default=10, ge=1)
    tolerance: Number = Field(default=1e-5, ge=0)
    gates: Listed[str] = ()


class Fingerprint(RefusedBlock):
    tensors: str = "all"
    stats: Listed[Literal["mean", "std", "min", "max", "checksum"]] = ()
    gates: Listed[str] = ()


class ValidateStats(RefusedBlock):
    reference: str = ""
    tolerance: dict[str, Number] = Field(default_factory=dict)
    gates: Listed[str] = ()


class DifferentialTests(Block):
    """Comparisons of converted files; each is refused when enabled."""

    format_validation: FormatValidation | None = None
    tensor_diff: TensorDiff | None = None
    inference_compare: InferenceCompare | None = None
    fingerprint: Fingerprint | None = None
    validate_stats: ValidateStats | None = None


class ProfileAssertions(Block):
    min_throughput: Number | None = Field(default=None, ge=0)
    min_throughput_cpu: Number | None = Field(default=None, ge=0)
    min_throughput_gpu: Number | None = Field(default=None, ge=0)
    max_p99_ms: Number | None = Field(default=None, gt=0)
    max_p50_ms: Number | None = Field(default=None, gt=0)


class ProfileCi(RefusedBlock):
    warmup: Whole = Field(default=3, ge=0)
    measure: Whole = Field(default=10, ge=1)
    formats: Listed[FormatName] = ()
    backends: Listed[DeviceName] = ()
    assertions: ProfileAssertions | None = None
    min_throughput: Number | None = Field(default=None, ge=0)
    max_p99_ms: Number | None = Field(default=None, gt=0)
    gates: Listed[str] = ()


class TracePayload(RefusedBlock):
    prompt: str = ""
    gates: Listed[str] = ()


class ContractTests(RefusedBlock):
    invariants: Listed[Literal["I-1", "I-2", "I-3", "I-4", "I-5"]] = ()


class OllamaParity(RefusedBlock):
    model_tag: str = ""
    quantizations: Listed[QuantizationName] = ()
    prompts: Listed[Text] = ()
    temperature: Number = Field(default=0.0, ge=0, le=2)
    min_perf_ratio: Number = Field(default=0.8, ge=0)
    gates: Listed[str] = ()


class StateMachine(RefusedBlock):
    initial: str = ""
    states: Any = None
    transitions: Any = None


class KernelProfile(RefusedBlock):
    family: str = ""
    kernel_ops: Listed[Text] = ()
    prompt_count: Whole | None = Field(default=None, ge=0)
    long_context: Switch = False


class PropertyTests(RefusedBlock):
    cases: Whole = Field(default=100, ge=1, le=10_000)
    max_shrink_iters: Whole = Field(default=1000, ge=0)


class PropertyTest(RefusedBlock):
    name: Text
    generator: str = ""
    oracle: str = ""
    count: Whole = Field(default=100, ge=1)


class FalsificationGate(RefusedBlock):
    id: Text
    description: str = ""
    condition: str = ""
    severity: Literal["P0", "P1", "P2"] = "P1"
