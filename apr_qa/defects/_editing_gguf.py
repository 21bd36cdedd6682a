"""A GGUF file opened for editing: typed keys, tensor infos and payloads; offsets follow."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.containers.ggml_types import TYPES
from apr_qa.containers.gguf_header import read_header
from apr_qa.conversion.architectures import from_gguf_name, to_gguf_name
from apr_qa.defects import Inexpressible
from apr_qa.defects._image import Image, Stored, gguf_rows
from apr_qa.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_KEYS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("embedding_length",),
    "intermediate_size": ("feed_forward_length",),
    "num_hidden_layers": ("block_count",),
    "num_attention_heads": ("attention.head_count",),
    "num_key_value_heads": ("attention.head_count_kv",),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon",),
    "max_position_embeddings": ("context_length",),
    "head_dim": ("attention.key_length", "attention.value_length"),
    "vocab_size": ("vocab_size",),
    "rope_theta": ("rope.freq_base",),
    "sliding_window": ("attention.sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "num_experts": ("expert_count",),
    "num_experts_per_tok": ("expert_used_count",),
    "norm_topk_prob": ("expert_weights_norm",),
    "rope_dimensions": ("rope.dimension_count",),
    "original_max_position_embeddings": ("rope.scaling.original_context_length",),
}
"""Hugging Face field -> keys behind the architecture's prefix. ``rope_dimensions`` is GGUF's own way to say how
much of a head is rotated."""


class Keys:
    """The metadata of a GGUF file: each value as (type, bytes), so that what is not touched stays as it is."""

    def __init__(self, values: dict[str, tuple[int, bytes]]) -> None:
        self.values = values
        self.changed = False

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value as Python sees it; arrays are lists."""
        if key not in self.values:
            return default
        kind, raw = self.values[key]
        return _decoded(kind, raw)

    def set(self, key: str, value: Any, kind: int | None = None, item: int | None = None) -> None:
        """State a value in its present type, in ``kind`` (arrays: items of type ``item``), or in a natural one."""
        old = self.values.get(key)
        if isinstance(value, list):
            if item is None:
                item = struct.unpack_from("<I", old[1])[0] if old and old[0] == ARRAY else _natural(value[0])
            raw = b"".join(_encoded(item, one) for one in value)
            self.values[key] = (ARRAY, struct.pack("<IQ", item, len(value)) + raw)
        else:
            kind = kind if kind is not None else old[0] if old and old[0] != ARRAY else _natural(value)
            self.values[key] = (kind, _encoded(kind, value))
        self.changed = True

    def drop(self, key: str) -> None:
        """Remove a key; raises Inexpressible if it is not there."""
        if key not in self.values:
            raise Inexpressible(f"needs the key {key}")
        del self.values[key]
        self.changed = True


