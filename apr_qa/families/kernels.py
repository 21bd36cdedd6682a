"""Kernel profiles: from what a model is made of to the operations that it exercises, and to fitting prompts.

Two models that exercise the same set of operations are of one kernel class: a runtime that is right about one
of them computes with the same code for the other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from apr_qa import resources
from apr_qa.errors import UsageError
from apr_qa.families.contract import CLASSES_FILE, FOLDER, Constraints, Family, Member, Size, families, member
from apr_qa.playbooks.fields import Block, Listed, Text, Whole
from apr_qa.playbooks.yaml_text import parse

ATTENTION = {
    "gqa": "GroupedQueryAttention",
    "mha": "MultiHeadAttention",
    "mqa": "MultiQueryAttention",
    "mla": "LatentAttention",
    "ssm": "SelectiveScan",
    "linear": "LinearAttention",
}
NORM = {"rmsnorm": "RmsNorm", "layernorm": "LayerNorm"}
ACTIVATION = {"silu": "Silu", "gelu": "Gelu", "relu": "Relu"}
MLP = {"swiglu": "SwiGlu", "gated_mlp": "GeGlu", "gelu_mlp": "PlainMlp", "standard": "PlainMlp"}
POSITION = {"rope": "Rope", "alibi": "Alibi", "absolute": "AbsolutePosition"}
FLAGS = {
    "has_bias": "BiasAdd",
    "tied_embeddings": "TiedEmbeddings",
    "qk_norm": "QkNorm",
    "moe": "ExpertRouting",
    "ssm": "SelectiveScan",
    "linear": "LinearAttention",
    "window": "SlidingWindow",
    "fused_qkv": "FusedQkv",
    "cross_attention": "CrossAttention",
    "unit_offset_norm": "UnitOffsetNorm",
    "parallel_residual": "ParallelResidual",
    "partial_rotary": "PartialRotary",
    "post_norm": "PostNorm",
    "duality": "StateSpaceDuality",
    "scaled": "ScaledResidual",
}
ALWAYS = ("Q4kMatvec", "Q6kMatvec")
"""A type of four bits keeps some matrices in six: every architecture exercises both."""
LONG_CONTEXT = 4096
"""Positions beyond which a model counts as one of long context."""

PROMPTS: dict[str, tuple[dict[str, Any], ...]] = {
    "Q4kMatvec": (
        {"name": "sum_of_digits", "prompt": "7 + 8 = 15, 6 + 5 = 11, 9 + 4 ="},
        {
            "name": "code_opening",
            "prompt": "def fibonacci(n):\n    if n < 2:\n        return n\n",
            "max_tokens": 48,
        },
    ),
    "GroupedQueryAttention": (
        {
            "name": "shared_heads",
            "prompt": "Anna has a red car. Ben has a blue bike. Carla has a green boat. Ben's bike is",
        },
    ),
    "MultiQueryAttention": (
        {
            "name": "one_shared_head",
            "prompt": "My sister lives in Madrid and works as a nurse. Every morning she",
        },
    ),
    "MultiHeadAttention": (
        {
            "name": "many_heads",
            "prompt": "The keys that the old man with the hat lost were found by the girl who",
        },
    ),
    "BiasAdd": (
        {
            "name": "small_differences",
            "prompt": "A litre of water weighs one kilogram, so half a litre weighs",
        },
    ),
    "QkNorm": (
        {
            "name": "equal_words",
            "prompt": "After the long winter the farmers went back to their fields, and then",
        },
    ),
    "ExpertRouting": (
        {"name": "changing_topics", "prompt": "Bread, prime numbers, Mozart, gradient descent, tennis and"},
    ),
    "SelectiveScan": (
        {"name": "carried_state", "prompt": "On Monday it rained, on Tuesday it snowed, and on Wednesday"},
    ),
    "LinearAttention": (
        {"name": "carried_state", "prompt": "On Monday it rained, on Tuesday it snowed, and on Wednesday"},
    ),
    "TiedEmbeddings": (
        {"name": "rare_words", "prompt": "The quokka, the axolotl and the pangolin met near"},
    ),
    "Alibi": (
        {"name": "near_and_far", "prompt": "The first person to enter the old house was the doctor, who"},
    ),
}
"""Operation -> questions that lean on it, judged as language: what they need is a computation without error."""
LONG_PROMPT: dict[str, Any] = {
    "name": "rope_long_context",
    "prompt": "The secret colour is violet. "
    + "The sun rose over the quiet town and people went to work. " * 30
    + "The secret colour is",
    "max_tokens": 8,
}
"""For rotary positions in a long context: some 400 tokens lie between word and question."""


class Profile(Block):
    """What one model exercises."""

    family: Text
    kernel_ops: Listed[Text]
    long_context: bool = False

    @property
    def scenarios(self) -> tuple[dict[str, Any], ...]:
        """The questions that lean on these operations, each once."""
        found = {one["name"]: one for op in self.kernel_ops for one in PROMPTS.get(op, ())}
        if self.long_context and "Rope" in self.kernel_ops:
            found[LONG_PROMPT["name"]] = LONG_PROMPT
        return tuple(found.values())


class KernelClass(Block):
    """All models that exercise the same operations."""

    name: Text
    kernel_ops: Listed[Text]
    representative: Text
    """The smallest model of the class."""
    models: Whole = Field(gt=0)


def operations(constraints: Constraints, size: Size | None = None) -> tuple[str, ...]:
    """Return the operations of a model, sorted.

    >>> base = {"attention_type": "mha", "activation": "gelu", "norm_type": "layernorm", "mlp_type": "gelu_mlp"}
    >>> operations(Constraints.model_validate({**base, "positional_encoding": "alibi"}))[:2]
    ('Alibi', 'Gelu')
    """
    known = size or Size(parameters="?")
    said = constraints.model_dump()
    stated = {"has_bias": known.has_bias, "tied_embeddings": known.tied_embeddings}
    said |= {name: value for name, value in stated.items() if value is not None}
    found = {*ALWAYS, ATTENTION[_attention(constraints, known)], NORM[constraints.norm_type]}
    found |= {op for name, op in FLAGS.items() if said[name]}
    if constraints.mlp_type in MLP:
        found |= {MLP[constraints.mlp_type], ACTIVATION[constraints.activation]}
    if constraints.positional_encoding in POSITION:
        found.add(POSITION[constraints.positional_encoding])
    return tuple(sorted(found))


def _attention(constraints: Constraints, size: Size) -> str:
    """Return the kind of attention: how keys are shared is a matter of the size, not of the family."""
    said, heads, keys = constraints.attention_type, size.num_heads, size.num_kv_heads
    if said not in ("gqa", "mha", "mqa") or not heads or not keys:
        return said
    return "mqa" if keys == 1 and heads > 1 else "mha" if keys == heads else "gqa"


def profile(family: Family, size: Size) -> Profile:
    """Return the profile of one size of a family."""
    long_context = (size.max_position_embeddings or 0) > LONG_CONTEXT
    ops = operations(family.constraints, size)
    return Profile(family=family.family, kernel_ops=ops, long_context=long_context)


def of_member(family: Family, one: Member) -> tuple[str, ...]:
    """Return the operations of a model of the registry."""
    return operations(family.constraints, family.of_model(one))


@functools.cache
def _classes(cwd: str) -> Mapping[str, KernelClass]:
    path = resources.find(f"{FOLDER}/{CLASSES_FILE}")
    listed = parse(path.read_bytes(), {}).value
    found = [KernelClass.model_validate({"name": name, **fields}) for name, fields in listed.items()]
    return {one.name: one for one in found}


def classes() -> Mapping[str, KernelClass]:
    """Return the documented kernel classes by name."""
    return _classes(str(Path.cwd()))


def kernel_class(name: str) -> KernelClass:
    """Return one class; raises UsageError with the list."""
    known = classes()
    if name.upper() in known:
        return known[name.upper()]
    raise UsageError(
        f"no kernel class is called {name!r}",
        fix=f"there are {', '.join(known)}; apr-qa list-models --kernel-classes shows them",
    )


def class_of(model_id: str) -> KernelClass | None:
    """Return the class of a model of the registry, or None."""
    found = member(model_id)
    return class_with(of_member(*found)) if found is not None else None


def class_with(ops: tuple[str, ...]) -> KernelClass | None:
    """Return the class with exactly these operations, or None."""
    wanted = set(ops)
    return next((one for one in classes().values() if set(one.kernel_ops) == wanted), None)


def members_of(one: KernelClass) -> tuple[str, ...]:
    """Return the ids of all models of a class."""
    wanted = set(one.kernel_ops)
    return tuple(
        listed.id
        for family in families().values()
        for listed in family.models
        if set(of_member(family, listed)) == wanted
    )


def table() -> str:
    """Return the documented table of classes as it follows from the contracts, most members first."""
    from apr_qa.ledger_row import parameter_count

    sets: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for family in families().values():
        for listed in family.models:
            count = parameter_count(family.of_model(listed).parameters)
            sets.setdefault(of_member(family, listed), []).append((count, listed.id))
    ordered = sorted(sets.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [
        "# Kernel classes: models that exercise the same set of operations. Made by: apr-qa bootstrap --classes",
        "# A: the largest class. The representative is the smallest member; an mvp run of any member proves it.",
    ]
    for index, (ops, found) in enumerate(ordered):
        lines += [
            f"{_letters(index)}:",
            f"  kernel_ops: [{', '.join(ops)}]",
            f"  representative: {min(found)[1]}",
            f"  models: {len(found)}",
        ]
    return "\n".join(lines) + "\n"


def _letters(index: int) -> str:
    """Return A … Z, AA, AB …

    >>> _letters(0), _letters(25), _letters(26)
    ('A', 'Z', 'AA')
    """
    return (_letters(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)
