"""A remembered hash is served only for a file that is the same in every respect."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from apr_qa import file_hash, workspace


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A large file that was left alone for long enough."""
    monkeypatch.setattr(file_hash, "SETTLED_S", -1.0)
    file = tmp_path / "model.gguf"
    file.write_bytes(os.urandom(file_hash.SMALLEST))
    return file


def _true(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_second_look_reads_the_record_and_not_the_file(settled: Path, tmp_path: Path) -> None:
    place = tmp_path / "hashes"
    assert file_hash.sha256(settled, place) == _true(settled)
    (record,) = place.iterdir()
    known = json.loads(record.read_text())
    record.write_text(json.dumps({**known, "sha256": "f" * 64}))
    assert file_hash.sha256(settled, place) == "f" * 64


@pytest.mark.parametrize("at", [0, 4096, -1])
def test_one_byte_changed_in_place_with_size_and_time_restored_is_found(
    settled: Path, tmp_path: Path, at: int
) -> None:
    place, seen = tmp_path / "hashes", settled.stat()
    first = file_hash.sha256(settled, place)
    time.sleep(0.02)  # file systems count time of change in ticks
    with settled.open("r+b") as stream:
        stream.seek(at, 0 if at >= 0 else 2)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))
    os.utime(settled, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert (settled.stat().st_size, settled.stat().st_mtime_ns) == (seen.st_size, seen.st_mtime_ns)
    assert file_hash.sha256(settled, place) == _true(settled) != first


def test_a_file_put_in_the_place_of_another_is_found(settled: Path, tmp_path: Path) -> None:
    place, seen = tmp_path / "hashes", settled.stat()
    file_hash.sha256(settled, place)
    other = tmp_path / "other"
    other.write_bytes(os.urandom(seen.st_size))
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    other.replace(settled)
    assert file_hash.sha256(settled, place) == _true(settled)


def test_what_was_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(file_hash.SMALLEST))
    assert file_hash.sha256(file, tmp_path / "hashes") == _true(file)
    assert not (tmp_path / "hashes").exists()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"identity": 1}', b'{"identity": [1], "sha256": "f"}']
)
def test_a_damaged_record_is_as_good_as_none(settled: Path, tmp_path: Path, damage: bytes) -> None:
    place = tmp_path / "hashes"
    file_hash.sha256(settled, place)
    (record,) = place.iterdir()
    record.write_bytes(damage)
    assert file_hash.sha256(settled, place) == _true(settled)


def test_where_nothing_can_be_written_the_hash_is_right_all_the_same(settled: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    assert file_hash.sha256(settled, blocked) == _true(settled)


def test_the_hash_of_a_folder_follows_every_byte_of_its_files(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes(b"x" * 64)
    seen = {workspace.content_sha256(tmp_path)}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes(b"x" * 63 + b"y")
        seen.add(workspace.content_sha256(tmp_path))
    assert len(seen) == 5
