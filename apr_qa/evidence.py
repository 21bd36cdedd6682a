"""Evidence files: JSON Lines, a header first, then one entry a line, appended and never changed.

Every line is flushed as it is written, so a killed run loses at most the line it was writing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from pathlib import Path
from types import TracebackType

import msgspec

from apr_qa.errors import EnvironmentFault, EvidenceDamaged
from apr_qa.vocabulary import Evidence, EvidenceHeader

_ENCODER = msgspec.json.Encoder(order="deterministic")
_HEADER = msgspec.json.Decoder(EvidenceHeader)
_ENTRY = msgspec.json.Decoder(Evidence)


class Writer:
    """Appends entries to one evidence file that no other process may write at the same time."""

    def __init__(self, path: Path, header: EvidenceHeader, *, resume: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b" if resume else "ab")
        self._thread_lock = threading.Lock()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise EnvironmentFault(
                "another run is writing this evidence file",
                where=str(path),
                fix="wait for it to end, or choose another --output",
            ) from error
        if not resume:
            self._file.truncate(0)
        if self._file.tell() == 0 or not resume:
            self._write(_ENCODER.encode(header))

    def append(self, entry: Evidence) -> None:
        """Write one entry; callable from several threads."""
        self._write(_ENCODER.encode(entry))

    def _write(self, line: bytes) -> None:
        with self._thread_lock:
            try:
                self._file.write(line + b"\n")
                self._file.flush()
            except OSError as error:
                raise EnvironmentFault(
                    f"evidence cannot be written: {error.strerror}",
                    where=self._file.name,
                    fix="make room or choose another --output; then run again with --resume",
                ) from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


def read(path: Path) -> tuple[EvidenceHeader, tuple[Evidence, ...]]:
    """Return header and entries; raises EvidenceDamaged naming file and line of the first fault."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise EvidenceDamaged(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not lines:
        raise EvidenceDamaged(
            "the file is empty: it has no header",
            where=str(path),
            fix="run the certification again; an empty file proves nothing",
        )
    try:
        header = _HEADER.decode(lines[0])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EvidenceDamaged(f"not an evidence header: {error}", where=f"{path}:1") from error
    seen: dict[str, int] = {}
    entries = []
    for number, line in enumerate(lines[1:], start=2):
        entry = _entry(path, number, line)
        if seen.setdefault(entry.id, number) != number:
            raise EvidenceDamaged(
                f"entry {entry.id} stands here for the second time, first in line {seen[entry.id]}",
                where=f"{path}:{number}",
                fix="a scenario has one outcome: run the certification again",
            )
        entries.append(entry)
    return header, tuple(entries)


def _entry(path: Path, number: int, line: bytes) -> Evidence:
    try:
        entry = _ENTRY.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EvidenceDamaged(f"not an evidence entry: {error}", where=f"{path}:{number}") from error
    if entry.id != entry.scenario.id or entry.gate_id != entry.scenario.claim.gate_id:
        raise EvidenceDamaged(
            "id or gate_id does not follow from the scenario of this entry: it was edited",
            where=f"{path}:{number}",
        )
    return entry


def repair(path: Path) -> None:
    """Cut a torn last line off an interrupted file, so that appending goes on at a line boundary."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
