"""The external ``apr`` program as engine, server and converter: what it writes is judged by its content."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import children
from fake_apr import install
from hypothesis import given
from hypothesis import strategies as st

from apr_qa import apr_binary, processes
from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.errors import AprQaError, EnvironmentFault, Inapplicable, InferenceFailed, MalformedFile
from apr_qa.vocabulary import Target

SUM = "What is 2 + 2? The answer is"
CPU = Target(model="m", format="gguf", quantization="f32", backend="cpu", modality="run", engine="apr_cli")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = install(tmp_path / "bin")
    monkeypatch.setenv(apr_binary.VARIABLE, str(path))
    return path


@pytest.fixture
def session(program: Path, tmp_path: Path) -> Session:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    return BACKENDS.get("apr_cli").load(CPU, file)


def test_without_the_program_targets_are_inapplicable_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(apr_binary.VARIABLE, str(tmp_path / "absent"))
    reason = BACKENDS.get("apr_cli").unavailable(CPU)
    assert reason is not None and "--apr-binary" in reason
    with pytest.raises(Inapplicable):
        BACKENDS.get("apr_cli").load(CPU, tmp_path)


def test_the_program_on_path_is_found(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(apr_binary.VARIABLE)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert apr_binary.located() == str(program)
    assert BACKENDS.get("apr_cli").unavailable(CPU) is None
    assert apr_binary.version() == "apr 0.70.3"


@pytest.mark.parametrize("mode", ["", "banner", "echo"])
def test_only_generated_text_is_returned(
    session: Session, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("FAKE_APR", mode)
    (response,) = session.generate([Request(SUM, max_tokens=8)])
    assert (response.text, response.finish_reason) == (" 4", "stop")
    assert response.facts == {"completion_tokens": 3, "echo_removed": mode == "echo"}
    assert response.token_ids == (0, 1, 2)


def test_as_many_tokens_as_asked_for_end_by_length(session: Session) -> None:
    (response,) = session.generate([Request(SUM, max_tokens=3)])
    assert response.finish_reason == "length"


FAILURES = {
    "failure-with-0": (InferenceFailed, "inference failed: no tokenizer"),
    "garbage": (InferenceFailed, "answers no JSON"),
    "silent": (InferenceFailed, "says nothing"),
    "panic": (InferenceFailed, "exit code 101"),
    "crash": (InferenceFailed, "signal 11"),
    "lacks": (InferenceFailed, "lacks tokens_generated"),
    "wrong-device": (InferenceFailed, "asked to use the CPU and used the GPU"),
    "usage": (Inapplicable, "unexpected argument"),
    "no-feature": (Inapplicable, "built without inference"),
}


@pytest.mark.parametrize("mode", FAILURES)
def test_a_failure_is_one_whatever_the_exit_code(
    session: Session, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    kind, said = FAILURES[mode]
    monkeypatch.setenv("FAKE_APR", mode)
    with pytest.raises(kind, match=said):
        session.generate([Request(SUM)])


def test_one_request_that_fails_leaves_the_others(session: Session) -> None:
    good, bad = session.generate([Request(SUM), Request("refuse me")])
    assert good.text == " 4"
    assert bad.finish_reason == "error" and "context overflow" in bad.facts["error"]


@pytest.mark.parametrize("mode", ["hang", "endless"])
def test_a_program_that_does_not_end_is_ended(
    program: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("FAKE_APR", mode)
    with pytest.raises(InferenceFailed, match="did not end within"):
        apr_binary.ask(["run", "model.gguf", "--prompt=a"], limit_s=3.0 if mode == "hang" else 60.0)
    assert not children()


def test_a_prompt_that_looks_like_an_option_is_a_prompt(session: Session) -> None:
    (response,) = session.generate([Request("--help 2 + 2")])
    assert response.text == " 4"


def test_a_prompt_that_no_command_line_can_hold_is_no_fault_of_the_file(session: Session) -> None:
    with pytest.raises(Inapplicable):
        session.generate([Request("a\0b")])


def test_a_conversation_gives_its_last_answer_without_banner_and_prompt(session: Session) -> None:
    turns = [
        {"role": "user", "content": "The secret word is banana."},
        {"role": "assistant", "content": "banana"},
        {"role": "user", "content": "What is 2 + 2?"},
    ]
    assert session.chat(turns).text == "4"


def test_a_conversation_that_is_not_answered_fails(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_APR", "mute")
    with pytest.raises(InferenceFailed, match="0 answers to 1 turns"):
        session.chat([{"role": "user", "content": "hello"}])


def test_a_turn_of_two_lines_cannot_be_put(session: Session) -> None:
    with pytest.raises(Inapplicable):
        session.chat([{"role": "user", "content": "one\ntwo"}])


def test_what_the_program_does_not_tell_is_inapplicable(session: Session) -> None:
    asked = (
        lambda: session.tokenize("a"),
        lambda: session.detokenize([1]),
        lambda: session.logits([1]),
        lambda: session.render_chat([]),
        lambda: session.facts("trace", {}),
        lambda: session.generate([Request("a", templated=True)]),
        lambda: session.generate([Request("a", stop=("b",))]),
    )
    for ask in asked:
        with pytest.raises(Inapplicable):
            ask()


def test_the_memory_of_the_program_is_not_measured_by_that_of_ours(session: Session) -> None:
    from apr_qa.measuring import speed, stability

    with pytest.raises(Inapplicable, match="another process"):
        stability.memory(session, {})
    found = speed.profile(session, {"warmup": 0, "measure": 1})
    assert found["peak_memory_mb"] is None and found["tokens_per_s"] == 20.0


@pytest.mark.parametrize("mode", ["invalid", "absent"])
def test_a_file_that_the_program_refuses_is_malformed(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("FAKE_APR", mode)
    file = tmp_path / "model.gguf"
    if mode == "invalid":
        file.write_bytes(b"GGUF")
    with pytest.raises(MalformedFile):
        BACKENDS.get("apr_cli").load(CPU, file)


@given(st.text(max_size=40), st.dictionaries(st.text(max_size=5), st.integers(), max_size=3))
def test_an_object_is_found_behind_any_text_without_a_brace(before: str, content: dict[str, int]) -> None:
    text = before.replace("{", "(") + json.dumps(content) + before
    assert apr_binary.json_object(text) == content


@given(st.text(max_size=60))
def test_text_without_an_object_has_none(text: str) -> None:
    found = apr_binary.json_object(text)
    assert found is None or isinstance(found, dict)


@given(st.text(st.characters(exclude_characters="\x1b\r"), max_size=60))
def test_text_without_control_sequences_stays_as_it_is(text: str) -> None:
    assert apr_binary.plain(text) == text


def test_what_cannot_be_started_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "apr").write_text("no program")
    (tmp_path / "apr").chmod(0o755)
    with pytest.raises(EnvironmentFault):
        processes.foreign([str(tmp_path / "apr")], limit_s=1.0)


def command(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "apr_qa", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


PLAYBOOK = """
name: with-apr
version: 1.0.0
model: {hf_repo: org/tiny, formats: [safetensors, gguf], quantizations: [q8_0], local_path: model}
test_matrix: {modalities: [run, chat, serve], backends: [cpu], scenario_count: 2}
"""


@pytest.mark.parametrize("mode", ["", "old-serve"])
def test_a_run_by_the_program_goes_through_it_in_every_modality(
    program: Path, tiny_llama: Path, tmp_path: Path, mode: str
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "model")
    (tmp_path / "check.yaml").write_text(PLAYBOOK)
    words = ("run", "check.yaml", "--tier", "smoke", "--engine", "apr_cli", "--converter", "apr_cli")
    done = command(*words, "--apr-binary", str(program), cwd=tmp_path, FAKE_APR=mode)
    assert done.returncode in (0, 1), done.stderr
    (path,) = (tmp_path / "output").rglob("evidence.jsonl")
    entries = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    texts = [e for e in entries if e["scenario"]["claim"]["kind"] in ("generate", "chat")]
    assert {e["scenario"]["target"]["engine"] for e in texts} == {"apr_cli"}
    assert {e["scenario"]["target"]["modality"] for e in texts} == {"run", "chat", "serve"}
    assert {e["outcome"] for e in texts} == {"corroborated"}
    (made,) = [e for e in entries if e["gate_id"] == "G0-FORMAT-GGUF-001"]
    assert made["scenario"]["target"]["engine"] == "apr_conversion"
    assert made["outcome"] == "corroborated" and made["response"]["facts"]["quantization"] == "q8_0"
    stopped = [e for e in entries if e["gate_id"] == "F-HTTP-004"]
    assert {e["outcome"] for e in stopped} == {"corroborated"}


@pytest.mark.parametrize("mode", ["convert-fails-with-0", "convert-writes-nothing"])
def test_a_conversion_that_failed_is_falsified_whatever_its_exit_code(
    program: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    from apr_qa.conversion.apr_claim import AprConversion
    from apr_qa.vocabulary import Artifact

    monkeypatch.setenv("FAKE_APR", mode)
    source = Artifact(format="safetensors", path=str(tiny_llama), quantization="f32")
    wanted = Artifact(format="gguf", path=str(tmp_path / "made" / "model.gguf"), quantization="f32")
    with pytest.raises(InferenceFailed, match=r"unsupported tensor|wrote no file"):
        AprConversion(source, wanted).facts("convert", {})
    assert not list((tmp_path / "made").iterdir())


def test_a_storage_type_that_the_program_has_no_word_for_is_inapplicable(
    program: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    from apr_qa.conversion.apr_claim import AprConversion
    from apr_qa.vocabulary import Artifact

    source = Artifact(format="safetensors", path=str(tiny_llama), quantization="f32")
    wanted = Artifact(format="gguf", path=str(tmp_path / "model.gguf"), quantization="q5_k_m")
    with pytest.raises(Inapplicable):
        AprConversion(source, wanted).facts("convert", {})


def test_a_program_that_is_not_there_is_a_usage_error(tiny_llama: Path, tmp_path: Path) -> None:
    done = command("certify", str(tiny_llama), "--apr-binary", "nowhere/apr", cwd=tmp_path)
    assert done.returncode == 2 and "--apr-binary" in done.stderr


def test_an_unknown_engine_is_a_usage_error(tiny_llama: Path, tmp_path: Path) -> None:
    done = command("certify", str(tiny_llama), "--engine", "inspect", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2 and "apr_cli" in done.stderr


def test_refusals_are_of_the_documented_kinds() -> None:
    kinds = {3: MalformedFile, 4: MalformedFile, 5: MalformedFile, 8: InferenceFailed, 9: Inapplicable}
    for code, kind in kinds.items():
        done = processes.Finished(code, "", "error: why", 0.1)
        refusal: AprQaError = apr_binary.refusal("run", done)
        assert isinstance(refusal, kind) and "why" in refusal.what


@pytest.mark.parametrize("way", ["foreign", "relayed"])
def test_a_foreign_program_does_not_outlive_a_dead_parent(way: str) -> None:
    more = ", limit_s=300" if way == "foreign" else ""
    script = (
        "import sys; from apr_qa import guard, processes; guard.exit_with_parent();"
        f"print('[]', flush=True); processes.{way}(['sleep', '300']{more})"
    )
    with processes.Child(["-c", script]) as child:
        child.receive(60.0)
        while not children(child.pid):
            time.sleep(0.05)
        (program,) = children(child.pid)
        child._process.stdin.close()  # what the kernel does when the parent dies
        assert child.exit_description() == "signal SIGKILL"
        deadline = time.monotonic() + 20.0
        while Path(f"/proc/{program}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{program}").exists() or _is_dead(program)


def _is_dead(pid: int) -> bool:
    """Say whether a process is a zombie that nobody has collected yet."""
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()
