"""Files made to harm whoever reads them end as an answer: soon, in little memory, and outside of our process."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import seeds
from tiny_models import make_llama

from apr_qa import asking, confinement
from apr_qa.errors import AprQaError, InferenceFailed, MalformedFile, ModelUnavailable, UsageError
from apr_qa.formats import FORMATS
from apr_qa.inference import chat_template
from apr_qa.inference.chat_template import ForbiddenTemplate, RenderingLimit, render
from apr_qa.inspecting import inspection
from apr_qa.resolve import resolve
from apr_qa.vocabulary import Artifact, Evidence, Model, Outcome

USER = [{"role": "user", "content": "hi"}]
WHOLE: dict[str, Callable[[], bytes]] = {
    "safetensors": lambda: seeds.safetensors(*seeds.safetensors_parts()),
    "gguf": lambda: seeds.gguf_parts().build(),
    "apr": lambda: seeds.apr_parts().build(),
}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("healthy") / "model")


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    shutil.copytree(healthy, tmp_path / "model")
    return tmp_path / "model"


# ---- limits of a child


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("none", 0),
        ("0", 0),
        ("1024", 1024),
        ("2k", 2048),
        ("1.5G", 3 << 29),
        ("512 MiB", 512 << 20),
        ("1TB", 1 << 40),
    ],
)
def test_the_limit_can_be_stated_in_the_environment(
    text: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(confinement.LIMIT_VARIABLE, text)
    assert confinement.stated_limit() == expected
    if expected is not None:
        assert confinement.reading_limit([]) == confinement.running_limit(gpu=True) == expected


@pytest.mark.parametrize("text", ["much", "-1", "8 X", "8GG", "9" * 30, "1e9"])
def test_a_limit_that_is_none_is_a_usage_error_before_any_file_is_touched(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(confinement.LIMIT_VARIABLE, text)
    with pytest.raises(UsageError, match="no amount of memory"):
        asking.ask(Artifact(format="gguf", path=str(tmp_path / "x.gguf")), "header")


def test_limits_grow_with_the_file_and_stay_below_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 100 << 20)
    small, large = confinement.reading_limit([]), confinement.reading_limit([str(path)])
    assert small <= large <= confinement.machine_memory()
    assert 0 < confinement.running_limit(gpu=False) <= confinement.machine_memory()
    os.truncate(path, 1 << 40)
    assert confinement.reading_limit([str(path)]) < confinement.machine_memory()


def test_a_file_that_takes_more_memory_than_allowed_crashes_its_worker_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    elements = 200 << 20
    # Plain halves are looked at where they lie; bytes of this type have to be decoded.
    header = {"a.weight": {"dtype": "F8_E4M3", "shape": [2, elements // 2], "data_offsets": [0, elements]}}
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(seeds.safetensors(header, b""))
    os.truncate(weights, weights.stat().st_size + elements)
    monkeypatch.setenv(confinement.LIMIT_VARIABLE, "500M")
    facts = asking.ask(Artifact(format="safetensors", path=str(tmp_path / "model")), "finite")
    assert facts["error"].startswith("memory limit exceeded (500 MiB; APR_QA_MEMORY_LIMIT moves it)")


def test_a_limit_that_not_even_the_engine_fits_is_crashed_evidence_for_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(confinement.LIMIT_VARIABLE, "20M")
    first, *others = inspection.inspect(folder).evidence
    assert first.outcome is Outcome.CRASHED and "memory limit exceeded" in first.reason
    assert all(entry.outcome is Outcome.INCONCLUSIVE for entry in others)


def test_a_worker_leaves_no_core_file_and_has_a_limit() -> None:
    code = (
        "import resource; from apr_qa import confinement; confinement.confine(1 << 30); "
        "print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_DATA))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["(0,", "0)", "(1073741824,", "1073741824)"]


@pytest.mark.parametrize(
    "words", ["MemoryError", "terminate called: std::bad_alloc", "memory allocation of 4096 bytes failed"]
)
def test_native_deaths_of_memory_are_recognised(words: str) -> None:
    assert confinement.died_of_memory(words)


def test_other_last_words_are_not_taken_for_a_lack_of_memory() -> None:
    assert not confinement.died_of_memory("Segmentation fault in memory.py; GGML_ASSERT failed")


# ---- templates

BOMBS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a filter that pads": "{{ 'a'|center(1000000000) }}",
    "a format": "{{ '%1000000000d'|format(1) }}",
    "a method": "{{ 'a'.ljust(10000000000) }}",
    "doubling text": "{% set ns=namespace(x='a'*9999) %}{% for i in range(60) %}{% set ns.x=ns.x ~ ns.x %}{% endfor %}",
    "doubling lists": "{% set ns=namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "a batch": "{{ 'x'|batch(1000000000, 'a')|list }}",
    "lorem ipsum": "{{ lipsum(n=1000000) }}",
    "a filter that indents": "{% filter indent(1000000000) %}a\nb{% endfilter %}",
    "output": "{% for i in range(90000) %}{{ 'a' * 99 }}{% endfor %}",
}
BROKEN = {
    "a range beyond all measure": "{% for i in range(1000000000) %}{% endfor %}",
    "a list of a range": "{{ range(99999999)|list }}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "signs": "{{ " + "-" * 50000 + "1 }}",
    "blocks in blocks": "{% if true %}" * 2000 + "{% endif %}" * 2000,
    "loops in loops": "{% for i in 'ab' %}" * 40 + "{% endfor %}" * 40,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_wants_too_much_is_a_limit_that_was_hit(name: str) -> None:
    with pytest.raises(RenderingLimit):
        render(BOMBS[name], USER, special_tokens={})


@pytest.mark.parametrize("name", BROKEN)
def test_a_template_that_is_nested_or_counts_beyond_measure_is_a_clean_error(name: str) -> None:
    with pytest.raises(InferenceFailed):
        render(BROKEN[name], USER, special_tokens={})


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''|attr('__class__') }}",
        "{{ 2 ** 100000000 }}",
    ],
)
def test_what_the_sandbox_forbids_is_said_to_be_forbidden_or_gives_nothing(template: str) -> None:
    with pytest.raises(ForbiddenTemplate):
        render(template + "{{ ''.__class__() }}", USER, special_tokens={})


def test_a_template_after_one_that_killed_its_process_renders() -> None:
    for _ in range(2):
        with pytest.raises(RenderingLimit):
            render(BOMBS["a method"], USER, special_tokens={})
        assert render("{{ messages[0].content }}", USER, special_tokens={}) == "hi"


def test_templates_run_in_no_process_but_their_own() -> None:
    code = (
        "import sys; from apr_qa.inference.chat_template import render; "
        "print(render('{{ messages[0].content }}', [{'content': 'hi'}], special_tokens={}), 'jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hi", "False"] and not done.stderr


def test_a_template_whose_process_answers_nothing_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "WALL_LIMIT_S", 0.0)
    with pytest.raises(RenderingLimit, match="no answer"):
        render(BOMBS["nested loops"], USER, special_tokens={})


# ---- JSON beside the weights

DEEP = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
JSON_BOMBS = {
    "depth": DEEP,
    "depth of objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "empty": b"",
    "a key twice": b'{"hidden_size": 1, "hidden_size": 2}',
    "a list": b"[]",
    "not UTF-8": b'{"a": "\xff"}',
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "a number without end": b'{"a": ' + b"9" * 100_000 + b"}",
    "brackets without end": b'{"a": [' + b"{}," * 1_000_000 + b"1]}",
}
ODD_VALUES = (2**70, -1, 0, 1e308, "64", None, [], {}, [[1]], True, "NaN", 10**400, "x" * 10_000)


@pytest.mark.parametrize("name", JSON_BOMBS)
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_json_that_is_a_bomb_or_no_json_is_refused(file: str, name: str, folder: Path) -> None:
    (folder / file).write_bytes(JSON_BOMBS[name])
    with pytest.raises(MalformedFile):
        FORMATS.get("safetensors").open(folder)


def test_brackets_without_end_cost_no_memory(folder: Path) -> None:
    (folder / "config.json").write_bytes(JSON_BOMBS["brackets without end"] * 1)
    FORMATS.get("safetensors")
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFile, match="MiB of memory"):
            FORMATS.get("safetensors").open(folder)
        assert tracemalloc.get_traced_memory()[1] < 2 * 3_000_000 + (64 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "head_dim"]
)
def test_a_config_with_any_value_in_any_place_gives_facts_or_a_refusal(key: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for value in ODD_VALUES:
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        for question in questions(folder):
            try:
                facts = question()
            except AprQaError:
                continue
            assert isinstance(facts, dict) and facts, (key, value)


def questions(folder: Path) -> Iterator[Callable[[], Any]]:
    from apr_qa.backends.inspect import Inspection

    try:
        inspected = Inspection(FORMATS.get("safetensors").open(folder))
    except AprQaError:
        return
    yield from (inspected.header, inspected.config, inspected.layers, inspected.hidden)
    yield from (inspected.tensor_names, inspected.shapes, inspected.tied_head)


def test_constants_that_json_lacks_are_taken_where_healthy_files_have_them(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "time_step_limit": [0.0, float("inf")]}))
    assert FORMATS.get("safetensors").open(folder).config["time_step_limit"][1] == float("inf")


@pytest.mark.parametrize(
    "header",
    [b'{"a":[' + b"1000," * 600_000 + b"1]}", b"{" + b",".join(b'"%x":1' % i for i in range(400_000)) + b"}"],
    ids=["numbers", "keys"],
)
def test_a_header_of_small_values_is_refused_before_they_become_objects(
    header: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(seeds.safetensors(header, b""))
    FORMATS.get("safetensors")
    tracemalloc.start()
    with pytest.raises(MalformedFile, match="far more than 0 tensors"):
        FORMATS.get("safetensors").open(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(header)


# ---- what is no plain file, and what is elsewhere


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "socket-like", "dangling"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_special_file_in_a_folder_is_refused_or_counts_as_absent_and_never_hangs(
    kind: str, name: str, folder: Path
) -> None:
    (folder / name).unlink()
    replace_by_special(folder / name, kind)
    try:
        model = FORMATS.get("safetensors").open(folder)
    except (MalformedFile, ModelUnavailable):
        return
    assert name != "model.safetensors" and folder / name not in model.files


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "dangling"])
@pytest.mark.parametrize("format_name", ["safetensors", "gguf", "apr"])
def test_a_special_file_in_place_of_a_model_is_refused(kind: str, format_name: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{format_name}"
    replace_by_special(path, kind)
    with pytest.raises((MalformedFile, ModelUnavailable)):
        FORMATS.get(format_name).open(path)
    with pytest.raises((ModelUnavailable, UsageError, MalformedFile)):
        for artifact in resolve(Model(id="x", path=str(path)), {}, download=False):
            FORMATS.get(format_name).open(Path(artifact.path))


def replace_by_special(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        os.mkfifo(path, 0)


@pytest.mark.parametrize("format_name", ["safetensors", "gguf", "apr"])
def test_an_empty_file_is_refused(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{format_name}"
    path.touch()
    with pytest.raises(MalformedFile):
        FORMATS.get(format_name).open(path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_a_link_out_of_the_folder_is_refused(name: str, folder: Path) -> None:
    outside = folder.parent / "outside"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("secret")
    (folder / name).symlink_to(outside)
    with pytest.raises(MalformedFile, match="outside of the model's folder"):
        FORMATS.get("safetensors").open(folder)


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "config.json").rename(folder / "config-v2.json")
    (folder / "config.json").symlink_to("config-v2.json")
    assert FORMATS.get("safetensors").open(folder).architecture == "llama"


def test_a_revision_that_is_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    from apr_qa.resolve import snapshot_of

    (tmp_path / "refs").mkdir()
    (tmp_path / "snapshots").mkdir()
    with (tmp_path / "refs" / "main").open("wb") as file:
        file.truncate(1 << 40)
    assert snapshot_of(tmp_path, "main")[1] is None


# ---- nothing of a model is parsed outside of a worker


def test_inspecting_a_file_parses_nothing_in_this_process(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from apr_qa.inspecting import inspection; "
        f"found = inspection.inspect(Path({str(folder)!r}), list_tensors=True); assert found.tensors, found; "
        "print(sorted(m for m in sys.modules if m.startswith(('apr_qa.formats.', 'apr_qa.containers.'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['apr_qa.containers.artifact_files', 'apr_qa.containers.file_access']"


def test_a_shard_index_that_is_a_bomb_costs_the_parent_nothing(tmp_path: Path) -> None:
    from apr_qa.containers.artifact_files import missing_shards

    (tmp_path / "model.safetensors.index.json").write_bytes(DEEP * 5)
    tracemalloc.start()
    assert "cannot be read" in missing_shards(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 5 * len(DEEP) + (64 << 20)


@pytest.mark.parametrize("format_name", WHOLE)
def test_a_worker_that_gets_a_hostile_file_refuses_it_and_its_parent_goes_on(
    format_name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{format_name}"
    data = WHOLE[format_name]()
    path.write_bytes(data[:8] + struct.pack("<Q", 2**62) + data[16:])
    entries: tuple[Evidence, ...] = inspection.inspect(path).evidence
    assert entries[0].outcome is Outcome.FALSIFIED
    assert all(entry.outcome is Outcome.INCONCLUSIVE for entry in entries[1:])


def test_a_worker_that_says_nothing_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "READING_LIMIT_S", 0.0)
    started = time.monotonic()
    facts = asking.ask(Artifact(format="safetensors", path=str(folder)), "header")
    assert facts["error"] == "no answer within 0 s" and time.monotonic() - started < 60
