"""SHA-256 of files, remembered for as long as the file system says that a file is the same.

Trusted are device, inode, size, time of modification and time of change together: programs can set the second
last, not the last, so a byte changed in place is found though size and modification time are as before. What was
changed a moment ago is not remembered: a clock that ticks coarsely could hide one more change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from apr_qa.vocabulary import digest

SMALLEST = 4 << 20
"""Smaller files are read again: that is as fast."""
SETTLED_S = 2.0
"""How long a file must have been left alone before its hash is remembered."""
_VERSION = 1


def sha256(file: Path, folder: Path) -> str:
    """Return the hash of a file; ``folder`` is where hashes are remembered, and may be read-only."""
    with file.open("rb") as stream:
        before = os.fstat(stream.fileno())
        if before.st_size < SMALLEST:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        place = folder / f"{digest(before.st_dev, before.st_ino)}.json"
        known = _remembered(place, before)
        if known:
            return known
        begun = time.time()
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        after = os.fstat(stream.fileno())
    changed = max(before.st_mtime, before.st_ctime)
    if _identity(after) == _identity(before) and changed + SETTLED_S < begun:
        _remember(place, after, found)
    return found


def _identity(seen: os.stat_result) -> list[int]:
    return [_VERSION, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]


def _remembered(place: Path, seen: os.stat_result) -> str:
    try:
        record = json.loads(place.read_bytes())
        known = str(record["sha256"]) if record["identity"] == _identity(seen) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return known if len(known) == 64 else ""


def _remember(place: Path, seen: os.stat_result, found: str) -> None:
    """Write the record whole or not at all; a cache that cannot be written only costs time."""
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"identity": _identity(seen), "sha256": found}), "utf-8")
        partial.replace(place)
