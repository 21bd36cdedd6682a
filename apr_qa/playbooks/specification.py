"""Blocks of executable specifications and of tickets: what they state, and what of it is asked."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from apr_qa.playbooks import commands
from apr_qa.playbooks.fields import Block, Listed, Number, Switch, Text, Whole
from apr_qa.playbooks.gate_names import GateId


class SpecBlock(Block):
    """Which requirement is specified."""

    id: GateId
    section: str = ""
    document: str = ""
    requirement: str = ""
    """For the reader."""


class SpecGate(Block):
    """The gateway that the specification defines."""

    id: GateId
    severity: Literal["P0", "P1", "P2"] = "P0"
    condition: str = ""
    """For the reader: what a gateway asks is fixed."""
    failure_action: Literal["zero_mqs", "block", ""] = ""
    """For the reader: a failed gateway always makes the score zero."""
    failure_message: str = ""
    """For the reader."""


class GarbageCondition(Block):
    """One sign of garbage, with its limit."""

    name: Literal["excessive_repetition", "low_uniqueness", "non_printable", "entropy_collapse"]
    description: str = ""
    threshold: Number | None = None
    formula: str = ""
    """For the reader."""


class GarbageOracle(Block):
    """Limits of the garbage oracle."""

    name: str = ""
    conditions: Listed[GarbageCondition] = ()

    @property
    def config(self) -> dict[str, float]:
        named = {
            "excessive_repetition": "max_repetition_ratio",
            "low_uniqueness": "min_unique_chars",
            "entropy_collapse": "min_entropy",
        }
        return {
            named[one.name]: one.threshold
            for one in self.conditions
            if one.name in named and one.threshold is not None
        }


class Acceptance(Block):
    """When a ticket may be closed. All of it is asked by gates, but for the least score."""

    all_gates_pass: Switch = True
    max_output_diff: Number | None = None
    """For the reader: what a conversion may cost follows from the storage type."""
    no_nan_values: Switch = True
    no_inf_values: Switch = True
    no_numerical_explosion: Switch = True
    mqs_score_minimum: Whole | None = Field(default=None, ge=0, le=1000)
    """A lower score is a finding."""
    validate_exit_code: Literal[0] | None = None
    no_false_negatives: Switch = True
    tool_coverage: Whole | None = Field(default=None, ge=0, le=100)
    safetensors_inference_works: Switch = True
    companion_files_created: Switch = True
    golden_rule_passes: Switch = True
    performance_within_budget: Switch = True

    @model_validator(mode="after")
    def _nothing_is_waived(self) -> Self:
        waived = [name for name in type(self).model_fields if getattr(self, name) is False]
        if waived:
            raise PydanticCustomError("waived", "cannot be waived; remove the line", {"under": (waived[0],)})
        return self


class CommandTest(Block):
    """A hypothesis and the command that would refute it."""

    id: Text
    name: str = ""
    hypothesis: str = ""
    command: Text
    expected: Any = None
    falsified_if: str = ""
    """For the reader."""
    severity: Literal["P0", "P1", "P2"] = "P0"

    @model_validator(mode="after")
    def _understood(self) -> Self:
        self.asked()
        return self

    def asked(self) -> list[commands.Asked]:
        """Return what the command line asks."""
        return _asked(self.command)


class Reproduction(Block):
    """How a fault was seen. A command line is asked; the rest is for the reader."""

    model_config = ConfigDict(extra="allow")

    command: str = ""
    expected_output_contains: Listed[str] = ()
    """Texts that the answer to the command must hold."""

    @model_validator(mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"steps": value}

    @model_validator(mode="after")
    def _understood(self) -> Self:
        self.asked()
        return self

    def asked(self) -> list[commands.Asked]:
        """Return what the command line asks."""
        return _asked(self.command) if self.command else []


class Skip(Block):
    """A format or device that is left out on purpose."""

    format_or_backend: Literal["safetensors", "apr", "gguf", "cpu", "gpu"]
    reason: Text
    tracking_issue: str = ""

    @property
    def said(self) -> str:
        issue = f" ({self.tracking_issue})" if self.tracking_issue else ""
        return f"the playbook skips {self.format_or_backend}: {self.reason}{issue}"


def _asked(command: str) -> list[commands.Asked]:
    try:
        return commands.read(command)
    except commands.NotUnderstood as error:
        raise PydanticCustomError(
            "command", "is not understood: {said}", {"said": str(error), "under": ("command",)}
        ) from None
