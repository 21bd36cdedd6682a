"""The engines: what they load, what they refuse, and that a batch changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_llama, make_qwen2, make_qwen3, tensors_of, write_safetensors

from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.conversion.convert import convert
from apr_qa.errors import AprQaError, Inapplicable, InferenceFailed, MalformedFile
from apr_qa.formats import FORMATS
from apr_qa.inference import pretrained
from apr_qa.inference.llama_native import NativeModel
from apr_qa.vocabulary import Target

ENGINES = {"safetensors": "transformers_torch", "apr": "transformers_torch", "gguf": "llama_cpp"}

PROMPTS = (
    "What is 2 + 2?",
    "Once upon a time there was a small model that had to answer",
    "x",
    "def add(a, b):",
)


def target(format: str, backend: str = "cpu") -> Target:
    return Target(
        model="org/tiny",
        format=format,
        quantization="f32",
        backend=backend,
        modality="run",
        engine=ENGINES[format],
    )


def load(format: str, path: Path, backend: str = "cpu") -> Session:
    return BACKENDS.get(ENGINES[format]).load(target(format, backend), path, threads=1)


@pytest.fixture(scope="module")
def torch_session(tiny_llama: Path) -> Iterator[Session]:
    session = load("safetensors", tiny_llama)
    yield session
    session.close()


@pytest.fixture(scope="module")
def llama_session(tiny_gguf: Path) -> Iterator[Session]:
    session = load("gguf", tiny_gguf)
    yield session
    session.close()


@pytest.fixture(params=["torch_session", "llama_session"])
def session(request: pytest.FixtureRequest) -> Session:
    found: Session = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def edited(tiny_llama: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the tiny model with changed weights or changed keys of one of its JSON files."""

    def edit(change: Callable[[dict[str, Any]], None] | None = None, **files: dict[str, Any]) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(tiny_llama, folder)
        for name, keys in files.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
        if change is not None:
            tensors: dict[str, Any] = dict(tensors_of(json.loads((folder / "config.json").read_text())))
            change(tensors)
            write_safetensors(folder / "model.safetensors", tensors)
        return folder

    return edit


def greedy(session: Session, prompt: str, count: int) -> tuple[int, ...]:
    """Continue by one whole forward pass per token: no cache, no batch, no padding."""
    ids = session.tokenize(prompt)
    start = len(ids)
    for _ in range(count):
        ids.append(int(session.logits(ids)[-1].argmax()))
    return tuple(ids[start:])


# ---- both engines


def test_a_batch_answers_what_a_forward_pass_per_token_answers(session: Session) -> None:
    requests = [Request(prompt, max_tokens=5 + i) for i, prompt in enumerate(PROMPTS)]
    responses = session.generate(requests)
    for request, response in zip(requests, responses, strict=True):
        assert response.token_ids == greedy(session, request.prompt, request.max_tokens)
        assert response.finish_reason == "length"
        assert response.prompt_tokens == len(session.tokenize(request.prompt))
        assert response.vocab_size == session.vocab_size


def test_every_request_of_a_batch_is_answered_as_if_it_were_alone(session: Session) -> None:
    requests = [
        Request(prompt, max_tokens=12, temperature=temperature, seed=i)
        for i, prompt in enumerate(PROMPTS)
        for temperature in (0.0, 0.9)
    ]
    together = session.generate(requests)
    for request, response in zip(requests, together, strict=True):
        [alone] = session.generate([request])
        assert (alone.text, alone.token_ids) == (response.text, response.token_ids)


def test_more_requests_than_a_wave_holds_come_back_in_order(session: Session) -> None:
    requests = [Request(PROMPTS[i % 4], max_tokens=1 + i % 3) for i in range(70)]
    responses = session.generate(requests)
    assert [len(response.token_ids or ()) for response in responses] == [1 + i % 3 for i in range(70)]
    assert responses[0].token_ids == responses[12].token_ids


def test_a_seed_repeats_its_answer_and_another_seed_gives_another(session: Session) -> None:
    def texts(seed: int) -> list[str | None]:
        requests = [Request(prompt, max_tokens=10, temperature=1.5, seed=seed) for prompt in PROMPTS]
        return [response.text for response in session.generate(requests)]

    assert texts(7) == texts(7)
    assert texts(7) != texts(8)


