"""GGUF: one file (or numbered splits of one) that holds metadata, tokenizer and tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.containers.byte_layout import to_float32
from apr_qa.containers.file_access import MappedFiles, first_bytes, is_file
from apr_qa.containers.ggml_blocks import dequantised
from apr_qa.containers.ggml_types import FILE_TYPES
from apr_qa.containers.gguf_header import MAGIC, Header, read_header
from apr_qa.containers.gguf_vocabulary import (
    STOPS,
    GgufVocabulary,
    generation_config_from_gguf,
    read_vocabulary,
    tokenizer_config_from_gguf,
)
from apr_qa.containers.gguf_writing import LINEAGE, write_gguf
from apr_qa.conversion import architectures
from apr_qa.conversion.rotary import ROPE_FACTORS, plain_number
from apr_qa.conversion.tokenizer_rules import tokenizer_from_gguf
from apr_qa.errors import MalformedFile, ModelUnavailable, UnsupportedArchitecture
from apr_qa.formats import FORMATS, ModelContent, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PLAIN = {"f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8"}
_LONGEST_KEPT_ARRAY = 64
# llama.cpp's quantiser takes these where a row is no multiple of the 256 elements of a K block.
_NARROW = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


@dataclass
class GgufModel:
    """An opened GGUF artifact; see ``OpenModel``. The tokenizer is rebuilt on first use."""

    path: Path
    files: tuple[Path, ...]
    architecture: str
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    quantization: str
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    chat_template: str | None
    metadata: dict[str, Any]
    vocabulary: GgufVocabulary | None = field(repr=False)
    format: str = "gguf"
    _maps: MappedFiles = field(default_factory=MappedFiles, repr=False)

    @property
    def tokenizer(self) -> dict[str, Any] | None:
        """Content of tokenizer.json, or None if the file's tokenizer has no such form."""
        return self._rebuilt

    @tokenizer.setter
    def tokenizer(self, content: dict[str, Any] | None) -> None:
        self.__dict__["_rebuilt"] = content

    @cached_property
    def _rebuilt(self) -> dict[str, Any] | None:
        return None if self.vocabulary is None else tokenizer_from_gguf(self.vocabulary)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor dequantised to float32, q and k rows in Hugging Face order."""
        info = self._info(name)
        tensor = _decoded(self.raw(name), info)
        self._maps.forget()
        heads = architectures.interleaved_heads(name, self.config)
        if not heads:
            return tensor
        if info.shape[0] % (2 * heads):
            raise MalformedFile(f"{info.shape[0]} rows are no {heads} heads", where=info.stored_name)
        return architectures.separate_rows(tensor, heads)

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the stored bytes of a tensor as a read-only flat map."""
        info = self._info(name)
        return self._maps.payload(info.file, info.offset, info.size)

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise MalformedFile(f"no tensor is called {name!r}", where=self.path.name)
        return self.tensors[name]


class GgufFormat:
    """The container of llama.cpp: typed metadata, then aligned tensors, possibly in quantised blocks."""

    name = "gguf"

    def matches(self, path: Path) -> bool:
        """Say whether the file starts with the GGUF magic."""
        return first_bytes(path, 4) == MAGIC

    def open(self, path: Path) -> GgufModel:
        """Check the whole header; raises MalformedFile or ModelUnavailable.

        An architecture that is not known keeps its stored tensor names and what its metadata says.
        """
        if not is_file(path):
            raise ModelUnavailable("no such file", where=str(path), fix="name a .gguf file")
        headers = _read_splits(path)
        try:
            return _opened(path, headers)
        except MalformedFile as error:
            error.where = error.where or path.name
            raise

    def write(self, path: Path, content: ModelContent) -> None:
        """Write one file; see ``gguf_writing.write_gguf``."""
        write_gguf(path, content)


