"""The blocks of a playbook, each field with what it does.

Types are strict, with two courtesies to files written for looser parsers: ``"true"``, ``yes`` and ``on`` are
true, and a number may be quoted or written ``1e-5``.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from apr_qa.errors import UsageError
from apr_qa.oracles import ORACLES

T = TypeVar("T")

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?")


def _switch(value: Any) -> Any:
    return _WORDS.get(value.strip().lower(), value) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return value
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _whole(value: Any) -> Any:
    """Read ``1e2`` as the whole number that it is."""
    number = _number(value)
    integral = isinstance(number, float) and number.is_integer() and abs(number) < 2**53
    return int(number) if integral else number


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _as_text(value: Any) -> Any:
    """Read a bare ``1.0`` as the text it was meant to be."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise PydanticCustomError("distinct", "{value} is listed twice", {"value": repr(twice[0])})
    return values


def _not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise PydanticCustomError("empty", "the list is empty")
    return values


Switch = Annotated[bool, BeforeValidator(_switch)]
Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Listed = Annotated[tuple[T, ...], Field(strict=False)]
Several = Annotated[
    tuple[T, ...],
    Field(strict=False, json_schema_extra={"minItems": 1, "uniqueItems": True}),
    AfterValidator(_distinct),
    AfterValidator(_not_empty),
]
Text = Annotated[str, Field(min_length=1)]

VersionText = Annotated[str, BeforeValidator(_as_text)]

FormatName = Annotated[Literal["safetensors", "apr", "gguf"], BeforeValidator(_lower)]
DeviceName = Annotated[Literal["cpu", "gpu"], BeforeValidator(_lower)]
ModalityName = Annotated[Literal["run", "chat", "serve"], BeforeValidator(_lower)]
QuantizationName = Annotated[
    Literal[
        "f32",
        "f16",
        "bf16",
        "q8_0",
        "q6_k",
        "q5_k_m",
        "q5_1",
        "q5_0",
        "q4_k_m",
        "q4_1",
        "q4_0",
        "q3_k_m",
        "q2_k",
    ],
    BeforeValidator(_lower),
]


