"""What a person at the command line sees: help, results, refusals, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest
from click.shell_completion import BashComplete
from syrupy.assertion import SnapshotAssertion
from tiny_models import write_safetensors

from apr_qa import errors
from apr_qa.__main__ import main
from apr_qa.cli import COMMANDS, command_line
from apr_qa.evidence import read
from apr_qa.rendering import junit_documents

TEMPLATES = Path(__file__).parents[1] / "playbooks" / "templates"
EVIDENCE = "certifications/tiny/checks/dim-smoke"
MARKERS = "<!-- CERTIFICATION_TABLE_START -->\n<!-- CERTIFICATION_TABLE_END -->\n"
HEAVY = (
    *("torch", "numpy", "yaml", "pydantic", "transformers", "llama_cpp", "hypothesis"),
    *("jinja2", "joblib", "rich", "gguf", "tokenizers", "huggingface_hub", "apr_qa.gates"),
)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (f"exit {self.code}", "stdout", self.out, "stderr", self.err, "files", *self.files)
        return "\n".join(_steady(part.rstrip("\n")) for part in parts)


def _steady(text: str) -> str:
    """Replace what differs from run to run: time, hashes, sizes."""
    text = re.sub(r"\d+\.\d+ s\b", "<time>", text)
    text = re.sub(r"sha256 [0-9a-f]{12,64}", "sha256 <hash>", text)
    return re.sub(r"(bytes +)[\d,]+|[\d,]+( bytes)", r"\1<size>\2", text)


Call = Callable[..., Done]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run the program in this process, as ``python -m apr_qa`` does."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers find what the tests found

    def run(*arguments: str) -> Done:
        before = _stamps()
        monkeypatch.setattr(sys, "argv", ["apr-qa", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        written = sorted(str(path) for path, stamp in _stamps().items() if before.get(path) != stamp)
        return Done(int(ended.value.code or 0), out, err, tuple(written))

    return run


def _stamps() -> dict[Path, tuple[int, int]]:
    """Stamp every file of the working directory; hidden folders hold environments, not results."""
    files: list[Path] = []
    for folder, inside, names in os.walk("."):
        inside[:] = [name for name in inside if not name.startswith(".")]
        files += [path for name in names if (path := Path(folder, name)).is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


@pytest.fixture(scope="module")
def stored(tiny_llama: Path, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with models, a check of one of them, a table and a README."""
    cwd = tmp_path_factory.mktemp("cli") / "cwd"
    shutil.copytree(tiny_llama, cwd / "tiny")
    shutil.copy(tiny_gguf, cwd / "tiny.gguf")
    shutil.copy(TEMPLATES / "dim-smoke.yaml", cwd / "check.yaml")
    (cwd / "README.md").write_text(MARKERS)
    shell("certify", "tiny", "--tier", "dim-smoke", cwd=cwd)
    shell("export-csv", cwd=cwd)
    return cwd


