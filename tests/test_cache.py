"""The cache can be seen, is bounded, and is never taken away from a running process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from apr_qa import cache, workspace
from apr_qa.cli import command_line
from apr_qa.errors import EnvironmentFault, UsageError

HOUR = 3600.0
HOLD = (
    "import sys; from pathlib import Path; from apr_qa import cache\n"
    "cache.announce(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two converted models, predictions and a download, used 4, 3, 2 and 1 hours ago."""
    place = tmp_path / "cache"
    monkeypatch.setenv("APR_QA_CACHE", str(place))
    monkeypatch.delenv(cache.LIMIT_VARIABLE, raising=False)
    now = tmp_path.stat().st_mtime
    for ago, name in ((4, "artifacts/old"), (3, "artifacts/new"), (2, "logits"), (1, "hub/models--a--b")):
        folder = place / name
        folder.mkdir(parents=True)
        file = folder / "data.npz"
        file.write_bytes(bytes(1 << 20))
        for path in (file, folder):
            os.utime(path, (now - ago * HOUR, now - ago * HOUR))
    (place / "logits" / "data.lock").write_text("")
    return place


@contextmanager
def _running(root: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin and child.stdout
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait()


def _names(entries: tuple[cache.Entry, ...] | list[cache.Entry]) -> set[str]:
    return {f"{entry.kind}/{entry.name}" for entry in entries}


def test_everything_in_the_cache_is_shown_with_its_size(root: Path) -> None:
    found = cache.entries(root)
    assert _names(found) == {"artifacts/old", "artifacts/new", "logits/data.npz", "hub/models--a--b"}
    assert all(entry.bytes >= 1 << 20 for entry in found)


def test_what_was_not_used_for_longest_goes_first_and_downloads_stay(root: Path) -> None:
    total = sum(entry.bytes for entry in cache.entries(root))
    assert _names(cache.trim(root, total).removed) == set()
    assert _names(cache.trim(root, total - 1).removed) == {"artifacts/old"}
    cache.trim(root, 0)
    assert _names(cache.entries(root)) == {"hub/models--a--b"}


def test_use_makes_an_artifact_young_again(root: Path) -> None:
    path = workspace.derived_path("sha", "gguf", "f16")
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(10))
    for place in (path, path.parent):
        os.utime(place, (1, 1))
    workspace.derived_path("sha", "gguf", "f16")
    (entry,) = (entry for entry in cache.entries(root) if entry.path == path.parent)
    assert entry.used > 1000


def test_nothing_is_taken_from_a_running_process(root: Path) -> None:
    with _running(root):
        late = root / "artifacts" / "late"
        late.mkdir()
        (late / "model.gguf").write_bytes(bytes(1 << 20))
        done = cache.clear(root)
        assert _names(done.removed) == {"artifacts/old", "artifacts/new", "logits/data.npz"}
        assert _names(done.in_use) == {"artifacts/late"} == _names(cache.trim(root, 0).in_use)
        assert late.is_dir()
    assert _names(cache.clear(root).removed) == {"artifacts/late"}


def test_a_process_that_was_killed_holds_nothing(root: Path) -> None:
    with _running(root) as child:
        assert cache.running_since(root) < float("inf")
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert cache.running_since(root) == float("inf")
    assert not list((root / "running").iterdir())


def test_one_kind_is_cleared_and_an_unknown_one_is_refused(root: Path) -> None:
    cache.clear(root, "hub")
    assert _names(cache.entries(root)) == {"artifacts/old", "artifacts/new", "logits/data.npz"}
    with pytest.raises(UsageError, match="no kind 'artefacts'"):
        cache.clear(root, "artefacts")


def test_the_limit_is_kept_without_being_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "2.5M")
    cache.announce(root)
    assert _names(cache.entries(root)) == {"logits/data.npz", "hub/models--a--b"}


@pytest.mark.parametrize(
    ("text", "expected"), [("20GB", 20 << 30), ("1.5M", 3 << 19), ("7", 7), ("", cache.DEFAULT_LIMIT)]
)
def test_a_limit_is_an_amount_of_bytes(text: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, text)
    assert cache.limit_bytes() == expected


def test_a_limit_that_is_no_amount_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "lots")
    with pytest.raises(UsageError, match="no amount of disk"):
        cache.limit_bytes()


def test_a_cache_that_cannot_be_written_is_used_all_the_same(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache.announce(blocked)
    cache.touch(blocked / "artifacts")
    assert blocked.read_text() == "" and [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_removed_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(EnvironmentFault, match="cannot be removed: Permission denied"):
        cache.clear(root, "artifacts")


def test_the_command_shows_removes_and_says_so(root: Path) -> None:
    run = CliRunner().invoke
    shown = json.loads(run(command_line, ["cache", "--json"]).stdout)
    assert {row["kind"]: row["entries"] for row in shown["kinds"]} == {"artifacts": 2, "hub": 1, "logits": 1}
    assert "converted models" in run(command_line, ["cache"]).stdout
    assert "1 entries removed" in run(command_line, ["cache", "clear", "logits"]).stderr
    assert json.loads(run(command_line, ["cache", "clear", "--json"]).stdout)["removed"][0]["entries"] == 2
    assert "0 entries removed" in run(command_line, ["cache", "--limit", "1G"]).stderr


def test_an_empty_cache_is_no_fault(tmp_path: Path) -> None:
    assert cache.entries(tmp_path / "nothing") == []
    assert cache.clear(tmp_path / "nothing").removed == ()


MODEL = Path(__file__).parent / "fixtures" / "models" / "qwen2-tied-bias"


def test_a_conversion_is_served_again_only_for_the_same_bytes_and_the_same_makers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte of anything that a conversion reads, and the release of what makes it, lead elsewhere."""
    monkeypatch.setattr("apr_qa.file_hash.SMALLEST", 1)  # every file is large enough to be remembered
    monkeypatch.setattr("apr_qa.file_hash.SETTLED_S", -1.0)
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)

    def place() -> Path:
        return workspace.derived_path(workspace.content_sha256(model), "gguf", "q8_0")

    first = place()
    assert place() == first
    files = sorted(file for file in model.iterdir() if file.suffix in (".safetensors", ".json", ".jinja"))
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= {file.name for file in files}
    for file in files:
        content, seen = file.read_bytes(), file.stat()
        for at in (0, len(content) // 2, len(content) - 1):
            time.sleep(0.01)  # file systems count time of change in ticks
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            assert place() != first, (file.name, at)
        time.sleep(0.01)
        file.write_bytes(content)
        assert place() == first
    monkeypatch.setattr("importlib.metadata.version", lambda package: f"{package} of tomorrow")
    assert place() != first
