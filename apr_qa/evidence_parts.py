"""Rows of a Parquet file of evidence: columns as lists, an entry made whole when somebody asks for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from apr_qa.evidence_rows import ENCODER, Known, KnownClaim, KnownTarget, scenario_id
from apr_qa.vocabulary import Evidence, Outcome, Response, Scenario, Severity

if TYPE_CHECKING:
    import pyarrow as pa

COUNTED = (
    "text",
    "finish_reason",
    "prompt_tokens",
    "duration_s",
    "time_to_first_token_s",
    "tokens_per_s",
)
"""Columns of a response that are counted."""
RARE = ("token_ids", "vocab_size", "turns", "facts")
"""Columns that counting needs only of the entries that are kept."""
_TIMES = ("timestamp", "timestamp_text")
_SEVERITIES = {item.value: item for item in Severity}
_OUTCOMES = {item.value: item for item in Outcome}


class _Answer(msgspec.Struct, gc=False):
    """What is counted of a response, in the order of `COUNTED`."""

    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    duration_s: float | None
    time_to_first_token_s: float | None
    tokens_per_s: float | None


class _Row(msgspec.Struct, gc=False):
    """An entry without its scenario."""

    id: str
    severity: Severity
    outcome: Outcome
    reason: str
    response: _Answer | None
    metrics: dict[str, Any]
    timestamp: str


class Claims:
    """Claims by number, as far as a file was read."""

    def __init__(self) -> None:
        self.known = Known()
        self._numbered: list[KnownClaim] = []

    def at(self, number: int, text: str | None) -> KnownClaim:
        """Return the claim of a row; ``text`` is there where the number is new."""
        if text is not None:
            if number == 0:
                self._numbered.clear()
            self._numbered.append(self.known.described(text.encode()))
        return self._numbered[number]


class Part:
    """Some rows of a file, their columns as lists; rare ones are left alone until somebody asks for an entry."""

    def __init__(self, batch: pa.RecordBatch, claims: Claims) -> None:
        self._batch = batch
        self._columns = {
            n: batch.column(n).to_pylist() for n in batch.schema.names if n not in (*RARE, *_TIMES)
        }
        self.targets: list[KnownTarget] = [
            claims.known.target(text.encode()) for text in self._columns["target"]
        ]
        pairs = zip(self._columns["claim_number"], self._columns["claim"], strict=True)
        self.claims = [claims.at(number, text) for number, text in pairs]

    def __len__(self) -> int:
        return len(self.claims)

    def _time(self, place: int) -> str:
        said = self._batch.column("timestamp_text")[place].as_py()
        return _written(self._batch.column("timestamp")[place].value) if said is None else str(said)

    def latest(self) -> str:
        """Return the latest timestamp of this part."""
        texts, times = self._batch.column("timestamp_text"), self._batch.column("timestamp")
        if texts.null_count < len(texts):
            return max(texts.to_pylist(), default="")
        return _written(max(times.cast("int64").to_pylist(), default=0))

    def rows(self) -> Iterator[_Row]:
        """Iterate over what is counted of every row."""
        names = ("severity", "outcome", "reason", "metrics", "answered", *COUNTED)
        columns = [self._columns[name] for name in names]
        scenarios = zip(self.targets, self.claims, strict=True)
        for (target, claim), row in zip(scenarios, zip(*columns, strict=True), strict=True):
            severity, outcome, reason, metrics, answered, text, end, tokens, took, first, rate = row
            response = None
            if answered:
                response = _Answer(text, end, tokens, took, first, rate)
            yield _Row(
                scenario_id(target, claim),
                _SEVERITIES[severity],
                _OUTCOMES[outcome],
                reason,
                response,
                msgspec.json.decode(metrics) if metrics else {},
                "",
            )

    def entry(self, place: int) -> Evidence:
        """Return a whole entry."""
        value = {name: column[place] for name, column in self._columns.items()}
        rare = {name: self._batch.column(name)[place].as_py() for name in RARE}
        target, claim = self.targets[place], self.claims[place]
        response = None
        if value["answered"]:
            tokens = rare["token_ids"]
            known = {name: value[name] for name in COUNTED}
            response = Response(
                **known,
                token_ids=None if tokens is None else tuple(tokens),
                vocab_size=rare["vocab_size"],
                turns=tuple(rare["turns"] or ()),
                facts=msgspec.json.decode(rare["facts"] or "{}"),
            )
        return Evidence(
            id=scenario_id(target, claim),
            gate_id=claim.about.gate_id,
            severity=_SEVERITIES[value["severity"]],
            scenario=Scenario(target=target.target, claim=claim.claim),
            outcome=_OUTCOMES[value["outcome"]],
            reason=value["reason"],
            response=response,
            metrics=msgspec.json.decode(value["metrics"] or "{}"),
            timestamp=self._time(place),
        )

    def kept(self, place: int) -> Callable[[], bytes]:
        """Return what makes the line of an entry when it is to be kept."""
        return lambda: ENCODER.encode(self.entry(place))


def _written(milliseconds: int) -> str:
    """Return a time as the clock of a run writes it."""
    when = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(milliseconds=milliseconds)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
