"""SafeTensors: one file, or a folder of shards with an index, and the companion files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from apr_qa.containers.byte_layout import (
    ELEMENT_BYTES,
    FLOAT_NAMES,
    check_shape,
    dominant,
    float_chunks,
    to_float32,
)
from apr_qa.containers.file_access import (
    MappedFiles,
    creating_folder,
    file_size,
    first_bytes,
    is_file,
    require_inside,
)
from apr_qa.containers.memory_bill import Bill
from apr_qa.containers.model_folder import CONFIG, read_companions, write_companions
from apr_qa.containers.safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES, header_bytes, read_header
from apr_qa.containers.strict_json import dump_bytes, parse_object, read_object
from apr_qa.errors import MalformedFile, ModelUnavailable, UsageError
from apr_qa.formats import FORMATS, ModelContent, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LINEAGE_KEY = "apr_qa.lineage"
_SHOWN = 3


@dataclass
class SafetensorsModel:
    """An opened SafeTensors artifact; see ``OpenModel``."""

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
    format: str = "safetensors"
    _maps: MappedFiles = field(default_factory=MappedFiles, repr=False)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as a fresh float32 array."""
        info = self._info(name)
        values = to_float32(self.raw(name), info.dtype, info.shape)
        self._maps.forget()
        return values

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the stored bytes of a tensor as a read-only flat map."""
        info = self._info(name)
        return self._maps.payload(info.file, info.offset, info.size)

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise MalformedFile(f"no tensor is called {name!r}", where=self.path.name)
        return self.tensors[name]


class SafetensorsFormat:
    """The reference format: a JSON header and raw little-endian payloads."""

    name = "safetensors"

    def matches(self, path: Path) -> bool:
        """Say whether a file starts like SafeTensors, or a folder holds weights, an index or a config."""
        if path.is_dir():
            return any(is_file(path / name) for name in (INDEX, CONFIG)) or bool(_weight_files(path))
        start = first_bytes(path, LENGTH_BYTES + 1)
        length = int.from_bytes(start[:LENGTH_BYTES], "little")
        return start[LENGTH_BYTES:] == b"{" and length <= MAX_HEADER_BYTES

    def open(self, path: Path) -> SafetensorsModel:
        """Check every header and companion file; raises MalformedFile or ModelUnavailable."""
        if not path.exists():
            raise ModelUnavailable("no such file or folder", where=str(path))
        folder = path if path.is_dir() else path.parent
        index = path / INDEX if is_file(path / INDEX) else None
        if index is not None:
            require_inside(index, folder)
        bill = Bill(_bytes_in(folder) if path.is_dir() else file_size(path))
        weight_map = {} if index is None else _weight_map(index, bill)
        shards = _shards(path, weight_map) if path.is_dir() else (path,)
        tensors, header_metadata = _read_shards(shards, folder if path.is_dir() else None, bill)
        if index is not None:
            _check_index(weight_map, tensors)
        if not tensors:
            raise MalformedFile("holds no tensors", where=path.name)
        companions = read_companions(folder, bill if path.is_dir() else None)
        architecture = companions.config.get("model_type")
        return SafetensorsModel(
            path=path,
            files=(*shards, *([index] if index else []), *companions.files),
            architecture=architecture if isinstance(architecture, str) else "",
            config=companions.config,
            tensors=tensors,
            quantization=dominant({name: (info.dtype, info.shape) for name, info in tensors.items()}),
            tokenizer=companions.tokenizer,
            tokenizer_config=companions.tokenizer_config,
            generation_config=companions.generation_config,
            chat_template=companions.chat_template,
            metadata=_metadata(header_metadata, companions.problems),
        )

    def write(self, path: Path, content: ModelContent) -> None:
        """Write a folder that transformers loads: ``model.safetensors`` and its companion files.

        ``path`` must not exist or be an empty folder. Raises UsageError for a dtype other than f32, f16
        and bf16, and for values that the dtype cannot hold.
        """
        unknown = sorted({content.dtypes[name] for name in content.names} - FLOAT_NAMES.keys())
        if unknown:
            raise UsageError(f"safetensors cannot store {', '.join(unknown)}", fix="use f32, f16 or bf16")
        order = sorted(content.names, key=lambda name: (-ELEMENT_BYTES[content.dtypes[name]], name))
        entries = [(name, content.dtypes[name], tuple(content.shapes[name])) for name in order]
        metadata = {"format": "pt"}
        if content.lineage:
            metadata[LINEAGE_KEY] = dump_bytes(dict(content.lineage)).decode()
        with creating_folder(path) as folder:
            with (folder / WEIGHTS).open("wb") as handle:
                handle.write(header_bytes(entries, metadata))
                for chunk in _payload(entries, content):
                    handle.write(chunk)
            write_companions(folder, content, dominant({name: (d, s) for name, d, s in entries}))


def _payload(entries: list[tuple[str, str, tuple[int, ...]]], content: ModelContent) -> Iterator[Any]:
    for name, dtype, shape in entries:
        array = content.read(name)
        check_shape(array, shape, name)
        yield from float_chunks(array, dtype, name)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.glob("*.safetensors") if not path.name.startswith((".", "adapter_"))
    )


def _shards(folder: Path, weight_map: dict[str, str]) -> tuple[Path, ...]:
    """Choose the weight files: those of the index, else ``model.safetensors``, else the only one."""
    weights = _weight_files(folder)
    single = folder / WEIGHTS
    if weight_map:
        names = sorted(set(weight_map.values()))
        if single in weights and WEIGHTS not in names:
            raise MalformedFile(
                f"{WEIGHTS} and an index of other files are both there; engines disagree which one counts",
                where=folder.name,
                fix=f"remove {WEIGHTS} or {INDEX}",
            )
        return tuple(folder / name for name in names)
    if single in weights or len(weights) == 1:
        return (single if single in weights else weights[0],)
    if not weights:
        raise MalformedFile("no weights: no *.safetensors file is there", where=folder.name)
    raise MalformedFile(f"{len(weights)} weight files without {INDEX}", where=folder.name, fix=f"add {INDEX}")


def _bytes_in(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if is_file(path))


def _weight_map(index: Path, bill: Bill) -> dict[str, str]:
    """Return tensor name -> shard name; a shard name must be a plain file name beside the index."""
    weight_map = read_object(index, bill).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MalformedFile("weight_map is missing or empty", where=index.name)
    for tensor, shard in weight_map.items():
        # Snapshots of the Hugging Face cache are links into a blob folder: where a name leads is free,
        # what it says is not.
        if (
            not isinstance(shard, str)
            or "\0" in shard
            or PureWindowsPath(shard).name != shard
            or shard in ("", ".", "..")
        ):
            raise MalformedFile(
                f"weight_map sends {tensor[:200]!r} to {str(shard)[:200]!r}, which is no plain file name",
                where=index.name,
            )
    return weight_map


def _read_shards(
    shards: tuple[Path, ...], folder: Path | None, bill: Bill
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    missing = [shard.name for shard in shards if not is_file(shard)]
    if missing:
        raise MalformedFile(f"{len(missing)} shards are missing: {_some(missing)}", where=INDEX)
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for shard in shards:
        if folder is not None:
            require_inside(shard, folder)
        found, extra = read_header(shard, bill)
        twice = sorted(found.keys() & tensors.keys())
        if twice:
            raise MalformedFile(f"tensors are in an earlier shard too: {_some(twice)}", where=shard.name)
        tensors.update(found)
        metadata.update(extra)
    return tensors, metadata


def _check_index(weight_map: dict[str, str], tensors: dict[str, TensorInfo]) -> None:
    absent = sorted(name for name, shard in weight_map.items() if _shard_of(tensors, name) != shard)
    if absent:
        raise MalformedFile(
            f"{len(absent)} tensors are not in the shard that the index names: {_some(absent)}", where=INDEX
        )
    unlisted = sorted(tensors.keys() - weight_map.keys())
    if unlisted:
        raise MalformedFile(f"{len(unlisted)} tensors are not in the index: {_some(unlisted)}", where=INDEX)


def _shard_of(tensors: dict[str, TensorInfo], name: str) -> str:
    return tensors[name].file.name if name in tensors else ""


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name[:200]) for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown


def _metadata(header: dict[str, str], problems: list[str]) -> dict[str, Any]:
    own = ("lineage", "problems", LINEAGE_KEY)
    metadata: dict[str, Any] = {key: value for key, value in header.items() if key not in own}
    if LINEAGE_KEY in header:
        metadata["lineage"] = parse_object(header[LINEAGE_KEY].encode(), LINEAGE_KEY)
    if problems:
        metadata["problems"] = problems
    return metadata


FORMATS.register("safetensors")(SafetensorsFormat())