@pytest.fixture
def cwd(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stored working directory, and the process in it."""
    shutil.copytree(stored, tmp_path / "cwd")
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cwd"


def shell(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}
    command = [sys.executable, "-m", "apr_qa", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def named(name: str) -> click.Command:
    command = command_line.get_command(click.Context(command_line), name)
    assert command is not None
    return command


# ---- help


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_what_it_was_and_holds_an_example(name: str, call: Call, snapshot: SnapshotAssertion) -> None:
    done = call(*filter(None, [name]), "--help")
    assert done.code == 0 and done.err == ""
    assert "Example" in done.out and "\x1b" not in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    assert done.out == snapshot


GROUPS = ("gates", "parity", "tools", "cache")


@pytest.mark.parametrize("name", GROUPS)
def test_every_command_below_a_command_has_its_own_help(
    name: str, call: Call, snapshot: SnapshotAssertion
) -> None:
    below = _below(named(name), (name,))
    texts = {" ".join(words): call(*words, "--help") for words in below}
    assert below
    assert all(done.code == 0 and done.err == "" and "Usage" in done.out for done in texts.values())
    assert {words: done.out for words, done in texts.items()} == snapshot


def _below(command: click.Command, words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the words of every command below this one."""
    inner = command.commands if isinstance(command, click.Group) else {}
    return [
        found
        for name, one in sorted(inner.items())
        for found in ((*words, name), *_below(one, (*words, name)))
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_but_a_self_explaining_one_is_explained(name: str) -> None:
    for parameter in named(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom apr_qa.__main__ import main\n"
        f"for name in {[[], *([name] for name in COMMANDS)]!r}:\n"
        "    sys.argv = ['apr-qa', *name, '--help']\n"
        "    try: main()\n    except SystemExit: pass\n"
        f"    print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["[]"] * (len(COMMANDS) + 1)


def test_the_version_is_said(call: Call) -> None:
    from apr_qa import __version__

    assert call("--version").out == f"apr-qa {__version__}\n"


# ---- use

USES: dict[str, tuple[str, ...]] = {
    "certify": ("certify", "tiny", "--tier", "dim-smoke"),
    "run": ("run", "check.yaml", "--var", "MODEL_ID=tiny", "--artifact", "safetensors=tiny"),
    "score": ("score", EVIDENCE),
    "report": ("report", EVIDENCE, "--formats", "junit,html", "-o", "out"),
    "replay": ("replay", "ID", "--model", "tiny"),
    "verify": ("verify", EVIDENCE),
    "list-models": ("list-models", "--family", "qwen-coder"),
    "generate": ("generate", "tiny", "--count", "2"),
    "bootstrap": ("bootstrap", "gpt2", "small", "--hf-repo", "openai-community/gpt2", "--dry-run"),
    "lock-playbooks": ("lock-playbooks", ".", "-o", "out.lock"),
    "validate-contract": ("validate-contract", "tiny", "--critical-only"),
    "convert": ("convert", "tiny", "out/tiny.apr"),
    "inspect": ("inspect", "tiny.gguf", "--tensors"),
    "gates": ("gates", "explain", "G0-VALIDATE-001"),
    "readme-sync": ("readme-sync",),
    "export-csv": ("export-csv", "-o", "out.csv"),
}
"""One real use of each command whose output is the same on every machine."""


def use(name: str) -> list[str]:
    _, entries = read(Path(EVIDENCE, "evidence.jsonl"))
    header = next(entry for entry in entries if entry.gate_id == "G0-HEADER-001")
    return [header.id[:8] if word == "ID" else word for word in USES[name]]


ELSEWHERE = {
    "cache": "test_cache.py",
    "doctor": "test_cli.py",
    "serve": "test_cli.py",
    "shrink": "test_replay.py",
    "drill": "test_drill.py",
    "eval": "test_eval.py",
    "decontaminate": "test_eval_text.py",
    "tools": "test_tracing.py",
    "parity": "test_golden.py",
    "diff": "test_tickets.py",
    "tickets": "test_tickets.py",
    "export-evidence": "test_tickets.py",
}
"""Commands whose real use is in a test file of their own."""


def test_every_command_is_used_by_a_test() -> None:
    assert {*USES, *ELSEWHERE} == set(COMMANDS)
    for name, file in ELSEWHERE.items():
        assert f'"{name}"' in (Path(__file__).parent / file).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("name", USES)
def test_a_command_does_and_says_what_it_did(
    name: str, cwd: Path, call: Call, snapshot: SnapshotAssertion
) -> None:
    done = call(*use(name))
    assert "Traceback" not in done.err
    assert str(done) == snapshot


@pytest.mark.parametrize("name", USES)
def test_json_is_all_that_stands_on_standard_output(name: str, cwd: Path, call: Call) -> None:
    if not any("--json" in parameter.opts for parameter in named(name).params):
        assert name in ("generate", "export-csv", "bootstrap"), "prints values without --json"
        return
    json.loads(call(*use(name), "--json").out)


@pytest.mark.parametrize("name", USES)
def test_a_quiet_command_says_nothing_on_standard_error(name: str, cwd: Path, call: Call) -> None:
    quiet = any("--quiet" in parameter.opts for parameter in named(name).params)
    done = call(*use(name), *(["--quiet"] if quiet else []))
    assert done.err == ""


@pytest.mark.parametrize("style", ["json", "jsonl"])
def test_generated_scenarios_carry_the_ids_of_the_evidence(style: str, cwd: Path, call: Call) -> None:
    done = call("generate", "tiny", "--tier", "dim-smoke", "--format", style)
    rows = json.loads(done.out if style == "json" else f"[{','.join(done.out.splitlines())}]")
    _, entries = read(Path(EVIDENCE, "evidence.jsonl"))
    assert {row["id"] for row in rows} == {entry.id for entry in entries}


def test_scenarios_of_a_model_that_is_not_here_have_no_id(cwd: Path, call: Call) -> None:
    done = call("generate", "org/name", "--count", "1", "--format", "jsonl")
    assert "id" not in json.loads(done.out) and "not on this machine" in done.err


def test_a_dry_run_writes_nothing_and_says_what_would_be_done(cwd: Path, call: Call) -> None:
    for arguments in (("certify", "tiny"), ("run", "check.yaml", "--var", "MODEL_ID=tiny")):
        done = call(*arguments, "--dry-run")
        assert done.code == 0 and not done.files and "tiny" in done.out
        (row,) = json.loads(call(*arguments, "--dry-run", "--json").out)
        assert row["model"] == "tiny"


def test_all_gates_are_listed_and_each_can_be_explained(call: Call) -> None:
    ids = [line.split()[0] for line in call("gates").out.splitlines()]
    assert len(ids) > 20
    for gate_id in ids:
        done = call("gates", "explain", gate_id.lower())
        assert done.code == 0 and "falsified by" in done.out
        assert all(len(line) <= 100 for line in done.out.splitlines() if " " in line.strip()), done.out


def test_doctor_says_of_every_part_what_it_is_for(call: Call, cwd: Path) -> None:
    rows = json.loads(call("doctor", "--json").out)
    assert {"apr-qa", "torch", "llama-cpp-python", "GPU", "cache"} <= {row["what"] for row in rows}
    for row in rows:
        assert row["state"] and row["purpose"]
        assert row["ok"] is (row["level"] == "ok") is (row["cure"] == "")
    done = call("doctor")
    assert done.code == 0 and len(done.out.splitlines()) == len(rows)


def test_doctor_exits_with_3_and_a_cure_when_no_engine_is_installed(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    from importlib import metadata

    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    done = call("doctor")
    assert done.code == 3 and "no inference engine" in done.err and "pip install" in done.err
    assert "✗ torch" in done.out


def test_serve_says_its_address_answers_and_ends_at_sigterm(cwd: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "apr_qa", "serve", "tiny.gguf", "--port", "0"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/v1", said)
        assert address is not None, said
        assert _get(f"{address[0]}/models")["data"][0]["id"] == "tiny.gguf"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, "", "")


def _get(address: str) -> dict[str, list[dict[str, str]]]:
    """Ask until the socket listens, which is a moment after the address is said."""
    for _ in range(200):
        try:
            with urllib.request.urlopen(address, timeout=30) as reply:  # noqa: S310 - loopback
                loaded: dict[str, list[dict[str, str]]] = json.load(reply)
                return loaded
        except OSError as error:
            if "refused" not in str(error):
                raise
            time.sleep(0.05)
    raise AssertionError("nobody answers")


# ---- refusals

REFUSALS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "unknown command": ("certfy", 2, ("No such command 'certfy'", "Did you mean 'certify'?")),
    "unknown option": ("certify tiny --teir mvp", 2, ("--teir", "Did you mean '--tier'?")),
    "unknown subcommand": ("gates explian", 2, ("explian",)),
    "gate without explain": ("gates G2", 2, ("apr-qa gates explain G2",)),
    "unknown gate": ("gates explain G0-VALIDATE-00", 2, ("did you mean 'G0-VALIDATE-00",)),
    "unknown tier": ("certify tiny --tier mpv", 2, ("'mpv' is not one of", "'mvp'")),
    "no model": ("certify", 2, ("no model was named", "fix: name one")),
    "bare unknown name": ("certify nothere", 2, ("'nothere' is neither a model id nor a path",)),
    "bare known name": ("certify SmolLM2-135M-Instruct", 2, ("did you mean 'HuggingFaceTB/SmolLM2-135M",)),
    "no such path": ("certify ./nothere", 2, ("./nothere: no such file or folder",)),
    "unknown family": ("certify --family qwen-codr", 2, ("did you mean 'qwen-coder'?",)),
    "unknown family to list": ("list-models --family qwen-codr", 2, ("did you mean 'qwen-coder'?",)),
    "two ways to name models": ("certify tiny --all", 2, ("MODEL and --all",)),
    "two runs into one folder": ("certify tiny tiny.gguf", 2, ("certifications/tiny", "same folder")),
    "artifact without path": (
        "certify tiny --artifact gguf",
        2,
        ("is not FORMAT=PATH", "safetensors, apr, gguf"),
    ),
    "artifact of no format": ("certify tiny --artifact foo=tiny", 2, ("is not FORMAT=PATH",)),
    "artifact that is not there": ("certify tiny --artifact gguf=no.gguf", 2, ("no.gguf", "no such file")),
    "artifact twice": (
        "certify tiny --artifact gguf=tiny.gguf --artifact gguf=tiny.gguf",
        2,
        ("gguf twice",),
    ),
    "artifact for two": ("certify org/a org/b --artifact gguf=tiny.gguf", 2, ("name exactly one model",)),
    "contradicting policies": ("certify tiny --fail-fast --failure-policy collect_all", 2, ("contradict",)),
    "junit into no folder": ("certify tiny --junit no/report.xml", 2, ("no/report.xml", "does not exist")),
    "output is a file": ("certify tiny -o README.md --tier dim-smoke", 3, ("error: README.md",)),
    "model not here": ("certify org/name --offline", 3, ("tried Hugging Face cache", "hf download org/name")),
    "no playbook": ("run no.yaml", 2, ("no.yaml: the playbook cannot be read",)),
    "playbook with faults": (
        "run bad.yaml",
        2,
        ("bad.yaml:1: ", "bad.yaml:2: modell", "did you mean 'model'?", "bad.yaml:3: tier: 'mpv'"),
    ),
    "variable without value": ("run check.yaml", 2, ("check.yaml:", "${MODEL_ID} has no value")),
    "variable without =": ("run check.yaml --var MODEL_ID", 2, ("is not NAME=VALUE",)),
    "variable of no playbook": ("run check.yaml --var MODELID=a/b", 2, ("no playbook has ${MODELID}",)),
    "endpoint down": ("run check.yaml --var MODEL_ID=a/b --endpoint 127.0.0.1:9", 3, ("start the server",)),
    "score of nothing": ("score nothere", 2, ("nothere: there is no such evidence file",)),
    "score of a folder without": ("score certifications/tiny", 2, (f"{EVIDENCE}/evidence.jsonl",)),
    "unknown report": (f"report {EVIDENCE} --formats junti", 2, ("did you mean 'junit'?", "markdown")),
    "verify without certifications": (
        "verify --root tiny",
        2,
        ("tiny: there is no certification to verify",),
    ),
    "verify of a folder without": ("verify tiny", 2, ("tiny/evidence.jsonl: there is no such",)),
    "replay of an unknown id": ("replay ffff", 2, ("no entry has the id 'ffff'", "--root")),
    "replay of nothing": ("replay  --root .", 2, ("the id is empty",)),
    "replay in no folder": ("replay ffff --root nothere", 2, ("nothere: there is no such folder",)),
    "convert onto a file": ("convert tiny tiny.gguf", 2, ("tiny.gguf: exists already", "--force")),
    "convert onto itself": ("convert tiny tiny --force", 2, ("source and destination are the same",)),
    "convert over a foreign folder": ("convert tiny.gguf certifications --force", 2, ("nothing else",)),
    "convert over its folder": ("convert tiny . --force", 2, ("the source lies in it",)),
    "convert to no format": ("convert tiny x.bin", 2, ("x.bin names no format", "--to")),
    "convert from nothing": ("convert nothere x.gguf", 2, ("nothere: there is no such file or folder",)),
    "convert from text": ("convert README.md x.gguf", 2, ("holds no safetensors, gguf or apr file",)),
    "convert below a file": ("convert tiny README.md/x.gguf", 3, ("README.md: cannot be written to",)),
    "convert to a foreign type": ("convert tiny x.apr -q q8_0", 2, ("apr is not written as q8_0", "f16")),
    "convert unsupported": ("convert gpt2 x.gguf", 2, ("architecture 'gpt2'", "--artifact FORMAT=PATH")),
    "convert truncated": ("convert cut.gguf x.apr", 1, ("cut.gguf: the file is cut off",)),
    "inspect nothing": ("inspect nothere", 2, ("nothere: there is no such file or folder",)),
    "serve nothing": ("serve nothere", 2, ("nothere: there is no such file or folder",)),
    "README without markers": (
        "readme-sync --readme check.yaml",
        2,
        ("check.yaml", "CERTIFICATION_TABLE_START"),
    ),
    "no README": ("readme-sync --readme no.md", 2, ("no.md: there is no such file",)),
    "README that is no text": ("readme-sync --readme tiny.gguf", 2, ("is not UTF-8",)),
    "no table": ("readme-sync --root tiny", 2, ("tiny/models.csv: there is no model table", "export-csv")),
    "table of no folder": ("export-csv --root nothere", 2, ("nothere: there is no such folder",)),
    "generate for nothing": ("generate nothere", 2, ("'nothere' is neither a model id nor a path",)),
    "generate in no style": ("generate tiny --format xml", 2, ("'xml' is not one of", "'jsonl'")),
    "bootstrap of no family": ("bootstrap qwn2 1b --hf-repo a/b", 2, ("no family contract", "qwen2")),
    "bootstrap of no size": ("bootstrap qwen2 9b --hf-repo a/b", 2, ("qwen2 has no size '9b'", "0.5b")),
    "bootstrap of no model": ("bootstrap qwen2 0.5b", 2, ("--hf-repo are needed",)),
    "bootstrap of no id": ("bootstrap qwen2 0.5b --hf-repo x", 2, ("'x' is neither a model id nor a path",)),
    "lock of no folder": ("lock-playbooks nothere", 2, ("nothere: there is no such folder",)),
    "no lock": ("lock-playbooks . --check", 2, ("the lock cannot be read", "fix: apr-qa lock-playbooks")),
    "no playbook to validate": ("lock-playbooks tiny --validate", 2, ("tiny: there is no playbook here",)),
    "playbooks with faults": (
        "lock-playbooks . --validate",
        2,
        ("bad.yaml:2: modell: there is no such field (did you mean 'model'?)", "wrong.yaml:1: model.formats"),
    ),
    "lock and faults at once": ("lock-playbooks . --check --validate", 2, ("given together",)),
    "two playbooks with faults": (
        "run bad.yaml wrong.yaml",
        2,
        ("bad.yaml:2: modell", "wrong.yaml:1: model."),
    ),
    "contract for nothing": ("validate-contract nothere", 2, ("nothere: there is no such file or folder",)),
    "diff of one file": ("diff tiny", 2, ("Missing argument 'PATH'",)),
    "diff with nothing": ("diff nothere tiny", 2, ("nothere: there is no such file or folder",)),
    "diff with text": ("diff check.yaml tiny", 2, ("holds no safetensors, gguf or apr file",)),
    "tickets of nothing": ("tickets nothere", 2, ("nothere: there is no such evidence file",)),
    "tickets for nobody": (f"tickets {EVIDENCE} --ticket-mode create", 2, ("needs a repository", "--repo")),
    "export of nothing": ("export-evidence nothere", 2, ("nothere: there is no such evidence file",)),
    "no tool": ("tools inspct tiny", 2, ("No such command 'inspct'",)),
    "tool for nothing": ("tools inspect nothere", 2, ("nothere: there is no such file or folder",)),
    "level of no trace": ("tools trace tiny --level all", 2, ("'all' is not one of", "'payload'")),
    "canary of nothing": ("tools canary compare tiny no.json", 2, ("no.json", "apr-qa tools canary save")),
    "no corpus": ("parity compare tiny -m x/1", 2, ("golden/x/1/manifest.json: there is no corpus",)),
    "eval of no task": ("eval tiny", 2, ("Missing option '--task'",)),
    "eval of a task that is nowhere": ("eval tiny --task no.jsonl", 2, ("no.jsonl: there is no such file",)),
    "decontaminate against nothing": ("decontaminate check.yaml", 2, ("Missing option '--against'",)),
    "drill of nothing": ("drill nothere", 2, ("'nothere' is neither a model id nor a path",)),
    "doctor for somebody": ("doctor me", 2, ("unexpected extra argument (me)",)),
    "shrink of an unknown id": ("shrink ffff", 2, ("no entry has the id 'ffff'", "--root")),
    "cache of no kind": ("cache clear nothere", 2, ("'nothere'",)),
    "port that is none": ("serve tiny --port 70000", 2, ("70000 is not in the range",)),
}


def test_every_command_has_a_mistake_that_it_refuses() -> None:
    assert set(COMMANDS) <= {line.split(" ")[0] for line, _, _ in REFUSALS.values()}
    assert {code for _, code, _ in REFUSALS.values()} == {1, 2, 3}


@pytest.fixture
def faulty(cwd: Path) -> Path:
    """The working directory with files that are wrong."""
    Path("bad.yaml").write_text("name: bad\nmodell: {id: a/b}\ntier: mpv\n")
    Path("wrong.yaml").write_text("model: {id: a/b, formats: [ggml]}\n")
    Path("notier.yaml").write_text("model: {id: a/b}\n")
    Path("cut.gguf").write_bytes(Path("tiny.gguf").read_bytes()[:3000])
    Path("gpt2").mkdir()
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 4, "n_layer": 1}
    Path("gpt2/config.json").write_text(json.dumps(config))
    write_safetensors(Path("gpt2/model.safetensors"), {"wte.weight": np.ones((8, 4), np.float32)})
    return cwd


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_what_is_wrong_and_writes_nothing(case: str, faulty: Path, call: Call) -> None:
    line, code, words = REFUSALS[case]
    done = call(*line.split(" "))
    assert "Traceback" not in done.err
    assert done.code == code, done
    for word in words:
        assert word in done.err, done.err
    assert done.out == "" and not done.files


def test_a_truncated_file_is_a_finding_told_once(faulty: Path, call: Call) -> None:
    done = call("inspect", "cut.gguf")
    assert done.code == 1 and done.err == ""
    assert done.out.count("cut off") == 1 and "✗ G0-HEADER-001" in done.out


def _torn(lines: list[bytes]) -> bytes:
    return b"".join(lines)[:-20]


def _edited(lines: list[bytes]) -> bytes:
    identity = re.search(rb'"id":"([0-9a-f]{16})"', lines[2])
    assert identity is not None
    return b"".join([*lines[:2], lines[2].replace(identity[1], b"0" * 16), *lines[3:]])


DAMAGES: dict[str, tuple[Callable[[list[bytes]], bytes], str]] = {
    "empty": (lambda lines: b"", "evidence.jsonl: the file is empty"),
    "not JSON": (lambda lines: b"hello\n", "evidence.jsonl:1: not an evidence header"),
    "no header": (lambda lines: b"".join(lines[1:]), "evidence.jsonl:1: not an evidence header"),
    "not text": (lambda lines: lines[0] + b"\xff\xfe\n", "evidence.jsonl:2: not an evidence entry"),
    "torn": (_torn, "evidence.jsonl:12: not an evidence entry"),
    "edited id": (_edited, "evidence.jsonl:3: id or gate_id does not follow"),
}


@pytest.mark.parametrize("command", ["score", "report", "verify", "replay"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_evidence_ends_with_3_and_names_file_and_line(
    damage: str, command: str, cwd: Path, call: Call
) -> None:
    path = Path(EVIDENCE, "evidence.jsonl")
    spoil, said = DAMAGES[damage]
    path.write_bytes(spoil(path.read_bytes().splitlines(keepends=True)))
    arguments = ["replay", "ffff"] if command == "replay" else [command, EVIDENCE]
    done = call(*arguments)
    assert done.code == 3 and said in done.err, done
    assert done.out == "" and not done.files


def test_a_failed_conversion_leaves_what_was_there(faulty: Path, call: Call) -> None:
    before = Path("tiny.gguf").read_bytes()
    shutil.copytree("tiny", "bad")
    config = json.loads(Path("bad/config.json").read_text())
    Path("bad/config.json").write_text(json.dumps({**config, "hidden_size": 60}))
    done = call("convert", "bad", "tiny.gguf", "--force")
    assert done.code == 1 and "Traceback" not in done.err
    assert Path("tiny.gguf").read_bytes() == before
    assert not done.files and not list(Path().glob(".*"))


def test_force_replaces_a_model_by_a_model(cwd: Path, call: Call) -> None:
    assert call("convert", "tiny.gguf", "again").code == 0
    done = call("convert", "tiny.gguf", "again", "--force", "-q", "f16", "--quiet")
    assert (done.code, done.out, done.err) == (0, "again\n", "")
    assert "quantization   f16" in call("inspect", "again").out


def test_an_outdated_readme_is_a_finding_and_is_brought_up_to_date_once(cwd: Path, call: Call) -> None:
    assert call("readme-sync", "--check").code == 1
    assert call("readme-sync").files == ("README.md",)
    done = call("readme-sync", "--check")
    assert done.code == 0 and not done.files


def test_a_bug_of_ours_ends_with_70_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    from apr_qa import registry

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(registry, "models", broken)
    done = call("list-models")
    assert done.code == errors.EXIT_BUG
    assert "ZeroDivisionError" in done.err and "bug in apr-qa" in done.err and done.out == ""


# ---- several models


def test_one_junit_file_holds_all_models_and_those_that_are_missing(cwd: Path, call: Call) -> None:
    done = call(
        *("certify", "tiny", "org/name", "--tier", "dim-smoke", "--offline", "-o", "out", "-q"),
        *("--junit", "all.xml"),
    )
    assert done.code == 3 and "1 of 2 models could not be obtained: org/name" in done.err
    root = ElementTree.parse("all.xml").getroot()  # noqa: S314 - written by the program
    alone = ElementTree.parse("out/tiny/checks/dim-smoke/report.xml").getroot()  # noqa: S314
    assert int(root.attrib["tests"]) == int(alone.attrib["tests"]) + 1 == len(list(root.iter("testcase")))
    assert int(root.attrib["errors"]) == len(list(root.iter("error")))
    assert [case.attrib["name"] for case in root.iter("testcase")][-1] == "org/name can be obtained"


@pytest.mark.parametrize("hostile", ['a"b<c>&', "x\x00\x1b[31m", "]]>\ud800"])
def test_a_junit_file_survives_hostile_words(hostile: str) -> None:
    one = junit_documents.unavailable(hostile, hostile)
    text = junit_documents.together([one, one, one])
    root = ElementTree.fromstring(text)  # noqa: S314 - written by the program
    assert root.attrib["tests"] == "3" and len(list(root.iter("error"))) == 3


# ---- terminals and shells


def _on_a_terminal(arguments: Sequence[str], cwd: Path, **more: str) -> str:
    """Run the program on a pseudo-terminal and return what appears there."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", **more}
    command = [sys.executable, "-m", "apr_qa", *arguments]
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = bytearray()
        while chunk := _chunk(leader):
            seen += chunk
        os.close(leader)
        process.wait(timeout=60)
    return seen.decode()


def _chunk(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:  # Linux: the other side was closed
        return b""


COLOUR = re.compile(r"\x1b\[[0-9;]*[34]\d")


@pytest.mark.parametrize("arguments", [("inspect", "tiny.gguf"), USES["certify"]], ids=["inspect", "certify"])
def test_a_terminal_gets_colours_unless_no_color_is_set(arguments: tuple[str, ...], cwd: Path) -> None:
    coloured = _on_a_terminal(arguments, cwd, NO_COLOR="")
    plain = _on_a_terminal(arguments, cwd, NO_COLOR="1")
    assert COLOUR.search(coloured) and not COLOUR.search(plain)
    assert "G0" in coloured and "G0" in plain


def test_progress_goes_to_standard_error_only(cwd: Path, call: Call) -> None:
    done = call(*USES["certify"])
    assert "11/11" in done.err and "11/11" not in done.out


def completions(words: list[str], incomplete: str) -> list[str]:
    shell_ = BashComplete(command_line, {}, "apr-qa", "_APR_QA_COMPLETE")
    return [item.value for item in shell_.get_completions(words, incomplete)]


def test_completion_knows_commands_options_families_and_models() -> None:
    assert completions([], "") == list(COMMANDS)
    assert completions([], "cert") == ["certify"]
    assert completions(["gates"], "ex") == ["explain"]
    assert "--tier" in completions(["certify"], "--t")
    assert completions(["certify", "--tier"], "st") == ["standard"]
    assert completions(["certify", "--family"], "qwen-c") == ["qwen-coder"]
    assert completions(["certify"], "huggingfacetb/SmolLM2-135M-I") == ["HuggingFaceTB/SmolLM2-135M-Instruct"]


def test_the_line_of_the_help_prints_the_completion_script(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    shown = re.search(r"(_APR_QA_COMPLETE)=(bash_source)", call("--help").out)
    assert shown is not None
    monkeypatch.setenv(shown[1], shown[2])
    done = call()
    assert done.code == 0 and "complete -o nosort -F _apr_qa_completion apr-qa" in done.out
