"""A model held against its family's contract: dimensions of a known size, tensors of the template with their shapes."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apr_qa.families.contract import Family, Size

_ALIASES = {
    "hidden_dim": ("hidden_size", "n_embd", "d_model"),
    "num_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "num_heads": ("num_attention_heads", "n_head"),
    "num_kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "vocab_size": ("vocab_size",),
    "intermediate_dim": ("intermediate_size", "n_inner", "ffn_dim"),
}
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def violations(
    family: Family, config: Mapping[str, Any], tensors: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """Return every violation as ``what``, ``said`` and ``critical``; an empty file violates everything."""
    found = [_problem("dimensions", said, critical=False) for said in _dimensions(family, config)]
    known = environment(config)
    prefixes = ("", "transformer.", "model.", "bert.")
    for role, template in family.tensor_template.once.items():
        if role == "head" and (config.get("tie_word_embeddings") or family.constraints.tied_embeddings):
            continue
        found += _tensor(template.name, template.shape, template.critical, known, tensors, prefixes)
    layers = known.get("layers", 0)
    for template in family.tensor_template.per_layer.values():
        for n in range(layers):
            name = template.name.replace("{n}", str(n))
            found += _tensor(name, template.shape, template.critical, known, tensors, prefixes)
    return found


def dimensions_of(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the dimensions that a configuration states, in our words."""
    stated = {name: next((config[a] for a in also if config.get(a)), None) for name, also in _ALIASES.items()}
    return {name: int(value) for name, value in stated.items() if value is not None}


def fitting(family: Family, config: Mapping[str, Any]) -> tuple[str, Size] | None:
    """Return name and dimensions of the size that a configuration is of, or None."""
    stated = dimensions_of(config)
    for name, size in family.size_variants.items():
        if size.dimensions and all(stated.get(key, value) == value for key, value in size.dimensions.items()):
            return name, size
    return None


def environment(config: Mapping[str, Any]) -> dict[str, int]:
    """Return what the expressions of shapes may name."""
    stated = dimensions_of(config)
    heads = stated.get("num_heads", 0)
    hidden = stated.get("hidden_dim", 0)
    return {
        "hidden": hidden,
        "layers": stated.get("num_layers", 0),
        "heads": heads,
        "kv_heads": stated.get("num_kv_heads", heads),
        # An explicit head_dim counts: Qwen 3 and Nemotron have heads wider than hidden / heads.
        "head_dim": int(config.get("head_dim") or (hidden // heads if heads else 0)),
        "vocab": stated.get("vocab_size", 0),
        "intermediate": stated.get("intermediate_dim", 4 * hidden),
        "positions": int(config.get("max_position_embeddings") or config.get("n_positions") or 0),
        "experts": int(config.get("num_experts") or 0),
        "kv_lora_rank": int(config.get("kv_lora_rank") or 0),
    }


def evaluate(expression: str, known: Mapping[str, int]) -> int:
    """Return the value of an expression over dimensions; raises ValueError for anything else.

    >>> evaluate("(heads+2*kv_heads)*head_dim", {"heads": 4, "kv_heads": 2, "head_dim": 8})
    64
    """

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Name) and node.id in known:
            return known[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise ValueError(f"{expression!r} is no expression over {', '.join(known)}")

    try:
        return value(ast.parse(expression, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is no expression: {error.msg}") from None


def _dimensions(family: Family, config: Mapping[str, Any]) -> list[str]:
    if fitting(family, config) is not None:
        return []
    stated = dimensions_of(config)
    if not stated:
        return ["the configuration states no dimension"]
    close = max(
        family.size_variants.items(),
        key=lambda item: sum(stated.get(name) == value for name, value in item[1].dimensions.items()),
    )
    different = [
        f"{name} {stated[name]} instead of {value}"
        for name, value in close[1].dimensions.items()
        if name in stated and stated[name] != value
    ]
    return [f"no size of {family.family} has these dimensions; {close[0]} is closest: {', '.join(different)}"]


def _tensor(
    name: str,
    shape: Sequence[str],
    critical: bool,
    known: Mapping[str, int],
    tensors: Mapping[str, Sequence[int]],
    prefixes: Sequence[str],
) -> list[dict[str, Any]]:
    candidates = [prefix + name for prefix in prefixes] + [re.sub(r"^\w+\.", "", name)]
    present = next((one for one in candidates if one in tensors), None)
    if present is None:
        return [_problem("missing", f"{name} is missing", critical=critical)]
    wanted = [evaluate(part, known) for part in shape]
    if list(tensors[present]) == wanted:
        return []
    said = f"{present} is {list(tensors[present])}, the contract says [{', '.join(shape)}] = {wanted}"
    return [_problem("shape", said, critical=critical)]


def _problem(what: str, said: str, *, critical: bool) -> dict[str, Any]:
    return {"what": what, "said": said, "critical": critical}