def test_streamed_pieces_add_up_to_the_plain_text(session: Session) -> None:
    request = Request(PROMPTS[0], max_tokens=40, temperature=1.0, seed=3)
    [plain] = session.generate([request])
    stream = session.stream(request)
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            streamed = end.value
            break
    assert "".join(pieces) == plain.text == streamed.text
    assert streamed.token_ids == plain.token_ids
    assert len(pieces) == len(plain.token_ids or ()) + (plain.finish_reason == "stop") > 10


def test_a_stop_string_ends_the_text_before_it(session: Session) -> None:
    [whole] = session.generate([Request(PROMPTS[1], max_tokens=30)])
    assert whole.text is not None
    stop = whole.text[8:10]
    [cut] = session.generate([Request(PROMPTS[1], max_tokens=30, stop=("never written", stop))])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"


def test_timings_are_measured_and_a_rate_needs_a_second_token(session: Session) -> None:
    one, more = session.generate([Request("x", max_tokens=1)]) + session.generate(
        [Request("x", max_tokens=9)]
    )
    assert one.tokens_per_s is None
    assert more.tokens_per_s is not None and more.tokens_per_s > 0
    assert more.duration_s is not None and more.time_to_first_token_s is not None
    assert 0 < more.time_to_first_token_s < more.duration_s


def test_a_request_that_cannot_run_does_not_take_the_batch_with_it(session: Session) -> None:
    good = Request("x", max_tokens=2)
    bad = [
        Request("x", max_tokens=100_000),
        Request("", max_tokens=2),
        Request("\ud800"),
        Request("x", max_tokens=0),
    ]
    responses = session.generate([good, *bad, good])
    assert responses[0].token_ids == responses[-1].token_ids
    reasons = [response.facts["error"] for response in responses[1:-1]]
    assert all(response.finish_reason == "error" and response.text is None for response in responses[1:-1])
    assert "context overflow" in reasons[0] and "512" in reasons[0]
    assert "no tokens" in reasons[1] and "Unicode" in reasons[2] and "max_tokens" in reasons[3]
    for request in bad:
        with pytest.raises(InferenceFailed):
            session.generate([request])


def test_control_tokens_in_a_raw_prompt_are_text(session: Session) -> None:
    ends = session.tokenize("<|im_end|>", parse_special=True)
    assert len(ends) == 1
    raw = session.tokenize("<|im_end|>")
    assert ends[0] not in raw
    assert session.detokenize(raw) == "<|im_end|>"
    assert session.detokenize(ends) == ""


@settings(max_examples=50)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_both_engines_cut_text_into_the_same_tokens_and_back(
    torch_session: Session, llama_session: Session, text: str
) -> None:
    ids = torch_session.tokenize(text)
    assert llama_session.tokenize(text) == ids
    assert torch_session.detokenize(ids) == llama_session.detokenize(ids) == text


def test_the_engines_agree_on_the_logits_of_one_model(torch_session: Session, llama_session: Session) -> None:
    for prompt in PROMPTS:
        ids = torch_session.tokenize(prompt)
        theirs, ours = torch_session.logits(ids), llama_session.logits(ids)
        assert theirs.shape == ours.shape == (len(ids), torch_session.vocab_size)
        # Measured: 5e-6. With llama.cpp's default float16 cache it would be 8e-3.
        assert np.abs(theirs - ours).max() < 1e-4


def test_the_engines_render_and_answer_one_conversation_alike(
    torch_session: Session, llama_session: Session
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]
    text = torch_session.render_chat(messages)
    assert text == llama_session.render_chat(messages)
    assert text.endswith("<|im_start|>assistant\n")
    assert torch_session.chat(messages, 8).token_ids == llama_session.chat(messages, 8).token_ids


@pytest.mark.parametrize("ids", [[], [-1], [10**6], [5] * 513])
def test_logits_of_what_is_no_sequence_of_tokens_are_refused(session: Session, ids: list[int]) -> None:
    with pytest.raises(InferenceFailed):
        session.logits(ids)


def test_a_loaded_model_has_no_protocol_to_check(session: Session) -> None:
    with pytest.raises(Inapplicable):
        session.facts("models", {})


