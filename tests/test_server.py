"""The server speaks the OpenAI protocol, and the client side of it reads what servers say."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.backends.openai_http import is_ready
from apr_qa.errors import EnvironmentFault, Inapplicable, InferenceFailed
from apr_qa.serving.endpoint import Endpoint, at_once
from apr_qa.serving.server import MAX_BODY_BYTES, create_app, serving
from apr_qa.serving.server_requests import RequestError, messages, parse, prompts, wanted
from apr_qa.vocabulary import Target

MODEL = "org/tiny"
GREEDY = {"max_tokens": 8, "temperature": 0}
USER = [{"role": "user", "content": "What is 2 + 2?"}]


def target(engine: str, format: str = "gguf") -> Target:
    return Target(
        model=MODEL, format=format, quantization="f32", backend="cpu", modality="serve", engine=engine
    )


@pytest.fixture(scope="module")
def session(tiny_gguf: Path) -> Iterator[Session]:
    session = BACKENDS.get("llama_cpp").load(target("llama_cpp"), tiny_gguf, threads=1)
    yield session
    session.close()


@pytest.fixture(scope="module")
def client(session: Session) -> Iterator[TestClient]:
    with TestClient(create_app(session, MODEL)) as client:
        yield client


@pytest.fixture(scope="module")
def url(session: Session) -> Iterator[str]:
    with serving(session, MODEL) as url:
        yield url


@pytest.fixture
def http_session(url: str) -> Any:
    return BACKENDS.get("openai_http").load(target("openai_http"), Path(), endpoint=url)


def error(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status
    content = answer.json()["error"]
    assert set(content) == {"message", "type", "param", "code"}
    assert content["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    return dict(content)


def events(text: str) -> list[str]:
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


# ---- the server


def test_it_says_that_it_lives_and_what_it_serves(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == [MODEL]


def test_a_completion_is_what_the_session_generates(client: TestClient, session: Session) -> None:
    [expected] = session.generate([Request("hello", max_tokens=8)])
    answer = client.post("/v1/completions", json={"model": MODEL, "prompt": "hello", **GREEDY}).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": expected.text, "finish_reason": "length"}]
    assert expected.prompt_tokens is not None
    assert answer["usage"] == {
        "prompt_tokens": expected.prompt_tokens,
        "completion_tokens": 8,
        "total_tokens": expected.prompt_tokens + 8,
    }


def test_a_list_of_prompts_is_answered_in_order(client: TestClient) -> None:
    texts = ["hello", "x", "def add(a, b):"]
    together = client.post("/v1/completions", json={"prompt": texts, **GREEDY}).json()["choices"]
    alone = [client.post("/v1/completions", json={"prompt": t, **GREEDY}).json()["choices"][0] for t in texts]
    assert [choice["text"] for choice in together] == [choice["text"] for choice in alone]
    assert [choice["index"] for choice in together] == [0, 1, 2]


def test_completions_and_chats_that_arrive_together_share_one_batch(
    session: Session, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    generate = session.generate

    def counted(requests: Any) -> Any:
        batches.append(len(requests))
        return generate(requests)

    monkeypatch.setattr(session, "generate", counted)
    asked = [
        ("/completions", {"prompt": "hello", **GREEDY}),
        ("/chat/completions", {"messages": USER, **GREEDY}),
        ("/completions", {"prompt": "def add(a, b):", **GREEDY}),
        ("/chat/completions", {"messages": USER, **GREEDY}),
    ]
    replies = at_once(lambda one: Endpoint(url).post(one[0], one[1]), asked)
    assert [reply.status for reply in replies] == [200] * 4
    assert batches == [4]


def test_a_chat_goes_through_the_template_of_the_artifact(client: TestClient, session: Session) -> None:
    expected = session.chat(USER, 8)
    answer = client.post("/v1/chat/completions", json={"messages": USER, **GREEDY}).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": expected.text}
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    parts = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 2?"}],
        }
    ]
    same = client.post("/v1/chat/completions", json={"messages": parts, **GREEDY}).json()
    assert same["choices"] == answer["choices"]


@pytest.mark.parametrize(
    ("path", "content"),
    [("/v1/completions", {"prompt": "hello"}), ("/v1/chat/completions", {"messages": USER})],
)
@pytest.mark.parametrize(
    "sampling", [GREEDY, {"max_tokens": 30, "temperature": 1.3, "seed": 4, "top_p": 0.9}]
)
def test_streamed_text_is_the_plain_text(
    client: TestClient, path: str, content: dict[str, Any], sampling: dict[str, Any]
) -> None:
    plain = client.post(path, json={**content, **sampling}).json()
    stream = client.post(path, json={**content, **sampling, "stream": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(stream.text)
    assert done == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    if "chat" in path:
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        assert text == plain["choices"][0]["message"]["content"]
    else:
        assert "".join(choice["text"] for choice in choices) == plain["choices"][0]["text"]
    assert len(choices) > 3
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == plain["choices"][0]["finish_reason"]
    assert json.loads(chunks[-1])["usage"] == plain["usage"]


def test_a_stop_string_ends_both_kinds_of_answer_alike(client: TestClient) -> None:
    whole = client.post(
        "/v1/completions", json={"prompt": "hello", "max_tokens": 20, "temperature": 0}
    ).json()
    stop = whole["choices"][0]["text"][6:8]
    content = {"prompt": "hello", "max_tokens": 20, "temperature": 0, "stop": [stop]}
    plain = client.post("/v1/completions", json=content).json()["choices"][0]
    assert stop not in plain["text"]
    assert plain["finish_reason"] == "stop"
    *chunks, _ = events(client.post("/v1/completions", json={**content, "stream": True}).text)
    assert "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks) == plain["text"]


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "max_tokens": "3"}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 3.5}, "max_tokens"),
        ({"prompt": "a", "max_completion_tokens": -1}, "max_completion_tokens"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "temperature": 2.1}, "temperature"),
        ({"prompt": "a", "top_p": -0.1}, "top_p"),
        ({"prompt": "a", "top_k": -1}, "top_k"),
        ({"prompt": "a", "seed": 1.5}, "seed"),
        ({"prompt": "a", "stop": 3}, "stop"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stop": ["b"] * 17}, "stop"),
        ({"prompt": "a", "stream": "yes"}, "stream"),
        ({"prompt": ["a", "b"], "stream": True}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "n": 2}, "n"),
        ({"prompt": "a", "model": 1}, "model"),
        ({"prompt": "a", "max_tokens": 100_000}, "max_tokens"),
    ],
    ids=str,
)
def test_a_field_that_is_wrong_is_named(client: TestClient, content: dict[str, Any], param: str) -> None:
    assert error(client.post("/v1/completions", json=content), 400)["param"] == param


@pytest.mark.parametrize(
    "found",
    [
        None,
        "hi",
        [],
        [3],
        [{}],
        [{"role": 1, "content": "a"}],
        [{"role": "user"}],
        [{"role": "user", "content": [1]}],
    ],
    ids=str,
)
def test_messages_that_are_none_are_refused(client: TestClient, found: Any) -> None:
    content = error(client.post("/v1/chat/completions", json={"messages": found}), 400)
    assert content["param"].startswith("messages")


def test_an_overflow_of_the_context_has_its_code_in_a_stream_too(client: TestClient) -> None:
    content = {"messages": USER, "max_tokens": 1000, "stream": True}
    refused = error(client.post("/v1/chat/completions", json=content), 400)
    assert refused["code"] == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt": "a", ', b"[1]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_the_mistake_of_the_client(client: TestClient, body: bytes) -> None:
    assert error(client.post("/v1/completions", content=body), 400)["message"]


def test_an_unknown_model_path_or_method_is_said_to_be_unknown(client: TestClient) -> None:
    refused = error(client.post("/v1/completions", json={"prompt": "a", "model": "other"}), 404)
    assert refused["code"] == "model_not_found"
    error(client.get("/v1/nothing"), 404)
    error(client.get("/v1/completions"), 405)


def test_a_body_that_is_too_large_is_not_read(client: TestClient) -> None:
    assert error(client.post("/v1/completions", content=b'"' + b"a" * MAX_BODY_BYTES + b'"'), 413)["message"]


def test_a_template_that_refuses_the_messages_is_a_bad_request(tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    path = folder / "tokenizer_config.json"
    template = "{{ raise_exception('only users') if messages[0].role != 'user' }}{{ messages[0].content }}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    session = BACKENDS.get("transformers_torch").load(
        target("transformers_torch", "safetensors"), folder, threads=1
    )
    client = TestClient(create_app(session, MODEL))
    refused = error(
        client.post("/v1/chat/completions", json={"messages": [{"role": "tool", "content": "x"}]}), 400
    )
    assert "only users" in refused["message"]
    assert client.post("/v1/chat/completions", json={"messages": USER, **GREEDY}).status_code == 200


@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "model", "messages"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner)
            ),
            max_leaves=5,
        ),
    )
)
def test_any_body_is_understood_or_refused(content: dict[str, Any]) -> None:
    with contextlib.suppress(RequestError):
        parsed = parse(json.dumps(content).encode())
        limits = wanted(parsed, MODEL)
        assert limits.max_tokens >= 1 and 0 <= limits.temperature <= 2
        for read in (prompts, messages):
            assert read(parsed)


def test_a_client_that_leaves_does_not_keep_the_server_busy(url: str) -> None:
    host = url.removeprefix("http://")
    leaving = http.client.HTTPConnection(host)
    body = json.dumps({"prompt": "hello", "max_tokens": 400, "temperature": 0, "stream": True})
    leaving.request("POST", "/v1/completions", body)
    assert leaving.getresponse().read(20).startswith(b"data: ")
    leaving.close()
    assert Endpoint(url, 20).post("/completions", {"prompt": "x", **GREEDY}).status == 200


def test_a_port_that_is_taken_is_said_to_be(session: Session, url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(EnvironmentFault, match="cannot listen"), serving(session, MODEL, port=port):
        pass


SERVE = """
import sys
from pathlib import Path
from apr_qa.backends import BACKENDS
from apr_qa.serving.server import serve
from apr_qa.vocabulary import Target
target = Target(model="m", format="gguf", quantization="", backend="cpu", modality="serve", engine="llama_cpp")
session = BACKENDS.get("llama_cpp").load(target, Path(sys.argv[1]), threads=1)
serve(session, "m", "127.0.0.1", int(sys.argv[2]))
session.close()
sys.stderr.write("closed")
"""


@pytest.mark.parametrize("busy", [False, True])
def test_sigterm_ends_the_server_in_order_even_while_it_answers(smollm2: Path, busy: bool) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(smollm2), str(port)], stderr=subprocess.PIPE)
    try:
        while not is_ready(url):
            assert server.poll() is None
            time.sleep(0.05)
        if busy:
            ask = {"prompt": "Once upon a time", "max_tokens": 8000, "temperature": 0}
            thread = threading.Thread(target=_ask_quietly, args=(url, ask))
            thread.start()
            time.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        _, stderr = server.communicate(timeout=30)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0
    assert stderr.endswith(b"closed")
    if busy:
        thread.join()


def _ask_quietly(url: str, content: dict[str, Any]) -> None:
    with contextlib.suppress(InferenceFailed):
        Endpoint(url).post("/completions", content)


# ---- the client


def test_a_served_model_answers_over_http_what_it_answers_in_process(
    http_session: Any, session: Session
) -> None:
    requests = [
        Request("hello", max_tokens=8),
        Request("x", max_tokens=3, temperature=1.0, seed=5, stop=("q",)),
    ]
    for served, local in zip(http_session.generate(requests), session.generate(requests), strict=True):
        assert served.text == local.text
        assert served.finish_reason == local.finish_reason
        assert served.prompt_tokens == local.prompt_tokens
        assert served.token_ids is None
        assert served.duration_s > 0
    assert http_session.chat(USER, max_tokens=8).text == session.chat(USER, 8).text
    assert "".join(http_session.stream(requests[0])) == session.generate(requests[:1])[0].text


def test_every_check_of_the_protocol_returns_its_facts(http_session: Any) -> None:
    def facts(check: str, **params: Any) -> dict[str, Any]:
        found: dict[str, Any] = http_session.facts(check, {"check": check, **params})
        json.dumps(found)
        return found

    assert facts("models")["ids"] == [MODEL]
    for check in ("stream", "chat_stream"):
        found = facts(check)
        assert found["text_stream"] == found["text_plain"] != ""
        assert (
            found["chunks"] > 1 and found["done_marker"] and found["status"] == found["status_plain"] == 200
        )
    assert facts("malformed")["status"] == 400
    assert "prompt" in facts("missing_field")["body"]
    assert facts("unknown_path")["status"] == 404
    limited = facts("max_tokens")
    assert limited["asked"] == limited["completion_tokens"] == 3
    together = facts("concurrent", n=5, prompt="hello")
    assert len(together["texts"]) == 5 and len(set(together["texts"])) == 1 and together["status"] == 200
    assert facts("chat", messages=USER)["finish_reason"] == "length"
    with pytest.raises(InferenceFailed, match="no check"):
        http_session.facts("wishes", {})


def test_what_a_server_does_not_tell_cannot_be_asked(http_session: Any) -> None:
    for ask in (
        lambda: http_session.logits([1]),
        lambda: http_session.tokenize("a"),
        lambda: http_session.detokenize([1]),
        lambda: http_session.render_chat(USER),
        lambda: http_session.generate([Request("a", templated=True)]),
    ):
        with pytest.raises(Inapplicable):
            ask()


def test_one_refused_request_leaves_the_others_answered(http_session: Any) -> None:
    good, bad = http_session.generate([Request("hello", max_tokens=2), Request("hello", max_tokens=9999)])
    assert good.text
    assert bad.finish_reason == "error" and bad.facts["status"] == 400
    with pytest.raises(InferenceFailed, match="400"):
        http_session.generate([Request("hello", max_tokens=9999)])
    with pytest.raises(InferenceFailed, match="400"):
        http_session.chat(USER, max_tokens=9999)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_in_v1_or_not(url: str, suffix: str) -> None:
    assert is_ready(url + suffix)


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://127.0.0.1:port", "http://[::1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    assert not is_ready(address)
    with pytest.raises(InferenceFailed):
        BACKENDS.get("openai_http").load(target("openai_http"), Path(), endpoint=address)


def test_without_a_server_nothing_is_loaded() -> None:
    with pytest.raises(Inapplicable):
        BACKENDS.get("openai_http").load(target("openai_http"), Path())


@contextlib.contextmanager
def answering(raw: bytes) -> Iterator[str]:
    """Listen, send ``raw`` to everyone who asks, and hang up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stop = threading.Event()

        def answer() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listening.accept()
                    with connection:
                        connection.settimeout(5)
                        connection.recv(1 << 16)
                        connection.sendall(raw)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def reply(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense\r\n\r\n",
        reply(b"")[:-2],
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        reply(b"not json"),
        reply(b"[]"),
        reply(b"{}"),
        reply(b'{"choices": []}'),
        reply(b'{"choices": [{}]}'),
        reply(b'{"error": "no"}', "500 Internal Server Error"),
    ],
    ids=repr,
)
def test_an_answer_that_is_none_is_a_failed_inference(raw: bytes) -> None:
    with answering(reply(b'{"data": []}')) as url:
        session = BACKENDS.get("openai_http").load(target("openai_http"), Path(), endpoint=url)
        assert session.facts("models", {})["ids"] == []
    with answering(raw) as url:
        object.__setattr__(session, "_http", Endpoint(url, 5))
        with pytest.raises(InferenceFailed):
            session.generate([Request("a")])


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asked: list[bytes] = []

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(1 << 16))
                connection.sendall(reply(b'{"data": [{"id": "m"}]}'))

        thread = threading.Thread(target=answer)
        thread.start()
        assert is_ready(f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread.join()
    assert b"Authorization: Bearer secret\r\n" in asked[0]