class GgufImage(Image):
    """The file; ``keys`` are its metadata."""

    format = "gguf"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        model = FORMATS.get("gguf").open(path)
        if len(model.files) != 1:
            raise Inexpressible("needs a file that is not split")
        header = read_header(path)
        self.version, self.alignment = header.version, header.alignment
        self.keys = Keys(_scanned(path))
        self.config = dict(model.config)
        self.tensors = {
            from_gguf_name(t.name): Stored(t.name, t.dtype, t.shape, path, t.offset, t.size)
            for t in header.tensors
        }

    @property
    def architecture(self) -> str:
        return str(self.keys.get("general.architecture"))

    def set_config(self, key: str, value: Any) -> None:
        if key == "model_type":
            self.keys.set("general.architecture", value)
        elif key == "rope_scaling":
            self._scale(value or {})
        elif key in _KEYS:
            for suffix in _KEYS[key]:
                self.keys.set(f"{self.architecture}.{suffix}", value)
        else:
            raise Inexpressible(f"needs a container that can say {key}")

    def drop_config(self, key: str) -> None:
        for suffix in _KEYS.get(key, (key,)):
            self.keys.drop(f"{self.architecture}.{suffix}")

    def _scale(self, scaling: dict[str, Any]) -> None:
        prefix = f"{self.architecture}.rope.scaling."
        for key in [key for key in self.keys.values if key.startswith(prefix)]:
            self.keys.drop(key)
        if scaling:
            self.keys.set(prefix + "type", str(scaling.get("rope_type", scaling.get("type"))))
            self.keys.set(prefix + "factor", float(scaling["factor"]))

    def stored_name(self, name: str) -> str:
        return to_gguf_name(name) or name

    def save(self) -> None:
        if not (self.restructured or self.keys.changed):
            self._patch_payloads()
            return
        temporary = self.path.with_name(f".{self.path.name}.new")
        with temporary.open("wb") as handle:
            handle.write(self._head())
            handle.write(bytes(-handle.tell() % self.alignment))
            for stored in self.tensors.values():
                for chunk in stored.chunks():
                    handle.write(chunk)
                handle.write(bytes(-stored.size % self.alignment))
        temporary.replace(self.path)

    def _head(self) -> bytes:
        parts = [b"GGUF", struct.pack("<IQQ", self.version, len(self.tensors), len(self.keys.values))]
        for key, (kind, raw) in self.keys.values.items():
            parts += [_text(key), struct.pack("<I", kind), raw]
        numbers = {name: number for number, (name, _, _) in TYPES.items()}
        at = 0
        for stored in self.tensors.values():
            dims = tuple(reversed(stored.shape))
            kind = numbers[stored.dtype]
            parts += [_text(stored.name), struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)]
            at += stored.size + -stored.size % self.alignment
        return b"".join(parts)

    def _interleaved(self, name: str, stored: Stored) -> int:
        return gguf_rows(name, self.config, stored)

    def _decode(self, stored: Stored) -> npt.NDArray[np.float32]:
        import numpy as np

        if stored.dtype in ("f32", "f16", "bf16"):
            return super()._decode(stored)
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        try:
            rows = stored.bytes().reshape(int(np.prod(stored.shape[:-1])), -1)
            with np.errstate(all="ignore"):
                values = dequantize(rows, GGMLQuantizationType[stored.dtype.upper()])
        except NotImplementedError as error:
            raise Inexpressible(f"needs weights in a type that can be decoded, not {stored.dtype}") from error
        return np.asarray(values, np.float32).reshape(stored.shape)

    def _encode(self, values: npt.NDArray[np.float32], stored: Stored) -> npt.NDArray[np.uint8]:
        if stored.dtype in ("f32", "f16", "bf16"):
            return super()._encode(values, stored)
        from apr_qa.comparison.healthy_rounding import gguf_blocks

        flat = values.reshape(-1, values.shape[-1])
        blocks = gguf_blocks(flat, stored.dtype)
        if blocks is None:
            raise Inexpressible(f"needs a quantiser for {stored.dtype} on this machine")
        return blocks.reshape(-1)


def _scanned(path: Path) -> dict[str, tuple[int, bytes]]:
    """Return every key with the type and the bytes of its value; the header was checked before."""
    import mmap

    found: dict[str, tuple[int, bytes]] = {}
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (count,) = struct.unpack_from("<Q", data, 16)
        at = 24
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", data, at)
            key = data[at + 8 : at + 8 + length].decode()
            at += 8 + length
            (kind,) = struct.unpack_from("<I", data, at)
            end = _end(data, at + 4, kind)
            found[key] = (kind, data[at + 4 : end])
            at = end
    return found


def _end(data: Any, at: int, kind: int) -> int:
    if kind == STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != ARRAY:
        return at + struct.calcsize("<" + NUMBERS[kind])
    item, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if item != STRING:
        return at + int(count) * struct.calcsize("<" + NUMBERS[item])
    for _ in range(count):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
    return at


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _natural(value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, str | bytes):
        return STRING
    if isinstance(value, float):
        return FLOAT32
    return INT32 if value < 0 else UINT32


def _encoded(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value) if isinstance(value, str) else struct.pack("<Q", len(value)) + value
    return struct.pack("<" + NUMBERS[kind], value)


def _decoded(kind: int, raw: bytes) -> Any:
    if kind == STRING:
        return raw[8:].decode(errors="surrogateescape")
    if kind != ARRAY:
        return struct.unpack("<" + NUMBERS[kind], raw)[0]
    item, count = struct.unpack_from("<IQ", raw)
    if item != STRING:
        return list(struct.unpack_from(f"<{count}{NUMBERS[item]}", raw, 12))
    texts, at = [], 12
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", raw, at)
        texts.append(raw[at + 8 : at + 8 + length].decode(errors="surrogateescape"))
        at += 8 + length
    return texts