@pytest.mark.parametrize("format", ["safetensors", "gguf"])
def test_a_declared_end_token_ends_the_text_and_is_no_part_of_it(
    edited: Callable[..., Path], torch_session: Session, tmp_path: Path, format: str
) -> None:
    written = greedy(torch_session, PROMPTS[0], 12)
    end = written[6]
    token = json.loads((edited() / "tokenizer.json").read_text())["model"]["vocab"]
    name = next(text for text, number in token.items() if number == end)
    folder = tmp_path / "edited"
    for file, keys in (
        ("generation_config", {"eos_token_id": end}),
        ("config", {"eos_token_id": end}),
        ("tokenizer_config", {"eos_token": name}),
    ):
        path = folder / f"{file}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    path = folder
    if format == "gguf":
        path = convert(
            FORMATS.get("safetensors").open(folder), "gguf", tmp_path / "m.gguf", quantization="f32"
        )
    session = load(format, path)
    [response] = session.generate([Request(PROMPTS[0], max_tokens=12)])
    session.close()
    assert response.token_ids == written[: written.index(end)]
    assert response.finish_reason == "stop"


@pytest.mark.parametrize("format", ["safetensors", "apr", "gguf"])
def test_a_weight_that_is_no_number_fails_the_inference(
    edited: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][3, 4] = np.nan

    path = edited(spoil)
    if format != "safetensors":
        opened = FORMATS.get("safetensors").open(path)
        path = convert(opened, format, tmp_path / f"nan.{format}", quantization="f32")
    session = load(format, path)
    with pytest.raises(InferenceFailed, match="non-finite logits"):
        session.generate([Request("x", max_tokens=2)])
    with pytest.raises(InferenceFailed, match="non-finite logits at 1 of 1"):
        session.logits([5])
    session.close()


