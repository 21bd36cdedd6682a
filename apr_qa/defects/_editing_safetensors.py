"""A SafeTensors folder opened for editing: headers of all shards, index, and the JSON files beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr_qa.containers.safetensors_header import DTYPES
from apr_qa.defects import Inexpressible
from apr_qa.defects._image import Image, Stored
from apr_qa.formats import FORMATS

_CODES = {name: code for code, name in DTYPES.items()}
INDEX = "model.safetensors.index.json"


class SafetensorsImage(Image):
    """The folder; ``documents`` holds its JSON files by name, to be changed or deleted from."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        model = FORMATS.get("safetensors").open(path)
        self.folder = path if path.is_dir() else path.parent
        self.tensors = {
            info.name: Stored(info.name, info.dtype, info.shape, info.file, info.offset, info.size)
            for info in sorted(model.tensors.values(), key=lambda info: (info.file.name, info.offset))
        }
        self.shards: list[Path] = sorted({stored.file for stored in self.tensors.values()})
        self.header_metadata: dict[Path, dict[str, str] | None] = {
            shard: _header(shard).get("__metadata__") for shard in self.shards
        }
        self.documents: dict[str, Any] = {
            file.name: json.loads(file.read_text(encoding="utf-8"))
            for file in sorted(self.folder.glob("*.json"))
        }
        self.config = self.documents.get("config.json", {})
        self._written = {name: _dumped(document) for name, document in self.documents.items()}

    def set_config(self, key: str, value: Any) -> None:
        self._holder(key)[key] = value

    def drop_config(self, key: str) -> None:
        holder = self._holder(key)
        if key not in holder:
            raise Inexpressible(f"needs {key} in config.json")
        del holder[key]

    def _holder(self, key: str) -> dict[str, Any]:
        if key in ("rope_theta", "partial_rotary_factor") and isinstance(
            self.config.get("rope_parameters"), dict
        ):
            nested: dict[str, Any] = self.config["rope_parameters"]
            if key in nested or key not in self.config:
                return nested
        text = self.config.get("text_config")
        return text if isinstance(text, dict) and key in text else self.config

    def save(self) -> None:
        for name, document in self.documents.items():
            text = _dumped(document)
            if self._written.get(name) != text:
                (self.folder / name).write_text(text, encoding="utf-8")
        for name in self._written.keys() - self.documents.keys():
            (self.folder / name).unlink()
        if self.restructured:
            self._rewrite()
        else:
            self._patch_payloads()

    def split(self, shards: list[Path]) -> None:
        """Distribute the tensors over files, in order, with an index; the present file goes."""
        old, size = self.shards, sum(stored.size for stored in self.tensors.values())
        placed, at = {}, 0
        for name, stored in self.tensors.items():
            placed[name] = shards[min(len(shards) - 1, at * len(shards) // max(1, size))]
            at += stored.size
        self._rewrite(placed)
        weights = {self.tensors[name].name: shard.name for name, shard in placed.items()}
        document = {"metadata": {"total_size": size}, "weight_map": weights}
        (self.folder / INDEX).write_text(_dumped(document), encoding="utf-8")
        for shard in old:
            shard.unlink()

    def _rewrite(self, placed: Mapping[str, Path] | None = None) -> None:
        places = placed or {name: stored.file for name, stored in self.tensors.items()}
        for shard in sorted(set(places.values()) | (set(self.shards) if placed is None else set())):
            members = [stored for name, stored in self.tensors.items() if places[name] == shard]
            header: dict[str, Any] = {}
            metadata = self.header_metadata.get(shard, self.header_metadata[self.shards[0]])
            if metadata is not None:
                header["__metadata__"] = metadata
            at = 0
            for stored in members:
                header[stored.name] = {
                    "dtype": _CODES[stored.dtype],
                    "shape": list(stored.shape),
                    "data_offsets": [at, at + stored.size],
                }
                at += stored.size
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            temporary = shard.with_name(f".{shard.name}.new")
            with temporary.open("wb") as handle:
                handle.write(len(text).to_bytes(8, "little") + text)
                for stored in members:
                    for chunk in stored.chunks():
                        handle.write(chunk)
            temporary.replace(shard)
        if placed is None and INDEX in self.documents:
            self.documents[INDEX]["weight_map"] = {s.name: s.file.name for s in self.tensors.values()}
            (self.folder / INDEX).write_text(_dumped(self.documents[INDEX]), encoding="utf-8")


def _header(shard: Path) -> dict[str, Any]:
    with shard.open("rb") as handle:
        header: dict[str, Any] = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    return header


def _dumped(document: Any) -> str:
    return json.dumps(document, indent=2) + "\n"
