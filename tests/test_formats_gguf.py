"""The GGUF reader refuses what the format forbids; what is written, ggml's own tools read back the same."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_llama, make_qwen2, make_qwen3

from apr_qa.containers.gguf_header import read_header
from apr_qa.conversion.convert import content_of, convert
from apr_qa.errors import AprQaError, MalformedFile, ModelUnavailable, UnsupportedArchitecture, UsageError
from apr_qa.formats import FORMATS, OpenModel

U8, I8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 1, 4, 5, 6, 7, 8, 9, 10
Q4_0, GGML_F32, GGML_F16 = 2, 0, 1


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def array(kind: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    return struct.pack("<IQ", kind, len(items) if count is None else count) + b"".join(items)


def tensor(
    name: str | bytes = "token_embd.weight",
    dims: Sequence[int] = (8,),
    kind: int = GGML_F32,
    offset: int = 0,
    n_dims: int | None = None,
) -> bytes:
    count = len(dims) if n_dims is None else n_dims
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


ARCHITECTURE = key("general.architecture", STRING, text("toy"))


def container(
    keys: Sequence[bytes] = (ARCHITECTURE,),
    tensors: Sequence[bytes] = (tensor(),),
    data: bytes = bytes(32),
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    header = b"GGUF" + struct.pack("<IQQ", version, tensor_count & (2**64 - 1), key_count & (2**64 - 1))
    header += b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


BAD: dict[str, tuple[bytes, str]] = {
    "foreign magic": (b"FUGG" + container()[4:], "starts with"),
    "version 0": (container(version=0), "version 0 is unknown"),
    "version 1": (container(version=1), "version 1"),
    "version 4": (container(version=4), "version 4 is unknown"),
    "big-endian": (container(version=3 << 24), "big-endian"),
    "no tensors": (container(tensors=(), data=b""), "no tensors"),
    "more tensors than bytes": (container(counts=(2**40, 1)), "tensor entries need"),
    "negative tensor count": (container(counts=(-1, 1)), "impossible"),
    "more keys than bytes": (container(counts=(1, 2**40)), "metadata key entries need"),
    "string beyond the limit": (container([text("k") + struct.pack("<IQ", STRING, 2**40)]), "exceeds"),
    "string beyond the file": (container([text("k") + struct.pack("<IQ", STRING, 9999)]), "cut off"),
    "key not UTF-8": (container([key(b"\xff\xfe", U32, bytes(4))]), "not printable ASCII"),
    "empty key": (container([key("", U32, bytes(4))]), "is empty"),
    "duplicate key": (container([ARCHITECTURE, ARCHITECTURE]), "occurs twice"),
    "unknown value type": (container([key("k", 77, bytes(4))]), "unknown type 77"),
    "boolean of 7": (container([key("k", BOOL, b"\7")]), "boolean of 7"),
    "array of arrays": (container([key("k", ARRAY, array(ARRAY, [bytes(16)]))]), "contains arrays"),
    "array of unknown items": (container([key("k", ARRAY, array(99, [bytes(4)]))]), "item type 99"),
    "array beyond the limit": (container([key("k", ARRAY, array(U8, [], 2**60))]), "items"),
    "array beyond the file": (container([key("k", ARRAY, array(U64, [], 2**20))]), "cut off"),
    "strings beyond the file": (
        container([key("k", ARRAY, array(STRING, [text("ab"), struct.pack("<Q", 2**62)]))]),
        "does not fit",
    ),
    "more strings than bytes": (container([key("k", ARRAY, array(STRING, [], 2**20))]), "cut off"),
    "alignment 0": (container([key("general.alignment", U32, struct.pack("<I", 0))]), "alignment"),
    "alignment 48": (container([key("general.alignment", U32, struct.pack("<I", 48))]), "alignment"),
    "alignment 2 MiB": (container([key("general.alignment", U32, struct.pack("<I", 2 << 20))]), "alignment"),
    "alignment 4": (container([key("general.alignment", U32, struct.pack("<I", 4))]), "alignment"),
    "alignment as a signed number": (
        container([key("general.alignment", I32, struct.pack("<i", 32))]),
        "has the type 5",
    ),
    "array of booleans that are none": (
        container([key("k", ARRAY, array(BOOL, [b"\1", b"\2"]))]),
        "neither 0 nor 1",
    ),
    "control characters in a key": (container([key("a\nb", U32, bytes(4))]), "not printable ASCII"),
    "a key of 65536 bytes": (container([key("k" * 65536, U32, bytes(4))]), "exceeds 65535"),
    "a tensor name of 65 bytes": (container(tensors=[tensor("n" * 65)]), "exceeds 64"),
    "control characters in a tensor name": (container(tensors=[tensor("a\x1b[2J")]), "control characters"),
    "a token id that is a list": (
        container(
            [
                key("tokenizer.ggml.tokens", ARRAY, array(STRING, [text("a")])),
                key("tokenizer.ggml.eos_token_id", ARRAY, array(I32, [bytes(4)])),
            ]
        ),
        "no token id",
    ),
    "alignment as text": (container([key("general.alignment", STRING, text("32"))]), "alignment"),
    "tensor name not UTF-8": (container(tensors=[tensor(b"\xff")]), "is not UTF-8"),
    "no dimension": (container(tensors=[tensor(dims=())]), "0 dimensions"),
    "five dimensions": (container(tensors=[tensor(dims=(1,) * 5)]), "5 dimensions"),
    "dimension of 0": (container(tensors=[tensor(dims=(0,))]), "impossible shape"),
    "dimensions that overflow": (container(tensors=[tensor(dims=(2**40, 2**40))]), "impossible shape"),
    "unknown tensor type": (container(tensors=[tensor(kind=4)]), "unknown type 4"),
    "row no multiple of a block": (container(tensors=[tensor(dims=(48,), kind=Q4_0)]), "no multiple"),
    "offset not aligned": (container(tensors=[tensor(offset=8)], data=bytes(64)), "alignment"),
    "duplicate tensor": (container(tensors=[tensor(), tensor(offset=32)], data=bytes(64)), "occurs twice"),
    "overlapping tensors": (container(tensors=[tensor("a"), tensor("b")]), "inside the tensor"),
    "gap between tensors": (
        container(tensors=[tensor("a"), tensor("b", offset=64)], data=bytes(96)),
        "no tensor",
    ),
    "tensor beyond the file": (
        container(tensors=[tensor(dims=(16,))]),
        "32 bytes of tensor data are missing",
    ),
    "tensor far beyond the file": (container(tensors=[tensor(dims=(2**40,))]), "missing"),
    "bytes after the last tensor": (container(data=bytes(64)), "32 bytes after"),
    "same canonical name": (
        container(tensors=[tensor(), tensor("model.embed_tokens.weight", offset=32)], data=bytes(64)),
        "there twice",
    ),
    "token twice": (
        container([ARCHITECTURE, key("tokenizer.ggml.tokens", ARRAY, array(STRING, [text("a")] * 2))]),
        "'a' occurs twice",
    ),
    "tokens that are numbers": (
        container([ARCHITECTURE, key("tokenizer.ggml.tokens", ARRAY, array(U8, [b"\1"]))]),
        "not an array of strings",
    ),
    "fewer token types than tokens": (
        container(
            [
                key("tokenizer.ggml.tokens", ARRAY, array(STRING, [text("a"), text("b")])),
                key("tokenizer.ggml.token_type", ARRAY, array(I32, [bytes(4)])),
            ]
        ),
        "one per token",
    ),
    "llama without its sizes": (
        container([key("general.architecture", STRING, text("llama"))]),
        "required metadata keys are missing",
    ),
    "llama of no heads": (
        container(
            [
                key("general.architecture", STRING, text("llama")),
                key("llama.attention.head_count", U32, bytes(4)),
            ]
        ),
        "impossible value 0",
    ),
}


def open_gguf(path: Path) -> OpenModel:
    return FORMATS.get("gguf").open(path)


def written(
    folder: Path, make: Callable[..., Path] = make_llama, dtype: str = "f32", **overrides: Any
) -> Path:
    source = FORMATS.get("safetensors").open(make(folder / "source", **overrides))
    return convert(source, "gguf", folder / "model.gguf", quantization=dtype)


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_breaks_a_rule_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    content, reason = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(MalformedFile) as refusal:
        open_gguf(path)
    assert reason in refusal.value.what
    assert refusal.value.where == "bad.gguf"


def test_the_container_that_the_bad_ones_are_made_from_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(container(version=2))
    assert open_gguf(path).tensors["model.embed_tokens.weight"].shape == (8,)


@pytest.mark.parametrize(
    "name", ["more tensors than bytes", "array beyond the limit", "string beyond the limit"]
)
def test_an_unchecked_number_allocates_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(BAD[name][0])
    read_header_once_for_its_imports = tmp_path / "good.gguf"
    read_header_once_for_its_imports.write_bytes(container())
    read_header(read_header_once_for_its_imports)
    tracemalloc.start()
    with pytest.raises(MalformedFile):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = container([ARCHITECTURE, key("k", ARRAY, array(STRING, [text("a"), text("bc")]))])
    path = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(MalformedFile):
            open_gguf(path)


def test_a_truncated_file_says_how_many_bytes_are_missing(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MalformedFile, match="100 bytes of tensor data are missing"):
        open_gguf(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_to_the_header_never_escapes_as_another_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "model.gguf"
    if not path.exists():
        written(tmp_path, num_hidden_layers=1)
    content = bytearray(path.read_bytes())
    end = min(info.offset for info in read_header(path).tensors)
    for position in data.draw(st.lists(st.integers(4, end - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    try:
        model = open_gguf(damaged)
        assert model.tokenizer is None or model.tokenizer["model"]
        for name in model.tensors:
            assert model.read(name).shape == model.tensors[name].shape
    except AprQaError as refusal:
        assert refusal.what


def test_a_missing_file_and_a_folder_are_unavailable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf"):
        assert not FORMATS.get("gguf").matches(path)
        with pytest.raises(ModelUnavailable):
            open_gguf(path)


def test_tokens_that_are_not_utf8_are_reported_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    tokens = array(STRING, [text("fine"), text(b"\xff"), text("\ufffdfine")])
    path.write_bytes(container([ARCHITECTURE, key("tokenizer.ggml.tokens", ARRAY, tokens)]))
    assert read_header(path).damaged_text == {"tokenizer.ggml.tokens": (1,)}
    assert "tokenizer.ggml.tokens (1)" in open_gguf(path).metadata["problems"][0]


def test_an_unknown_architecture_opens_with_its_stored_names(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    depth = key("toy.block_count", U32, struct.pack("<I", 3))
    path.write_bytes(container([ARCHITECTURE, depth], [tensor("blk.0.ssm_conv1d.weight")]))
    model = open_gguf(path)
    assert model.architecture == "toy" and model.config["num_hidden_layers"] == 3
    assert list(model.tensors) == ["blk.0.ssm_conv1d.weight"] and model.tokenizer is None


@pytest.mark.parametrize("make", [make_llama, make_qwen2, make_qwen3])
def test_what_is_written_is_what_the_gguf_package_reads(make: Callable[..., Path], tmp_path: Path) -> None:
    path = written(tmp_path, make)
    theirs = {found.name: found for found in gguf.GGUFReader(path).tensors}
    ours = open_gguf(path)
    assert {info.stored_name for info in ours.tensors.values()} == set(theirs)
    for name, info in ours.tensors.items():
        found = theirs[info.stored_name]
        assert (info.shape, info.offset) == (tuple(reversed(found.shape.tolist())), found.data_offset)
        assert ours.raw(name).tobytes() == found.data.tobytes()


@pytest.mark.parametrize("make", [make_llama, make_qwen2, make_qwen3])
def test_the_config_comes_back_from_the_metadata(make: Callable[..., Path], tmp_path: Path) -> None:
    ours = open_gguf(written(tmp_path, make))
    source = FORMATS.get("safetensors").open(tmp_path / "source")
    absent = {"initializer_range", "use_cache", "torch_dtype", "use_sliding_window"}
    assert {key: ours.config.get(key) for key in source.config if key not in absent} == {
        key: value for key, value in source.config.items() if key not in absent
    }
    assert ours.config["head_dim"] == (32 if make is make_qwen3 else 16)


def test_rows_of_q_and_k_are_in_pairs_in_a_llama_file_and_in_halves_outside(tmp_path: Path) -> None:
    ours = open_gguf(written(tmp_path, attention_bias=True))
    source = FORMATS.get("safetensors").open(tmp_path / "source")
    for projection, heads in (("q_proj", 4), ("k_proj", 2)):
        for part in ("weight", "bias"):
            name = f"model.layers.1.self_attn.{projection}.{part}"
            stored = ours.raw(name).view("<f4").reshape(source.tensors[name].shape)
            expected = source.read(name)
            # Row 2i of a head is row i of its first half, row 2i+1 is row i of its second half.
            first, second = stored.reshape(heads, 8, 2, -1)[:, :, 0], stored.reshape(heads, 8, 2, -1)[:, :, 1]
            halves = np.concatenate([first, second], axis=1).reshape(expected.shape)
            assert not np.array_equal(stored, expected)
            assert np.array_equal(halves, expected)
            assert np.array_equal(ours.read(name), expected)


def test_qwen_rows_keep_their_order(tmp_path: Path) -> None:
    ours = open_gguf(written(tmp_path, make_qwen2))
    name = "model.layers.0.self_attn.q_proj.bias"
    assert np.array_equal(ours.raw(name).view("<f4"), ours.read(name))


@pytest.mark.parametrize(("dtype", "error"), [("f16", 5e-4), ("bf16", 4e-3), ("q8_0", 1e-2)])
def test_a_storage_type_costs_what_its_width_says(dtype: str, error: float, tmp_path: Path) -> None:
    ours = open_gguf(written(tmp_path, dtype=dtype))
    source = FORMATS.get("safetensors").open(tmp_path / "source")
    assert ours.quantization == dtype
    for name, info in ours.tensors.items():
        assert info.dtype == (dtype if len(info.shape) == 2 else "f32")
        expected = source.read(name)
        assert np.linalg.norm(ours.read(name) - expected) <= error * np.linalg.norm(expected)


def test_a_row_that_q8_0_blocks_do_not_divide_is_stored_as_f16(tmp_path: Path) -> None:
    ours = open_gguf(written(tmp_path, dtype="q8_0", intermediate_size=80))
    assert ours.tensors["model.layers.0.mlp.down_proj.weight"].dtype == "f16"
    assert ours.tensors["model.layers.0.mlp.up_proj.weight"].dtype == "q8_0"


def test_a_dtype_that_is_not_written_is_a_usage_error_and_leaves_nothing(tmp_path: Path) -> None:
    source = FORMATS.get("safetensors").open(make_llama(tmp_path / "source"))
    content = content_of(source, "q4_k", {})
    with pytest.raises(UsageError, match="'q4_k' is not written"):
        FORMATS.get("gguf").write(tmp_path / "model.gguf", content)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_writer_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    source = FORMATS.get("safetensors").open(make_llama(tmp_path / "source"))

    def torn(name: str) -> Any:
        if name == "model.norm.weight":
            raise MalformedFile("torn")
        return source.read(name)

    content = dataclasses.replace(content_of(source, "f16", {}), read=torn)
    with pytest.raises(MalformedFile, match="torn"):
        FORMATS.get("gguf").write(tmp_path / "model.gguf", content)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_finite_weight_that_does_not_fit_f16_is_refused(tmp_path: Path) -> None:
    source = FORMATS.get("safetensors").open(make_llama(tmp_path / "source"))
    content = content_of(source, "f16", {})
    huge = dataclasses.replace(content, read=lambda name: source.read(name) * np.float32(1e6))
    with pytest.raises(UsageError, match="does not fit f16"):
        FORMATS.get("gguf").write(tmp_path / "model.gguf", huge)


def test_a_file_type_that_the_tensors_do_not_bear_out_is_not_believed(tmp_path: Path) -> None:
    path = written(tmp_path, dtype="f16")
    claim = key("general.file_type", U32, struct.pack("<I", 1))
    lie = key("general.file_type", U32, struct.pack("<I", 15))
    assert path.read_bytes().count(claim) == 1
    path.write_bytes(path.read_bytes().replace(claim, lie))
    assert open_gguf(path).quantization == "f16"


def test_a_first_split_of_metadata_alone_is_healthy(tmp_path: Path) -> None:
    def split(number: int, *more: bytes) -> list[bytes]:
        return [
            ARCHITECTURE,
            key("split.count", 2, struct.pack("<H", 2)),
            key("split.no", 2, struct.pack("<H", number)),
            *more,
        ]

    first, second = (tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    first.write_bytes(container(split(0), tensors=(), data=b"", alignment=1))
    second.write_bytes(container(split(1)))
    assert len(open_gguf(first).tensors) == 1
    second.write_bytes(container(split(1), tensors=(), data=b""))
    with pytest.raises(MalformedFile, match="no tensors"):
        open_gguf(first)


def test_numbered_splits_are_one_model(tmp_path: Path) -> None:
    count = [key("split.count", I32, struct.pack("<i", 2))]
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    first.write_bytes(container([ARCHITECTURE, *count]))
    with pytest.raises(MalformedFile, match="1 of 2 splits are missing"):
        open_gguf(first)
    second.write_bytes(container(count, [tensor("output.weight")]))
    model = open_gguf(first)
    assert model.files == (first, second) and set(model.tensors) == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }
    with pytest.raises(MalformedFile, match="one of 2 splits"):
        open_gguf(second)
    second.write_bytes(container(count, [tensor()]))
    with pytest.raises(MalformedFile, match="there twice"):
        open_gguf(first)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256},
        {
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 8192,
        },
    ],
)
def test_a_rotary_scaling_comes_back(scaling: dict[str, Any], tmp_path: Path) -> None:
    ours = open_gguf(written(tmp_path, rope_scaling=scaling))
    assert ours.config["rope_scaling"] == scaling
    assert "rope_freqs.weight" not in ours.tensors


def test_frequency_factors_of_an_unknown_formula_do_not_convert(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 77}
    ours = open_gguf(written(tmp_path, rope_scaling=scaling, rope_theta=500000.0))
    with pytest.raises(UnsupportedArchitecture, match="unknown frequency factors"):
        convert(ours, "safetensors", tmp_path / "back")
