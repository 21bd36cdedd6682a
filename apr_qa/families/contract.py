"""Family contracts: constraints, sizes, tensor names with shapes, and the models of the registry."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from apr_qa import resources
from apr_qa.errors import PlaybookError, UsageError
from apr_qa.playbooks.fields import Block, Listed, Number, Switch, Text, Whole, meant
from apr_qa.playbooks.yaml_text import parse

FOLDER = "families"
SCHEMA_FILE = "schemas/family.schema.json"

DIMENSIONS = ("hidden_dim", "num_layers", "num_heads", "num_kv_heads", "vocab_size", "intermediate_dim")
Positive = Annotated[Whole, Field(gt=0)]


class Constraints(Block):
    """What every member computes with."""

    attention_type: Literal["gqa", "mha", "mqa", "mla", "ssm", "linear"]
    activation: Literal["silu", "gelu", "relu"]
    norm_type: Literal["rmsnorm", "layernorm"]
    mlp_type: Literal["swiglu", "gated_mlp", "gelu_mlp", "standard", "none"]
    positional_encoding: Literal["rope", "alibi", "absolute", "none"]
    has_bias: Switch = False
    tied_embeddings: Switch = False
    qk_norm: Switch = False
    moe: Switch = False
    """Experts, of which a router chooses some for every token."""
    ssm: Switch = False
    """State-space layers beside attention."""
    linear: Switch = False
    """Linear attention in some layers."""
    window: Switch = False
    """Attention that sees a window only."""
    fused_qkv: Switch = False
    cross_attention: Switch = False
    unit_offset_norm: Switch = False
    """Norm weights are stored minus one."""
    parallel_residual: Switch = False
    partial_rotary: Switch = False
    post_norm: Switch = False
    """Norms behind attention and feed-forward instead of before them."""
    duality: Switch = False
    """State-space layers of the second generation (Mamba 2)."""
    scaled: Switch = False
    """Embedding, residual and logits are multiplied by constants."""


class Size(Block):
    """The dimensions of one size."""

    parameters: Text
    """With a unit: 135M, 0.5B."""
    hidden_dim: Positive | None = None
    num_layers: Positive | None = None
    num_heads: Positive | None = None
    num_kv_heads: Positive | None = None
    head_dim: Positive | None = None
    intermediate_dim: Positive | None = None
    vocab_size: Positive | None = None
    max_position_embeddings: Positive | None = None
    rope_theta: Number | None = None
    norm_eps: Number | None = None
    tied_embeddings: Switch | None = None
    has_bias: Switch | None = None
    extra: dict[str, Number] = Field(default_factory=dict)
    """Dimensions that only this family has."""

    @property
    def dimensions(self) -> dict[str, int]:
        """The dimensions that a playbook may expect, as far as they are stated."""
        stated = {name: getattr(self, name) for name in DIMENSIONS}
        return {name: value for name, value in stated.items() if value is not None}


class Tensor(Block):
    """A name, with ``{n}`` for the layer, and the shape as expressions over the dimensions."""

    name: Text
    shape: Listed[Text]
    critical: Switch = False
    """A wrong one ruins every answer."""


class Template(Block):
    """Tensors by their role; families without a common layer layout list none per layer."""

    per_layer: dict[str, Tensor] = Field(default_factory=dict)
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Tensor]

    @property
    def once(self) -> dict[str, Tensor]:
        """Tensors that exist once."""
        return dict(self.__pydantic_extra__ or {})


class Member(Block):
    """A model of the registry."""

    id: Text
    size: Text
    capabilities: Listed[Literal["completion", "chat", "instructions", "code"]] = ("completion",)
    differs: dict[str, Any] = Field(default_factory=dict)
    """Dimensions in which it is not what its size says."""
    unstated: Listed[Text] = ()
    """Dimensions of its size that nothing is known about for this model."""


class Family(Block):
    """One family."""

    family: Text
    display_name: Text
    vendor: Text
    architectures: Listed[Text]
    hf_pattern: Text
    constraints: Constraints
    size_variants: dict[str, Size]
    tensor_template: Template
    quantizations: Listed[Text] = ()
    models: Listed[Member] = ()

    def size(self, name: str) -> Size:
        """Return one size; raises UsageError with a suggestion and the list."""
        if name in self.size_variants:
            return self.size_variants[name]
        known = ", ".join(self.size_variants)
        raise UsageError(
            f"{self.family} has no size {name!r}{meant(name, self.size_variants)}", fix=f"sizes: {known}"
        )

    def of_model(self, member: Member) -> Size:
        """Return the dimensions of a model: those of its size, but for what differs or is not known."""
        changed = {**member.differs, **dict.fromkeys(member.unstated)}
        return Size.model_validate({**self.size(member.size).model_dump(), **changed})


def read(path: Path) -> Family:
    """Read one contract; raises PlaybookError with every fault."""
    try:
        document = parse(path.read_bytes(), {})
    except OSError as error:
        raise UsageError(f"the contract cannot be read: {error.strerror}", where=str(path)) from None
    faults = [f"{path}:{line}: {text}" for line, text in document.faults]
    if not faults:
        try:
            return Family.model_validate(document.value)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                where = ".".join(map(str, one["loc"]))
                faults.append(f"{path}:{document.line(one['loc'])}: {where}: {one['msg']}")
    raise PlaybookError(faults, where=str(path), fix=f"the fields are described in {SCHEMA_FILE}")


@functools.cache
def _all(cwd: str) -> Mapping[str, Family]:
    found = [read(path) for path in resources.listing(FOLDER, ".yaml") if path.name != CLASSES_FILE]
    return {family.family: family for family in found}


CLASSES_FILE = "kernel-classes.yaml"


def families() -> Mapping[str, Family]:
    """Return every family by its name."""
    return _all(str(Path.cwd()))


def family(name: str) -> Family:
    """Return one family; raises UsageError with a suggestion and the list."""
    known = families()
    wanted = name.lower().replace("-", "_").replace(".", "_")
    if wanted in known:
        return known[wanted]
    raise UsageError(
        f"no family contract is called {name!r}{meant(wanted, known)}", fix=f"there are {', '.join(known)}"
    )


@functools.cache
def _members(cwd: str) -> Mapping[str, tuple[Family, Member]]:
    return {member.id.lower(): (one, member) for one in families().values() for member in one.models}


def member(model_id: str) -> tuple[Family, Member] | None:
    """Return family and entry of a model of the registry, or None."""
    return _members(str(Path.cwd())).get(model_id.lower())


def by_architecture(architecture: str) -> Family | None:
    """Return the family whose members are of a class of models (``LlamaForCausalLM`` or ``llama``)."""
    plain = re.sub(r"For\w+$|Model$|LMHead\w*$", "", architecture).lower().replace("_", "")
    for one in families().values():
        names = [re.sub(r"For\w+$|Model$|LMHead\w*$", "", name).lower() for name in one.architectures]
        if architecture in one.architectures or plain in names:
            return one
    return None
