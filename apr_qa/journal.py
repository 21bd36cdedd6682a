"""What a run has done so far, in sixteen bytes a row, so that going on with millions of rows takes a moment.

The journal lies beside the evidence and is derived from it: for every entry its id and where its row ends, and
now and then how far a batch has come. It is written behind the evidence and may lack the newest rows; they are
read from the evidence itself, as all of them are where there is no journal. A journal that does not fit its
evidence is not used.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from apr_qa.errors import EnvironmentFault
from apr_qa.plan import Batch
from apr_qa.vocabulary import Evidence, Outcome, Scenario, digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SUFFIX = ".journal"
PASSED = 1 << 63
"""Marks a record of a batch: its second number is how many leading scenarios have their evidence."""
STOPPED = 1 << 62
"""Marks an entry that stopped the line."""
FLUSHED_EVERY_S = 0.8
_RECORD = 16
_CHECKED = 16
"""Rows that a journal is compared with before it is believed."""
_MOST_FAILURES = 1000
"""Of the newest rows; a policy that stops at failures stops at one of the first."""


class _Seen(msgspec.Struct, gc=False):
    """As much of a row as going on needs."""

    id: str
    outcome: Outcome


_SEEN = msgspec.json.Decoder(_Seen)
_ENTRY = msgspec.json.Decoder(Evidence)


def path_of(evidence: Path) -> Path:
    """Return where the journal of an evidence file lies."""
    return evidence.with_name(f".{evidence.name}{SUFFIX}")


def _key(batch: Batch) -> int:
    """Return the number of a batch: the same in every run of the same plan."""
    return int(digest(batch.target, len(batch.scenarios), batch.scenarios[0].id, batch.scenarios[-1].id), 16)


class Done:
    """What is done: ids, how far each batch has come, and the entries that stopped the line."""

    def __init__(
        self,
        ids: npt.NDArray[np.uint64],
        passed: dict[int, int] | None = None,
        stops: Sequence[Evidence] = (),
    ) -> None:
        self.journal: Journal | None = None
        """Where it is noted how batches get on."""
        self._ids = ids  # sorted
        self._passed = passed or {}
        self.stops = tuple(stops)

    def __len__(self) -> int:
        return len(self._ids)

    def begun(self, batch: Batch) -> int:
        """Return how many leading scenarios of a batch need not be looked at."""
        return self._passed.get(_key(batch), 0) if self._passed and len(batch.scenarios) else 0

    def missing(self, scenarios: Sequence[Scenario]) -> list[tuple[str, Scenario]]:
        """Return id and scenario of those that have no evidence."""
        import numpy as np

        named = [(scenario.id, scenario) for scenario in scenarios]
        if not len(self._ids) or not named:
            return named
        wanted = np.fromiter((int(name, 16) for name, _ in named), np.uint64, len(named))
        place = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        return [one for one, known in zip(named, self._ids[place] == wanted, strict=True) if not known]

    def passed(self, batch: Batch, count: int) -> None:
        """Note that the first ``count`` scenarios of a batch have their evidence."""
        if self.journal is not None:
            self.journal.passed(batch, count)


class Journal:
    """Writes what has been recorded; `entered` and `stopped` are called in the order of the rows."""

    def __init__(self, evidence: Path) -> None:
        self._evidence = evidence.open("rb")
        self._file = path_of(evidence).open("ab", buffering=1 << 16)
        self._lock = threading.Lock()
        self._flushed = time.monotonic()
        self._frozen = False

    def entered(self, entry: Evidence) -> None:
        """Note an entry whose row has just been written; what was skipped is to be done by a resumed run."""
        with self._lock:
            self._frozen = self._frozen or entry.outcome is Outcome.SKIPPED
            if not self._frozen:  # rows from here on are read from the evidence itself
                self._write(int(entry.id, 16), self._end())

    def stopped(self, entry: Evidence) -> None:
        """Note that the entry written last stopped the line."""
        with self._lock:
            self._write(int(entry.id, 16), self._end() | STOPPED)
            self._flush()

    def _end(self) -> int:
        return os.fstat(self._evidence.fileno()).st_size

    def passed(self, batch: Batch, count: int) -> None:
        """Note that the first ``count`` scenarios of a batch have their evidence."""
        with self._lock:
            if not self._frozen:
                self._write(_key(batch), count | PASSED)

    def _write(self, first: int, second: int) -> None:
        with contextlib.suppress(OSError):  # what is not noted is read from the evidence
            self._file.write(first.to_bytes(8, "little") + second.to_bytes(8, "little"))
        if time.monotonic() - self._flushed > FLUSHED_EVERY_S:
            self._flush()

    def _flush(self) -> None:
        """Bring what was recorded to the disk, the evidence first: at most a second of it can be lost."""
        self._flushed = time.monotonic()
        try:
            os.fdatasync(self._evidence.fileno())
        except OSError as error:
            raise EnvironmentFault(
                f"evidence cannot be written: {error.strerror}",
                where=str(self._evidence.name),
                fix="make room or choose another --output; then run again with --resume",
            ) from error
        with contextlib.suppress(OSError):
            self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._evidence.close()
            with contextlib.suppress(OSError):  # a full disk: what is not noted is read from the evidence
                self._file.close()


def nothing() -> Done:
    """Return the state of a run that begins."""
    import numpy as np

    return Done(np.empty(0, np.uint64))


def done(evidence: Path) -> Done:
    """Return what an interrupted evidence file holds, its torn last line cut off before.

    Rows of what was skipped are taken out of the file: it is to be done. The journal gets what it lacks: rows that
    are noted from now on stand behind it.
    """
    import numpy as np

    records = _records(path_of(evidence), evidence)
    about_batches = records[:, 1] >= np.uint64(PASSED)
    rows, marks = records[~about_batches], records[about_batches]
    ends = rows[:, 1] & np.uint64(STOPPED - 1)
    is_stop = (rows[:, 1] & np.uint64(STOPPED)) != 0
    newer, failures = _newer(evidence, int(ends[-1]) if len(ends) else _after_header(evidence))
    stops = [_row_before(evidence, int(end)) for end in ends[is_stop]]
    _catch_up(path_of(evidence), records, newer)
    ids = np.concatenate([rows[~is_stop, 0], newer[newer[:, 1] < np.uint64(STOPPED), 0]])
    ids.sort()
    passed: dict[int, int] = {}
    for key, count in marks.tolist():
        passed[key] = max(passed.get(key, 0), count & (PASSED - 1))
    return Done(ids, passed, [*stops, *failures])


def _records(path: Path, evidence: Path) -> Any:
    """Return the records of a journal as an array of two columns, none if they do not fit the evidence."""
    import numpy as np

    nothing = np.empty((0, 2), np.uint64)
    try:
        data = path.read_bytes()
    except OSError:
        return nothing
    records = np.frombuffer(data[: len(data) // _RECORD * _RECORD], np.uint64).reshape(-1, 2)
    size = evidence.stat().st_size
    is_row = records[:, 1] < np.uint64(PASSED)
    beyond = np.flatnonzero(is_row & ((records[:, 1] & np.uint64(STOPPED - 1)) > size))
    records = records[: beyond[0]] if len(beyond) else records  # the evidence did not get so far
    rows = records[records[:, 1] < np.uint64(PASSED)]
    ends = rows[:, 1] & np.uint64(STOPPED - 1)
    if np.any(ends[1:] < ends[:-1]):
        return nothing
    for place in np.unique(np.linspace(0, len(rows) - 1, _CHECKED).astype(int)) if len(rows) else ():
        try:
            if int(_row_before(evidence, int(ends[place])).id, 16) != int(rows[place, 0]):
                return nothing
        except (msgspec.DecodeError, ValueError):
            return nothing
    return records


def _catch_up(path: Path, records: Any, newer: Any) -> None:
    """Leave in the journal what was believed of it and, behind that, the newer rows."""
    with contextlib.suppress(OSError), path.open("ab") as file:
        file.truncate(len(records) * _RECORD)
        file.write(newer.tobytes())


def _row_before(evidence: Path, end: int) -> Evidence:
    """Return the entry whose row ends at ``end``."""
    with evidence.open("rb") as file:
        size = 1 << 12
        while True:
            start = max(0, end - size)
            file.seek(start)
            row = file.read(end - start)
            if not row.endswith(b"\n"):
                raise ValueError("no row ends here")
            begin = row.rfind(b"\n", 0, -1)
            if begin >= 0 or not start:
                return _ENTRY.decode(row[begin + 1 :])
            size *= 8


def _after_header(evidence: Path) -> int:
    with evidence.open("rb") as file:
        return len(file.readline())


def _newer(evidence: Path, begin: int) -> tuple[Any, list[Evidence]]:
    """Return records and failures of the rows from ``begin`` on; what was skipped is cut out of the file."""
    import numpy as np

    records = array("Q")
    failures: list[Evidence] = []
    kept: list[bytes] = []
    cut = -1
    end = begin
    with evidence.open("rb") as file:
        file.seek(begin)
        for line in file:
            seen = _seen(line)
            if seen is not None and seen.outcome is Outcome.SKIPPED:
                cut = end if cut < 0 else cut
                continue
            end += len(line)
            if cut >= 0:
                kept.append(line)
            if seen is not None:
                records.extend((int(seen.id, 16), end))
                if seen.outcome.failed and len(failures) < _MOST_FAILURES:
                    with contextlib.suppress(msgspec.DecodeError):
                        failures.append(_ENTRY.decode(line))
                        records.extend((int(seen.id, 16), end | STOPPED))  # it may be what stopped the line
    if cut >= 0:
        with evidence.open("r+b") as file:
            file.truncate(cut)
            file.seek(cut)
            file.writelines(kept)
    return np.frombuffer(records, np.uint64).reshape(-1, 2), failures


def _seen(line: bytes) -> _Seen | None:
    """Return id and outcome of a row; None for one that is no row, which judging will find."""
    try:
        seen = _SEEN.decode(line)
        int(seen.id, 16)
    except (msgspec.DecodeError, ValueError):
        return None
    return seen
