"""APR version 2: one file with header, JSON metadata (tokenizer included), tensor index and payloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.containers.apr_blocks import CODES, decode, encode, resolve, stored_sizes
from apr_qa.containers.apr_container import (
    MAGICS,
    ROW_MAJOR,
    SIGNED,
    Container,
    read_container,
    write_container,
)
from apr_qa.containers.apr_metadata import (
    HF_CONFIG,
    HF_GENERATION_CONFIG,
    ROPE_PAIRS,
    canonical_name,
    config_from_metadata,
    in_writing_order,
    metadata_from_config,
    normalised,
)
from apr_qa.containers.apr_tokenizer import (
    HF_TOKENIZER,
    HF_TOKENIZER_CONFIG,
    read_tokenizer,
    tokenizer_metadata,
)
from apr_qa.containers.byte_layout import check_shape, count_elements, dominant
from apr_qa.containers.file_access import MappedFiles, file_size, first_bytes, replacing_file
from apr_qa.containers.memory_bill import Bill
from apr_qa.containers.model_folder import stated_dtype
from apr_qa.containers.strict_json import dump_bytes, parse_object
from apr_qa.conversion.architectures import HEAD, interleaved_heads, separate_rows
from apr_qa.errors import MalformedFile, UsageError
from apr_qa.formats import FORMATS, ModelContent, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_TENSOR_BYTES = 600
"""What one tensor of the index takes in memory, as read and as told."""
_GGUF_ORDER = "transformer_lm_q4k"
"""``model_type`` of the one writer that keeps GGUF's order of dimensions, contiguous one first."""
_QUANTIZATION = {"q8": ("Q8", 8, None), "q4": ("Q4", 4, 32)}
_EMBEDDED = (HF_CONFIG, HF_GENERATION_CONFIG, HF_TOKENIZER, HF_TOKENIZER_CONFIG)


@dataclass
class AprModel:
    """An opened .apr file; see ``OpenModel``. ``metadata`` keeps the documented keys as the file has them."""

    path: Path
    files: tuple[Path, ...]
    architecture: str
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    quantization: str
    tokenizer: dict[str, Any] | None
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    chat_template: str | None
    metadata: dict[str, Any]
    format: str = "apr"
    _maps: MappedFiles = field(default_factory=MappedFiles, repr=False)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as a fresh float32 array, q and k rows in Hugging Face order."""
        info = self._info(name)
        values = decode(self.raw(name), info.dtype, info.shape)
        self._maps.forget()
        heads = self._interleaved(info)
        return separate_rows(values, heads) if heads else values

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the stored bytes of a tensor as a read-only flat map."""
        info = self._info(name)
        return self._maps.payload(info.file, info.offset, info.size)

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise MalformedFile(f"no tensor is called {name!r}", where=self.path.name)
        return self.tensors[name]

    def _interleaved(self, info: TensorInfo) -> int:
        # Llama weights that came through GGUF with their GGUF names kept its order of rows, too.
        if info.stored_name == info.name or self.metadata.get("rope_type") not in (None, ROPE_PAIRS):
            return 0
        counts = [self.config.get(key) for key in ("num_attention_heads", "num_key_value_heads")]
        if not info.shape or not all(type(count) is int and count > 0 for count in counts):
            return 0
        heads = interleaved_heads(info.name, self.config)
        return heads if heads and info.shape[0] % (2 * heads) == 0 else 0


