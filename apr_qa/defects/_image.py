"""What the images of all containers share: tensors under canonical names, read and written as float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.containers.byte_layout import float_chunks, to_float32
from apr_qa.conversion.architectures import interleave_rows, interleaved_heads, separate_rows
from apr_qa.defects import Inexpressible
from apr_qa.errors import AprQaError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
PLAIN = ("f32", "f16", "bf16")
CHUNK = 1 << 24


@dataclass
class Stored:
    """One tensor as the header declares it, and where its bytes are; ``payload`` replaces them."""

    name: str
    """As stored."""
    dtype: str
    shape: tuple[int, ...]
    """Row-major."""
    file: Path
    offset: int
    size: int
    payload: npt.NDArray[np.uint8] | None = None

    def bytes(self) -> npt.NDArray[np.uint8]:
        """Return a private copy of the payload."""
        import numpy as np

        if self.payload is not None:
            return self.payload.copy()
        return np.fromfile(self.file, np.uint8, self.size, offset=self.offset)

    def replace(self, payload: npt.NDArray[np.uint8]) -> None:
        self.payload, self.size = payload, int(payload.nbytes)

    def chunks(self) -> Iterator[Any]:
        """Yield the payload a few megabytes at a time."""
        if self.payload is not None:
            yield self.payload
            return
        with self.file.open("rb") as handle:
            handle.seek(self.offset)
            left = self.size
            while left:
                chunk = handle.read(min(left, CHUNK))
                left -= len(chunk)
                yield chunk


class Image:
    """An artifact opened for editing; `save` writes what was changed."""

    format = ""
    config: dict[str, Any]
    """As the reader of the format understands it when the image is opened, in Hugging Face terms."""
    tensors: dict[str, Stored]
    """By canonical name, in stored order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restructured = False
        """Set by whatever changes more than payloads of the same size."""

    # ---- configuration

    def set_config(self, key: str, value: Any) -> None:
        """State a configuration field (Hugging Face name) in the container's own way, everywhere it is stated."""
        raise NotImplementedError

    def drop_config(self, key: str) -> None:
        """Remove a configuration field wherever it is stated; raises Inexpressible if it is nowhere."""
        raise NotImplementedError

    def rope(self) -> dict[str, Any]:
        """Return the rotary parameters, whichever of the two schemas holds them."""
        given = {**(self.config.get("rope_scaling") or {}), **(self.config.get("rope_parameters") or {})}
        return {"rope_theta": self.config.get("rope_theta", 10000.0), **given}

    # ---- tensors

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32, rows in Hugging Face order."""
        stored = self._stored(name)
        values = self._decode(stored)
        heads = self._interleaved(name, stored)
        return separate_rows(values, heads) if heads else values

    def write(self, name: str, values: npt.NDArray[np.float32]) -> None:
        """Store values (Hugging Face order, any shape that fits) in the type that the tensor is stored in."""
        import numpy as np

        stored = self._stored(name)
        heads = self._interleaved(name, stored)
        array = np.ascontiguousarray(values, np.float32)
        if array.shape != stored.shape:
            self.restructured, stored.shape = True, tuple(array.shape)
        array = interleave_rows(array, heads) if heads else array
        before = stored.size
        try:
            stored.replace(self._encode(np.ascontiguousarray(array), stored))
        except AprQaError as error:
            raise Inexpressible(f"needs a type that can hold the values, not {stored.dtype}") from error
        self.restructured |= stored.size != before

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Return a copy of a tensor's stored bytes."""
        return self._stored(name).bytes()

    def replace(self, name: str, payload: npt.NDArray[np.uint8]) -> None:
        """Replace a tensor's stored bytes as they are."""
        stored = self._stored(name)
        self.restructured |= payload.nbytes != stored.size
        stored.replace(payload)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give tensors (canonical name) other stored names, all at once, so that they can be exchanged."""
        for name, stored_name in names.items():
            self._stored(name).name = stored_name
        self.restructured = True

    def relabel(self, name: str, *, dtype: str = "", shape: tuple[int, ...] = ()) -> None:
        """Declare another type or shape over the same bytes."""
        stored = self._stored(name)
        stored.dtype, stored.shape = dtype or stored.dtype, shape or stored.shape
        self.restructured = True

    def remove(self, name: str) -> None:
        """Leave a tensor out."""
        self._stored(name)
        del self.tensors[name]
        self.restructured = True

    def add(
        self, name: str, stored_name: str, dtype: str, shape: tuple[int, ...], payload: npt.NDArray[np.uint8]
    ) -> None:
        """Append a tensor; ``name`` is only its key here and must be new."""
        like = next(reversed(self.tensors.values()))
        self.tensors[name] = Stored(stored_name, dtype, shape, like.file, 0, int(payload.nbytes), payload)
        self.restructured = True

    def reorder(self, names: list[str]) -> None:
        """Store the tensors in another order (APR keeps its own: by name)."""
        self.tensors = {name: self.tensors[name] for name in names}
        self.restructured = True

    def stored_name(self, name: str) -> str:
        """Return how the container spells a canonical name."""
        return name

    def save(self) -> None:
        """Write what was changed; in place if only payloads of equal size were."""
        raise NotImplementedError

    # ---- inner parts

    def _stored(self, name: str) -> Stored:
        if name not in self.tensors:
            raise Inexpressible(f"needs a tensor {name}")
        return self.tensors[name]

    def _interleaved(self, name: str, stored: Stored) -> int:
        return 0

    def _decode(self, stored: Stored) -> npt.NDArray[np.float32]:
        if stored.dtype not in PLAIN:
            raise Inexpressible(f"needs weights in a float type, not {stored.dtype}")
        return to_float32(stored.bytes(), stored.dtype, stored.shape)

    def _encode(self, values: npt.NDArray[np.float32], stored: Stored) -> npt.NDArray[np.uint8]:
        import numpy as np

        if stored.dtype not in PLAIN:
            raise Inexpressible(f"needs weights in a float type, not {stored.dtype}")
        with np.errstate(all="ignore"):
            parts = [
                part.reshape(-1).view(np.uint8) for part in float_chunks(values, stored.dtype, stored.name)
            ]
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)

    def _patch_payloads(self) -> None:
        for stored in self.tensors.values():
            if stored.payload is not None:
                with stored.file.open("r+b") as handle:
                    handle.seek(stored.offset)
                    handle.write(stored.payload.data)


def gguf_rows(name: str, config: Mapping[str, Any], stored: Stored) -> int:
    """Return by how many heads the rows of a q or k tensor are interleaved; 0 where they are not."""
    heads = interleaved_heads(name, config)
    return heads if heads and stored.shape and stored.shape[0] % (2 * heads) == 0 else 0
