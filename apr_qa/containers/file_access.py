"""Files of a model: opening, measuring, mapping and replacing them, with refusals a person can act on.

Reading never writes: maps are read-only. Writing is all or nothing: the target appears complete under its
name, or not at all.
"""

from __future__ import annotations

import mmap
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from apr_qa.errors import EnvironmentFault, MalformedFile, ModelUnavailable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


_SHOWN = 200


def open_binary(path: Path) -> BinaryIO:
    """Open a regular file for reading; raises ModelUnavailable or EnvironmentFault."""
    try:
        if not is_file(path):
            raise ModelUnavailable("no such file", where=str(path))
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"cannot be opened: {error}", where=str(path)) from None


def is_file(path: Path) -> bool:
    """Say whether ``path`` is a regular file; a name that the system cannot even look up is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def require_inside(path: Path, folder: Path) -> None:
    """Raise MalformedFile if ``path``, a file of the model in ``folder``, is a link that leads out of it.

    A snapshot of the Hugging Face cache holds links into its repository's folder of blobs, which is not out.
    """
    try:
        if not path.is_symlink():
            return
        target, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:
        raise MalformedFile(f"cannot be followed: {error}", where=path.name[:_SHOWN]) from None
    homes = [home, home.parents[1]] if home.parent.name == "snapshots" and len(home.parents) > 1 else [home]
    if not any(target.is_relative_to(one) for one in homes):
        raise MalformedFile(
            "is a link to a file outside of the model's folder",
            where=path.name,
            fix="put the file itself there, or name the folder that it lies in",
        )


def file_size(path: Path) -> int:
    """Return the length of a regular file in bytes; raises ModelUnavailable or EnvironmentFault."""
    with open_binary(path) as handle:
        return handle.seek(0, 2)


def first_bytes(path: Path, count: int) -> bytes:
    """Return up to ``count`` leading bytes, none for anything that is no readable file."""
    try:
        if not is_file(path):
            return b""
        with path.open("rb") as handle:
            # A buffered reader allocates what it is asked for, not what is there.
            return handle.read(min(count, os.fstat(handle.fileno()).st_size))
    except (OSError, ValueError):
        return b""


class MappedFiles:
    """Read-only memory maps, one for each file, made on first use.

    At most the payload that was asked for last stays in memory, so that a process that goes through a model tensor by
    tensor never holds all of it. Views of earlier ones remain valid: their pages come back when they are looked at.
    """

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._last: tuple[mmap.mmap, int, int] | None = None

    def payload(self, file: Path, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """Return ``size`` bytes from ``offset`` as a flat view of the map; raises MalformedFile."""
        import numpy as np

        if file not in self._maps:
            with open_binary(file) as handle:
                try:
                    self._maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise MalformedFile(f"cannot be mapped: {error}", where=file.name) from None
        whole = self._maps[file]
        part = np.frombuffer(whole, np.uint8)[offset : offset + size]
        if len(part) != size:
            raise MalformedFile(f"{size - len(part)} bytes vanished since it was opened", where=file.name)
        self.forget()
        self._last = (whole, offset, size)
        return part

    def forget(self) -> None:
        """Let go of the memory of the last payload, which somebody has decoded by now."""
        if self._last is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        whole, offset, size = self._last
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        if size:
            whole.madvise(mmap.MADV_DONTNEED, start, offset + size - start)
        self._last = None


@contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a handle whose content becomes ``path`` when the block succeeds, and nothing if it fails."""
    partial = _sibling(path)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as handle:
            yield handle
        partial.replace(path)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block succeeds.

    A folder that already holds something is refused, never replaced: it may be the user's.
    """
    partial = _sibling(path)
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise EnvironmentFault(
                "already exists", where=str(path), fix="remove it or choose another output path"
            )
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sibling(path: Path) -> Path:
    # The same folder, hence the same file system: only then is the final rename atomic.
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.partial"
