"""What our cache folder holds, how large it may become, and what may be removed from it.

Every process that works with the cache holds a lock on a file of its own in ``running``. Nothing that was used since
the oldest of them began is removed; a lock that nobody holds any more belonged to a process that died.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from apr_qa.errors import EnvironmentFault, UsageError
from apr_qa.vocabulary import Record

KINDS: Mapping[str, str] = {
    "artifacts": "converted models",
    "logits": "predictions and limits",
    "made": "models made for derivations",
    "trips": "round trips under way",
    "drill": "copies with planted defects",
    "hub": "downloaded models",
    "hypothesis": "tables for drawing prompts",
    "hashes": "hashes of large files",
}
"""Folder of the cache -> what is in it. Others that are there are shown, too."""
LIMIT_VARIABLE = "APR_QA_CACHE_LIMIT"
DEFAULT_LIMIT = 20 << 30
KEPT = ("hub",)
"""What is removed only when it is named: it was fetched, and making it again takes a network."""
_RUNNING = "running"
_TRIMMED = ".trimmed"
_TRIM_EVERY_S = 600.0
_MANY = 64
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_held: list[tuple[Path, BinaryIO]] = []


class Entry(Record, frozen=True):
    """One thing in the cache."""

    kind: str
    name: str
    path: Path
    bytes: int
    used: float
    """When it was last made or used, in seconds since the epoch."""


class Removal(Record, frozen=True):
    """What was removed, and what was not because a running process may use it."""

    removed: tuple[Entry, ...]
    in_use: tuple[Entry, ...]


def entries(root: Path) -> list[Entry]:
    """Return everything in the cache, by kind and name; raises EnvironmentFault if it cannot be read."""
    found = []
    for folder in _listed(root):
        if folder.name != _RUNNING and folder.is_dir():
            found += [_entry(folder.name, path) for path in _listed(folder) if path.suffix != ".lock"]
    return found


def limit_bytes(stated: str = "") -> int:
    """Return the size that the cache may have: as stated, else by the environment, else 20 GiB."""
    text = (stated or os.environ.get(LIMIT_VARIABLE, "")).strip()
    if not text:
        return DEFAULT_LIMIT
    match = _SIZE.fullmatch(text)
    if match is None:
        where = "--limit" if stated else LIMIT_VARIABLE
        raise UsageError(f"{text[:40]!r} is no amount of disk", where=where, fix="say for example 20GB")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def trim(root: Path, limit: int) -> Removal:
    """Remove what was not used for longest until the rest fits ``limit`` bytes, downloads excepted."""
    there = entries(root)
    excess = sum(entry.bytes for entry in there) - limit
    removed: list[Entry] = []
    since = running_since(root)
    for entry in sorted(there, key=lambda entry: entry.used):
        if excess <= 0:
            break
        if entry.kind not in KEPT and entry.used < since:
            _remove(entry)
            removed.append(entry)
            excess -= entry.bytes
    kept = [entry for entry in there if entry.used >= since and entry.kind not in KEPT] if excess > 0 else []
    return Removal(tuple(removed), tuple(kept))


def clear(root: Path, kind: str = "") -> Removal:
    """Remove everything of a kind, or everything but downloads; raises UsageError for an unknown kind."""
    there = entries(root)
    known = {*KINDS, *(entry.kind for entry in there)}
    if kind and kind not in known:
        raise UsageError(f"the cache has no kind {kind!r}", fix=f"one of {', '.join(sorted(known))}")
    wanted = [entry for entry in there if entry.kind == kind or (not kind and entry.kind not in KEPT)]
    since = running_since(root)
    removed = tuple(entry for entry in wanted if entry.used < since)
    for entry in removed:
        _remove(entry)
    return Removal(removed, tuple(entry for entry in wanted if entry.used >= since))


def running_since(root: Path) -> float:
    """Return when the oldest process began that works with the cache and still runs; infinity if there is none."""
    since = float("inf")
    for path in _listed(root / _RUNNING):
        with contextlib.suppress(OSError), path.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                since = min(since, path.stat().st_mtime)
            else:
                path.unlink()
    return since


def announce(root: Path) -> None:
    """Say that this process works with the cache, once; now and then, trim it. A read-only cache is left alone."""
    if any(place.parent.parent == root for place, _ in _held):
        return
    with contextlib.suppress(OSError):
        folder = root / _RUNNING
        folder.mkdir(parents=True, exist_ok=True)
        if len(_listed(folder)) > _MANY:
            running_since(root)  # takes away those of dead processes
        place = folder / f"{os.getpid()}-{time.time_ns()}"
        lock = place.open("xb")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held.append((place, lock))
        atexit.register(_withdraw, place, lock, os.getpid())
        stamp = root / _TRIMMED
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > _TRIM_EVERY_S:
            stamp.touch()
            with contextlib.suppress(EnvironmentFault):
                trim(root, limit_bytes())


def touch(path: Path) -> None:
    """Note that something in the cache is used."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _withdraw(place: Path, lock: BinaryIO, owner: int) -> None:
    if os.getpid() == owner:  # a fork has both, too
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
        lock.close()


def _entry(kind: str, path: Path) -> Entry:
    size, used = 0, 0.0
    for file in (path, *_inside(path)):
        with contextlib.suppress(OSError):
            seen = file.lstat()
            size += seen.st_blocks * 512
            if file == path or not file.is_dir():
                used = max(used, seen.st_mtime, 0.0 if file.is_dir() else seen.st_atime)
    return Entry(kind=kind, name=path.name, path=path, bytes=size, used=used)


def _inside(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for folder, names, files in os.walk(path):
            yield from (Path(folder, name) for name in (*names, *files))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(folder)) from None


def _remove(entry: Entry) -> None:
    try:
        if entry.path.is_dir() and not entry.path.is_symlink():
            # Out of the way first: nobody must find half of it.
            gone = entry.path.with_name(f".{entry.path.name}.{os.getpid()}.gone")
            entry.path.rename(gone)
            shutil.rmtree(gone)
        else:
            entry.path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # somebody else was faster
    except OSError as error:
        raise EnvironmentFault(f"cannot be removed: {error.strerror}", where=str(entry.path)) from None
