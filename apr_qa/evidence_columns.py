"""Evidence in columns: the same entries as in JSON Lines, in a tenth of the space, as an Apache Parquet file.

Targets are a dictionary, a claim stands where it is asked for the first time and is a number from then on, and
ids are not stored, for they follow from both. The metadata holds the header, a hash of all ids, and the SHA-256 of
the JSON Lines that the entries are, which is what a certificate names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from apr_qa.errors import EngineMissing, EvidenceDamaged
from apr_qa.evidence_parts import COUNTED, Claims, Part
from apr_qa.evidence_rows import ENCODER
from apr_qa.tally import Tally
from apr_qa.vocabulary import Claim, Evidence, EvidenceHeader

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
FORMAT = "apr-qa evidence 1"
ROWS = 1 << 14
"""Rows that are written at a time: as many as are in memory."""
MOST_CLAIMS = 1 << 17
"""Claims that a number can mean; then the numbers begin anew."""
_READ = 1 << 13
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_OF_RESPONSE = (*COUNTED, "token_ids", "vocab_size", "turns")


class Columns(msgspec.Struct):
    """What the metadata says of a file."""

    format: str
    header: EvidenceHeader
    rows: int
    ids_sha256: str
    evidence_sha256: str
    """SHA-256 of the JSON Lines with these entries in this order."""


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EngineMissing("Parquet files need pyarrow", fix="pip install 'apr-qa[parquet]'") from error
    return pyarrow


# ---- writing


def write(path: Path, header: EvidenceHeader, entries: Iterable[Evidence]) -> str:
    """Write entries in columns; return the SHA-256 of the JSON Lines that they are."""
    arrow = _arrow()
    schema, temporary = _schema(arrow), path.with_name(f".{path.name}.part")
    hashed, ids, rows = hashlib.sha256(ENCODER.encode(header) + b"\n"), hashlib.sha256(), 0
    options = {"compression": "zstd", "compression_level": 6, "write_statistics": False}
    plain = dict.fromkeys(("claim_number", "timestamp"), "DELTA_BINARY_PACKED")
    dictionary = [name for name in schema.names if name not in (*plain, "claim", "text")]
    with arrow.parquet.ParquetWriter(
        temporary, schema, use_dictionary=dictionary, column_encoding=plain, **options
    ) as file:
        numbers: dict[bytes, int] = {}
        for part in _cut(entries):
            for entry in part:
                hashed.update(ENCODER.encode(entry) + b"\n")
                ids.update(bytes.fromhex(entry.id))
            file.write_table(arrow.table(_columns(arrow, part, numbers), schema=schema), row_group_size=ROWS)
            rows += len(part)
        known = Columns(FORMAT, header, rows, ids.hexdigest(), hashed.hexdigest())
        file.add_key_value_metadata({"apr_qa": ENCODER.encode(known).decode()})
    temporary.replace(path)
    return known.evidence_sha256


def _cut(entries: Iterable[Evidence]) -> Iterator[list[Evidence]]:
    part: list[Evidence] = []
    for entry in entries:
        part.append(entry)
        if len(part) == ROWS:
            yield part
            part = []
    if part:
        yield part


def _schema(arrow: Any) -> pa.Schema:
    words, number, measure = arrow.string(), arrow.int64(), arrow.float64()
    return arrow.schema(
        [
            ("target", words),
            ("claim_number", arrow.int32()),
            ("claim", words),
            ("severity", words),
            ("outcome", words),
            ("reason", words),
            ("answered", arrow.bool_()),
            ("text", words),
            ("token_ids", arrow.list_(number)),
            ("finish_reason", words),
            ("prompt_tokens", number),
            ("vocab_size", number),
            ("duration_s", measure),
            ("time_to_first_token_s", measure),
            ("tokens_per_s", measure),
            ("turns", arrow.list_(words)),
            ("facts", words),
            ("metrics", words),
            ("timestamp", arrow.timestamp("ms", "UTC")),
            ("timestamp_text", words),
        ]
    )


def _columns(arrow: Any, part: Sequence[Evidence], numbers: dict[bytes, int]) -> dict[str, Any]:
    given = [entry.response for entry in part]
    claims = [_numbered(entry.scenario.claim, numbers) for entry in part]
    timestamps, texts = _times(arrow, [entry.timestamp for entry in part])
    answers: dict[str, list[Any]] = {
        name: [None if one is None else getattr(one, name) for one in given] for name in _OF_RESPONSE
    }
    return {
        "target": [ENCODER.encode(entry.scenario.target).decode() for entry in part],
        "claim_number": [number for number, _ in claims],
        "claim": [text for _, text in claims],
        "severity": [entry.severity.value for entry in part],
        "outcome": [entry.outcome.value for entry in part],
        "reason": [entry.reason for entry in part],
        "answered": [one is not None for one in given],
        **answers,
        "turns": [list(one.turns) if one is not None and one.turns else None for one in given],
        "facts": [_json(one.facts) if one is not None else None for one in given],
        "metrics": [_json(entry.metrics) for entry in part],
        "timestamp": timestamps,
        "timestamp_text": texts,
    }


def _numbered(claim: Claim, numbers: dict[bytes, int]) -> tuple[int, str | None]:
    """Return the number of a claim, and the claim itself where the number is new."""
    text = ENCODER.encode(claim)
    key = hashlib.sha256(text).digest()
    number = numbers.get(key)
    if number is not None:
        return number, None
    if len(numbers) == MOST_CLAIMS:
        numbers.clear()
    numbers[key] = len(numbers)
    return numbers[key], text.decode()


def _json(value: dict[str, Any]) -> str | None:
    return ENCODER.encode(value).decode() if value else None


def _times(arrow: Any, written: list[str]) -> tuple[Any, Any]:
    """Return times as numbers, or as the texts that they are where these say more than the number."""
    from pyarrow import compute

    texts, none = arrow.array(written, arrow.string()), [None] * len(written)
    try:
        times = texts.cast(arrow.timestamp("ms", "UTC"))
        same = compute.strftime(times, _TIME).equals(texts)
    except arrow.ArrowInvalid:
        same = False
    return (times, none) if same else (none, texts)


# ---- reading


def about(path: Path) -> Columns:
    """Return what the metadata of a file says; raises EvidenceDamaged, EngineMissing without pyarrow."""
    with _opened(path) as file:
        return _about(path, file)


def _opened(path: Path) -> Any:
    arrow = _arrow()
    try:
        return arrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (OSError, arrow.ArrowInvalid) as error:
        raise EvidenceDamaged(f"not a Parquet file: {error}", where=str(path)) from error


def _about(path: Path, file: Any) -> Columns:
    said = (file.schema_arrow.metadata or {}).get(b"apr_qa") or (file.metadata.metadata or {}).get(b"apr_qa")
    try:
        known = msgspec.json.decode(said or b"null", type=Columns)
    except msgspec.DecodeError as error:
        raise EvidenceDamaged(f"no evidence of apr-qa: {error}", where=str(path)) from error
    if known.format != FORMAT or known.rows != file.metadata.num_rows:
        raise EvidenceDamaged(
            f"{known.format!r} of {known.rows} rows, there are {file.metadata.num_rows}",
            where=str(path),
            fix=f"this release reads {FORMAT!r}; export the evidence again",
        )
    return known


def stream(path: Path) -> Iterator[Evidence]:
    """Iterate over the entries; raises EvidenceDamaged in the end if they are not those that were written."""
    known = about(path)
    hashed = hashlib.sha256(ENCODER.encode(known.header) + b"\n")
    with _damage_named(path):
        for part in _parts_of(path):
            for place in range(len(part)):
                entry = part.entry(place)
                hashed.update(ENCODER.encode(entry) + b"\n")
                yield entry
    if hashed.hexdigest() != known.evidence_sha256:
        raise EvidenceDamaged("the entries are not those that were written: it was edited", where=str(path))


def count(path: Path) -> tuple[EvidenceHeader, Tally, str]:
    """Return header, counted entries and SHA-256 of the JSON Lines; raises EvidenceDamaged."""
    known, tally, ids = about(path), Tally(), hashlib.sha256()
    with _damage_named(path):
        for part in _parts_of(path):
            tally.latest = max(tally.latest, part.latest())
            for place, row in enumerate(part.rows()):
                target, claim = part.targets[place], part.claims[place]
                seen = claim.about
                groups = target.places.get(seen.traits)
                if groups is None:
                    groups = target.places[seen.traits] = tally.place(target.target, seen)
                tally.count(row, part.kept(place), groups, seen)
                ids.update(bytes.fromhex(row.id))
    if ids.hexdigest() != known.ids_sha256:
        what = "a claim or a target is not the one that was written: it was edited"
        raise EvidenceDamaged(what, where=str(path))
    return known.header, tally, known.evidence_sha256


def _parts_of(path: Path) -> Iterator[Part]:
    claims = Claims()
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=_READ, use_threads=False):
            yield Part(batch, claims)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what a column with values that nobody writes leads to into EvidenceDamaged."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, OSError, msgspec.MsgspecError) as error:
        raise EvidenceDamaged(f"a column cannot be read: {error!r}", where=str(path)) from error
