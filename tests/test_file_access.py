"""Files are opened with refusals a person can act on, and replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apr_qa.containers.file_access import (
    MappedFiles,
    creating_folder,
    file_size,
    first_bytes,
    is_file,
    open_binary,
    replacing_file,
)
from apr_qa.errors import EnvironmentFault, MalformedFile, ModelUnavailable


def test_what_is_not_a_regular_file_is_unavailable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", tmp_path / ("n" * 5000), tmp_path / "a\0b"):
        assert not is_file(path) and first_bytes(path, 4) == b""
        with pytest.raises(ModelUnavailable):
            open_binary(path)


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert first_bytes(tmp_path / "pipe", 4) == b""
    with pytest.raises(ModelUnavailable):
        open_binary(tmp_path / "pipe")


def test_a_file_that_the_system_refuses_is_a_fault_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_size(tmp_path / "x") == 3 and first_bytes(tmp_path / "x", 2) == b"ab"

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, whom no permission bit stops.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(EnvironmentFault, match="Permission denied"):
        open_binary(tmp_path / "x")
    assert first_bytes(tmp_path / "x", 2) == b""


def test_a_part_beyond_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "empty").touch()
    maps = MappedFiles()
    assert maps.payload(tmp_path / "x", 1, 2).tobytes() == b"bc"
    with pytest.raises(MalformedFile, match="1 bytes vanished"):
        maps.payload(tmp_path / "x", 2, 2)
    with pytest.raises(MalformedFile, match="cannot be mapped"):
        maps.payload(tmp_path / "empty", 0, 1)


def test_only_the_payload_that_was_asked_for_last_stays_in_memory(tmp_path: Path) -> None:
    size, count = 8 << 20, 8
    (tmp_path / "x").write_bytes(bytes([7]) * size * count)
    maps, before = MappedFiles(), _mapped_bytes()
    views = [maps.payload(tmp_path / "x", number * size + 1, size - 1) for number in range(count - 1)]
    seen = []
    for number in range(count):
        seen.append(int(maps.payload(tmp_path / "x", number * size, size).max()))
        assert _mapped_bytes() - before < 2 * size
    assert seen == [7] * count
    maps.forget()
    maps.forget()
    assert _mapped_bytes() - before < size // 2
    assert all(int(view[-1]) == 7 for view in views), "what was given out remains valid"


def _mapped_bytes() -> int:
    """Return the bytes of files that lie in the memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssFile", "RssShmem")))


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x"
    with replacing_file(target) as handle:
        handle.write(b"one")
        assert not target.exists()
    assert target.read_bytes() == b"one"
    with pytest.raises(RuntimeError), replacing_file(target) as handle:
        handle.write(b"two")
        raise RuntimeError
    assert target.read_bytes() == b"one" and list(target.parent.iterdir()) == [target]


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    with pytest.raises(RuntimeError), creating_folder(target) as folder:
        (folder / "x").touch()
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    target.mkdir()
    with creating_folder(target) as folder:
        (folder / "x").touch()
    assert [path.name for path in target.iterdir()] == ["x"]


def test_a_target_that_cannot_be_made_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="cannot be written"), replacing_file(tmp_path / "file" / "x"):
        pass
    with pytest.raises(EnvironmentFault), creating_folder(tmp_path / "file" / "x"):
        pass
    with pytest.raises(EnvironmentFault, match="already exists"), creating_folder(tmp_path / "file"):
        pass