def test_saying_whether_an_engine_can_run_imports_no_engine() -> None:
    program = (
        "import sys\n"
        "from apr_qa.backends import BACKENDS\n"
        "from apr_qa.vocabulary import Target\n"
        "for name in ('transformers_torch', 'llama_cpp', 'openai_http'):\n"
        "    for device in ('cpu', 'gpu'):\n"
        "        target = Target(model='m', format='gguf', quantization='', backend=device, modality='run',"
        " engine=name)\n"
        "        BACKENDS.get(name).unavailable(target)\n"
        "assert not {'torch', 'transformers', 'llama_cpp', 'numpy', 'jinja2'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_both_engines_are_available_on_a_cpu() -> None:
    for format, engine in ENGINES.items():
        assert BACKENDS.get(engine).unavailable(target(format)) is None


@pytest.mark.parametrize("format", ["safetensors", "gguf"])
def test_a_gpu_that_is_said_to_be_missing_cannot_be_loaded_on(
    format: str, tiny_llama: Path, tiny_gguf: Path
) -> None:
    if BACKENDS.get(ENGINES[format]).unavailable(target(format, "gpu")) is None:
        load(format, tiny_llama if format == "safetensors" else tiny_gguf, "gpu").close()
        return
    with pytest.raises(Inapplicable):
        load(format, tiny_llama if format == "safetensors" else tiny_gguf, "gpu")


# ---- transformers


@pytest.mark.parametrize("make", [make_llama, make_qwen2, make_qwen3])
def test_greedy_text_is_the_one_of_transformers_own_generate(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make(tmp_path / "model")
    session = load("safetensors", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, response in zip(
        PROMPTS, session.generate([Request(p, max_tokens=16) for p in PROMPTS]), strict=True
    ):
        inputs = tokenizer(prompt, return_tensors="pt")
        theirs = model.generate(**inputs, max_new_tokens=16, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
        assert response.text == tokenizer.decode(theirs, skip_special_tokens=True)


@pytest.mark.parametrize("make", [make_llama, make_qwen2, make_qwen3])
def test_an_apr_file_computes_exactly_what_its_source_computes(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    apr = convert(FORMATS.get("safetensors").open(folder), "apr", tmp_path / "model.apr")
    source, derived = load("safetensors", folder), load("apr", apr)
    ids = source.tokenize(PROMPTS[1])
    assert derived.tokenize(PROMPTS[1]) == ids
    assert np.array_equal(source.logits(ids), derived.logits(ids))
    messages = [{"role": "user", "content": "hi"}]
    assert source.render_chat(messages) == derived.render_chat(messages)
    assert source.chat(messages, 6).token_ids == derived.chat(messages, 6).token_ids


@pytest.mark.parametrize("kind", ["apr", "safetensors"])
def test_weights_that_lie_in_a_file_as_they_are_needed_are_mapped_and_never_written(
    kind: str, tmp_path: Path
) -> None:
    import torch

    folder = make_llama(tmp_path / "model", dtype="bf16")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    file = folder / "other.safetensors"
    if kind == "apr":
        file = convert(FORMATS.get("safetensors").open(file), "apr", tmp_path / "model.apr")
    opened, before = FORMATS.get(kind).open(file), file.read_bytes()
    mapped, decoded = (pretrained._weights(opened, kind) for kind in (torch.bfloat16, torch.float32))
    assert {one.untyped_storage().nbytes() for one in mapped.values()} == {len(before)}
    for name, one in mapped.items():
        assert torch.equal(one.float(), decoded[name]) and one.shape == opened.tensors[name].shape
    mapped["model.norm.weight"].zero_()
    assert file.read_bytes() == before


def test_weights_that_lie_otherwise_in_a_file_are_decoded(tmp_path: Path) -> None:
    import torch

    folder = make_llama(tmp_path / "model", dtype="bf16")
    content = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    odd = (size + 1).to_bytes(8, "little") + content[8 : 8 + size] + b" " + content[8 + size :]
    (folder / "odd.safetensors").write_bytes(odd)
    even, opened = (
        FORMATS.get("safetensors").open(folder / name) for name in ("model.safetensors", "odd.safetensors")
    )
    expected = pretrained._weights(even, torch.bfloat16)
    found = pretrained._weights(opened, torch.bfloat16)
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    renamed: Any = SimpleNamespace(
        format="apr",
        tensors={name: replace(info, stored_name="blk.0") for name, info in even.tensors.items()},
        read=lambda name: -even.read(name),
    )
    found = pretrained._weights(renamed, torch.bfloat16)
    assert all(torch.equal(found[name], -one) for name, one in expected.items())


def test_one_weight_file_of_another_name_is_the_one_that_is_loaded(edited: Callable[..., Path]) -> None:
    folder = edited()
    config = json.loads((folder / "config.json").read_text())
    write_safetensors(folder / "other.safetensors", tensors_of(config, seed=5))
    whole, other = load("safetensors", folder), load("safetensors", folder / "other.safetensors")
    same = load("safetensors", folder / "model.safetensors")
    ids = whole.tokenize("x y z")
    assert np.array_equal(whole.logits(ids), same.logits(ids))
    assert not np.allclose(whole.logits(ids), other.logits(ids))


@pytest.mark.parametrize(
    ("stored", "computed"), [("f32", "float32"), ("bf16", "bfloat16"), ("f16", "float32")]
)
def test_the_stored_type_is_computed_with(stored: str, computed: str, tmp_path: Path) -> None:
    session: Any = load("safetensors", make_llama(tmp_path / "model", dtype=stored))
    assert str(session._model.dtype) == f"torch.{computed}"
    assert session.generate([Request("x", max_tokens=3)])[0].text is not None


def _drop(tensors: dict[str, Any]) -> None:
    del tensors["model.layers.0.self_attn.q_proj.weight"], tensors["lm_head.weight"]


def _reshape(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"] = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_drop, "2 missing: lm_head.weight, model.layers.0.self_attn.q_proj.weight"),
        (_reshape, "model.norm.weight"),
    ],
    ids=["missing", "shape"],
)
def test_weights_that_do_not_fit_are_named_and_never_made_up(
    edited: Callable[..., Path], change: Callable[[dict[str, Any]], None], told: str
) -> None:
    with pytest.raises((InferenceFailed, MalformedFile), match=told):
        load("safetensors", edited(change))


def test_a_weight_that_the_model_has_no_place_for_fails_an_apr_file(
    edited: Callable[..., Path], tmp_path: Path
) -> None:
    folder = edited(
        lambda tensors: tensors.update({"model.layers.7.mlp.up_proj.weight": np.ones((2, 2), np.float32)})
    )
    with pytest.raises(AprQaError, match=r"model\.layers\.7\.mlp\.up_proj\.weight"):
        load("apr", convert(FORMATS.get("safetensors").open(folder), "apr", tmp_path / "m.apr"))


def test_code_that_an_artifact_brings_is_not_run(edited: Callable[..., Path], tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    folder = edited(
        config={"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    )
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with pytest.raises(AprQaError):
        load("safetensors", folder)
    assert not marker.exists()


def test_an_artifact_without_a_template_cannot_chat(edited: Callable[..., Path]) -> None:
    session = load("safetensors", edited(tokenizer_config={"chat_template": None}))
    with pytest.raises(InferenceFailed, match="no chat template"):
        session.chat([{"role": "user", "content": "hi"}])


def test_a_chat_ends_with_the_turn_and_says_if_nothing_declared_that(edited: Callable[..., Path]) -> None:
    none = {"eos_token_id": 0}
    folder = edited(config=none, generation_config=none, tokenizer_config={"eos_token": "<|endoftext|>"})
    session = load("safetensors", folder)
    prompt = session.render_chat([{"role": "user", "content": "hi"}])
    # Hot enough that any token may come: among these, some conversation reaches <|im_end|>.
    hot = {"max_tokens": 300, "temperature": 9.0}
    chats = session.generate([Request(prompt, seed=i, templated=True, **hot) for i in range(8)])
    ended = [response for response in chats if response.facts]
    assert ended
    assert all(response.facts == {"undeclared_end_token": 2} for response in ended)
    assert all(response.finish_reason == "stop" for response in ended)
    raw = session.generate([Request("hi", seed=i, **hot) for i in range(8)])
    assert any(2 in (response.token_ids or ()) for response in raw)


# ---- llama.cpp


def test_a_real_model_knows_what_two_and_two_are(smollm2: Path) -> None:
    session = load("gguf", smollm2)
    question, other = (
        [{"role": "user", "content": "What is 2 + 2?"}],
        [{"role": "user", "content": "Say hello."}],
    )
    requests = [Request(session.render_chat(m), max_tokens=24, templated=True) for m in (question, other)]
    first, second = session.generate(requests)
    session.close()
    assert "4" in (first.text or "")
    assert first.finish_reason == "stop"
    assert second.text and "<|" not in second.text


def test_llama_cpp_says_why_it_refuses_a_file(tiny_gguf: Path, tmp_path: Path) -> None:
    text, cut = tmp_path / "text.gguf", tmp_path / "cut.gguf"
    text.write_text("this is no model" * 10)
    cut.write_bytes(tiny_gguf.read_bytes()[:-1000])
    with pytest.raises(InferenceFailed, match="invalid magic"):
        load("gguf", text)
    with pytest.raises(InferenceFailed, match="not within the file bounds"):
        load("gguf", cut)
    with pytest.raises(InferenceFailed, match="No such file"):
        load("gguf", tmp_path / "absent.gguf")


def test_a_prompt_longer_than_one_batch_is_read_whole(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "long", max_position_embeddings=1200)
    path = convert(
        FORMATS.get("safetensors").open(folder), "gguf", tmp_path / "long.gguf", quantization="f32"
    )
    session = load("gguf", path)
    prompt = "The quick brown fox. " * 115
    ids = session.tokenize(prompt)
    assert 1100 < len(ids) < 1200
    [response] = session.generate([Request(prompt, max_tokens=1)])
    rows = session.logits(ids)
    theirs = load("safetensors", folder).logits(ids)
    session.close()
    assert response.prompt_tokens == len(rows) == len(ids)
    assert response.token_ids == (rows[-1].argmax(),)
    assert np.abs(rows - theirs).max() < 1e-3


def test_the_device_of_a_target_is_the_one_that_llama_cpp_is_told(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two devices can only be compared if each target says which one it is loaded on."""
    import llama_cpp.llama_cpp as native

    told = []
    load_file = native.llama_model_load_from_file

    def loaded(path: bytes, parameters: Any) -> object:
        told.append(parameters.n_gpu_layers)
        return load_file(path, parameters)

    monkeypatch.setattr(native, "llama_model_load_from_file", loaded)
    load("gguf", tiny_gguf).close()
    NativeModel(native, tiny_gguf, 1, gpu=True).close()
    assert told == [0, -1]
