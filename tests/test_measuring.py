"""Measurements of real loaded models, and of a stand-in for another runtime."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_models import make_llama

from apr_qa import baseline
from apr_qa.backends import BACKENDS, Session
from apr_qa.errors import Inapplicable, UsageError
from apr_qa.gates import GATES, Facts
from apr_qa.measuring import edges, golden, lifecycle, other_runtime, refusal, speed, stability
from apr_qa.measuring.checks import measured
from apr_qa.playbooks.machine import ACTIONS, FAILURES, StateMachine
from apr_qa.vocabulary import Artifact, Claim, Outcome, Scenario, Target

TARGET = Target(
    model="m",
    format="safetensors",
    quantization="f32",
    backend="cpu",
    modality="run",
    engine="transformers_torch",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[Session]:
    loaded = BACKENDS.get(TARGET.engine).load(TARGET, folder, threads=1)
    yield loaded
    loaded.close()


def outcome(gate_id: str, facts: Facts) -> Outcome:
    check = GATES.get(gate_id).check
    assert check is not None
    return check(facts).outcome


def test_a_profile_is_measured_and_its_limits_judge_it(session: Session) -> None:
    facts = speed.profile(session, {"warmup": 1, "measure": 3, "limit": 0.001})
    assert (facts["repetitions"], facts["tokens"]) == (3, 3 * speed.TOKENS)
    assert 0 < facts["p50_ms"] <= facts["p99_ms"] and facts["tokens_per_s"] > 0
    assert outcome("F-PROFILE-CI-001", facts) is Outcome.CORROBORATED
    assert outcome("F-PROFILE-CI-001", {**facts, "limit": 1e9}) is Outcome.FALSIFIED
    assert outcome("F-PROFILE-CI-002", {**facts, "limit": 1e-6}) is Outcome.FALSIFIED
    assert outcome("F-PROFILE-CI-001", {**facts, "limit": None}) is Outcome.CORROBORATED
    assert outcome("F-PROFILE-CI-001", {**facts, "tokens_per_s": None}) is Outcome.INCONCLUSIVE


def test_a_slow_model_is_measured_less_often_and_that_is_said(session: Session) -> None:
    facts = speed.profile(session, {"warmup": 0, "measure": 50, "limit_s": 0.0})
    assert (facts["repetitions"], facts["asked"]) == (1, 50)


def test_without_an_earlier_run_there_is_nothing_to_compare_the_speed_with(session: Session) -> None:
    with pytest.raises(Inapplicable, match="no earlier run"):
        speed.profile(session, {"warmup": 0, "measure": 1, "limit": 0.9, "baseline": None})
    with pytest.raises(Inapplicable, match="not compared with itself"):
        speed.speedup(session, {}, TARGET, Path())
    assert baseline.speeds(Path("nowhere")) == {}


def test_generations_give_their_memory_back_and_all_are_answered_at_once(session: Session) -> None:
    held = stability.memory(session, {"iterations": 25})
    assert held["iterations"] == 25 and held["before_mb"] > 0
    assert (
        outcome("F-STAB-002", {"iterations": 25, "before_mb": 100.0, "after_mb": 120.0}) is Outcome.FALSIFIED
    )
    assert (
        outcome("F-STAB-002", {"iterations": 3, "before_mb": 100.0, "after_mb": 100.0})
        is Outcome.INCONCLUSIVE
    )
    assert outcome("F-STAB-003", stability.at_once(session, {"requests": 4})) is not Outcome.CRASHED


def test_a_prompt_of_nothing_is_answered_or_refused_with_words(session: Session) -> None:
    facts = edges.edge(session, {"prompts": ["", "  ", "Test"], "tokens": 0})
    assert outcome("F-EDGE-001", facts) is Outcome.CORROBORATED
    assert "refused" in facts["answers"][2]


@pytest.mark.parametrize(("damage", "number"), [("truncated", 1), ("missing", 2), ("foreign", 3)])
def test_a_damaged_copy_is_refused_with_words(folder: Path, damage: str, number: int) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    facts = refusal.refusal({"damage": damage}, TARGET, folder)
    assert facts["refused"] and facts["said"]
    assert outcome(f"F-LOAD-REFUSAL-00{number}", facts) is Outcome.CORROBORATED
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def walk(machine: dict[str, Any], artifact: Path) -> dict[str, Any]:
    block = StateMachine.model_validate(machine)
    params = {
        "start": block.start,
        "edges": block.edges,
        "entries": block.entries,
        "exits": block.exits,
        "actions": ACTIONS,
        "failures": FAILURES,
    }
    return lifecycle.walk(params, TARGET, Artifact(format="safetensors", path=str(artifact)))


def test_every_transition_that_is_no_failure_is_walked_for_real(folder: Path) -> None:
    facts = walk(
        {
            "states": ["idle", "ready", "talked"],
            "transitions": [
                {"from": "idle", "to": "ready", "action": "load"},
                {"from": "ready", "to": "talked", "action": "chat"},
                {"from": "talked", "to": "ready", "action": "generate"},
                {"from": "ready", "to": "idle", "action": "stop"},
                {"from": "ready", "to": "idle", "action": "crash"},
            ],
        },
        folder,
    )
    assert outcome("F-STATE-MACHINE-001", facts) is Outcome.CORROBORATED, facts
    assert facts["loads"] == 1 and len(facts["steps"]) >= 4
    assert facts["not_provoked"] == ["ready crash idle"]


def test_an_action_that_fails_falsifies_and_says_which(tmp_path: Path) -> None:
    facts = walk(
        {"states": ["idle", "ready"], "transitions": [{"from": "idle", "to": "ready", "action": "load"}]},
        tmp_path / "gone",
    )
    assert outcome("F-STATE-MACHINE-001", facts) is Outcome.FALSIFIED
    assert facts["failed"][0].startswith("load in state idle")


def test_logits_are_held_against_a_stored_corpus(session: Session, tmp_path: Path) -> None:
    artifact = Artifact(format="safetensors", path="", quantization="f32")
    with pytest.raises(Inapplicable, match="holds no stored logits"):
        golden.compare(session, {"corpus": str(tmp_path)}, artifact)
    logits = session.logits(session.tokenize("Hello"))
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "Hello"}))
    save_file({"logits": np.ascontiguousarray(logits)}, tmp_path / "a.safetensors")
    facts = golden.compare(session, {"corpus": str(tmp_path), "tolerance": "fp32"}, artifact)
    assert outcome("F-HF-PARITY-001", facts) is Outcome.CORROBORATED
    save_file({"logits": np.ascontiguousarray(logits + 1)}, tmp_path / "a.safetensors")
    facts = golden.compare(session, {"corpus": str(tmp_path), "tolerance": {"atol": 1e-3}}, artifact)
    assert facts["atol"] == 1e-3 and outcome("F-HF-PARITY-001", facts) is Outcome.FALSIFIED
    save_file({"logits": np.ascontiguousarray(logits[:1, :5])}, tmp_path / "a.safetensors")
    facts = golden.compare(session, {"corpus": str(tmp_path)}, artifact)
    assert outcome("F-HF-PARITY-001", facts) is Outcome.FALSIFIED


class Runtime(BaseHTTPRequestHandler):
    """A runtime that answers as Ollama does."""

    text = "4"

    def do_GET(self) -> None:
        self._say({"data": [{"id": "a:7b"}]} if self.path == "/v1/models" else {"models": []})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answers: dict[str, Any] = {
            "/v1/completions": {
                "choices": [{"text": self.text, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            },
            "/api/create": {"status": "success"},
            "/api/generate": {"response": self.text},
        }
        self._say(answers.get(self.path, {}), 201 if "/blobs/" in self.path else 200)

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say({})

    def _say(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Runtime)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_runtime_is_asked_the_same(session: Session, address: str, tmp_path: Path) -> None:
    params = {"endpoint": address, "model": "", "prompts": ["2 + 2 ="], "least_ratio": 0.0}
    facts = other_runtime.compare(session, params, tmp_path)
    assert facts["answers"][0]["theirs"] == "4" and facts["answers"][0]["ours"]
    assert outcome("F-OLLAMA-001", facts) is Outcome.CORROBORATED
    assert outcome("F-OLLAMA-004", facts) is Outcome.CORROBORATED
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    accepted = other_runtime.compare(session, {**params, "load": True}, file)
    assert outcome("F-OLLAMA-005", accepted) is Outcome.CORROBORATED
    with pytest.raises(Inapplicable, match="does not serve b:7b"):
        other_runtime.compare(session, {**params, "model": "b:7b"}, tmp_path)


def test_where_nothing_listens_parity_is_inapplicable_with_the_reason(session: Session) -> None:
    params = {"endpoint": "http://127.0.0.1:9", "prompts": ["x"]}
    with pytest.raises(Inapplicable, match=r"no other runtime answers at http://127.0.0.1:9"):
        other_runtime.compare(session, params, Path())


def test_an_unknown_measurement_is_refused(session: Session) -> None:
    claim = Claim(gate_id="F-STAB-002", kind="measure", params={"check": "weight"})
    with pytest.raises(UsageError, match="no measurement is called 'weight'"):
        measured(session, Scenario(target=TARGET, claim=claim), Artifact(format="safetensors", path=""))
