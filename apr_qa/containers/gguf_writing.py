"""Writing GGUF: names, row order, metadata and tokenizer of the llama.cpp world, one tensor at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.containers.byte_layout import check_shape, float_chunks
from apr_qa.containers.file_access import replacing_file
from apr_qa.containers.gguf_vocabulary import STOPS
from apr_qa.conversion import architectures
from apr_qa.conversion.rotary import ROPE_FACTORS, WAY_OUT, rope_factors, rope_of
from apr_qa.conversion.tokenizer_rules import gguf_from_tokenizer
from apr_qa.errors import UnsupportedArchitecture, UsageError
from apr_qa.extras import not_installed
from apr_qa.formats import ModelContent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from gguf import GGUFWriter

LINEAGE = "apr_qa.lineage."
WRITTEN_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""Types that are written here, with their ``general.file_type``; llama.cpp's quantiser makes the others."""


def write_gguf(path: Path, content: ModelContent) -> None:
    """Write one file with matrices as f32, f16, bf16 or q8_0 and everything one-dimensional as f32.

    Raises UnsupportedArchitecture for an architecture, rotary scaling or tokenizer that has no GGUF
    form, and UsageError for another dtype or values that the dtype cannot hold.
    """
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise not_installed("gguf") from None

    architecture = architectures.require(content.config)
    stored = [_Stored.of(name, content) for name in content.names]
    writer = GGUFWriter(None, architecture.stored_name)
    _add_keys(writer, _metadata(path.stem, content, stored))
    for tensor in stored:
        tensor.announce(writer)
    factors = _factors(content.config)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    with replacing_file(path) as handle:
        try:
            writer.write_header_to_file(Path(handle.name))
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in stored:
                writer.write_tensor_data(tensor.payload(content))
            if factors is not None:
                writer.write_tensor_data(factors)
        finally:
            writer.close()


@dataclass(frozen=True)
class _Stored:
    """One tensor on its way into a file."""

    name: str
    stored_name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, content: ModelContent) -> _Stored:
        stored_name, shape = architectures.to_gguf_name(name), tuple(content.shapes[name])
        if stored_name is None:
            raise UnsupportedArchitecture(f"tensor {name!r} has no GGUF name", fix=WAY_OUT)
        dtype = content.dtypes[name] if len(shape) > 1 else "f32"
        if dtype not in WRITTEN_TYPES:
            raise UsageError(f"dtype {dtype!r} is not written", fix=f"use one of {', '.join(WRITTEN_TYPES)}")
        if dtype == "q8_0" and shape[-1] % 32:
            dtype = "f16"
        return cls(name, stored_name, dtype, shape)

    def announce(self, writer: GGUFWriter) -> None:
        import numpy as np
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        kind = GGMLQuantizationType[self.dtype.upper()]
        block, block_bytes = GGML_QUANT_SIZES[kind]
        size = prod(self.shape) // block * block_bytes
        writer.add_tensor_info(self.stored_name, self.shape, np.dtype(np.float32), size, raw_dtype=kind)

    def payload(self, content: ModelContent) -> npt.NDArray[Any]:
        import numpy as np
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        tensor = np.asarray(content.read(self.name), dtype=np.float32)
        check_shape(tensor, self.shape, self.name)
        heads = architectures.interleaved_heads(self.name, content.config)
        if heads:
            tensor = architectures.interleave_rows(tensor, heads)
        if self.dtype != "q8_0":
            return np.concatenate(list(float_chunks(tensor, self.dtype, self.name)))
        with np.errstate(all="ignore"):
            quantised: npt.NDArray[Any] = quantize(tensor, GGMLQuantizationType.Q8_0)
        return quantised


def _metadata(name: str, content: ModelContent, stored: Sequence[_Stored]) -> dict[str, Any]:
    matrices = Counter(tensor.dtype for tensor in stored if len(tensor.shape) > 1)
    main = max(sorted(matrices), key=lambda dtype: matrices[dtype], default="f32")
    keys: dict[str, Any] = {"general.type": "model", "general.name": name}
    keys |= {"general.file_type": WRITTEN_TYPES[main], "general.quantization_version": 2}
    keys |= architectures.metadata_from_config(content.config)
    keys |= {LINEAGE + key: value for key, value in content.lineage.items()}
    if content.tokenizer is not None:
        keys |= gguf_from_tokenizer(content.tokenizer, content.tokenizer_config, content.config)
    stops = content.generation_config.get("eos_token_id")
    if isinstance(stops, list) and len(stops) > 1 and all(type(stop) is int and stop >= 0 for stop in stops):
        keys[STOPS] = stops
    if content.chat_template is not None:
        keys["tokenizer.chat_template"] = content.chat_template
    return keys


def _add_keys(writer: GGUFWriter, keys: Mapping[str, Any]) -> None:
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def _factors(config: Mapping[str, Any]) -> npt.NDArray[np.float32] | None:
    import numpy as np

    factors = rope_factors(rope_of(config), architectures.head_dim(config))
    return None if factors is None else np.array(factors, dtype=np.float32)