def _read_splits(path: Path) -> dict[Path, Header]:
    """Read the header of ``path`` and, where it is the first of numbered splits, of all of them."""
    first = read_header(path)
    count = first.metadata.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return {path: first}
    match = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path.name)
    if match is None or int(match[2]) != count:
        raise MalformedFile(
            f"one of {count} splits", where=path.name, fix="name the first: …-00001-of-….gguf"
        )
    others = [
        path.with_name(f"{match[1]}-{number:05d}-of-{count:05d}.gguf") for number in range(2, count + 1)
    ]
    missing = [other.name for other in others if not is_file(other)]
    if missing:
        raise MalformedFile(
            f"{len(missing)} of {count} splits are missing, {missing[0]} first", where=path.name
        )
    return {path: first, **{other: read_header(other) for other in others}}


def _opened(path: Path, headers: Mapping[Path, Header]) -> GgufModel:
    header = headers[path]
    tensors = _tensors(headers)
    if not tensors:
        raise MalformedFile("the files hold no tensors")
    factors = tensors.pop(ROPE_FACTORS, None)
    maps = MappedFiles()
    values = None
    if factors is not None:
        payload = maps.payload(factors.file, factors.offset, factors.size)
        values = _decoded(payload, factors).reshape(-1).tolist()
    shapes = {name: info.shape for name, info in tensors.items()}
    config = architectures.config_from_metadata(header.metadata, shapes, values)
    vocabulary = read_vocabulary(header.metadata)
    length = config.get("max_position_embeddings")
    template = header.metadata.get("tokenizer.chat_template")
    stops = plain_number(header.metadata.get(STOPS))
    return GgufModel(
        path=path,
        files=tuple(headers),
        architecture=config["model_type"],
        config=config,
        tensors=tensors,
        quantization=_quantization(header.metadata.get("general.file_type"), tensors.values()),
        tokenizer_config={} if vocabulary is None else tokenizer_config_from_gguf(vocabulary, length),
        generation_config={} if vocabulary is None else generation_config_from_gguf(vocabulary, stops),
        chat_template=template if isinstance(template, str) else None,
        metadata=_other_metadata(header),
        vocabulary=vocabulary,
        _maps=maps,
    )


def _tensors(headers: Mapping[Path, Header]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for file, header in headers.items():
        for stored in header.tensors:
            name = architectures.from_gguf_name(stored.name)
            if name in found:
                raise MalformedFile(f"the tensor {name!r} is there twice", where=file.name)
            place = (file, stored.offset, stored.size)
            found[name] = TensorInfo(name, stored.name, stored.dtype, stored.shape, *place)
    return found


def _decoded(payload: npt.NDArray[np.uint8], info: TensorInfo) -> npt.NDArray[np.float32]:
    if info.dtype in _PLAIN:
        return to_float32(payload, info.dtype, info.shape)
    try:
        return dequantised(payload, info.dtype).reshape(info.shape)
    except UnsupportedArchitecture as error:
        error.where = info.stored_name
        raise


def _quantization(file_type: Any, tensors: Iterable[TensorInfo]) -> str:
    """Return the name of ``general.file_type`` where the tensors bear it out, else their dominant type."""
    weight: Counter[str] = Counter()
    for info in tensors:
        if len(info.shape) > 1:
            weight[info.dtype] += prod(info.shape)
    label = FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else ""
    kind = re.sub(r"_k_[sml]$", "_k", label)
    # A mixture of types is called after one that need not be the largest: a quarter bears the name out.
    if 4 * (weight[kind] + weight[_NARROW.get(kind, "")]) >= weight.total() > 0:
        return label
    return max(sorted(weight), key=lambda dtype: weight[dtype], default="f32")


def _other_metadata(header: Header) -> dict[str, Any]:
    other: dict[str, Any] = {"gguf.version": header.version}
    for key, value in header.metadata.items():
        if not isinstance(value, list | memoryview):
            other[key] = value
        elif len(value) <= _LONGEST_KEPT_ARRAY:
            other[key] = list(value)
    lineage = {key.removeprefix(LINEAGE): other.pop(key) for key in list(other) if key.startswith(LINEAGE)}
    if lineage:
        other["lineage"] = lineage
    if header.damaged_text:
        texts = (f"{key} ({len(items)})" for key, items in header.damaged_text.items())
        other["problems"] = [f"text that is not UTF-8: {', '.join(texts)}"]
    return other


FORMATS.register("gguf")(GgufFormat())
