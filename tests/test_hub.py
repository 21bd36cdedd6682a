"""The hub is asked once, waited for briefly, and its files land in our own folder."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from apr_qa import hub
from apr_qa.errors import ModelUnavailable
from apr_qa.resolve import resolve
from apr_qa.vocabulary import Model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    "tokenizer.json": b"{}",
    "model.q8_0.gguf": b"not wanted",
    "onnx/model.safetensors": b"not wanted",
    "pytorch_model.bin": b"not wanted",
}
MODEL = Model(id="org/tiny")


class Hub(BaseHTTPRequestHandler):
    """Serves one repository the way the hub does, as far as a download asks."""

    requests: list[str]

    def do_GET(self) -> None:
        type(self).requests.append(self.path)
        path = self.path.split("?")[0]
        if path == "/api/models/org/tiny/revision/main":
            self._answer(200, json.dumps({"id": "org/tiny", "sha": COMMIT}).encode())
        elif path.startswith("/api/models/org/gated"):
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif path == f"/api/models/org/tiny/tree/{COMMIT}":
            rows = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in FILES.items()]
            self._answer(200, json.dumps(rows).encode())
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            name = path.split(COMMIT + "/")[1]
            self._answer(200, FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test output clean."""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "_silent", [])


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    Hub.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield Hub.requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_takes_what_is_needed_into_our_own_folder(tmp_path: Path, requests: list[str]) -> None:
    (artifact,) = resolve(MODEL, {})
    names = sorted(path.name for path in Path(artifact.path).rglob("*"))
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    assert Path(artifact.path).is_relative_to(tmp_path / "ours")
    assert not (tmp_path / "cache").exists()
    assert artifact.source == "downloaded from the Hugging Face hub, revision main (0123456)"


def test_what_was_downloaded_is_not_asked_for_again(requests: list[str]) -> None:
    resolve(MODEL, {})
    asked = len(requests)
    (artifact,) = resolve(MODEL, {})
    assert len(requests) == asked
    assert artifact.source == "apr-qa downloads, revision main (0123456)"


@pytest.mark.parametrize(
    ("model_id", "said"), [("org/gated", "hf auth login"), ("org/absent", "no such repository")]
)
def test_a_refusal_of_the_hub_is_told_and_concerns_that_model_only(
    requests: list[str], model_id: str, said: str
) -> None:
    with pytest.raises(ModelUnavailable) as refusal:
        resolve(Model(id=model_id), {})
    assert said in refusal.value.where
    assert resolve(MODEL, {})


def test_no_download_means_no_request(requests: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnavailable):
        resolve(MODEL, {}, download=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable):
        resolve(MODEL, {})
    assert requests == []


def test_a_ground_truth_that_the_user_brings_makes_the_download_pointless(
    tmp_path: Path, requests: list[str]
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    resolve(MODEL, {"safetensors": tmp_path / "model.safetensors"})
    assert requests == []


def test_a_hub_that_refuses_connections_is_noted_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ModelUnavailable, match="not reachable"):
            resolve(MODEL, {})
        monkeypatch.setattr(hub, "_ask", None)  # a second question would fail on this
        with pytest.raises(ModelUnavailable, match="not reachable"):
            resolve(Model(id="org/other"), {})


def test_a_hub_that_accepts_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PROBE_S", 0.2)
    monkeypatch.setattr(hub, "PATIENCE_S", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(ModelUnavailable, match="not reachable"):
            resolve(MODEL, {})


def test_a_name_lookup_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(hub, "_ask", lambda *_: release.wait(30))
    monkeypatch.setattr(hub, "PATIENCE_S", 0.05)
    with pytest.raises(ModelUnavailable, match=r"no answer within 0\.05 s"):
        resolve(MODEL, {})
    release.set()


def test_without_the_package_of_the_hub_its_cure_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    commit, problem = hub.download_snapshot("org/name", "main", tmp_path)
    assert commit == "" and "pip install 'apr-qa[hub]'" in problem
