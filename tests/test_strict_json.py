"""JSON that two readers could understand differently is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa.containers.strict_json import MAX_DEPTH, dump_bytes, parse_object, read_object
from apr_qa.errors import MalformedFile, ModelUnavailable

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(value=st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    assert parse_object(dump_bytes(value, indent=2), "x", allow_nonfinite=True) == value


@settings(max_examples=100, deadline=None)
@given(text=st.binary(max_size=40) | st.text(alphabet='{}[]",:0a\\ud8', max_size=20).map(str.encode))
def test_any_bytes_are_an_object_or_refused(text: bytes) -> None:
    try:
        assert isinstance(parse_object(text, "x"), dict)
    except MalformedFile as refusal:
        assert refusal.where.startswith("x")


def test_a_syntax_error_names_file_and_line() -> None:
    with pytest.raises(MalformedFile) as refusal:
        parse_object(b'{\n "a": 1\n "b": 2}', "config.json")
    assert refusal.value.where == "config.json:3"


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"x": {"b": 0, "c": 1, "b": 2}}'])
def test_a_duplicate_key_is_refused_at_any_depth(text: str) -> None:
    with pytest.raises(MalformedFile, match="appears twice"):
        parse_object(text.encode(), "x")


def test_nesting_is_bounded_whatever_the_interpreter_allows() -> None:
    lawful = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert parse_object(lawful, "x")
    for depth in (1, 10**5):
        with pytest.raises(MalformedFile, match="nested"):
            parse_object(b'{"a":' * depth + lawful + b"}" * depth, "x")


def test_a_whole_surrogate_pair_is_text_and_half_of_one_is_not() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude42"}', "x") == {"a": "🙂"}
    with pytest.raises(MalformedFile, match="surrogate"):
        parse_object(b'{"a": ["\\ud83d"]}', "x")


def test_infinity_is_accepted_only_where_asked_for() -> None:
    assert math.isinf(parse_object(b'{"a": Infinity}', "x", allow_nonfinite=True)["a"])
    with pytest.raises(MalformedFile, match="no JSON value"):
        parse_object(b'{"a": Infinity}', "x")
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_bytes({"a": math.inf})


def test_compact_output_keeps_text_readable() -> None:
    assert dump_bytes({"a": ["é", 1]}) == '{"a":["é",1]}'.encode()
    assert json.loads(dump_bytes({"a": math.inf}, indent=2)) == {"a": math.inf}


def test_a_file_that_is_absent_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnavailable):
        read_object(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"a": 1}')
    monkeypatch.setattr("apr_qa.containers.strict_json.MAX_FILE_BYTES", 7)
    with pytest.raises(MalformedFile, match="8 bytes of JSON, limit 7"):
        read_object(tmp_path / "config.json")
