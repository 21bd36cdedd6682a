"""Large JSON is read piece by piece: the same content, the same refusals, and memory that is paid for."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa.containers import json_stream, json_structure, strict_json
from apr_qa.containers.memory_bill import Bill, weight
from apr_qa.containers.repeated import repeated
from apr_qa.containers.strict_json import parse_object, read_object
from apr_qa.errors import MalformedFile

texts = st.text(alphabet=st.sampled_from('ab,:"\\[]{}é🙂\n\u2028'), max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=12,
)


def _streamed(text: bytes, **options: Any) -> dict[str, Any]:
    """Parse in pieces of a few bytes, whatever the size."""
    whole: dict[str, Any] = {}
    for part, _ in strict_json.object_parts(text, "x", bill=Bill(1 << 20), **options):
        json_stream.enter(whole, part, "x")
    return whole


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "PIECE_BYTES", 8)
    monkeypatch.setattr(json_structure, "_CHUNK", 5)
    monkeypatch.setattr(json_stream, "MAX_LARGE_LEVELS", 64)


@settings(max_examples=80, deadline=None)
@given(
    value=st.dictionaries(texts, values, max_size=6),
    escaped=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    piece=st.sampled_from([1, 8, 64]),
    chunk=st.sampled_from([1, 3, 64]),
)
def test_any_object_read_in_pieces_is_what_it_is_read_at_once(
    value: dict[str, Any], escaped: bool, indent: int | None, piece: int, chunk: int
) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "PIECE_BYTES", piece)
        patch.setattr(json_structure, "_CHUNK", chunk)
        patch.setattr(json_stream, "MAX_LARGE_LEVELS", 64)
        assert _streamed(b" \n" + text + b"\t ") == value


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet='{}[]",:0a\\ ', max_size=24).map(str.encode), piece=st.sampled_from([1, 4]))
def test_what_is_no_json_is_refused_in_pieces_too(text: bytes, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "PIECE_BYTES", piece)
        patch.setattr(json_structure, "_CHUNK", piece)
        patch.setattr(json_stream, "MAX_LARGE_LEVELS", 64)
        try:
            found: Any = _streamed(text)
        except MalformedFile:
            found = None
    try:
        expected = json.loads(text, object_pairs_hook=_once)
    except ValueError:
        expected = None
    assert found == (expected if isinstance(expected, dict) else None)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("twice")
    return dict(pairs)


@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "b": 2, "c": 3, "a": 4}',
        b'{"x": {"a": 1, "b": 2, "c": 3, "a": 4}}',
        b'{"x": [[{"b": 0, "c": 1, "b": 2}]]}',
        b'{"a": [1,2,3,4,5,6,7], "\\u0061": 1}',
    ],
)
def test_a_key_that_comes_again_far_away_is_found(text: bytes) -> None:
    with pytest.raises(MalformedFile, match="appears twice"):
        _streamed(text)


@pytest.mark.usefixtures("tiny_pieces")
def test_a_fault_deep_in_a_large_text_is_told_with_its_line() -> None:
    with pytest.raises(MalformedFile) as refusal:
        _streamed(b'{\n"a": [1,\n2,\n3,\n4 5,\n6,\n7]}')
    assert refusal.value.where == "x:5"


@pytest.mark.usefixtures("tiny_pieces")
def test_depth_surrogates_and_odd_numbers_are_refused_as_in_small_texts() -> None:
    depth = strict_json.MAX_DEPTH
    assert _streamed(b'{"a":' * depth + b"1" + b"}" * depth)
    for text in (
        b'{"a":' * (depth + 1) + b"1" + b"}" * (depth + 1),
        b'{"a": ["bbbbbbbb", "\\ud83d"]}',
        b'{"a": [1111111111, Infinity]}',
    ):
        with pytest.raises(MalformedFile):
            _streamed(text)
    assert _streamed(b'{"a": [1111111111, Infinity]}', allow_nonfinite=True)["a"][1] == float("inf")


def test_a_container_that_is_large_far_down_is_refused() -> None:
    inner = b"[" + b"1," * json_stream.PIECE_BYTES + b"1]"
    for level in range(12):
        inner = b'{"k%d": %s}' % (level, inner)
    with pytest.raises(MalformedFile, match="too deeply for its size"):
        _streamed(inner)


BOMBS = {
    "empty objects": b"[" + b"{}," * 900_000 + b"1]",
    "keys": b"{" + b",".join(b'"%x":0' % n for n in range(500_000)) + b"}",
    "nested": b"[" + b"[[[[1]]]]," * 150_000 + b"1]",
    "wide text": b'"' + b"a" * 6_000_000 + "🙂".encode() + b'"',
    "many texts": b"[" + '"🙂aaaaaaa",'.encode() * 300_000 + b"1]",
    "one long number": b"9" * 5_000_000,
    "one text too long": b'"' + b"a" * (17 << 20) + b'"',
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_text_takes_more_than_twice_its_size_and_64_mib(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b'{"x": ' + BOMBS[name] + b"}")
    tracemalloc.start()
    try:
        read_object(path)
    except MalformedFile as refusal:
        assert refusal.where.startswith("tokenizer.json") and len(str(refusal)) < 400
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 2 * path.stat().st_size + (64 << 20)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_tokenizer_of_a_large_model_is_read_within_the_same_bound(
    indent: int | None, tmp_path: Path
) -> None:
    vocab = {f"Ġt{number:x}": number for number in range(65_536)}
    names = list(vocab)
    merges = [[names[n * 7 % 65_536], names[n * 13 % 65_536]] for n in range(130_000)]
    whole = {"version": "1.0", "model": {"type": "BPE", "vocab": vocab, "merges": merges}}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole, ensure_ascii=False, indent=indent), "utf-8")
    assert read_object(path) == whole
    tracemalloc.start()
    found = read_object(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found and peak <= 2 * path.stat().st_size + (64 << 20)


def test_files_of_one_folder_share_what_they_may_take() -> None:
    bill = Bill(0)
    text = b'{"a": [' + b"[]," * 450_000 + b"1]}"
    parse_object(text, "one", bill=bill)
    with pytest.raises(MalformedFile, match="more than 52 MiB of memory"):
        parse_object(text, "two", bill=bill)


@given(value=values)
@settings(max_examples=50, deadline=None)
def test_the_weight_of_a_tree_counts_every_node(value: Any) -> None:
    assert weight([value, value]) >= 2 * weight(value)
    assert weight({"a": value}) > weight(value)


@pytest.mark.parametrize("count", [3, 300_000])
def test_a_text_that_is_there_twice_is_found_among_many(count: int) -> None:
    names = [f"t{number}" for number in range(count)]
    assert repeated(names) is None
    assert repeated([*names, "t1"]) == "t1"
