"""Evidence files: JSON Lines, a header first, then one entry a line, appended and never changed.

Every line is flushed as it is written, so a killed run loses at most the line it was writing. A file that ends in
``.parquet`` holds the same entries in columns (`evidence_columns`); whoever reads evidence takes either.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType

import msgspec

from apr_qa import evidence_columns as columns
from apr_qa.errors import EnvironmentFault, EvidenceDamaged
from apr_qa.evidence_rows import ENCODER, Edited, Groups, Known, Line, Row, in_columns
from apr_qa.groups import number_of
from apr_qa.tally import Tally, repeated
from apr_qa.vocabulary import Evidence, EvidenceHeader

FILE = "evidence.jsonl"
_HEADER = msgspec.json.Decoder(EvidenceHeader)
_ENTRY = msgspec.json.Decoder(Evidence)
_ROW = msgspec.json.Decoder(Row)
_BLOCK = 1 << 18


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
            self._write(ENCODER.encode(header))

    def append(self, entry: Evidence) -> None:
        """Write one entry; callable from several threads."""
        self._write(ENCODER.encode(entry))

    def _write(self, line: bytes) -> None:
        with self._thread_lock:
            try:
                self._file.write(line + b"\n")
                self._file.flush()
            except OSError as error:
                raise _unwritable(self._file.name, error) from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as fault:  # what is still in the buffer does not fit either
            if error is None:
                raise _unwritable(self._file.name, fault) from fault


def _unwritable(name: str, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"evidence cannot be written: {error.strerror}",
        where=name,
        fix="make room or choose another --output; then run again with --resume",
    )


def stored(folder: Path) -> Path:
    """Return the evidence file of a folder, which is in columns where it was compacted; it need not be there."""
    rows, compacted = folder / FILE, (folder / FILE).with_suffix(columns.SUFFIX)
    return compacted if compacted.exists() and not rows.exists() else rows


def read(path: Path) -> tuple[EvidenceHeader, tuple[Evidence, ...]]:
    """Return header and entries; raises EvidenceDamaged naming file and line of the first fault."""
    header, entries = stream(path)
    return header, tuple(entries)


def stream(path: Path) -> tuple[EvidenceHeader, Iterator[Evidence]]:
    """Return header and entries one after another; raises EvidenceDamaged, that an id repeats in the end."""
    if path.suffix == columns.SUFFIX:
        return columns.about(path).header, columns.stream(path)
    lines = _lines(path)
    return _header(path, next(lines, b"")), _entries(path, lines)


def count(path: Path) -> tuple[EvidenceHeader, Tally, str]:
    """Return header, counted entries and SHA-256 of a file, in one pass; raises EvidenceDamaged."""
    if path.suffix == columns.SUFFIX:
        header, tally, evidence_sha256 = columns.count(path)
        _refuse_repeated(path, tally.numbers())
        return header, tally, evidence_sha256
    hashed = hashlib.sha256()
    blocks = _blocks(path, hashed)
    first = next(blocks, [b""])
    header, tally, known = _header(path, first[0]), Tally(), Known()
    groups, number = Groups(tally), 2
    for lines in chain([first[1:]], blocks):
        tally.count(in_columns(groups, _checked(path, number, known.lines(lines)), lines))
        number += len(lines)
    _refuse_repeated(path, tally.numbers())
    return header, tally, hashed.hexdigest()


def _checked(path: Path, number: int, entries: Iterator[Line]) -> Iterator[Line]:
    """Iterate over entries from line ``number`` on; raises EvidenceDamaged for one that is none."""
    try:
        for entry in entries:
            number += 1
            yield entry
    except Edited as error:
        raise _edited(path, number) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _no_entry(path, number, error) from error


def _blocks(path: Path, hashed: hashlib._Hash | None = None) -> Iterator[list[bytes]]:
    """Iterate over the lines of a file, without their ends, some hundred at a time; what is read is hashed."""
    try:
        with path.open("rb") as file:
            rest = b""
            while block := file.read(_BLOCK):
                if hashed is not None:
                    hashed.update(block)
                *lines, rest = (rest + block).split(b"\n")
                if lines:
                    yield lines
            if rest:
                yield [rest]
    except OSError as error:
        raise EvidenceDamaged(f"cannot be read: {error.strerror}", where=str(path)) from error


def _lines(path: Path) -> Iterator[bytes]:
    return chain.from_iterable(_blocks(path))


def _header(path: Path, line: bytes) -> EvidenceHeader:
    if not line:
        raise EvidenceDamaged(
            "the file is empty: it has no header",
            where=str(path),
            fix="run the certification again; an empty file proves nothing",
        )
    try:
        return _HEADER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EvidenceDamaged(f"not an evidence header: {error}", where=f"{path}:1") from error


def _entries(path: Path, lines: Iterator[bytes]) -> Iterator[Evidence]:
    numbers = array("Q")
    for number, line in enumerate(lines, start=2):
        try:
            entry = _ENTRY.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _no_entry(path, number, error) from error
        if entry.id != entry.scenario.id or entry.gate_id != entry.scenario.claim.gate_id:
            raise _edited(path, number)
        numbers.append(number_of(entry.id))
        yield entry
    _refuse_repeated(path, numbers)


def _no_entry(path: Path, number: int, error: Exception) -> EvidenceDamaged:
    return EvidenceDamaged(f"not an evidence entry: {error}", where=f"{path}:{number}")


def _edited(path: Path, number: int) -> EvidenceDamaged:
    return EvidenceDamaged(
        "id or gate_id does not follow from the scenario of this entry: it was edited",
        where=f"{path}:{number}",
    )


def _refuse_repeated(path: Path, numbers: array[int]) -> None:
    """Raise EvidenceDamaged where an id stands twice, naming both places."""
    twice = repeated(numbers)
    if twice is None:
        return
    name = f"{twice:016x}"
    if path.suffix == columns.SUFFIX:
        raise EvidenceDamaged(f"entry {name} stands there twice", where=str(path))
    lines = enumerate(_lines(path), start=1)
    places = [number for number, line in lines if number > 1 and _ROW.decode(line).id == name]
    raise EvidenceDamaged(
        f"entry {name} stands here for the second time, first in line {places[0]}",
        where=f"{path}:{places[1]}",
        fix="a scenario has one outcome: run the certification again",
    )


def repair(path: Path) -> None:
    """Cut a torn last line off an interrupted file, so that appending goes on at a line boundary."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        kept = end
        while kept > 0:
            start = max(0, kept - _BLOCK)
            file.seek(start)
            place = file.read(kept - start).rfind(b"\n")
            if place >= 0:
                kept = start + place + 1
                break
            kept = start
        if kept != end:
            file.truncate(kept)


def sha256(path: Path) -> str:
    """Return the SHA-256 of evidence as JSON Lines, as hex digits."""
    if path.suffix == columns.SUFFIX:
        return columns.about(path).evidence_sha256
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
