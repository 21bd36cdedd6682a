"""YAML is read as people mean it, with the line of everything, and cannot be used as a weapon."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa.playbooks import yaml_text as playbook_yaml
from apr_qa.playbooks.yaml_text import parse


def said(content: bytes, **variables: str) -> str:
    return "\n".join(f"{line}: {text}" for line, text in parse(content, variables).faults)


def test_plain_words_stay_words_and_numbers_are_numbers() -> None:
    text = b"[no, on, 12:30, 2026-01-01, true, null, ~, 1e-5, 10, -3, .5, 1_000, 0x10, 'true', '7']"
    document = parse(text, {})
    assert document.value == [
        "no", "on", "12:30", "2026-01-01", True, None, None, 1e-5, 10, -3, 0.5, "1_000", "0x10", "true", "7",
    ]  # fmt: skip
    assert document.faults == []


def test_every_value_knows_its_line() -> None:
    document = parse(b"a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n", {})
    assert [document.line(at) for at in (("a",), ("b",), ("b", 0), ("b", 1, "c"), ("b", 1, "d"))] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert document.line(("b", "list", 1, "gone")) == 4


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a: 1\nb: 2\na: 3\n", "3: a: given twice, first in line 1"),
        (b"x:\n  a: 1\n  a: 1\n", "3: x.a: given twice, first in line 2"),
        (b"a: !!python/object/apply:os.system [ls]\n", "the tag"),
        (b"a: !mine x\n", "1: the tag !mine is not allowed"),
        (b"a: !!int x\n", "1: 'x' is no number"),
        (b"? [a]\n: 1\n", "1: a key must be plain text"),
        (b"a: b: c\n", "1: not YAML: "),
        (b"a: 1\n\tb: 2\n", "2: not YAML: "),
        (b"a: *x\n", "1: not YAML: found undefined alias"),
        (b"--- 1\n--- 2\n", "2: not YAML: "),
        (b"a: \x01\n", "1: not YAML: "),
        (b"a: 1\nb: \xff\n", "2: not UTF-8"),
        (b"# nothing\n", "1: the file is empty"),
        (
            b"a: ${WHO}\n",
            "1: ${WHO} has no value: give it with --var WHO=VALUE (write $${WHO} for the text itself)",
        ),
        (b"[" * 100_000, "1: nested deeper than 32 levels"),
        (b"- " * 100_000, "1: nested deeper than 32 levels"),
        (b"a: &a [*a]\n", "1: more than 20000 values, or aliases without end"),
        (b"a: " + b"x" * (playbook_yaml.MAX_BYTES + 1), "1: larger than"),
    ],
)
def test_what_cannot_be_used_is_a_fault_with_its_line(content: bytes, fault: str) -> None:
    assert fault in said(content)


def test_an_alias_is_the_value_but_a_billion_of_them_are_a_fault() -> None:
    assert parse(b"a: &x [1, 2]\nb: *x\n", {}).value == {"a": [1, 2], "b": [1, 2]}
    levels = [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 10)]
    bomb = "\n".join(["k0: &k0 [x, x, x, x, x, x, x, x, x]", *levels])
    document = parse(bomb.encode(), {})
    assert [text for _, text in document.faults] == ["more than 20000 values, or aliases without end"]


def test_a_variable_is_replaced_as_text_and_only_where_it_stands() -> None:
    document = parse(b'a: "${X}-${Y}"\nb: $${X}\nc: $X\n', {"X": "{z: 1}", "Y": "${X}"})
    assert document.value == {"a": "{z: 1}-${X}", "b": "${X}", "c": "$X"}
    assert document.faults == []


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(value=_VALUES)
def test_what_was_dumped_is_read_back(value: object) -> None:
    document = parse(yaml.safe_dump(value, default_style='"').encode(), {})
    if not any("has no value" in text for _, text in document.faults) and "${" not in repr(value):
        assert document.value == value


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=80) | st.text("abc:-[]{}&*!|>'\"#,? \n\t$", max_size=60).map(str.encode))
def test_any_bytes_give_a_value_or_a_fault(content: bytes) -> None:
    document = parse(content, {})
    assert document.faults or document.value is None or document.lines
