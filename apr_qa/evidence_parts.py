"""Rows of a Parquet file of evidence: counted in columns, an entry made whole when somebody asks for it."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from apr_qa.evidence_rows import ENCODER, Groups, Known, KnownClaim, KnownTarget, scenario_id
from apr_qa.tally import SLOW_S, Rows, signs
from apr_qa.vocabulary import Evidence, Outcome, Response, Scenario, Severity

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Numbers = np.ndarray[Any, np.dtype[Any]]

WORDS = ("target", "severity", "outcome", "finish_reason")
"""Columns of few different texts, read as numbers of them."""
OF_RESPONSE = (
    "text",
    "finish_reason",
    "prompt_tokens",
    "vocab_size",
    "duration_s",
    "time_to_first_token_s",
    "tokens_per_s",
)
"""Columns of a response that are its fields."""
_SEVERITIES, _OUTCOMES = tuple(Severity), tuple(Outcome)
_FAILED = tuple(outcome.failed for outcome in _OUTCOMES)


class Claims:
    """Claims by number, as far as a file was read."""

    def __init__(self) -> None:
        self.known = Known()
        self.groups: dict[int, int] = {}
        """Numbers of groups, by what their entries have in common."""
        self._numbered: list[KnownClaim] = []

    def of(self, batch: pa.RecordBatch) -> list[KnownClaim]:
        """Return the claims of rows; one stands where its number is new."""
        numbers = batch.column("claim_number").to_pylist()
        texts = batch.column("claim")
        if texts.null_count == len(texts):
            return [self._numbered[number] for number in numbers]
        return [self._at(number, text) for number, text in zip(numbers, texts.to_pylist(), strict=True)]

    def _at(self, number: int, text: str | None) -> KnownClaim:
        if text is not None:
            if number == 0:
                self._numbered.clear()
            self._numbered.append(self.known.described(text.encode()))
        return self._numbered[number]


class Part:
    """Some rows of a file."""

    def __init__(self, batch: pa.RecordBatch, claims: Claims) -> None:
        place = batch.schema.get_field_index("timestamp")
        self._batch = batch.set_column(place, "timestamp", batch.column(place).cast("int64"))
        self._groups = claims.groups
        self.claims = claims.of(batch)
        words = batch.column("target")
        different = [claims.known.target(text.encode()) for text in words.dictionary.to_pylist()]
        self.targets: list[KnownTarget] = [different[number] for number in words.indices.to_pylist()]

    def __len__(self) -> int:
        return len(self.claims)

    def ids(self) -> bytes:
        """Return the ids, eight bytes each."""
        sha256 = hashlib.sha256
        return b"".join(
            [
                sha256(target.prefix + claim.canonical + b"]").digest()[:8]
                for target, claim in zip(self.targets, self.claims, strict=True)
            ]
        )

    def rows(self, groups: Groups, ids: bytes) -> Rows:
        """Return the columns that are counted."""
        import numpy as np

        alike = self._alike()
        different, first, number = np.unique(alike, return_index=True, return_inverse=True)
        for code, at in zip(different.tolist(), first.tolist(), strict=True):
            if code not in self._groups:
                self._groups[code] = groups.of(self.targets[at], self.claims[at], self.entry(at))
        found = [self._groups[code] for code in different.tolist()]
        return Rows(
            groups=np.array(found, np.int64)[number],
            numbers=np.frombuffer(ids, ">u8").astype(np.uint64),
            asked=[claim.numbers for claim in self.claims],
            tokens=self._measured("prompt_tokens"),
            rates=self._measured("tokens_per_s"),
            firsts=self._measured("time_to_first_token_s"),
            latest=self._latest(),
            named=lambda place: (ids[8 * place : 8 * place + 8].hex(), ENCODER.encode(self.entry(place))),
        )

    def _measured(self, name: str) -> Numbers:
        """Return a column of numbers, NaN where there is none."""
        import numpy as np

        return np.asarray(self._batch.column(name).to_numpy(zero_copy_only=False), np.float64)

    def _alike(self) -> Numbers:
        """Return numbers that are equal only where entries belong to one group."""
        import numpy as np

        outcome = self._word("outcome", _OUTCOMES)
        duration = self._measured("duration_s")
        columns = (
            (np.array([target.number for target in self.targets]), 1 << 24),
            (np.array([claim.sort for claim in self.claims]), 1 << 20),
            (self._word("severity", _SEVERITIES), len(_SEVERITIES)),
            (outcome, len(_OUTCOMES)),
            (self._signs(np.array(_FAILED)[outcome]), 5),
            (self._garbage(), 2),
            (self._batch.column("answered").to_numpy(zero_copy_only=False).astype(np.int64), 2),
            (self._states(), 4),
            (self._ends(), 3),
            (np.where(np.isnan(duration), 2, duration > SLOW_S), 3),
        )
        alike = np.zeros(len(self), np.int64)
        for codes, most in columns:
            if len(codes) and codes.max() >= most:
                raise ValueError("too many targets")
            alike = alike * most + codes
        return alike

    def _word(self, name: str, words: tuple[str, ...]) -> Numbers:
        """Return places in ``words``; raises ValueError for any other word."""
        import numpy as np

        column = self._batch.column(name)
        if column.null_count:
            raise ValueError(f"no {name}")
        places = [words.index(word) for word in column.dictionary.to_pylist()]
        found: Numbers = np.array(places, np.int64)[column.indices.to_numpy()]
        return found

    def _ends(self) -> Numbers:
        """Return 0 for an answer without end, 2 for one that stopped, 1 for any other."""
        import numpy as np

        column = self._batch.column("finish_reason")
        kinds = [2 if word == "stop" else 1 if word else 0 for word in column.dictionary.to_pylist()]
        found: Numbers = np.array([*kinds, 0], np.int64)[column.indices.fill_null(-1).to_numpy()]
        return found

    def _states(self) -> Numbers:
        """Return 0 for no text, 1 for an empty one, 2 for one of spaces, 3 for any other."""
        import numpy as np
        from pyarrow import compute

        texts = self._batch.column("text")
        found = np.array(compute.match_substring_regex(texts, "[!-~]").fill_null(False)) * 3
        for place in np.flatnonzero(found == 0).tolist():  # no letter of ASCII
            text = texts[place].as_py()
            found[place] = 0 if text is None else 1 if not text else 2 if text.isspace() else 3
        return found

    def _signs(self, failed: Numbers) -> Numbers:
        """Return what the reasons of failures say, and 4 for what did not fail."""
        import numpy as np

        found = np.full(len(self), 4)
        places = np.flatnonzero(failed)
        for place, reason in zip(
            places.tolist(), self._batch.column("reason").take(places).to_pylist(), strict=True
        ):
            memory, instruction = signs(reason)
            found[place] = 2 * memory + instruction
        return found

    def _garbage(self) -> Numbers:
        """Return 1 where garbage was noted."""
        import numpy as np

        found = np.zeros(len(self), np.int64)
        column = self._batch.column("metrics")
        if column.null_count < len(column):
            for place, text in enumerate(column.to_pylist()):
                found[place] = bool(text) and bool(msgspec.json.decode(text, type=dict).get("garbage"))
        return found

    def _latest(self) -> str:
        """Return the latest timestamp."""
        texts, times = self._batch.column("timestamp_text"), self._batch.column("timestamp")
        if texts.null_count < len(texts):
            return max(texts.to_pylist(), default="")
        return _written(max(times.to_pylist(), default=0))

    def entry(self, place: int) -> Evidence:
        """Return a whole entry."""
        return self._entry(place, {name: self._batch.column(name)[place].as_py() for name in self._names()})

    def entries(self) -> Iterator[Evidence]:
        """Iterate over all entries, whole."""
        names = self._names()
        columns = [self._batch.column(name).to_pylist() for name in names]
        for place, values in enumerate(zip(*columns, strict=True)):
            yield self._entry(place, dict(zip(names, values, strict=True)))

    def _names(self) -> list[str]:
        return [name for name in self._batch.schema.names if name not in ("claim", "claim_number", "target")]

    def _entry(self, place: int, value: dict[str, Any]) -> Evidence:
        target, claim = self.targets[place], self.claims[place]
        response = None
        if value["answered"]:
            tokens = value["token_ids"]
            response = Response(
                **{name: value[name] for name in OF_RESPONSE},
                token_ids=None if tokens is None else tuple(tokens),
                turns=tuple(value["turns"] or ()),
                facts=msgspec.json.decode(value["facts"] or "{}"),
            )
        said = value["timestamp_text"]
        return Evidence(
            id=scenario_id(target, claim),
            gate_id=claim.gate_id,
            severity=Severity(value["severity"]),
            scenario=Scenario(target=target.target, claim=claim.claim),
            outcome=Outcome(value["outcome"]),
            reason=value["reason"],
            response=response,
            metrics=msgspec.json.decode(value["metrics"] or "{}"),
            timestamp=_written(value["timestamp"]) if said is None else said,
        )


def _written(milliseconds: int) -> str:
    """Return a time as the clock of a run writes it."""
    when = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(milliseconds=milliseconds)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
