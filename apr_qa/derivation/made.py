"""What a criterion that is given nothing is measured on: names of `making`, with what they make in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apr_qa.derivation.lessons import CODE, PREFERENCES, PROSE
from apr_qa.derivation.making import DENSITY, EPOCHS, SPARSITY, Workshop
from apr_qa.derivation.members import Member
from apr_qa.derivation.training import RANK


class Made(NamedTuple):
    """Artifact, parents and fields of a recipe, as the playbook would have named them."""

    artifact: Path | None = None
    parents: tuple[Path, ...] = ()
    recipe: Mapping[str, Any] = {}


def _import(shop: Workshop) -> Made:
    return Made(shop.apr, (shop.base,), {"text": str(shop.text)})


def _lora(shop: Workshop) -> Made:
    return Made(recipe={"log": str(shop.specialist("prose") / "log.json")})


def _slerp(shop: Workshop) -> Made:
    return Made(shop.slerp, (shop.base, shop.specialist("prose")))


def _ties(shop: Workshop) -> Made:
    parents = (shop.specialist("prose"), shop.specialist("code"))
    return Made(shop.ties, parents, {"base": str(shop.base), "text": str(shop.text)})


def _prune(shop: Workshop) -> Made:
    return Made(shop.pruned, (shop.base,), {"text": str(shop.text)})


def _distil(shop: Workshop) -> Made:
    untrained, student = shop.students()
    return Made(student, (untrained,), {"text": str(shop.text)})


def _speculate(shop: Workshop) -> Made:
    return Made(shop.students()[1], (shop.base,))


def _preferences(shop: Workshop) -> Made:
    return Made(recipe={"log": str(shop.preferences)})


def _lessons(shop: Workshop) -> Made:
    return Made(recipe={"documents": str(shop.lessons), "benchmarks": ["humaneval", "mbpp"]})


_TEXTS = len(PROSE) + len(CODE)
MAKES: Mapping[str, tuple[Callable[[Workshop], Made], str]] = {
    "import": (_import, "imported by the built-in converter"),
    "lora": (_lora, f"LoRA of rank {RANK} on {len(PROSE)} texts, {EPOCHS} epochs"),
    "slerp": (_slerp, "SLERP at 0.5 of the model and a LoRA fine-tune of it"),
    "ties": (_ties, f"TIES at density {DENSITY} of two LoRA fine-tunes, on prose and on code"),
    "prune": (_prune, f"Wanda at {SPARSITY:.0%} of each layer"),
    "quantize": (lambda shop: Made(shop.int4, (shop.base,)), "q4_k_m by llama.cpp's quantiser"),
    "distill": (_distil, f"the first third of the layers, distilled on {_TEXTS} texts, {EPOCHS} epochs"),
    "speculative": (_speculate, f"the draft is the first third of the layers, distilled on {_TEXTS} texts"),
    "dpo": (_preferences, f"DPO on {len(PREFERENCES)} pairs, {EPOCHS} epochs"),
    "data": (_lessons, f"the {_TEXTS} texts that models made here are trained on"),
}
"""Kind -> how it is made, and in words."""


def completed(stated: Mapping[str, Any], base: Member) -> tuple[dict[str, Any], str]:
    """Return what is stated, with everything that is made for it put in, and what that is in words.

    A text or data set that the playbook names stays. Raises Unmeasured where it cannot be made.
    """
    make, said = MAKES[str(stated["makes"])]
    found = make(Workshop(base))
    named = {name: value for name, value in dict(stated.get("recipe") or {}).items() if _said(value)}
    whole = {
        **stated,
        "parents": [str(parent) for parent in found.parents],
        "recipe": {**found.recipe, **named},
    }
    if found.artifact is not None:
        whole["artifact"] = str(found.artifact)
    return whole, said


def _said(value: Any) -> bool:
    """Say whether a field of a recipe holds anything; variables that were not given leave empty texts."""
    return any(value) if isinstance(value, list) else value not in ("", None)
