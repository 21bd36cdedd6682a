"""An APR file opened for editing: its JSON metadata, its index, and its payloads; checksums follow."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.containers.apr_blocks import CODES, decode, encode
from apr_qa.containers.apr_container import MAGIC, ROW_MAJOR, read_container
from apr_qa.containers.apr_index import ALIGNMENT
from apr_qa.containers.apr_metadata import CONFIG_KEYS, HF_CONFIG, canonical_name
from apr_qa.containers.strict_json import dump_bytes, parse_object
from apr_qa.defects import Inexpressible
from apr_qa.defects._image import CHUNK, Image, Stored, gguf_rows
from apr_qa.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_STATED = {key: stated for stated, key in CONFIG_KEYS.items()}


class AprImage(Image):
    """The file; ``metadata`` is its whole JSON object, free to be changed."""

    format = "apr"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        model = FORMATS.get("apr").open(path)
        container = read_container(path)
        self.footer, self.flags = container.footer, container.flags
        self.codes = {entry.name: entry.code for entry in container.entries}
        """Stored name -> dtype code, for what is neither relabelled nor new."""
        self.metadata: dict[str, Any] = parse_object(container.metadata, path.name)
        self._written = dump_bytes(self.metadata)
        self.tensors = {}
        for entry in container.entries:
            name = canonical_name(entry.name)
            dtype = model.tensors[name].dtype if name in model.tensors else "f32"
            place = (path, container.data_offset + entry.offset, entry.size)
            self.tensors[name] = Stored(entry.name, dtype, entry.dims, *place)
        self.config = dict(model.config)

    def set_config(self, key: str, value: Any) -> None:
        config = self.metadata.get(HF_CONFIG)
        if isinstance(config, dict):
            nested = config.get("rope_parameters")
            inner = key == "rope_theta" and isinstance(nested, dict)
            (nested if inner and isinstance(nested, dict) else config)[key] = value
        if key in _STATED:
            self.metadata[_STATED[key]] = value
        elif key in ("rope_scaling", "rope_parameters", "model_type") and not isinstance(config, dict):
            self.metadata[key] = value
        if key == "tie_word_embeddings":
            self.metadata["tied_embeddings"] = value

    def drop_config(self, key: str) -> None:
        config = self.metadata.get(HF_CONFIG) or {}
        holders = (config, config.get("rope_parameters") or {})
        found = [holder for holder in holders if key in holder]
        stated = _STATED.get(key, key)
        if not found and stated not in self.metadata:
            raise Inexpressible(f"needs {key} in the metadata")
        for holder in found:
            del holder[key]
        self.metadata.pop(stated, None)

    def save(self) -> None:
        metadata = dump_bytes(self.metadata)
        if self.restructured or metadata != self._written:
            self._rewrite(metadata)
            return
        self._patch_payloads()
        if self.footer:
            seal(self.path)

    def relabel(self, name: str, *, dtype: str = "", shape: tuple[int, ...] = ()) -> None:
        super().relabel(name, dtype=dtype, shape=shape)
        if dtype:
            self.codes.pop(self.tensors[name].name, None)

    def rename(self, names: Mapping[str, str]) -> None:
        codes = {stored: self._code(self._stored(name)) for name, stored in names.items()}
        super().rename(names)
        self.codes |= codes

    def _code(self, stored: Stored) -> int:
        return self.codes[stored.name] if stored.name in self.codes else CODES[stored.dtype]

    def _rewrite(self, metadata: bytes) -> None:
        members = sorted(self.tensors.values(), key=lambda stored: stored.name.encode())
        index, at = b"", 0
        for stored in members:
            raw, dims = stored.name.encode(), stored.shape
            index += struct.pack(f"<H{len(raw)}sBB", len(raw), raw, self._code(stored), len(dims))
            index += struct.pack(f"<{len(dims) + 2}Q", *dims, at, stored.size)
            at += stored.size + -stored.size % ALIGNMENT
        body, index = (part + bytes(-len(part) % ALIGNMENT) for part in (metadata, index))
        starts = (64, len(metadata), 64 + len(body), 64 + len(body) + len(index))
        fields = (MAGIC, 2, 0, self.flags | ROW_MAJOR, len(members), *starts)
        start = struct.pack("<4sBBHIQIQQ", *fields)
        head = start + zlib.crc32(start + bytes(20)).to_bytes(4, "little") + bytes(20)
        temporary = self.path.with_name(f".{self.path.name}.new")
        with temporary.open("wb") as handle:
            handle.write(head + body + index)
            for stored in members:
                for chunk in stored.chunks():
                    handle.write(chunk)
                handle.write(bytes(-stored.size % ALIGNMENT))
            handle.write(bytes(4) if self.footer else b"")
        temporary.replace(self.path)
        if self.footer:
            seal(self.path)

    def _interleaved(self, name: str, stored: Stored) -> int:
        pairs = stored.name != name and self.metadata.get("rope_type") in (None, 0)
        return gguf_rows(name, self.config, stored) if pairs else 0

    def _decode(self, stored: Stored) -> npt.NDArray[np.float32]:
        return decode(stored.bytes(), stored.dtype, stored.shape)

    def _encode(self, values: npt.NDArray[np.float32], stored: Stored) -> npt.NDArray[np.uint8]:
        import numpy as np

        with np.errstate(all="ignore"):
            chunks = [chunk.reshape(-1).view(np.uint8) for chunk in encode(values, stored.dtype, stored.name)]
        return np.concatenate(chunks) if chunks else np.empty(0, np.uint8)


def seal(path: Path) -> None:
    """Write the checksum of the whole file anew (CRC-32 of everything before its last four bytes)."""
    left, crc = path.stat().st_size - 4, 0
    with path.open("r+b") as handle:
        while left:
            chunk = handle.read(min(left, CHUNK))
            crc = zlib.crc32(chunk, crc)
            left -= len(chunk)
        handle.seek(-4, os.SEEK_END)
        handle.write(crc.to_bytes(4, "little"))
