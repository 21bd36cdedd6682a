"""Numbers as files hold them: block scales, packed weights, bytes in the wrong order, holes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize
from hypothesis import given
from hypothesis import strategies as st

from apr_qa.comparison import packed_rounding
from apr_qa.comparison.healthy_rounding import gguf_blocks, rounded
from apr_qa.comparison.session import open_model
from apr_qa.containers import packed_weights
from apr_qa.containers.byte_layout import to_bf16, to_float32
from apr_qa.defects import Specimen
from apr_qa.defects import _packing as packing
from apr_qa.defects._editing import editing
from apr_qa.formats import TensorInfo
from apr_qa.inspecting import block_scales, packed_scan, value_patterns


class Held:
    """A model of one tensor in memory."""

    def __init__(self, raw: np.ndarray, dtype: str, shape: tuple[int, ...]) -> None:
        self.bytes = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
        info = TensorInfo("w", "w", dtype, shape, Path("none"), 0, self.bytes.size)
        self.tensors = {"w": info}

    def raw(self, name: str) -> np.ndarray:
        return self.bytes


def _normal(rows: int = 64, columns: int = 256, scale: float = 0.02, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * scale).astype(np.float32)


# ---- block scales


@pytest.mark.parametrize(
    "dtype", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]
)
def test_every_scale_that_a_quantiser_writes_is_read_where_it_is(dtype: str) -> None:
    blocks = gguf_blocks(_normal(), dtype)
    assert blocks is not None
    model: Any = Held(blocks, dtype, (64, 256))

    facts = block_scales.scales(model)

    width = GGML_QUANT_SIZES[GGMLQuantizationType[dtype.upper()]][1]
    assert facts["wrong"] == [] and facts["scales"] % (blocks.size // width) == 0
    scales = block_scales.first_scales(model, model.tensors["w"])
    assert scales is not None
    # Anything but a scale would not lie in this narrow range.
    assert 1e-7 < np.median(np.abs(scales)) < 0.1


@pytest.mark.parametrize(
    ("dtype", "place"), [("q4_0", 0), ("q4_k", 2), ("q6_k", 208), ("q3_k", 108), ("q2_k", 82)]
)
def test_a_scale_that_is_no_number_is_found_in_its_block(dtype: str, place: int) -> None:
    blocks = gguf_blocks(_normal(), dtype)
    assert blocks is not None
    width = GGML_QUANT_SIZES[GGMLQuantizationType[dtype.upper()]][1]
    flat = blocks.reshape(-1, width).copy()
    flat[48, place : place + 2] = np.array([0x7C00], "<u2").view(np.uint8)

    facts = block_scales.scales(Held(flat, dtype, (64, 256)))  # type: ignore[arg-type]

    assert facts["wrong"] == [{"name": "w", "dtype": dtype, "count": 1, "first": 48}]


# ---- patterns


def _fault(values: np.ndarray, dtype: str) -> str:
    facts = value_patterns.patterns(Held(values, dtype, values.shape))  # type: ignore[arg-type]
    return str(facts["wrong"][0]["fault"]) if facts["wrong"] else ""


@given(
    kind=st.sampled_from(("normal", "laplace", "student", "uniform", "levels", "ternary", "ones")),
    scale=st.floats(1e-4, 50),
    seed=st.integers(0, 1000),
)
def test_plausible_weights_of_any_scale_are_not_suspected(kind: str, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (64, 256)
    drawn = {
        "normal": lambda: rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(size=shape),
        "student": lambda: rng.standard_t(2, shape),
        "uniform": lambda: rng.uniform(-1, 1, shape),
        "levels": lambda: rng.integers(-8, 8, shape) / 8.0,
        "ternary": lambda: rng.integers(-1, 2, shape).astype(float),
        "ones": lambda: 1 + 0.1 * rng.standard_normal(shape),
    }[kind]()
    values = np.asarray(drawn * scale, np.float32)

    assert _fault(values, "f32") == ""
    assert _fault(to_bf16(values).reshape(shape), "bf16") == ""
    assert _fault(values.astype("<f2"), "f16") == ""


@given(scale=st.floats(1e-3, 1), seed=st.integers(0, 1000))
def test_one_float_type_read_as_another_is_seen_at_any_scale(scale: float, seed: int) -> None:
    values = _normal(scale=scale, seed=seed)

    assert _fault(to_bf16(values).reshape(values.shape), "f16")
    assert _fault(values.astype("<f2"), "bf16")


@pytest.mark.parametrize(("dtype", "kind"), [("f32", "<f4"), ("f16", "<f2"), ("bf16", "<u2")])
def test_swapped_bytes_are_seen_in_every_float_type(dtype: str, kind: str) -> None:
    values = _normal()
    stored = to_bf16(values).reshape(values.shape) if dtype == "bf16" else values.astype(kind)

    assert _fault(stored, dtype) == ""
    assert _fault(stored.byteswap(), dtype)


def test_swapped_bytes_are_seen_in_the_scales_of_blocks() -> None:
    blocks = np.asarray(quantize(_normal(256), GGMLQuantizationType.Q8_0))

    assert not value_patterns.patterns(Held(blocks, "q8_0", (256, 256)))["wrong"]  # type: ignore[arg-type]
    swapped = blocks.reshape(-1, 2)[:, ::-1]
    assert value_patterns.patterns(Held(swapped, "q8_0", (256, 256)))["wrong"]  # type: ignore[arg-type]


def test_dead_rows_among_living_ones_are_no_fault_of_the_bytes() -> None:
    values = _normal()
    values[:24] *= 1e-25

    assert _fault(values, "f32") == ""


# ---- holes


def _holes(values: np.ndarray) -> int:
    return int(value_patterns.holes(Held(values, "f32", values.shape))["count"])  # type: ignore[arg-type]


def test_a_run_of_zeros_that_ends_inside_a_row_is_a_hole() -> None:
    values = _normal(64, 1024)
    values.reshape(-1)[5000:12000] = 0

    assert _holes(values) == 1


def test_whole_rows_of_zeros_are_none() -> None:
    values = _normal(64, 1024)
    values[5:20] = 0
    values[60:] = 0

    assert _holes(values) == 0


# ---- packed weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from tiny_models import make_llama

    return make_llama(tmp_path / "model", dtype="bf16")


_PACKS = {
    "gptq": (packing.as_gptq, {}, 0.2),
    "gptq in order": (packing.as_gptq, {"ordered": True}, 0.2),
    "gptq v2": (packing.as_gptq, {"version": 2}, 0.2),
    "fp8": (packing.as_fp8, {}, 0.04),
    "nf4": (packing.as_four_bit, {}, 0.12),
    "int8": (packing.as_eight_bit, {}, 0.02),
}


@pytest.mark.parametrize("kind", _PACKS)
def test_packed_weights_decode_to_what_was_packed(kind: str, folder: Path) -> None:
    pack, how, limit = _PACKS[kind]
    name = "model.layers.1.mlp.down_proj.weight"
    before = open_model(folder).read(name)
    with editing(Specimen(folder, "safetensors")) as image:
        pack(packing.folder(image), **how)

    model = open_model(folder)

    after = model.read(name)
    assert after.shape == before.shape == model.tensors[name].shape
    assert np.linalg.norm(after - before) < limit * np.linalg.norm(before)
    facts = packed_scan.packed(model)
    assert facts["packed"] == 14 and not facts["missing"] and not facts["wrong"]


def test_doubly_quantised_peaks_decode(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes, peaks = rng.integers(0, 16, 512), rng.integers(0, 256, 8).astype(np.uint8)
    levels = np.array(packed_rounding.NF4, np.float32)
    table = np.linspace(-1, 1, 256).astype(np.float32)
    tensors = {
        "w.weight": ("u8", (codes[0::2] << 4 | codes[1::2]).astype(np.uint8)),
        "absmax": ("u8", peaks),
        "quant_map": ("f32", levels),
        "nested_absmax": ("f32", np.array([2.0], np.float32)),
        "nested_quant_map": ("f32", table),
    }

    class Many:
        def raw(self, name: str) -> np.ndarray:
            return tensors[name][1].reshape(-1).view(np.uint8)

        def read(self, name: str) -> np.ndarray:
            return tensors[name][1].astype(np.float32)

    parts = {"weight": "w.weight", **{key: key for key in tensors if key != "w.weight"}}
    state = {"blocksize": 64, "nested_blocksize": 256, "nested_offset": 0.25}
    packed = packed_weights.Packed("w.weight", "nf4", parts, (), (16, 32), state)

    found = packed_weights.decode(Many(), packed)  # type: ignore[arg-type]

    wanted = levels[codes] * np.repeat(table[peaks] * 2 + 0.25, 64)
    np.testing.assert_allclose(found.reshape(-1), wanted, rtol=1e-6)


def test_awq_columns_are_put_back_in_order() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (4, 8)).astype(np.uint32)
    # AutoAWQ packs columns 0 2 4 6 1 3 5 7 into a word, lowest first.
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    words = sum(codes[:, column] << np.uint32(4 * place) for place, column in enumerate(order)).astype("<u4")
    tensors = {
        "qweight": Held(words, "i32", (4, 1)),
        "qzeros": Held(np.full((1, 1), 0x88888888, "<u4"), "i32", (1, 1)),
        "scales": Held(np.ones((1, 8), "<f2"), "f16", (1, 8)),
    }

    class Many:
        def __init__(self) -> None:
            self.tensors = {name: held.tensors["w"] for name, held in tensors.items()}

        def raw(self, name: str) -> np.ndarray:
            return tensors[name].bytes

        def read(self, name: str) -> np.ndarray:
            return to_float32(tensors[name].bytes, "f16", (1, 8))

    settings = {"quant_method": "awq", "bits": 4, "group_size": 4}
    packed = packed_weights.Packed("w.weight", "awq", {n: n for n in tensors}, (), (8, 4), settings)

    found = packed_weights.decode(Many(), packed)  # type: ignore[arg-type]

    np.testing.assert_array_equal(found, codes.T.astype(np.float32) - 8)


@pytest.mark.parametrize("dtype", ["gptq4g32", "fp8", "nf4", "int8"])
def test_healthy_rounding_to_packed_types_is_near_but_not_exact(dtype: str) -> None:
    values = _normal(64, 256)
    near = rounded(values, dtype)

    assert near is not None
    assert 1e-3 < np.linalg.norm(near - values) / np.linalg.norm(values) < 0.25


@pytest.mark.parametrize("dtype", ["i8", "i32", "f64", "q8_1", "q8_k", "iq2_xxs", "iq1_s", "u8"])
def test_types_that_ggml_dies_of_are_not_given_to_it(dtype: str) -> None:
    assert gguf_blocks(_normal(), dtype) is None


def test_channels_that_are_grouped_out_of_order_are_rounded_with_their_groups() -> None:
    """Loud and quiet channels alternate: in order they share a scale, and the quiet ones are lost."""
    loudness = np.tile(np.array([100.0, 1.0], np.float32), 32)
    values = np.random.default_rng(7).normal(size=(8, 64)).astype(np.float32) * loudness
    groups = np.tile(np.array([0, 1]), 32)
    quiet = values[:, 1::2]

    def lost(found: Any) -> float:
        return float(np.linalg.norm(found[:, 1::2] - quiet) / np.linalg.norm(quiet))

    in_order, grouped = (packed_rounding.rounded(values, "gptq4g32", given) for given in (None, groups))
    assert lost(grouped) < 0.25 < 0.9 < lost(in_order)


@pytest.mark.parametrize(
    "wrong", [np.full(64, -1), np.full(64, 1 << 30), np.zeros(64, np.int64), np.zeros(3, np.int64)]
)
def test_groups_that_cannot_be_are_not_believed(wrong: Any) -> None:
    values = np.random.default_rng(7).normal(size=(8, 64)).astype(np.float32)
    found = packed_rounding.rounded(values, "gptq4g32", wrong)
    assert np.array_equal(found, packed_rounding.rounded(values, "gptq4g32"))


def test_a_packed_model_states_its_groups_and_is_called_by_the_type_of_its_weights(folder: Path) -> None:
    with editing(Specimen(folder, "safetensors")) as image:
        packing.as_gptq(packing.folder(image), ordered=True)
    model = packed_weights.unpacked(open_model(folder, "safetensors"))
    name = next(name for name, info in model.tensors.items() if info.dtype.startswith("gptq"))
    stated = packed_weights.groups(model, name)
    assert stated is not None and sorted(np.bincount(stated)) == [32] * (model.tensors[name].shape[1] // 32)
    assert packed_weights.groups(model, "model.norm.weight") is None
    assert model.quantization == "gptq4g32"