class AprFormat:
    """The .apr container, version 2."""

    name = "apr"

    def matches(self, path: Path) -> bool:
        """Say whether a file starts with one of the magics of the family, readable version or not."""
        return first_bytes(path, 4) in MAGICS

    def open(self, path: Path) -> AprModel:
        """Check header, index, padding and checksums; raises MalformedFile or ModelUnavailable."""
        container = read_container(path)
        bill = Bill(file_size(path))
        bill.pay(len(container.metadata) + _TENSOR_BYTES * len(container.entries), path.name)
        metadata = normalised(
            parse_object(container.metadata, f"{path.name}: metadata", bill=bill), path.name
        )
        tensors = _tensors(path, container, metadata)
        config = config_from_metadata(metadata, set(tensors))
        architecture = config.get("model_type")
        architecture = architecture if isinstance(architecture, str) else ""
        text = read_tokenizer(metadata, architecture, path.name)
        return AprModel(
            path=path,
            files=(path,),
            architecture=architecture,
            config=config,
            tensors=tensors,
            quantization=dominant({name: (info.dtype, info.shape) for name, info in tensors.items()}),
            tokenizer=text.tokenizer,
            tokenizer_config=text.tokenizer_config,
            generation_config=metadata.get(HF_GENERATION_CONFIG) or text.generation_config,
            chat_template=text.chat_template,
            metadata=_rest(metadata, container, list(text.problems)),
        )

    def write(self, path: Path, content: ModelContent) -> None:
        """Write one file: tensors as f32, f16, bf16, q8 or q4, sorted by name, with footer checksum.

        Raises UsageError for another dtype and for values that a dtype cannot hold.
        """
        unknown = sorted({content.dtypes[name] for name in content.names} - CODES.keys())
        if unknown:
            raise UsageError(f"apr cannot store {', '.join(unknown)}", fix=f"use {', '.join(CODES)}")
        tensors = [(name, content.dtypes[name], tuple(content.shapes[name])) for name in content.names]
        try:
            metadata = dump_bytes(_metadata(path.stem, content))
        except ValueError as error:
            raise UsageError(f"the configuration cannot be written as JSON: {error}") from None

        def payload(name: str) -> Iterator[Any]:
            array = content.read(name)
            check_shape(array, content.shapes[name], name)
            return encode(array, content.dtypes[name], name)

        with replacing_file(path) as handle:
            write_container(handle, metadata, tensors, payload)


def _tensors(path: Path, container: Container, metadata: dict[str, Any]) -> dict[str, TensorInfo]:
    reverse = metadata.get("model_type") == _GGUF_ORDER and not container.flags & ROW_MAJOR
    tensors: dict[str, TensorInfo] = {}
    for entry in container.entries:
        name = canonical_name(entry.name)
        shape = tuple(reversed(entry.dims)) if reverse else entry.dims
        if name == HEAD and entry.size == 0 and metadata.get("tied_embeddings") is not False:
            continue  # The lawful placeholder of a head that is tied to the embedding.
        dtype = resolve(entry.code, shape, entry.size)
        if dtype is None:
            raise MalformedFile(
                f"tensor {entry.name!r}: {entry.size} bytes do not fit dtype code {entry.code} "
                f"and dimensions {list(entry.dims)}",
                where=path.name,
            )
        if name in tensors:
            raise MalformedFile(
                f"{tensors[name].stored_name} and {entry.name} are both {name}", where=path.name
            )
        offset = container.data_offset + entry.offset
        tensors[name] = TensorInfo(name, entry.name, dtype, shape, path, offset, entry.size)
    if not tensors:
        raise MalformedFile("holds no tensors", where=path.name)
    return tensors


def _rest(metadata: dict[str, Any], container: Container, problems: list[str]) -> dict[str, Any]:
    rest = {key: value for key, value in metadata.items() if key not in (*_EMBEDDED, "problems")}
    if container.flags & SIGNED:
        problems.append("it is signed, and the signature cannot be checked")
    if not container.footer:
        problems.append("it has no checksum of the whole file")
    rest["apr"] = {"flags": container.flags, "footer": container.footer}
    return {**rest, "problems": problems} if problems else rest


def _metadata(name: str, content: ModelContent) -> dict[str, Any]:
    sizes = {name: (content.dtypes[name], tuple(content.shapes[name])) for name in content.names}
    stored = dominant(sizes)
    values = metadata_from_config(content.config) | tokenizer_metadata(content)
    values |= {"name": name, "total_size": sum(stored_sizes(*pair)[0] for pair in sizes.values())}
    values["param_count"] = sum(count_elements(shape, key) for key, (_, shape) in sizes.items())
    if stored in _QUANTIZATION:
        kind, bits, block = _QUANTIZATION[stored]
        values["quantization"] = {"quant_type": kind, "bits": bits, "block_size": block, "symmetric": True}
    values |= {"tied_embeddings": HEAD not in sizes, HF_CONFIG: stated_dtype(content.config, stored)}
    if content.generation_config:
        values[HF_GENERATION_CONFIG] = content.generation_config
    if content.lineage:
        values["lineage"] = dict(content.lineage)
    if "source_format" in content.lineage:
        values["original_format"] = content.lineage["source_format"]
    return in_writing_order(values)


FORMATS.register("apr")(AprFormat())
