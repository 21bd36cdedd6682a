"""Evidence in columns: the same entries as in JSON Lines, in a tenth of the space, as an Apache Parquet file.

Targets are a dictionary, a claim stands where it is asked for the first time and is a number from then on, and
ids are not stored, for they follow from both. The metadata holds the header, a hash of all ids, and the SHA-256 of
the JSON Lines that the entries are, which is what a certificate names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from apr_qa.errors import EngineMissing, EvidenceDamaged
from apr_qa.evidence_parts import WORDS, Claims, Part
from apr_qa.evidence_rows import ENCODER, Groups
from apr_qa.tally import Tally
from apr_qa.vocabulary import Claim, Evidence, EvidenceHeader, Response

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    import pyarrow as pa

SUFFIX = ".parquet"
FORMAT = "apr-qa evidence 1"
ROWS = 1 << 14
"""Rows that are written at a time: as many as are in memory."""
MOST_CLAIMS = 1 << 17
"""Claims that a number can mean; then the numbers begin anew."""
_NOTHING = (None,) * 10
"""What the columns of a response hold where there is none."""
_READ = 1 << 13
_BUFFER = 1 << 18
_TIME = "%Y-%m-%dT%H:%M:%SZ"


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
        entries = iter(entries)
        while part := [_values(entry, numbers, hashed, ids) for entry in islice(entries, ROWS)]:
            columns = dict(zip(schema.names, map(list, zip(*part, strict=True)), strict=True))
            columns["timestamp"], columns["timestamp_text"] = _times(arrow, columns["timestamp_text"])
            file.write_table(arrow.table(columns, schema=schema), row_group_size=ROWS)
            rows += len(part)
        known = Columns(FORMAT, header, rows, ids.hexdigest(), hashed.hexdigest())
        file.add_key_value_metadata({"apr_qa": ENCODER.encode(known).decode()})
    temporary.replace(path)
    return known.evidence_sha256


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


def _values(entry: Evidence, numbers: dict[bytes, int], hashed: Hash, ids: Hash) -> tuple[Any, ...]:
    """Return the values of a row in the order of the schema, hashed on the way.

    Texts and numbers alone: whole entries would keep Python looking for cycles in them, a fifth of the time.
    """
    hashed.update(ENCODER.encode(entry) + b"\n")
    ids.update(bytes.fromhex(entry.id))
    one = entry.response
    return (
        ENCODER.encode(entry.scenario.target).decode(),
        *_numbered(entry.scenario.claim, numbers),
        entry.severity.value,
        entry.outcome.value,
        entry.reason,
        one is not None,
        *(_NOTHING if one is None else _answer(one)),
        _json(entry.metrics),
        None,
        entry.timestamp,
    )


def _answer(one: Response) -> tuple[Any, ...]:
    return (
        one.text,
        one.token_ids,
        one.finish_reason,
        one.prompt_tokens,
        one.vocab_size,
        one.duration_s,
        one.time_to_first_token_s,
        one.tokens_per_s,
        one.turns or None,
        _json(one.facts),
    )


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


def _opened(path: Path, words: Sequence[str] = ()) -> Any:
    arrow = _arrow()
    try:
        return arrow.parquet.ParquetFile(path, read_dictionary=words, buffer_size=_BUFFER, pre_buffer=False)
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
            for entry in part.entries():
                hashed.update(ENCODER.encode(entry) + b"\n")
                yield entry
    if hashed.hexdigest() != known.evidence_sha256:
        raise EvidenceDamaged("the entries are not those that were written: it was edited", where=str(path))


def count(path: Path) -> tuple[EvidenceHeader, Tally, str]:
    """Return header, counted entries and SHA-256 of the JSON Lines; raises EvidenceDamaged."""
    known, tally, hashed = about(path), Tally(), hashlib.sha256()
    groups = Groups(tally)
    with _damage_named(path):
        for part in _parts_of(path):
            ids = part.ids()
            hashed.update(ids)
            tally.count(part.rows(groups, ids))
    if hashed.hexdigest() != known.ids_sha256:
        what = "a claim or a target is not the one that was written: it was edited"
        raise EvidenceDamaged(what, where=str(path))
    return known.header, tally, known.evidence_sha256


def _parts_of(path: Path) -> Iterator[Part]:
    claims = Claims()
    with _opened(path, WORDS) as file:
        for batch in file.iter_batches(batch_size=_READ, use_threads=False):
            yield Part(batch, claims)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what a column with values that nobody writes leads to into EvidenceDamaged."""
    try:
        yield
    except (
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        NotImplementedError,
        OSError,
        msgspec.MsgspecError,
    ) as error:
        raise EvidenceDamaged(f"a column cannot be read: {error!r}", where=str(path)) from error
