"""The SafeTensors reader refuses what the format forbids; the writer's folder loads everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from apr_qa.errors import EnvironmentFault, MalformedFile, ModelUnavailable, UsageError
from apr_qa.formats import FORMATS, ModelContent, OpenModel, sniff

FORMAT = FORMATS.get("safetensors")
BOUNDED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.bias": np.array([1.5, -2.0], dtype=np.float32),
}


def entry(dtype: str, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def raw_file(header: Any, data: bytes = b"", *, padding: bytes = b"", length: int | None = None) -> bytes:
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()) + padding
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


GOOD = raw_file({"w": entry("F32", [2], 0, 8)}, bytes(8))


def opened(path: Path, content: bytes) -> OpenModel:
    path.write_bytes(content)
    return FORMAT.open(path)


def content_of(tensors: dict[str, Any], dtype: str = "f32", **extra: Any) -> ModelContent:
    return ModelContent(
        config=extra.pop("config", {"model_type": "llama"}),
        names=tuple(tensors),
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        dtypes=dict.fromkeys(tensors, dtype),
        read=lambda name: tensors[name],
        **extra,
    )


def sharded(folder: Path) -> dict[str, str]:
    """Write two shards and their index; return the weight map."""
    weight_map = {}
    for number, (name, values) in enumerate(VALUES.items(), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        safetensors.numpy.save_file({name: values}, folder / shard)
        weight_map[name] = shard
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


# ---- header


MALFORMED = {
    "empty file": (b"", "0 of the 8 length bytes"),
    "half a length": (b"\x08\0\0", "3 of the 8 length bytes"),
    "length bomb": (raw_file(b"{}", length=2**62), "above the limit"),
    "101 MB of header announced": (raw_file(b"{}", length=101_000_000), "above the limit"),
    "cut header": (GOOD[:20], f"lacks {len(GOOD) - 8 - 20} of"),
    "cut data": (GOOD[:-3], "3 bytes of tensor data are missing"),
    "trailing bytes": (GOOD + b"x", "1 bytes follow the last tensor"),
    "no JSON": (raw_file(b"{nonsense}"), "not valid JSON"),
    "no object": (raw_file(b"[1]"), "no JSON object"),
    "not UTF-8": (raw_file(b'{"\xff\xfe": 1}'), "not valid JSON text"),
    "leading space": (raw_file(b" {}"), "no JSON object"),
    "padded with newline": (raw_file({"w": entry("F32", [], 0, 4)}, bytes(4), padding=b"\n"), "spaces only"),
    "deep nesting": (raw_file(b'{"a":' * 5000 + b"1" + b"}" * 5000), "nested"),
    "nesting below the parser's limit": (raw_file(b'{"a":' * 90 + b"1" + b"}" * 90), "nested"),
    "endless number": (raw_file(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON text"),
    "half a surrogate pair": (raw_file(b'{"a\\ud800": 1}'), "surrogate"),
    "NaN": (raw_file(b'{"a": NaN}'), "no JSON value"),
    "no tensors": (raw_file(b"{}"), "no tensors"),
    "metadata is a list": (raw_file({"__metadata__": []}), "map of strings"),
    "metadata holds a number": (raw_file({"__metadata__": {"a": 1}}), "map of strings"),
    "entry is no object": (raw_file({"w": 5}), "are needed"),
    "dtype missing": (raw_file({"w": {"shape": [], "data_offsets": [0, 0]}}), "are needed"),
    "unknown dtype": (raw_file({"w": entry("F31", [1], 0, 4)}, bytes(4)), "unknown dtype 'F31'"),
    "dtype is a list": (raw_file({"w": entry([], [1], 0, 4)}, bytes(4)), "unknown dtype"),  # type: ignore[arg-type]
    "negative dimension": (raw_file({"w": entry("F32", [-1], 0, 4)}, bytes(4)), "shape is no list"),
    "shape is a number": (raw_file({"w": entry("F32", 1, 0, 4)}, bytes(4)), "shape is no list"),
    "shape is an object": (raw_file({"w": entry("F32", {}, 0, 4)}, bytes(4)), "shape is no list"),
    "dimension is true": (raw_file({"w": entry("F32", [True], 0, 4)}, bytes(4)), "shape is no list"),
    "dimension is a fraction": (raw_file({"w": entry("F32", [1.0], 0, 4)}, bytes(4)), "shape is no list"),
    "shape overflows": (raw_file({"w": entry("F32", [2**40, 2**40], 0, 4)}, bytes(4)), "overflows"),
    "overflow hidden by a zero": (raw_file({"w": entry("F32", [0, 2**62], 0, 0)}), "overflows"),
    "too many dimensions": (raw_file({"w": entry("F32", [1] * 33, 0, 4)}, bytes(4)), "33 dimensions"),
    "three offsets": (raw_file({"w": {"dtype": "F32", "shape": [], "data_offsets": [0, 4, 4]}}), "no range"),
    "offsets reversed": (raw_file({"w": entry("F32", [1], 4, 0)}, bytes(4)), "no range"),
    "size differs from shape": (raw_file({"w": entry("F32", [3], 0, 8)}, bytes(8)), "needs 12"),
    "half a byte": (raw_file({"w": entry("F4", [3], 0, 2)}, bytes(2)), "ends within a byte"),
    "control characters": (raw_file({"a\nb": entry("U8", [1], 0, 1)}, b"1"), "control characters"),
    "endless name": (raw_file({"n" * 5000: entry("U8", [1], 0, 1)}, b"1"), "too long"),
    "gap": (raw_file({"w": entry("U8", [2], 2, 4)}, bytes(4)), "leaves a gap"),
    "overlap": (raw_file({"v": entry("U8", [3], 0, 3), "w": entry("U8", [3], 1, 4)}, bytes(4)), "overlaps"),
    "duplicate tensor": (
        raw_file(
            b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
        ),
        "'w' appears twice",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_file_against_the_rules_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    content, reason = MALFORMED[case]
    with pytest.raises(MalformedFile) as refusal:
        opened(tmp_path / "model.safetensors", content)
    assert reason in refusal.value.what


def test_the_smallest_lawful_file_opens(tmp_path: Path) -> None:
    model = opened(tmp_path / "model.safetensors", GOOD)
    assert model.read("w").tolist() == [0.0, 0.0]
    assert model.architecture == "" and model.config == {}
    assert model.metadata["problems"] == ["config.json is missing", "tokenizer.json is missing"]


def test_a_zero_sized_tensor_and_a_scalar_are_lawful(tmp_path: Path) -> None:
    header = {"empty": entry("F32", [0, 4], 0, 0), "one": entry("F64", [], 0, 8)}
    model = opened(tmp_path / "m.safetensors", raw_file(header, np.array(2.5).tobytes(), padding=b"   "))
    assert model.read("empty").shape == (0, 4) and model.read("one") == 2.5


def test_a_truncated_file_is_refused_before_allocation(tmp_path: Path) -> None:
    header = {"w": entry("F32", [2**50], 0, 2**52)}
    with pytest.raises(MalformedFile, match=f"{2**52} bytes of tensor data are missing"):
        opened(tmp_path / "model.safetensors", raw_file(header))


@BOUNDED
@given(data=st.data())
def test_a_mutated_file_is_refused_or_lawful_and_nothing_else(data: st.DataObject, tmp_path: Path) -> None:
    good = raw_file(
        {"__metadata__": {"format": "pt"}, "a": entry("BF16", [2, 2], 0, 8), "b": entry("F16", [3], 8, 14)},
        bytes(range(14)),
    )
    raw = bytearray(good[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else good)
    for _ in range(data.draw(st.integers(1, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(raw))
    try:
        model = FORMAT.open(path)
    except MalformedFile:
        return
    for name, info in model.tensors.items():
        assert model.read(name).shape == info.shape and model.raw(name).nbytes == info.size


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@BOUNDED
@given(field=st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "whole"]), value=json_values)
def test_any_json_in_any_field_is_refused_or_lawful(field: str, value: Any, tmp_path: Path) -> None:
    header: dict[str, Any] = {"w": entry("U8", [4], 0, 4)}
    header |= {"__metadata__": value} if field == "__metadata__" else {}
    header["w"] = value if field == "whole" else {**header["w"], field: value}
    try:
        model = opened(tmp_path / "model.safetensors", raw_file(header, bytes(4)))
    except MalformedFile:
        return
    assert model.raw("w").nbytes == 4


# ---- values


def test_every_dtype_reads_as_torch_reads_it(tmp_path: Path) -> None:
    import safetensors.torch

    floats = torch.tensor([[0.0, -1.5, 3.25], [448.0, 1e-3, -0.015625]])
    tensors = {
        str(dtype).removeprefix("torch."): floats.to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int16)
    }
    tensors |= {"u8": torch.tensor([0, 255], dtype=torch.uint8), "bool": torch.tensor([True, False])}
    every = torch.arange(256, dtype=torch.uint8)
    tensors |= {"e4m3": every.view(torch.float8_e4m3fn), "e5m2": every.clone().view(torch.float8_e5m2)}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    model = FORMAT.open(tmp_path)
    for name, tensor in tensors.items():
        expected = tensor.to(torch.float32).numpy()
        got = model.read(name)
        assert got.dtype == np.float32 and np.array_equal(got, expected, equal_nan=True), name


def test_a_read_tensor_is_a_copy_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    model = opened(tmp_path / "model.safetensors", GOOD)
    model.read("w")[:] = 7
    assert model.read("w").tolist() == [0.0, 0.0] and (tmp_path / "model.safetensors").read_bytes() == GOOD
    assert not model.raw("w").flags.writeable


def test_an_unknown_tensor_name_is_refused(tmp_path: Path) -> None:
    model = opened(tmp_path / "model.safetensors", GOOD)
    with pytest.raises(MalformedFile, match="no tensor is called"):
        model.read("absent")


def test_a_file_that_shrinks_after_opening_is_refused(tmp_path: Path) -> None:
    model = opened(tmp_path / "model.safetensors", GOOD)
    (tmp_path / "model.safetensors").write_bytes(GOOD[:-4])
    with pytest.raises(MalformedFile, match="4 bytes vanished"):
        model.read("w")


# ---- folders


def test_a_sharded_folder_reads_as_one_model(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "limit": [0.0, Infinity]}')
    model = FORMAT.open(tmp_path)
    assert model.architecture == "qwen2" and set(model.tensors) == set(VALUES)
    assert [file.name for file in model.files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
    ]
    for name, values in VALUES.items():
        assert np.array_equal(model.read(name), values)


def test_shards_that_are_links_into_a_blob_folder_open(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "0123abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in sharded(blobs).values():
        (snapshot / name).symlink_to(blobs / name)
    (snapshot / "model.safetensors.index.json").symlink_to(blobs / "model.safetensors.index.json")
    model = FORMAT.open(snapshot)
    assert len(model.tensors) == 2 and all(file.parent == snapshot for file in model.files)


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "C:x",
        "a\\b",
        "a\0b",
        5,
        None,
        [],
    ],
)
def test_an_index_that_leaves_its_folder_is_refused(shard: Any, tmp_path: Path) -> None:
    write_index(tmp_path, sharded(tmp_path) | {"a.weight": shard})
    with pytest.raises(MalformedFile, match="no plain file name"):
        FORMAT.open(tmp_path)


def drop_shard(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / weight_map["b.bias"]).unlink()


def list_absent(folder: Path, weight_map: dict[str, str]) -> None:
    write_index(folder, weight_map | {"c.weight": weight_map["b.bias"]})


def list_elsewhere(folder: Path, weight_map: dict[str, str]) -> None:
    write_index(folder, {name: weight_map["b.bias" if name[0] == "a" else "a.weight"] for name in weight_map})


def leave_unlisted(folder: Path, weight_map: dict[str, str]) -> None:
    shard = folder / weight_map["b.bias"]
    safetensors.numpy.save_file({"b.bias": VALUES["b.bias"], "extra": VALUES["b.bias"]}, shard)


def store_twice(folder: Path, weight_map: dict[str, str]) -> None:
    safetensors.numpy.save_file(VALUES, folder / weight_map["b.bias"])


def name_too_long(folder: Path, weight_map: dict[str, str]) -> None:
    write_index(folder, weight_map | {"b.bias": "n" * 5000 + ".safetensors"})


def empty_map(folder: Path, weight_map: dict[str, str]) -> None:
    write_index(folder, {})


def map_is_a_list(folder: Path, weight_map: dict[str, str]) -> None:
    write_index(folder, list(weight_map))


def no_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").unlink()


def second_model(folder: Path, weight_map: dict[str, str]) -> None:
    safetensors.numpy.save_file(VALUES, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop_shard, "1 shards are missing: 'model-00002-of-00002.safetensors'"),
        (list_absent, "not in the shard that the index names: 'c.weight'"),
        (list_elsewhere, "2 tensors are not in the shard"),
        (leave_unlisted, "not in the index: 'extra'"),
        (store_twice, "in an earlier shard too: 'a.weight'"),
        (name_too_long, "shards are missing"),
        (empty_map, "missing or empty"),
        (map_is_a_list, "missing or empty"),
        (no_index, "2 weight files without"),
        (second_model, "engines disagree"),
    ],
)
def test_a_folder_whose_index_is_wrong_is_refused(
    damage: Callable[[Path, dict[str, str]], None], reason: str, tmp_path: Path
) -> None:
    damage(tmp_path, sharded(tmp_path))
    with pytest.raises(MalformedFile) as refusal:
        FORMAT.open(tmp_path)
    assert reason in refusal.value.what


def test_a_folder_with_only_a_config_is_recognised_and_refused_for_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert FORMAT.matches(tmp_path)
    with pytest.raises(MalformedFile, match="no weights"):
        FORMAT.open(tmp_path)


def test_an_adapter_beside_the_weights_is_left_aside(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(GOOD)
    (tmp_path / "adapter_model.safetensors").write_bytes(GOOD)
    assert FORMAT.open(tmp_path).files == (tmp_path / "weights.safetensors",)


def test_an_index_over_a_single_file_is_lawful(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    write_index(tmp_path, {"w": "model.safetensors"})
    assert [file.name for file in FORMAT.open(tmp_path).files] == [
        "model.safetensors",
        "model.safetensors.index.json",
    ]


def test_without_an_index_the_file_with_the_usual_name_counts(tmp_path: Path) -> None:
    for name in ("consolidated", "model"):
        (tmp_path / f"{name}.safetensors").write_bytes(GOOD)
    assert FORMAT.open(tmp_path).files == (tmp_path / "model.safetensors",)


def test_what_is_not_there_is_unavailable_not_malformed(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable):
        FORMAT.open(tmp_path / "absent")


def test_recognition_goes_by_content(tmp_path: Path) -> None:
    (tmp_path / "renamed.bin").write_bytes(GOOD)
    (tmp_path / "fake.safetensors").write_bytes(b"GGUF" + bytes(60))
    assert FORMAT.matches(tmp_path / "renamed.bin") and not FORMAT.matches(tmp_path / "fake.safetensors")
    assert not FORMAT.matches(tmp_path / "absent")
    found = sniff(tmp_path / "renamed.bin")
    assert found is not None and found.name == "safetensors"


# ---- companions


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("config.json", '{\n"a": 1,\n}', "config.json:3"),
        ("config.json", "[]", "a JSON object is needed"),
        ("config.json", '{"a": 1, "a": 2}', "'a' appears twice"),
        ("tokenizer.json", "", "tokenizer.json:1"),
        ("generation_config.json", "{" * 5000, "generation_config.json"),
        ("tokenizer_config.json", '{"chat_template": 5}', "chat_template"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}', "chat_template"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
        ("special_tokens_map.json", "nope", "special_tokens_map.json:1"),
    ],
)
def test_an_unparsable_companion_is_refused_with_file_and_line(
    name: str, text: str | bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MalformedFile) as refusal:
        opened(tmp_path / "model.safetensors", GOOD)
    assert reason in str(refusal.value)


def test_the_template_file_wins_then_the_default_of_the_list(tmp_path: Path) -> None:
    listed = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert opened(tmp_path / "model.safetensors", GOOD).chat_template == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert FORMAT.open(tmp_path).chat_template == "J"
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "S"}')
    assert FORMAT.open(tmp_path).chat_template == "S"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed[:1]}))
    assert FORMAT.open(tmp_path).chat_template is None


def test_a_single_file_takes_the_companions_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    model = opened(tmp_path / "model.safetensors", GOOD)
    assert model.architecture == "llama"
    assert model.files == (tmp_path / "model.safetensors", tmp_path / "config.json")


def test_a_template_beyond_all_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apr_qa.containers.model_folder.MAX_TEMPLATE_BYTES", 3)
    (tmp_path / "chat_template.jinja").write_text("long")
    with pytest.raises(MalformedFile, match="larger than 3 bytes"):
        opened(tmp_path / "model.safetensors", GOOD)


def test_a_model_type_that_is_no_text_is_no_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ["llama"]}')
    assert opened(tmp_path / "model.safetensors", GOOD).architecture == ""


# ---- writing


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("f32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_written_folder_loads_in_transformers_and_is_equal(
    dtype: str, torch_dtype: torch.dtype, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "vocab_size": 64,
    }
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(0)
    source = LlamaForCausalLM(config)
    tensors = {name: tensor.detach().numpy() for name, tensor in source.state_dict().items()}
    FORMAT.write(tmp_path / "out", content_of(tensors, dtype, config=json.loads(config.to_json_string())))

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch_dtype
    model = FORMAT.open(tmp_path / "out")
    assert model.quantization == dtype
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as stored:
        assert set(stored.keys()) == set(tensors) and stored.metadata() == {"format": "pt"}
        for name, tensor in source.state_dict().items():
            expected = tensor.to(torch_dtype)
            assert torch.equal(stored.get_tensor(name), expected)
            assert torch.equal(loaded.state_dict()[name], expected)
            assert np.array_equal(model.read(name), expected.to(torch.float32).numpy())


def test_everything_beside_the_weights_is_written_and_read_back(tmp_path: Path) -> None:
    content = content_of(
        VALUES,
        "f16",
        config={"model_type": "llama", "torch_dtype": "float32"},
        tokenizer={"model": {"vocab": {"Ġé": 0}}},
        tokenizer_config={"eos_token": "x", "chat_template": "old"},
        generation_config={"eos_token_id": [1, 2]},
        chat_template="{{ 'ü' }}",
        lineage={"tool": "apr-qa", "source_sha256": "ab"},
    )
    FORMAT.write(tmp_path / "deep" / "out", content)
    model = FORMAT.open(tmp_path / "deep" / "out")
    assert model.config == {"model_type": "llama", "torch_dtype": "float16"}
    assert model.tokenizer == content.tokenizer and model.tokenizer_config == {"eos_token": "x"}
    assert model.generation_config == content.generation_config and model.chat_template == "{{ 'ü' }}"
    assert model.metadata == {"format": "pt", "lineage": content.lineage}
    assert model.files[0].name == "model.safetensors" and len(model.files) == 6


def test_payloads_are_aligned_and_the_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    for folder, names in (("one", list(VALUES)), ("two", list(reversed(VALUES)))):
        FORMAT.write(tmp_path / folder, content_of({name: VALUES[name] for name in names}))
    first, second = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("one", "two"))
    assert first == second
    assert all(info.offset % 8 == 0 for info in FORMAT.open(tmp_path / "one").tensors.values())


def test_a_tokenizer_without_settings_is_taken_from_its_file(tmp_path: Path) -> None:
    FORMAT.write(tmp_path / "out", content_of(VALUES, tokenizer={"model": {}}))
    assert FORMAT.open(tmp_path / "out").tokenizer_config == {"tokenizer_class": "PreTrainedTokenizerFast"}


def test_what_a_model_lacks_is_not_written(tmp_path: Path) -> None:
    FORMAT.write(tmp_path / "out", content_of(VALUES))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fails(name: str) -> Any:
        raise MalformedFile("gone", where=name)

    content = content_of(VALUES)
    broken = ModelContent(content.config, content.names, content.shapes, content.dtypes, fails)
    with pytest.raises(MalformedFile):
        FORMAT.write(tmp_path / "out", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(EnvironmentFault, match="already exists"):
        FORMAT.write(tmp_path / "out", content_of(VALUES))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


@pytest.mark.parametrize("value", [1e6, -65520.0])
def test_a_weight_that_does_not_fit_half_precision_is_not_written_as_infinity(
    value: float, tmp_path: Path
) -> None:
    tensors = {"w": np.array([[value]], dtype=np.float32)}
    with pytest.raises(UsageError, match="does not fit f16"):
        FORMAT.write(tmp_path / "out", content_of(tensors, "f16"))
    FORMAT.write(tmp_path / "out", content_of(tensors, "bf16"))


def test_infinity_and_nan_of_the_source_are_kept(tmp_path: Path) -> None:
    values = np.array([np.inf, -np.inf, np.nan, 1.0], dtype=np.float32)
    FORMAT.write(tmp_path / "out", content_of({"w": values}, "f16"))
    assert np.array_equal(FORMAT.open(tmp_path / "out").read("w"), values, equal_nan=True)


def test_a_dtype_that_the_format_lacks_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="q4_k"):
        FORMAT.write(tmp_path / "out", content_of(VALUES, "q4_k"))


def test_a_tensor_of_another_shape_than_announced_is_not_written(tmp_path: Path) -> None:
    content = content_of(VALUES)
    liar = ModelContent(
        content.config, content.names, content.shapes, content.dtypes, lambda name: np.zeros(1)
    )
    with pytest.raises(MalformedFile, match="announced"):
        FORMAT.write(tmp_path / "out", liar)


@pytest.mark.parametrize(
    ("code", "shape", "size"),
    [("F4", [4], 2), ("F6_E2M3", [4], 3), ("F6_E3M2", [8], 6), ("F8_E8M0", [3], 3), ("C64", [2], 16)],
)
def test_types_smaller_or_stranger_than_a_float_open_with_their_size(
    code: str, shape: list[int], size: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw_file({"w": entry(code, shape, 0, size)}, bytes(size)))
    assert FORMAT.open(path).tensors["w"].size == size


TOKENIZER_FAULTS = {
    "added_tokens": [{"added_tokens": 5}, {"added_tokens": [5]}, {"added_tokens": [{"id": 1}]}],
    "id": [{"added_tokens": [{"id": -1, "content": "a"}]}, {"added_tokens": [{"id": 2**40, "content": "a"}]}],
    "model": [{"model": []}, {"model": {"type": 5}}],
    "vocab": [{"model": {"vocab": {"a": "b"}}}, {"model": {"vocab": [["a"]]}}, {"model": {"vocab": "a"}}],
    "merges": [{"model": {"merges": [["a"]]}}, {"model": {"merges": [5]}}, {"model": {"merges": "a b"}}],
    "normalizer": [{"normalizer": "NFC"}],
}


@pytest.mark.parametrize("part", TOKENIZER_FAULTS)
def test_a_tokenizer_with_a_part_of_another_type_is_refused(part: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    for content in TOKENIZER_FAULTS[part]:
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(MalformedFile) as refusal:
            FORMAT.open(tmp_path)
        assert refusal.value.where == "tokenizer.json" and part in refusal.value.what