class Block(BaseModel):
    """What all blocks share: unknown fields and wrong types are refused, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


ANY_MODEL = "${MODEL_ID}"
"""Stands for the model in a playbook that leaves it to the command line."""


class ModelBlock(Block):
    """Which model, and as what it is to be tried."""

    id: str = Field(default="", pattern=r"^(\$\{\w+\}|[\w.-]+(/[\w.-]+)?)$")
    """The model as ``org/name``, or the name of a model that is known by its path only."""
    hf_repo: str = Field(default="", pattern=r"^(\$\{\w+\}|[\w.-]+/[\w.-]+)$")
    """Another word for ``id``; one of the two is needed."""
    revision: str = Field(default="main", pattern=r"^[\w./-]{1,200}$")
    """Branch, tag or commit."""
    local_path: str = ""
    """File or folder to take instead of looking the model up."""
    formats: Several[FormatName] | None = None
    """Formats to try; may stand under ``test_matrix`` instead. Default: all."""
    quantizations: Several[QuantizationName] = ("f16",)
    """Types of GGUF to make from the ground truth and to try."""
    size_category: Literal["tiny", "small", "medium", "large", "xlarge", "huge", "auto"] = "auto"
    """tiny, small: no limit. medium: at most two targets run at the same time. Larger: one."""
    family: str = ""
    """Family, as in the registry; for the reader."""
    size_variant: VersionText = ""
    """Size within the family, for example ``0.5b``; for the reader."""
    expected_hidden_dim: Whole | None = Field(default=None, gt=0)
    expected_num_layers: Whole | None = Field(default=None, gt=0)
    expected_num_heads: Whole | None = Field(default=None, gt=0)
    expected_num_kv_heads: Whole | None = Field(default=None, gt=0)
    expected_vocab_size: Whole | None = Field(default=None, gt=0)
    expected_intermediate_dim: Whole | None = Field(default=None, gt=0)

    @property
    def named(self) -> bool:
        """Say whether it names a model, or leaves that to the command line."""
        return bool(self.id or self.hf_repo) and self.id != ANY_MODEL

    @property
    def workers(self) -> int:
        """Most targets that may run at the same time; 0: no limit."""
        return {"medium": 2, "large": 1, "xlarge": 1, "huge": 1}.get(self.size_category, 0)

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if not (self.id or self.hf_repo):
            raise PydanticCustomError("model", "name the model with id or hf_repo")
        if self.id and self.hf_repo and self.id != self.hf_repo:
            raise PydanticCustomError("model", "id and hf_repo name different models")
        return self


class MatrixBlock(Block):
    """How the model is tried."""

    modalities: Annotated[tuple[ModalityName, ...], Field(strict=False), AfterValidator(_distinct)] = (
        "run",
        "chat",
        "serve",
    )
    """run: raw completion. chat: through the chat template. serve: over HTTP."""
    backends: Several[DeviceName] = ("cpu", "gpu")
    """Devices; one that the machine lacks is reported as inapplicable."""
    formats: Several[FormatName] | None = None
    """Formats to try; may stand under ``model`` instead."""
    scenario_count: Whole | None = Field(default=None, ge=0, le=1000)
    """Least number of claims for each cell, listed ones included; the rest is drawn. Default: the listed ones,
    else four. Whatever is listed is tried, even if it is more."""
    prompts: Listed[str] = ()
    """Prompts of your own, each judged by the oracle that it is a question for, and as language otherwise; of one
    that is blank it is asked that nothing breaks."""
    seed: Whole = Field(default=42, ge=0, lt=2**64)
    """Seed of the drawn claims."""
    timeout_ms: Whole = Field(default=60_000, ge=1000, le=600_000)
    """Time limit of one scenario, loading not included."""

    @property
    def questions(self) -> tuple[str, ...]:
        """The prompts that say something."""
        return tuple(one for one in self.prompts if one.strip())

    @property
    def blanks(self) -> tuple[str, ...]:
        """The prompts that say nothing."""
        return tuple(one for one in self.prompts if not one.strip())


class GatesBlock(Block):
    """Gateways are always on; a playbook may say so, and cannot say otherwise."""

    g0_integrity: Switch = True
    g1_model_loads: Switch = True
    g2_basic_inference: Switch = True
    g3_no_crashes: Switch = True
    g4_output_quality: Switch = True

    @field_validator("*", mode="after")
    @classmethod
    def _on(cls, value: bool) -> bool:
        if not value:
            raise PydanticCustomError("gate", "a gateway cannot be switched off; remove the line")
        return value


HF_PARITY = "hf_parity"
EXTRA_PARAMETERS = {
    "code_syntax": ("languages",),
    "response": ("check_coherence",),
    HF_PARITY: ("corpus_path", "tolerance"),
}
"""Parameters that decide what is asked and not how an answer is judged."""


class OracleBlock(Block):
    """One judge whose claims are drawn, and its settings."""

    type: str
    """Registered name: arithmetic, code_syntax, response, garbage, …; hf_parity compares with a golden corpus."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the oracle; those it does not have are refused."""

    @field_validator("type", mode="after")
    @classmethod
    def _registered(cls, name: str) -> str:
        return name if name == HF_PARITY else registered_oracle(name)

    @field_validator("config", mode="before")
    @classmethod
    def _numbers(cls, config: Any) -> Any:
        if not isinstance(config, dict):
            return config or {}
        config = {name: _number(value) for name, value in config.items()}
        if isinstance(config.get("languages"), str):
            config["languages"] = [config["languages"]]
        return config

    @property
    def settings(self) -> dict[str, Any]:
        """What the oracle itself is told."""
        extra = EXTRA_PARAMETERS.get(self.type, ())
        told = {name: value for name, value in self.config.items() if name not in extra}
        if self.type == "composite" and "oracles" in told:
            told["oracles"] = [_member(one) for one in told["oracles"]]
        return told

    @model_validator(mode="after")
    def _parameters(self) -> Self:
        extra = EXTRA_PARAMETERS.get(self.type, ())
        known = [*(() if self.type == HF_PARITY else ORACLES.get(self.type).params), *extra]
        unknown = [name for name in self.config if name not in known]
        if unknown:
            names = ", ".join(f"{name!r}{meant(name, known)}" for name in unknown)
            said = f"oracle {self.type} has no parameter {names}; it has {', '.join(known) or 'none'}"
            raise PydanticCustomError("parameter", "{said}", {"said": said, "under": ("config", unknown[0])})
        languages = self.config.get("languages", [])
        if not isinstance(languages, list) or not all(isinstance(one, str) for one in languages):
            said = "should be a list of names of programming languages"
            raise PydanticCustomError("languages", "{said}", {"said": said, "under": ("config", "languages")})
        if _switch(self.config.get("check_coherence", True)) is not True:
            said = "cannot be switched off: every text is looked at for garbage; remove the line"
            raise PydanticCustomError(
                "waived", "{said}", {"said": said, "under": ("config", "check_coherence")}
            )
        if self.type == "composite":
            self._of_members()
        return self

    def _of_members(self) -> None:
        """Refuse members that are no oracles or are told what they do not know."""
        if self.config.get("mode", "all") not in ("all", "any"):
            said = f"{self.config['mode']!r} is not one of all, any"
            raise PydanticCustomError("mode", "{said}", {"said": said, "under": ("config", "mode")})
        listed = self.config.get("oracles", [])
        for index, one in enumerate(listed if isinstance(listed, list) else [listed]):
            block = {"type": one} if isinstance(one, str) else one
            if isinstance(block, dict) and "oracle" in block:
                block = {"type": block["oracle"], "config": block.get("params", {})}
            try:
                OracleBlock.model_validate(block)
            except ValidationError as error:
                said = "; ".join(one["msg"] for one in error.errors())
                under = ("config", "oracles", index)
                raise PydanticCustomError("member", "{said}", {"said": said, "under": under}) from None


def _member(one: Any) -> Any:
    """Return a member of a composite as the oracle reads it; ``type`` and ``config`` are words for the same."""
    if not isinstance(one, dict) or "type" not in one:
        return one
    told = OracleBlock.model_validate({"type": one["type"], "config": one.get("config") or {}}).settings
    more = {name: value for name, value in one.items() if name not in ("type", "config")}
    return {"oracle": one["type"], "params": told, **more}


def registered_oracle(name: str) -> str:
    """Return ``name`` if an oracle has it; else raise the error that pydantic reports with its place."""
    try:
        ORACLES.get(name)
    except UsageError as error:
        raise PydanticCustomError("oracle", "{said}", {"said": f"{error.what} ({error.fix})"}) from None
    return name


def meant(word: str, candidates: Any) -> str:
    """Return " (did you mean …?)" for the closest candidate, or nothing."""
    names = {str(one).lower(): str(one) for one in candidates}
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""
