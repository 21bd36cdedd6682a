"""Values are looked at as bits and blocks; what is found is what decoding all of them would find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from apr_qa.comparison.healthy_rounding import gguf_blocks
from apr_qa.containers import ggml_blocks, ggml_types
from apr_qa.containers.byte_layout import to_bf16, to_float32
from apr_qa.containers.ggml_types import BLOCKS, FILE_TYPES
from apr_qa.conversion.architectures import EMBEDDING
from apr_qa.formats import TensorInfo
from apr_qa.inspecting import living_weights, matrix_rows, tensor_scan

TYPES = {"f16": np.uint16, "bf16": np.uint16, "f32": np.uint32}
QUANTISED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")


class Held:
    """A model of one tensor in memory, which notes whether it was decoded as a whole."""

    def __init__(self, raw: np.ndarray, dtype: str, shape: tuple[int, ...], name: str = "w") -> None:
        self.bytes = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
        self.info = TensorInfo(name, name, dtype, shape, Path("none"), 0, self.bytes.size)
        self.tensors = {name: self.info}
        self.decoded = 0

    def raw(self, name: str) -> np.ndarray:
        return self.bytes

    def read(self, name: str) -> np.ndarray:
        self.decoded += 1
        if self.info.dtype in TYPES:
            return to_float32(self.bytes, self.info.dtype, self.info.shape)
        return ggml_blocks.dequantised(self.bytes, self.info.dtype).reshape(self.info.shape)


def _expected(values: np.ndarray) -> tuple[int, bool, bool]:
    """Return non-finite values, whether all are zero, and whether all are one other value."""
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    alone = not bad and bool((values == values.flat[0]).all())
    return bad, alone and values.flat[0] == 0, alone and values.flat[0] != 0


def _found(scanned: tensor_scan.Scan) -> tuple[int, bool, bool]:
    return sum(count for _, count in scanned.nonfinite), bool(scanned.all_zero), bool(scanned.constant)


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bit_patterns_tell_what_the_values_tell(dtype: str, data: st.DataObject) -> None:
    kind = TYPES[dtype]
    half = 1 << (np.iinfo(kind).bits - 1)
    special = st.sampled_from([0, half, 0x7C00, 0x7F80, 0x7BFF, 0xFC01 % (2 * half), half | 1, half - 1])
    patterns = st.one_of(special, st.integers(0, 2 * half - 1))
    bits = data.draw(arrays.arrays(kind, (4, 5), elements=patterns, fill=special))
    model: Any = Held(bits, dtype, (4, 5))

    scanned = tensor_scan.scan(model)

    values = model.read("w")
    assert _found(scanned) == _expected(values)
    assert scanned.values == 20 and scanned.matrices == 1
    if not scanned.nonfinite:
        largest = float(np.abs(values).max())
        limit = tensor_scan.LARGEST if dtype != "f16" else tensor_scan.LARGEST_HALF
        assert scanned.extreme == ((("w", largest),) if largest > limit else ())


@pytest.mark.parametrize("place", [0, 131071, 131072, 299999])
def test_one_wrong_value_is_found_wherever_it_lies(place: int) -> None:
    values = np.full(300_000, 0.01, np.float32)
    values[::2] = -0.02
    values[place] = np.inf
    assert tensor_scan.scan(Held(values, "f32", (1000, 300))).nonfinite == (("w", 1),)  # type: ignore[arg-type]
    assert tensor_scan.scan(Held(to_bf16(values), "bf16", (1000, 300))).nonfinite == (("w", 1),)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", QUANTISED)
def test_healthy_blocks_are_not_decoded_as_a_whole_and_sick_ones_are(dtype: str) -> None:
    values = (np.random.default_rng(1).standard_normal((64, 256)) * 0.02).astype(np.float32)
    blocks = gguf_blocks(values, dtype)
    assert blocks is not None
    model: Any = Held(blocks, dtype, (64, 256))
    scanned = tensor_scan.scan(model)
    assert _found(scanned) == (0, False, False) and scanned.values == values.size and not scanned.extreme
    assert model.decoded == 0

    sick = blocks.reshape(-1).copy()
    width = BLOCKS[dtype]
    sick = sick.reshape(-1, width[1])
    for at in range(width[1] - 1):  # infinity in every place where a half could be
        changed = sick.copy()
        changed[-1, at : at + 2] = (0x00, 0x7C)
        wrong: Any = Held(changed, dtype, (64, 256))
        assert _found(tensor_scan.scan(wrong)) == _expected(wrong.read("w")), at


@pytest.mark.parametrize("dtype", QUANTISED)
def test_dead_and_absurd_blocks_are_what_decoding_says(dtype: str) -> None:
    for values in (np.zeros((4, 256)), np.full((4, 256), 0.5), np.full((4, 256), 5e4)):
        blocks = gguf_blocks(values.astype(np.float32), dtype)
        if blocks is None:
            continue
        model: Any = Held(blocks, dtype, (4, 256))
        scanned = tensor_scan.scan(model)
        decoded = model.read("w")
        assert _found(scanned) == _expected(decoded)
        assert bool(scanned.extreme) == (np.abs(decoded).max() > tensor_scan.LARGEST_HALF)


@pytest.mark.parametrize("dtype", (*QUANTISED, *TYPES))
def test_some_rows_are_those_of_the_whole(dtype: str) -> None:
    values = (np.random.default_rng(2).standard_normal((40, 256)) * 0.02).astype(np.float32)
    raw = {"f32": values, "f16": values.astype(np.float16), "bf16": to_bf16(values)}.get(dtype)
    model: Any = Held(raw if raw is not None else gguf_blocks(values, dtype), dtype, (40, 256))
    whole, picked = model.read("w"), np.array([39, 0, 7])
    model.decoded = 0
    assert np.array_equal(matrix_rows.decoded(model, model.info, picked), whole[picked])
    assert model.decoded == 0


def test_pieces_decode_to_what_the_library_decodes_at_once() -> None:
    values = np.random.default_rng(3).standard_normal((1, 1 << 19)).astype(np.float32)
    for dtype in ("q8_0", "q6_k"):
        blocks = gguf_blocks(values, dtype)
        assert blocks is not None
        kind = GGMLQuantizationType[dtype.upper()]
        expected = dequantize(blocks.reshape(1, -1), kind).reshape(-1)
        assert np.array_equal(ggml_blocks.dequantised(blocks.reshape(-1), dtype), expected)


@pytest.mark.parametrize("dtype", ("f32", "f16", "bf16", "q8_0", "q4_0", "q6_k"))
def test_rows_that_are_all_zero_are_found_and_no_others(dtype: str) -> None:
    values = (np.random.default_rng(4).standard_normal((50, 512)) * 0.02).astype(np.float32)
    values[[3, 20]] = 0
    values[7, :256] = 0  # its first values say zero, the rest does not
    raw = {"f32": values, "f16": values.astype(np.float16), "bf16": to_bf16(values)}.get(dtype)
    model: Any = Held(raw if raw is not None else gguf_blocks(values, dtype), dtype, (50, 512), EMBEDDING)
    assert sorted(living_weights._zero_rows(model, EMBEDDING)) == [3, 20]
    assert model.decoded == 0


@pytest.mark.parametrize("count", [100, 9000])
def test_a_token_that_got_the_average_of_all_rows_is_found(count: int) -> None:
    values = (np.random.default_rng(5).standard_normal((count, 64)) + 0.1).astype(np.float32)
    values[5] = np.delete(values, 5, axis=0).mean(axis=0)
    model: Any = Held(values, "f32", (count, 64), EMBEDDING)
    found = living_weights._untrained(model, model.info, {"<|a|>": 5, "<|b|>": 6})
    assert found == ["<|a|>: the average of all rows"]


def test_the_tables_of_types_are_those_of_the_gguf_package() -> None:
    known = {int(kind): (kind.name.lower(), *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert known == ggml_types.TYPES
    named = {
        int(kind): kind.name.lower().split("_", 1)[1] for kind in LlamaFileType if kind.name != "GUESSED"
    }
    assert named == FILE_TYPES


@pytest.mark.parametrize(("dtype", "infinity"), [("f16", 0x7C00), ("bf16", 0x7F80), ("f32", 0x7F800000)])
@pytest.mark.parametrize(("beyond", "wrong"), [(-1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("negative", [False, True])
def test_the_largest_number_is_one_and_the_next_pattern_is_none(
    dtype: str, infinity: int, beyond: int, wrong: int, negative: bool
) -> None:
    bits = np.ones(256, TYPES[dtype])
    sign = 1 << (8 * bits.itemsize - 1)
    bits[100] = infinity + beyond + (sign if negative else 0)
    assert _found(tensor_scan.scan(Held(bits, dtype, (1, 256))))[0] == wrong  # type: ignore[arg-type]
