"""Model files: strict readers and writers that all speak canonical Hugging Face tensor names.

A reader refuses (`MalformedFile`) whatever the rules of its format forbid, before it allocates
anything in proportion to a number it has not checked. Opening reads headers only; tensors are read
one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from apr_qa.plugins import Registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FORMATS: Registry[Format] = Registry("formats")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header declares it; ``shape`` is row-major, outermost dimension first."""

    name: str
    """Canonical Hugging Face name."""
    stored_name: str
    dtype: str
    """Lower case: f32, f16, bf16, q8_0, q4_k, …"""
    shape: tuple[int, ...]
    file: Path
    offset: int
    """Absolute byte offset of the payload in ``file``."""
    size: int
    """Payload bytes."""


class OpenModel(Protocol):
    """A model file (or directory of shards) whose headers were read and found lawful."""

    format: str
    path: Path
    files: tuple[Path, ...]
    """Every file that belongs to the artifact, for hashing; weights first, all inside ``path``'s folder."""
    architecture: str
    """Hugging Face ``model_type``: llama, qwen2, qwen3, …; empty if the file does not say."""
    config: dict[str, Any]
    """Hugging Face ``config.json`` content, rebuilt from metadata where the format has none."""
    tensors: Mapping[str, TensorInfo]
    """By canonical name."""
    quantization: str
    """f32, f16, bf16, q8_0, q4_k_m, …: the dominant storage type of the 2-D weights."""
    tokenizer: dict[str, Any] | None
    """Content of a Hugging Face ``tokenizer.json``."""
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    chat_template: str | None
    metadata: dict[str, Any]
    """What else the header holds, lineage included (key ``lineage``: source_sha256, tool, version, …)."""

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32 in Hugging Face layout (dequantised, RoPE rows in HF order)."""
        ...

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the stored payload bytes of a tensor as a memory-mapped flat array."""
        ...


@dataclass(frozen=True)
class ModelContent:
    """What a writer needs: the model in canonical form, tensors produced one at a time.

    ``tensors`` yields (name, dtype, shape, float32-or-raw array) lazily so that a model is never whole in
    memory; ``dtype`` says how the writer has to store it (f32, f16, bf16).
    """

    config: dict[str, Any]
    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    read: Any
    """Callable: canonical name -> float32 array in Hugging Face layout."""
    tokenizer: dict[str, Any] | None = None
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    generation_config: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    lineage: dict[str, str] = field(default_factory=dict)


class Format(Protocol):
    """One container format."""

    name: str

    def matches(self, path: Path) -> bool:
        """Say by content (magic bytes, index file), not by suffix, whether ``path`` holds this format."""
        ...

    def open(self, path: Path) -> OpenModel:
        """Read and check all headers; raises MalformedFile or ModelUnavailable."""
        ...

    def write(self, path: Path, content: ModelContent) -> None:
        """Write ``content`` to ``path`` completely or not at all (temporary name, then rename)."""
        ...


def sniff(path: Path) -> Format | None:
    """Return the format whose content rule ``path`` satisfies, or None."""
    candidates: Iterator[tuple[str, Format]] = FORMATS.items()
    return next((member for _, member in candidates if member.matches(path)), None)
