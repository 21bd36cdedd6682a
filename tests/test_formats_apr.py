"""The APR reader refuses what the format forbids; the writer's files follow it byte for byte."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_llama, make_qwen2, make_qwen3

from apr_qa.containers.apr_blocks import BLOCKS, decode, encode, resolve, stored_sizes
from apr_qa.containers.apr_container import _check_footer, write_container
from apr_qa.containers.apr_metadata import in_writing_order
from apr_qa.containers.strict_json import dump_bytes
from apr_qa.errors import MalformedFile, ModelUnavailable, UsageError
from apr_qa.formats import FORMATS, ModelContent, OpenModel, sniff

FORMAT = FORMATS.get("apr")
BOUNDED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
F32, F16, Q4_K, LEGACY_Q4, LEGACY_Q8, Q4, Q8 = 0, 1, 12, 8, 9, 128, 129
Stored = tuple[str, int, tuple[int, ...], bytes]


def up64(count: int) -> int:
    return -(-count // 64) * 64


def floats(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def build(metadata: Any, tensors: list[Stored], *, footer: bool = True, **override: Any) -> bytes:
    """Build a file from the description of the format, without the writer under test.

    ``override`` replaces header fields (magic, version, flags, count, metadata_offset, metadata_size,
    index_offset, data_offset, reserved), ``entries`` (name -> offset or size) or ``index_tail``.
    """
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    index, payloads = b"", b""
    for name, code, dims, payload in tensors:
        offset = override.get("offsets", {}).get(name, len(payloads))
        size = override.get("sizes", {}).get(name, len(payload))
        encoded = name.encode("utf-8", "surrogateescape")
        index += struct.pack("<H", len(encoded)) + encoded + bytes([code, len(dims)])
        index += struct.pack(f"<{len(dims)}QQQ", *dims, offset, size)
        payloads += payload + override.get("pad", b"\0") * (up64(len(payload)) - len(payload))
    index += override.get("index_tail", b"")
    index_offset = 64 + up64(len(text))
    fields = (
        override.get("magic", b"APR\0"),
        *override.get("version", (2, 0)),
        override.get("flags", 0x0400),
        override.get("count", len(tensors)),
        override.get("metadata_offset", 64),
        override.get("metadata_size", len(text)),
        override.get("index_offset", index_offset),
        override.get("data_offset", index_offset + up64(len(index))),
    )
    start = struct.pack("<4sBBHIQIQQ", *fields)
    reserved = override.get("reserved", bytes(20))
    crc = override.get("crc", zlib.crc32(start + reserved))
    body: bytes = start + struct.pack("<I", crc) + reserved
    body += text + override.get("metadata_pad", b"\0") * (up64(len(text)) - len(text))
    body += index + bytes(up64(len(index)) - len(index)) + payloads
    return body + (struct.pack("<I", zlib.crc32(body)) if footer else b"")


W: Stored = ("w", F32, (2,), floats(1, 2))


def opened(path: Path, content: bytes) -> OpenModel:
    path.write_bytes(content)
    return FORMAT.open(path)


def content_of(model: OpenModel, dtype: str, **replaced: Any) -> ModelContent:
    fields: dict[str, Any] = {
        "config": model.config,
        "names": tuple(model.tensors),
        "shapes": {name: info.shape for name, info in model.tensors.items()},
        "dtypes": dict.fromkeys(model.tensors, dtype),
        "read": model.read,
        "tokenizer": model.tokenizer,
        "tokenizer_config": model.tokenizer_config,
        "generation_config": model.generation_config,
        "chat_template": model.chat_template,
        "lineage": {"source_sha256": "00", "source_format": "safetensors"},
    }
    return ModelContent(**(fields | replaced))


def arrays(tensors: Mapping[str, Any], dtype: str, config: dict[str, Any] | None = None) -> ModelContent:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return ModelContent(
        config or {}, tuple(tensors), shapes, dict.fromkeys(tensors, dtype), lambda name: tensors[name]
    )


# ---- the container


def golden_metadata() -> dict[str, Any]:
    return {
        "model_type": "linear_regression",
        "name": "golden-v2",
        "version": "0.0.0-golden",
        "created_at": "1700000000",
        "total_size": 0,
        "param_count": 8,
    }


@pytest.mark.parametrize(("nulls", "length"), [(False, 516), (True, 1092)])
def test_the_golden_file_has_its_published_length(nulls: bool, length: int, tmp_path: Path) -> None:
    values = {"bias": np.array([0.125]), "weights": np.array([1, 2, 0.5, -0.5, 4, -2, 0.25, 8])}
    stream = io.BytesIO()
    write_container(
        stream,
        dump_bytes(in_writing_order(golden_metadata(), nulls=nulls)),
        [(name, "f32", value.shape) for name, value in values.items()],
        lambda name: encode(values[name], "f32", name),
    )
    assert len(stream.getvalue()) == length
    model = opened(tmp_path / "golden.apr", stream.getvalue())
    assert {name: model.read(name).tolist() for name in model.tensors} == {
        name: value.tolist() for name, value in values.items()
    }
    assert model.metadata["apr"] == {"flags": 0x0400, "footer": True}
    assert model.architecture == "" and model.config == {} and model.metadata["license"] is None


def test_the_writer_follows_an_independent_reading_of_the_format(tmp_path: Path) -> None:
    tensors = {"zz": np.ones((2, 3), np.float32), "a": np.array([0.5], np.float32)}
    FORMAT.write(tmp_path / "m.apr", arrays(tensors, "f32"))
    written = (tmp_path / "m.apr").read_bytes()
    size = struct.unpack_from("<I", written, 20)[0]
    stored: list[Stored] = [("a", F32, (1,), floats(0.5)), ("zz", F32, (2, 3), floats(*[1] * 6))]
    assert written == build(written[64 : 64 + size], stored)
    assert [path.name for path in tmp_path.iterdir()] == ["m.apr"]


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no .apr file"),
    "foreign": (b"GGUF" + bytes(100), "no .apr file"),
    "magic only": (b"APR\0", "60 bytes of the header missing"),
    "APR1": (build({}, [W], magic=b"APR1"), "Whisper"),
    "APRN": (build({}, [W], magic=b"APRN"), "version 1"),
    "TSP": (b"APR\0\1\0\0\0" + bytes(69), "TSP"),
    "version": (build({}, [W], version=(3, 0)), "version 3.0"),
    "header checksum": (build({}, [W], crc=1), "header checksum"),
    "reserved": (build({}, [W], reserved=b"\1" + bytes(19)), "reserved"),
    "LZ4": (build({}, [W], flags=0x0401), "LZ4"),
    "ZSTD": (build({}, [W], flags=0x0402), "ZSTD"),
    "encrypted": (build({}, [W], flags=0x0404), "encrypted"),
    "one shard": (build({}, [W], flags=0x0410), "one shard"),
    "column-major": (build({}, [W], flags=0x0C00), "column-major"),
    "metadata elsewhere": (build({}, [W], metadata_offset=128), "metadata starts at 128"),
    "metadata bomb": (build({}, [W], metadata_size=2**32 - 1), "bytes of metadata, limit"),
    "metadata beyond the file": (build({}, [W], metadata_size=10**6), "the index starts at"),
    "index offset": (build({}, [W], index_offset=2**63), "the index starts at"),
    "data before index": (build({}, [W], data_offset=64), "cannot start at 64"),
    "data not aligned": (build({}, [W], data_offset=200), "cannot start at 200"),
    "data offset bomb": (build({}, [W], data_offset=2**62), "cannot start"),
    "data beyond the file": (build({}, [W], data_offset=128 + 6400), "before the tensor data are missing"),
    "count bomb": (build({}, [W], count=2**32 - 1), "do not fit"),
    "index cut short": (build({}, [W], count=2, index_tail=bytes([40, 0, 65, 65])), "cut short in tensor 1"),
    "index not padded with zeros": (build({}, [W], index_tail=b"x"), "not padded with zeros"),
    "a block of nothing after the index": (build({}, [W], index_tail=bytes(64)), "not padded with zeros"),
    "q4 blocks row by row": (build({}, [("w", Q4, (2, 33), bytes(72))]), "72 bytes do not fit"),
    "metadata padding": (build({}, [W], metadata_pad=b" "), "padding after the metadata"),
    "payload padding": (build({}, [W], pad=b"x"), "padding after tensor 'w'"),
    "no tensors": (build({}, []), "no tensors"),
    "unnamed": (build({}, [("", F32, (2,), floats(1, 2))]), "a name of 0 bytes"),
    "long name": (build({}, [("n" * 257, F32, (2,), floats(1, 2))]), "a name of 257 bytes"),
    "name not UTF-8": (build({}, [("\udcff", F32, (2,), floats(1, 2))]), "not UTF-8"),
    "control characters": (build({}, [("a\x00b", F32, (2,), floats(1, 2))]), "control characters"),
    "unknown dtype": (build({}, [("w", 77, (2,), floats(1, 2))]), "unknown dtype code 77"),
    "nine dimensions": (build({}, [("w", F32, (1,) * 9, floats(1))]), "9 dimensions"),
    "dimensions overflow": (build({}, [("w", F32, (2**40, 2**40), floats(1))]), "overflows"),
    "size differs": (build({}, [("w", F32, (3,), floats(1, 2))]), "do not fit dtype code 0"),
    "out of order": (build({}, [W, ("a", F32, (2,), floats(1, 2))]), "'a' is out of order"),
    "twice": (build({}, [W, W]), "'w' appears twice"),
    "overlap": (build({}, [W, ("x", F32, (2,), floats(1, 2))], offsets={"x": 0}), "overlaps"),
    "gap": (build({}, [W, ("x", F32, (2,), floats(1, 2))], offsets={"x": 128}), "are no one's"),
    "payload not aligned": (build({}, [W], offsets={"w": 4}), "no multiple of 64"),
    "extent overflow": (build({}, [W], offsets={"w": 2**64 - 64}), "are no one's"),
    "truncated": (build({}, [W], footer=False)[:-10], "truncated: 10 of"),
    "short by tail padding alone": (build({}, [W], footer=False)[:-56], "truncated: 56 of"),
    "footer wrong": (build({}, [W])[:-4] + b"abcd", "footer checksum"),
    "trailing bytes": (build({}, [W]) + b"x", "5 bytes follow the last tensor"),
    "metadata no JSON": (build(b"{,}", [W]), "not valid JSON"),
    "metadata empty": (build(b"", [W]), "not valid JSON"),
    "metadata a list": (build([], [W]), "a JSON object is needed"),
    "metadata not UTF-8": (build(b'{"\xff": 1}', [W]), "not valid JSON text"),
    "metadata nested": (build(b"[" * 10**5, [W]), "nested"),
    "metadata NaN": (build(b'{"a": NaN}', [W]), "no JSON value"),
    "duplicate key": (build(b'{"name": "a", "name": "b"}', [W]), "'name' appears twice"),
    "key and alias": (build({"hidden_size": 8, "d_model": 8}, [W]), "hidden_size and d_model"),
    "two aliases": (build({"n_layer": 1, "n_layers": 1}, [W]), "n_layers and n_layer"),
    "text for a count": (build({"hidden_size": "8"}, [W]), "hidden_size is '8', not a count"),
    "true for a count": (build({"num_layers": True}, [W]), "not a count"),
    "negative count": (build({"vocab_size": -1}, [W]), "not a count"),
    "infinite number": (build(b'{"rope_theta": 1e999}', [W]), "not a number"),
    "number for text": (build({"model_type": 5}, [W]), "not text"),
    "text for an object": (build({"hf_config": "llama"}, [W]), "not an object"),
    "text for a flag": (build({"tied_embeddings": "yes"}, [W]), "not true or false"),
    "vocabulary of numbers": (build({"tokenizer.vocabulary": [1]}, [W]), "tokenizer.vocabulary"),
    "token types": (
        build({"tokenizer.vocabulary": ["a"], "tokenizer.token_type": [1, 1]}, [W]),
        "2 items for 1",
    ),
    "negative token id": (build({"tokenizer.bos_token_id": -1}, [W]), "no token id"),
    "merge of one": (
        build({"tokenizer.vocabulary": ["a"], "tokenizer.merges": ["aa"]}, [W]),
        "is not a pair",
    ),
    "one tensor under two names": (
        build(
            {}, [("model.norm.weight", F32, (1,), floats(1)), ("output_norm.weight", F32, (1,), floats(1))]
        ),
        "are both model.norm.weight",
    ),
    "empty head that is not tied": (
        build({"tied_embeddings": False}, [("lm_head.weight", F32, (2, 2), b""), W]),
        "'lm_head.weight': 0 bytes do not fit",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_file_against_the_rules_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    content, reason = MALFORMED[case]
    with pytest.raises(MalformedFile) as refusal:
        opened(tmp_path / "model.apr", content)
    assert reason in refusal.value.what


LAWFUL = {
    "no footer": build({}, [W], footer=False),
    "alias magic": build({}, [W], magic=b"APR2"),
    "old file without layout flag": build({}, [W], flags=0),
    "signature of unknown layout after the payloads": build({}, [W], flags=0x0408, footer=False) + b"s" * 99,
    "payloads in another order than names": build(
        {}, [("a", F32, (2,), floats(3, 4)), W], offsets={"a": 64, "w": 0}
    ),
    "empty tensor that points into another payload": build(
        {},
        [("e", F32, (0,), b""), ("w", F32, (2,), floats(1, 2)), ("x", F32, (30,), bytes(120))],
        offsets={"e": 128},
    ),
    "unset keys as null": build({"hidden_size": None, "model_type": None, "special_tokens": None}, [W]),
}


@pytest.mark.parametrize("case", LAWFUL)
def test_a_lawful_variant_opens(case: str, tmp_path: Path) -> None:
    model = opened(tmp_path / "model.apr", LAWFUL[case])
    assert model.read("w").shape == (2,) and model.files == (tmp_path / "model.apr",)


def test_doubts_that_are_no_refusal_are_recorded(tmp_path: Path) -> None:
    problems = opened(tmp_path / "model.apr", LAWFUL["no footer"]).metadata["problems"]
    assert problems == ["no tokenizer is embedded", "it has no checksum of the whole file"]
    problems = opened(
        tmp_path / "model.apr", LAWFUL["signature of unknown layout after the payloads"]
    ).metadata
    assert "it is signed, and the signature cannot be checked" in problems["problems"]


def test_one_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    good = build({"name": "x"}, [W])
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(MalformedFile):
            opened(tmp_path / "model.apr", bytes(damaged))


@BOUNDED
@given(data=st.data())
def test_a_mutated_index_is_refused_or_lawful_and_nothing_else(data: st.DataObject, tmp_path: Path) -> None:
    raw = bytearray(build({"hidden_size": 8}, [("b", Q4_K, (1, 256), bytes(144)), W], footer=False))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(8, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw[40:44] = zlib.crc32(raw[:40] + raw[44:64]).to_bytes(4, "little")
    path = tmp_path / "model.apr"
    path.write_bytes(bytes(raw[: data.draw(st.integers(60, len(raw)))] if data.draw(st.booleans()) else raw))
    try:
        model = FORMAT.open(path)
    except MalformedFile:
        return
    for name, info in model.tensors.items():
        assert model.read(name).shape == info.shape and model.raw(name).nbytes == info.size


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("hidden_size", "num_heads", "num_kv_heads", "rope_theta", "rope_type", "architecture", "hf_config")
TEXT_KEYS = ("chat_template", "hf_tokenizer", "hf_tokenizer_config", "lineage", "tied_embeddings", "problems")
LIST_KEYS = (
    "vocabulary",
    "merges",
    "token_type",
    "pre_type",
    "eos_token_id",
    "add_bos_token",
    "chat_template",
)


@BOUNDED
@given(
    metadata=st.dictionaries(
        st.sampled_from([*KEYS, *TEXT_KEYS, *(f"tokenizer.{key}" for key in LIST_KEYS)]), json_values
    )
)
def test_any_json_in_the_metadata_is_refused_or_lawful(metadata: dict[str, Any], tmp_path: Path) -> None:
    rows: Stored = ("blk.0.attn_q.weight", F32, (8, 2), floats(*range(16)))
    text = json.dumps({"tokenizer.vocabulary": ["a", "b", "ab"], "architecture": "llama"} | metadata)
    try:
        model = opened(tmp_path / "model.apr", build(text.encode(), [rows]))
    except MalformedFile:
        return
    assert model.read("model.layers.0.self_attn.q_proj.weight").shape == (8, 2)
    assert isinstance(model.config, dict) and isinstance(model.tokenizer, dict | None)


def test_recognition_covers_the_family_so_that_refusals_have_reasons(tmp_path: Path) -> None:
    for number, magic in enumerate((b"APR\0", b"APR1", b"APR2", b"APRN")):
        (tmp_path / str(number)).write_bytes(magic + bytes(60))
        assert FORMAT.matches(tmp_path / str(number))
    (tmp_path / "text.apr").write_text("APR is a format")
    assert not FORMAT.matches(tmp_path / "text.apr") and not FORMAT.matches(tmp_path)
    found = sniff(tmp_path / "0")
    assert found is not None and found.name == "apr"


def test_what_is_no_file_is_unavailable_not_malformed(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.apr"):
        with pytest.raises(ModelUnavailable):
            FORMAT.open(path)


# ---- payloads


def test_an_apr_q4_block_decodes_interleaved() -> None:
    block = np.float16(0.5).tobytes() + bytes([0xF0, 0x98]) + bytes([0x88]) * 14
    values = decode(np.frombuffer(block, np.uint8), "q4", (32,))
    assert values.tolist() == [-4.0, 3.5, 0.0, 0.5] + [0.0] * 28


@pytest.mark.parametrize("scale", [np.nan, np.inf, 6.0e-5, -6.0e-5])
def test_an_unusable_q4_scale_counts_as_zero(scale: float) -> None:
    block = np.float16(scale).tobytes() + bytes([0xFF]) * 16
    assert not decode(np.frombuffer(block, np.uint8), "q4", (32,)).any()


def test_apr_q4_blocks_run_through_short_rows() -> None:
    array = np.arange(40, dtype=np.float32).reshape(2, 20)
    payload = np.frombuffer(b"".join(part.tobytes() for part in encode(array, "q4", "w")), np.uint8)
    assert np.abs(decode(payload, "q4", (2, 20)) - array).max() < 3


def test_an_apr_q8_tensor_has_one_scale() -> None:
    payload = np.frombuffer(floats(0.25) + bytes([1, 255, 127]), np.uint8)
    assert decode(payload, "q8", (3,)).tolist() == [0.25, -0.25, 31.75]
    assert decode(np.empty(0, np.uint8), "q8", (0, 3)).shape == (0, 3)


weights = st.lists(st.floats(-1000, 1000, width=32), max_size=100)


@settings(max_examples=60, deadline=None)
@given(values=weights, dtype=st.sampled_from(["q4", "q8"]))
def test_quantised_weights_come_back_within_half_a_step(values: list[float], dtype: str) -> None:
    array = np.array(values, dtype=np.float32)
    payload = np.frombuffer(b"".join(part.tobytes() for part in encode(array, dtype, "w")), np.uint8)
    assert payload.nbytes == stored_sizes(dtype, array.shape)[0]
    back = decode(payload, dtype, array.shape)
    for start in range(0, len(array), 32 if dtype == "q4" else max(len(array), 1)):
        part = slice(start, start + 32) if dtype == "q4" else slice(None)
        peak = float(np.abs(array[part]).max())
        # A q4 scale is rounded to a half, and one below 6.1e-5 counts as zero.
        step = peak / (7 if dtype == "q4" else 127)
        bound = 0.51 * step + 8 * 2**-11 * step if dtype == "q8" or step > 6.2e-5 else 7 * 6.2e-5
        assert np.abs(back[part] - array[part]).max(initial=0) <= bound + 1e-30


@pytest.mark.parametrize("dtype", ["q4", "q8"])
def test_weights_whose_scale_underflows_are_stored_as_zero(dtype: str) -> None:
    payload = b"".join(part.tobytes() for part in encode(np.array([1e-45], np.float32), dtype, "w"))
    assert decode(np.frombuffer(payload, np.uint8), dtype, (1,)).tolist() == [0.0]


@pytest.mark.parametrize("dtype", ["q4", "q8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_not_quantised(dtype: str, value: float) -> None:
    with pytest.raises(UsageError, match="not finite"):
        list(encode(np.array([value, 1.0], dtype=np.float32), dtype, "w"))


def test_a_q4_weight_beyond_the_largest_scale_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit q4"):
        list(encode(np.array([1e6], dtype=np.float32), "q4", "w"))


GGML = [name for name in BLOCKS if name != "q4"]


@pytest.mark.parametrize("dtype", GGML)
@pytest.mark.parametrize("shape", [(3, 512), (2, 300), (7,)])
def test_ggml_blocks_decode_as_the_gguf_package_does(dtype: str, shape: tuple[int, ...]) -> None:
    values, block_bytes = BLOCKS[dtype]
    rows, columns = (1, *shape)[-2:]
    per_row = -(-columns // values)
    random = np.random.default_rng(7)
    blocks = random.integers(0, 256, (rows * per_row, block_bytes), dtype=np.uint8)
    blocks[:, :4] = blocks[:, -4:] = 0x20
    flat = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[dtype.upper()]).reshape(rows, -1)
    expected = flat[:, :columns].reshape(shape)
    assert np.array_equal(decode(blocks.reshape(-1), dtype, shape), expected)


@pytest.mark.parametrize("dtype", GGML)
def test_flat_blocks_with_a_ragged_end_decode_in_one_run(dtype: str) -> None:
    values, block_bytes = BLOCKS[dtype]
    shape = (5, values // 2 + 1)
    blocks = np.random.default_rng(3).integers(0, 128, (3, block_bytes), dtype=np.uint8)
    blocks[:, :4] = blocks[:, -4:] = 0x20
    flat = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[dtype.upper()]).reshape(-1)
    expected = flat[: 5 * shape[1]].reshape(shape)
    assert np.array_equal(decode(blocks.reshape(-1), dtype, shape), expected)


@pytest.mark.parametrize("dtype", ["q4_k", "q6_k"])
def test_ragged_rows_are_told_from_flat_blocks_by_size(dtype: str, tmp_path: Path) -> None:
    block_bytes = BLOCKS[dtype][1]
    code = {"q4_k": 12, "q6_k": 14}[dtype]
    blocks = np.random.default_rng(1).integers(0, 128, (8, block_bytes), dtype=np.uint8)
    blocks[:, :4] = blocks[:, -4:] = 0x20
    flat = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[dtype.upper()])
    by_row: Stored = ("by_row", code, (2, 896), blocks.tobytes())
    by_flat: Stored = ("by_flat", code, (2, 896), blocks[:7].tobytes())
    model = opened(tmp_path / "m.apr", build({}, [by_flat, by_row]))
    assert np.array_equal(model.read("by_row"), flat.reshape(2, 1024)[:, :896])
    assert np.array_equal(model.read("by_flat"), flat[:7].reshape(2, 896))
    with pytest.raises(MalformedFile, match="do not fit"):
        opened(tmp_path / "m.apr", build({}, [("bad", code, (2, 896), blocks[:6].tobytes())]))


def test_a_code_with_two_meanings_is_read_by_its_size(tmp_path: Path) -> None:
    f64: Stored = ("a", 3, (2, 32), np.arange(64, dtype="<f8").tobytes())
    q4_1: Stored = ("b", 3, (2, 32), bytes(40))
    q5_0, q5_1 = ("c", 6, (1, 32), bytes(22)), ("e", 7, (1, 32), bytes(24))
    i8: Stored = ("d", 6, (3,), bytes([1, 255, 0]))
    u8: Stored = ("f", 7, (2,), bytes([1, 255]))
    old_q4, q8_0 = ("g", LEGACY_Q4, (1, 32), bytes(18)), ("h", LEGACY_Q4, (1, 32), bytes(34))
    old_q8: Stored = ("i", LEGACY_Q8, (2,), floats(1) + bytes([2, 3]))
    model = opened(tmp_path / "m.apr", build({}, [f64, q4_1, q5_0, i8, q5_1, u8, old_q4, q8_0, old_q8]))
    dtypes = [info.dtype for info in model.tensors.values()]
    assert dtypes == ["f64", "q4_1", "q5_0", "i8", "q5_1", "u8", "q4", "q8_0", "q8"]
    assert model.read("d").tolist() == [1, -1, 0] and model.read("f").tolist() == [1, 255]
    assert model.read("i").tolist() == [2, 3] and model.read("a")[1, 31] == 63
    assert resolve(255, (2,), 8) is None


def test_an_integer_tensor_reads_as_numbers(tmp_path: Path) -> None:
    stored: list[Stored] = [("a", 4, (2,), struct.pack("<2i", -5, 7)), ("b", 5, (1,), struct.pack("<q", -9))]
    model = opened(tmp_path / "m.apr", build({}, stored))
    assert model.read("a").tolist() == [-5, 7] and model.read("b").tolist() == [-9]


# ---- names, config, tokenizer


def test_gguf_names_become_hugging_face_names(tmp_path: Path) -> None:
    names = ("blk.10.ffn_gate_inp.weight", "blk.2.attn_k.bias", "blk.2.unheard_of.bias", "token_embd.weight")
    stored: list[Stored] = [(name, F32, (4, 2), floats(*range(8))) for name in names]
    model = opened(tmp_path / "m.apr", build({"architecture": "qwen2"}, stored))
    assert {name: info.stored_name for name, info in model.tensors.items()} == {
        "model.layers.10.mlp.gate.weight": "blk.10.ffn_gate_inp.weight",
        "model.layers.2.self_attn.k_proj.bias": "blk.2.attn_k.bias",
        "blk.2.unheard_of.bias": "blk.2.unheard_of.bias",
        "model.embed_tokens.weight": "token_embd.weight",
    }


@pytest.mark.parametrize(("rope_type", "moved"), [(None, True), (0, True), (2, False)])
def test_llama_rows_in_gguf_order_are_read_in_hugging_face_order(
    rope_type: int | None, moved: bool, tmp_path: Path
) -> None:
    metadata = {"architecture": "llama", "num_heads": 2, "num_kv_heads": 1, "rope_type": rope_type}
    stored: list[Stored] = [
        ("blk.0.attn_k.weight", F32, (4, 1), floats(0, 1, 2, 3)),
        ("blk.0.attn_q.weight", F32, (8, 1), floats(*range(8))),
        ("blk.0.attn_v.weight", F32, (4, 1), floats(0, 1, 2, 3)),
    ]
    model = opened(tmp_path / "m.apr", build(metadata, stored))
    prefix = "model.layers.0.self_attn."
    assert model.read(prefix + "k_proj.weight")[:, 0].tolist() == ([0, 2, 1, 3] if moved else [0, 1, 2, 3])
    expected = [0, 2, 1, 3, 4, 6, 5, 7] if moved else list(range(8))
    assert model.read(prefix + "q_proj.weight")[:, 0].tolist() == expected
    assert model.read(prefix + "v_proj.weight")[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("heads", ["2", 0, None, 3])
def test_rows_stay_where_the_config_does_not_say_how_they_are_grouped(heads: Any, tmp_path: Path) -> None:
    config = {"model_type": "llama", "num_attention_heads": heads, "num_key_value_heads": 1}
    stored: list[Stored] = [("blk.0.attn_q.weight", F32, (8, 1), floats(*range(8)))]
    model = opened(tmp_path / "m.apr", build({"hf_config": config}, stored))
    assert model.read("model.layers.0.self_attn.q_proj.weight")[:, 0].tolist() == list(range(8))


def test_rows_under_hugging_face_names_and_scalars_are_left_alone(tmp_path: Path) -> None:
    metadata = {"architecture": "llama", "num_heads": 2, "num_kv_heads": 1, "rope_type": 0}
    name = "model.layers.0.self_attn.q_proj.weight"
    model = opened(tmp_path / "m.apr", build(metadata, [(name, F32, (8, 1), floats(*range(8)))]))
    assert model.read(name)[:, 0].tolist() == list(range(8))
    model = opened(tmp_path / "m.apr", build(metadata, [("blk.0.attn_q.weight", F32, (), floats(5))]))
    assert model.read(name).tolist() == 5


def test_dimensions_in_gguf_order_are_reversed(tmp_path: Path) -> None:
    blocks = bytes(144 * 3)
    metadata = {"model_type": "transformer_lm_q4k", "num_hidden_layers": 1}
    stored: list[Stored] = [("output.weight", Q4_K, (256, 3), blocks)]
    content = build(metadata, stored, flags=0x0020, footer=False)
    assert opened(tmp_path / "m.apr", content).tensors["lm_head.weight"].shape == (3, 256)


def test_an_empty_tied_head_is_healthy_and_left_out(tmp_path: Path) -> None:
    stored: list[Stored] = [
        ("lm_head.weight", F32, (4, 2), b""),
        ("model.embed_tokens.weight", F32, (4, 2), floats(*range(8))),
    ]
    model = opened(tmp_path / "m.apr", build({"hidden_size": 2, "tied_embeddings": True}, stored))
    assert list(model.tensors) == ["model.embed_tokens.weight"]
    assert model.config["tie_word_embeddings"] is True


def test_a_config_is_rebuilt_from_the_documented_keys_and_their_aliases(tmp_path: Path) -> None:
    metadata = {
        "hf_model_type": "llama",
        "d_model": 64,
        "n_layers": 3,
        "n_head": 4,
        "num_key_value_heads": 2,
        "n_vocab": 100,
        "ffn_dim": 128,
        "n_ctx": 512,
        "norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tokenizer.eos_token_id": 2,
    }
    model = opened(tmp_path / "m.apr", build(metadata, [W]))
    assert model.config == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 100,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    assert model.metadata["hidden_size"] == 64 and "d_model" not in model.metadata


def test_the_embedded_config_is_preferred_and_the_documented_keys_stay_comparable(tmp_path: Path) -> None:
    metadata = {"hidden_size": 64, "hf_config": {"model_type": "qwen3", "hidden_size": 32}}
    model = opened(tmp_path / "m.apr", build(metadata, [W]))
    assert model.config == {"model_type": "qwen3", "hidden_size": 32} and model.architecture == "qwen3"
    assert model.metadata["hidden_size"] == 64 and "hf_config" not in model.metadata


@pytest.mark.parametrize(
    ("metadata", "architecture"),
    [
        ({"architecture": "Qwen2"}, "qwen2"),
        ({"model_type": "Qwen2"}, "qwen2"),
        ({"model_type": "transformer_lm_q4k"}, ""),
    ],
)
def test_the_architecture_is_the_hugging_face_name_or_empty(
    metadata: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    assert opened(tmp_path / "m.apr", build(metadata, [W])).architecture == architecture


@pytest.mark.parametrize("make", [make_llama, make_qwen2, make_qwen3])
def test_a_plain_vocabulary_is_rebuilt_into_an_equal_tokenizer(make: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    source = FORMATS.get("safetensors").open(make(tmp_path / "source"))
    FORMAT.write(tmp_path / "m.apr", content_of(source, "f32"))
    metadata = FORMAT.open(tmp_path / "m.apr").metadata
    plain = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    rebuilt = opened(tmp_path / "plain.apr", build(plain, [W]))
    assert rebuilt.tokenizer is not None and source.tokenizer is not None
    ours, theirs = (Tokenizer.from_str(json.dumps(each)) for each in (rebuilt.tokenizer, source.tokenizer))
    for text in ("The answer is 42.", "  ¼ naïve\n\n Москва 東京 🙂", "<|im_start|>user\nHi<|im_end|>"):
        assert (
            ours.encode(text, add_special_tokens=False).ids
            == theirs.encode(text, add_special_tokens=False).ids
        )
    assert rebuilt.generation_config["eos_token_id"] == metadata["tokenizer.eos_token_id"]


def test_stated_token_types_decide_what_is_special(tmp_path: Path) -> None:
    lists = {"tokenizer.vocabulary": ["a", "b", "ab", "<c>"], "tokenizer.merges": ["a b"]}
    by_shape = opened(tmp_path / "m.apr", build(lists, [W])).tokenizer
    stated = opened(tmp_path / "m.apr", build(lists | {"tokenizer.token_type": [1, 3, 1, 1]}, [W])).tokenizer
    assert by_shape is not None and stated is not None
    assert [entry["content"] for entry in by_shape["added_tokens"]] == ["<c>"]
    assert [entry["content"] for entry in stated["added_tokens"]] == ["b"]


def test_a_missing_splitting_rule_is_recorded_and_an_unknown_one_gives_no_tokenizer(tmp_path: Path) -> None:
    lists = {"tokenizer.vocabulary": ["a", "b", "ab"], "tokenizer.merges": ["a b"]}
    model = opened(tmp_path / "m.apr", build(lists, [W]))
    assert model.tokenizer is not None and "pre_type is missing" in model.metadata["problems"][0]
    twice = {"tokenizer.vocabulary": ["a", "b", "ab", "a"]}
    model = opened(tmp_path / "m.apr", build(lists | twice, [W]))
    assert model.tokenizer is None and "holds a token twice" in model.metadata["problems"][0]
    model = opened(tmp_path / "m.apr", build(lists | {"tokenizer.pre_type": "martian"}, [W]))
    assert model.tokenizer is None and "'martian' is not known" in model.metadata["problems"][0]


# ---- writing


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)]
)
@pytest.mark.parametrize("make", [make_llama, make_qwen2])
def test_a_model_written_and_read_is_the_same_model(
    make: Any, dtype: str, torch_dtype: torch.dtype, tmp_path: Path
) -> None:
    source = FORMATS.get("safetensors").open(make(tmp_path / "source"))
    FORMAT.write(tmp_path / "m.apr", content_of(source, dtype))
    model = FORMAT.open(tmp_path / "m.apr")
    assert set(model.tensors) == set(source.tensors) and model.quantization == dtype
    for name in source.tensors:
        expected = torch.from_numpy(source.read(name)).to(torch_dtype).to(torch.float32).numpy()
        assert np.array_equal(model.read(name), expected)
    stated = {"torch_dtype": str(torch_dtype).removeprefix("torch.")}
    assert model.config == source.config | stated
    assert (model.tokenizer, model.tokenizer_config) == (source.tokenizer, source.tokenizer_config)
    assert model.generation_config == source.generation_config
    assert model.chat_template == source.chat_template
    assert model.metadata["lineage"] == {"source_sha256": "00", "source_format": "safetensors"}
    assert model.metadata["original_format"] == "safetensors"
    assert "problems" not in model.metadata
    assert model.metadata["tied_embeddings"] is ("lm_head.weight" not in source.tensors)
    assert model.metadata["param_count"] == sum(source.read(name).size for name in source.tensors)


def test_the_documented_keys_say_what_the_config_says(tmp_path: Path) -> None:
    source = FORMATS.get("safetensors").open(make_qwen3(tmp_path / "source"))
    FORMAT.write(tmp_path / "stem.apr", content_of(source, "bf16"))
    raw = (tmp_path / "stem.apr").read_bytes()
    metadata = json.loads(raw[64 : 64 + struct.unpack_from("<I", raw, 20)[0]])
    config = source.config
    expected = {
        "name": "stem",
        "model_type": "qwen3",
        "architecture": "qwen3",
        "hf_architecture": "Qwen3ForCausalLM",
        "hf_model_type": "qwen3",
        "hidden_size": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "num_kv_heads": config["num_key_value_heads"],
        "head_dim": 32,
        "vocab_size": config["vocab_size"],
        "intermediate_size": config["intermediate_size"],
        "rope_theta": config["rope_theta"],
        "rope_type": 2,
        "rms_norm_eps": config["rms_norm_eps"],
        "tied_embeddings": True,
        "license": None,
        "data_source": None,
        "data_license": None,
        "chat_format": "chatml",
        "hf_config": config | {"torch_dtype": "bfloat16"},
        "hf_tokenizer": source.tokenizer,
    }
    assert {key: metadata[key] for key in expected} == expected
    documented = [key for key in metadata if key in in_writing_order({}, nulls=True)]
    assert (
        list(metadata)[: len(documented)]
        == documented
        == sorted(documented, key=list(in_writing_order({}, nulls=True)).index)
    )
    assert metadata["tokenizer.pre_type"] == "qwen2"
    vocabulary = metadata["tokenizer.vocabulary"]
    assert source.tokenizer is not None
    for entry in source.tokenizer["added_tokens"]:
        assert vocabulary[entry["id"]] == entry["content"]
    assert all(vocabulary[rank] == text for text, rank in source.tokenizer["model"]["vocab"].items())


@pytest.mark.parametrize("dtype", ["q4", "q8"])
def test_a_quantised_file_says_so(dtype: str, tmp_path: Path) -> None:
    tensors = {"a.weight": np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 48)}
    FORMAT.write(tmp_path / "m.apr", arrays(tensors, dtype))
    model = FORMAT.open(tmp_path / "m.apr")
    assert model.metadata["apr"]["flags"] == 0x0420 and model.quantization == dtype
    assert model.metadata["quantization"]["bits"] == (4 if dtype == "q4" else 8)
    assert np.abs(model.read("a.weight") - tensors["a.weight"]).max() < 0.08


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "m.apr").write_bytes(b"old")
    content = arrays({"a": np.array([1e6], dtype=np.float32)}, "f16")
    with pytest.raises(UsageError, match="does not fit f16"):
        FORMAT.write(tmp_path / "m.apr", content)
    assert (tmp_path / "m.apr").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_payload_of_another_length_than_announced_is_a_bug_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 bytes came, not 8"):
        write_container(io.BytesIO(), b"{}", [("w", "f32", (2,))], lambda name: [floats(1)])


def test_an_empty_tensor_takes_no_bytes_in_any_dtype(tmp_path: Path) -> None:
    for dtype in ("f32", "bf16", "q4", "q8"):
        FORMAT.write(tmp_path / "m.apr", arrays({"a": np.zeros((0, 3), np.float32)}, dtype))
        model = FORMAT.open(tmp_path / "m.apr")
        assert model.tensors["a"].size == 0 and model.read("a").shape == (0, 3)


def test_a_tokenizer_of_another_kind_is_embedded_whole_and_as_pieces_with_scores(tmp_path: Path) -> None:
    source = FORMATS.get("safetensors").open(make_llama(tmp_path / "source"))
    unigram = {
        "normalizer": {"type": "Martian"},
        "added_tokens": [{"id": 3, "content": "<x>"}],
        "model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁a", -1.5]]},
    }
    content = content_of(source, "f32", tokenizer=unigram, config={}, generation_config={"eos_token_id": [3]})
    FORMAT.write(tmp_path / "m.apr", content)
    model = FORMAT.open(tmp_path / "m.apr")
    assert model.tokenizer == unigram
    lists = {key: value for key, value in model.metadata.items() if key.startswith("tokenizer.")}
    assert lists == {
        "tokenizer.vocabulary": ["<unk>", "▁a", "[PAD2]", "<x>"],
        "tokenizer.vocab_size": 4,
        "tokenizer.scores": [0.0, -1.5],
        "tokenizer.model_type": "Unigram",
        "tokenizer.eos_token_id": 3,
    }


def test_numbers_that_a_config_should_not_hold_do_not_spoil_the_file(tmp_path: Path) -> None:
    source = FORMATS.get("safetensors").open(make_llama(tmp_path / "source"))
    config = {
        "pad_token_id": -1,
        "hidden_size": 64.0,
        "num_experts": -1,
        "vocab_size": 2**70,
        "architectures": {},
    }
    content = content_of(source, "f32", config=config, generation_config={})
    FORMAT.write(tmp_path / "m.apr", content)
    model = FORMAT.open(tmp_path / "m.apr")
    assert not {"hidden_size", "num_experts", "vocab_size", "hf_architecture"} & model.metadata.keys()
    assert (
        model.config == config | {"dtype": "float32"} and "tokenizer.padding_token_id" not in model.metadata
    )


def test_an_unknown_tensor_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedFile, match="no tensor is called"):
        opened(tmp_path / "m.apr", LAWFUL["no footer"]).read("absent")


def test_a_file_that_shrinks_while_it_is_verified_is_refused() -> None:
    with pytest.raises(MalformedFile, match="shrinks"):
        _check_footer(io.BytesIO(b"abc"), 10, "m.apr")


def test_what_the_format_cannot_say_is_a_usage_error(tmp_path: Path) -> None:
    value = {"a": np.zeros(1, np.float32)}
    with pytest.raises(UsageError, match="q4_k"):
        FORMAT.write(tmp_path / "m.apr", arrays(value, "q4_k"))
    with pytest.raises(UsageError, match="JSON"):
        FORMAT.write(tmp_path / "m.apr", arrays(value, "f32", {"limit": float("inf")}))
    with pytest.raises(UsageError, match="8 dimensions"):
        FORMAT.write(tmp_path / "m.apr", arrays({"a": np.zeros((1,) * 9, np.float32)}, "f32"))
    with pytest.raises(UsageError, match="256 bytes of name"):
        FORMAT.write(tmp_path / "m.apr", arrays({"n" * 300: value["a"]}, "f32"))


@pytest.mark.parametrize(
    "tokenizer",
    [{"model": [1]}, {"model": {"vocab": {"a": 10**12}}}, {"model": {"vocab": 5}}, {"added_tokens": [{}]}],
)
def test_a_tokenizer_that_is_none_is_refused_before_it_costs_anything(
    tokenizer: dict[str, Any], tmp_path: Path
) -> None:
    source = FORMATS.get("safetensors").open(make_llama(tmp_path / "source"))
    with pytest.raises(MalformedFile) as refusal:
        FORMAT.write(tmp_path / "m.apr", content_of(source, "f32", tokenizer=tokenizer))
    assert refusal.value.where == "tokenizer.json"
