"""Conversions between float32 and what files store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_qa.containers.byte_layout import aligned, count_elements, dominant, float_chunks, to_bf16, to_float32
from apr_qa.errors import MalformedFile, UnsupportedArchitecture, UsageError

words = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(bits=words)
def test_bf16_rounds_every_bit_pattern_as_torch_does(bits: list[int]) -> None:
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    ours = to_float32(to_bf16(values).view(np.uint8), "bf16", values.shape)
    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16).to(torch.float32).numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)


def test_bf16_ties_go_to_even_and_a_nan_in_the_low_half_survives() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x7F800001, 0xFFFFFFFF], dtype=np.uint32)
    stored = to_bf16(bits.view(np.float32))
    assert stored[:2].tolist() == [0x3F80, 0x3F82]
    assert np.isnan(to_float32(stored[2:].view(np.uint8), "bf16", (2,))).all()


def test_the_largest_float_does_not_become_infinity_in_bf16() -> None:
    with pytest.raises(UsageError, match="does not fit bf16"):
        list(float_chunks(np.array([np.finfo(np.float32).max]), "bf16", "w"))


@settings(max_examples=50, deadline=None)
@given(bits=words)
def test_f32_is_stored_bit_for_bit(bits: list[int]) -> None:
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    assert b"".join(chunk.tobytes() for chunk in float_chunks(values, "f32", "w")) == values.tobytes()


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 2**64), multiple=st.sampled_from([1, 8, 64]))
def test_alignment_is_the_next_multiple(count: int, multiple: int) -> None:
    assert aligned(count, multiple) % multiple == 0 and 0 <= aligned(count, multiple) - count < multiple


def test_shapes_beyond_any_memory_are_refused() -> None:
    assert count_elements((), "w") == 1 and count_elements((3, 0, 5), "w") == 0
    for shape in ((2**57,), (0, 2**57), (2**30, 2**30), (1,) * 33):
        with pytest.raises(MalformedFile):
            count_elements(shape, "w")


def test_the_dominant_dtype_is_that_of_the_matrices() -> None:
    sizes = {"big_vector": ("f32", (10**6,)), "a": ("f16", (4, 4)), "b": ("bf16", (5, 5))}
    assert dominant(sizes) == "bf16"
    assert dominant({"v": ("f32", (4,))}) == "f32" and dominant({}) == ""


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("f8_e4m3", "float8_e4m3fn"),
        ("f8_e5m2", "float8_e5m2"),
        ("f8_e4m3fnuz", "float8_e4m3fnuz"),
        ("f8_e5m2fnuz", "float8_e5m2fnuz"),
        ("f8_e8m0", "float8_e8m0fnu"),
    ],
)
def test_every_byte_of_an_eight_bit_float_is_what_torch_says(dtype: str, name: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(codes.copy()).view(getattr(torch, name)).float().numpy()
    assert np.array_equal(to_float32(codes, dtype, (256,)), theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", ["f4", "f6_e2m3", "c64"])
def test_a_type_without_a_float_reading_is_said_to_have_none(dtype: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=dtype):
        to_float32(np.zeros(3, np.uint8), dtype, (1,))
