"""Defects that happened in public, each with the recipe that plants it in a copy of a model.

A defect stands for its class: the drill plants it and looks which gate notices. Planting changes files of a
private copy and nothing else; a model that cannot express a defect says so (`Inexpressible`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apr_qa.plugins import Registry

DEFECTS: Registry[Defect] = Registry("defects")


class Inexpressible(Exception):
    """The model at hand has nothing that this defect could spoil; the text says what is missing."""


@dataclass(frozen=True)
class Specimen:
    """A private copy of an artifact, free to be spoiled in place."""

    path: Path
    """The file (gguf, apr) or the folder (safetensors)."""
    format: str


Plant = Callable[[Specimen], None]


@dataclass(frozen=True)
class Defect:
    """One thing that went wrong in the world."""

    id: str
    layer: str
    """config, tensor-values, tensor-layout, tensor-names, tokenizer, template, quantisation, runtime, security or
    packaging."""
    formats: tuple[str, ...]
    """Containers in which it can be planted."""
    expected: str
    """``reject``: a P0 or P1 gate must be falsified; ``warn``: any gate must be; ``pass``: a healthy control, no
    gate may be."""
    description: str
    plant: Plant
    """Spoils a specimen; raises Inexpressible."""
    source: str = ""
    """Where it was seen: ``owner/repository#number``."""
    runtime: str = ""
    """For a defect of the engine and not of the file: the fault that workers are told to play
    (`apr_qa.worker.FAULT_VARIABLE`)."""
    alone: bool = False
    """Planted into the ground truth itself: there is no healthy copy that it would have to equal."""


def enter(defect: Defect) -> Defect:
    """Register a defect under its id."""
    return DEFECTS.register(defect.id)(defect)
