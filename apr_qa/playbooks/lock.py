"""The lock of a folder of playbooks: the hash of every file, so that a change is noticed when it is run."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

from apr_qa.errors import UsageError

FILE = "playbook.lock.yaml"
_LINE = re.compile(r"^ {2}(?P<name>[^\s:][^:]*): (?P<sha256>[0-9a-f]{64})$")


def hashes(folder: Path) -> dict[str, str]:
    """Return path relative to ``folder`` -> SHA-256 of every playbook below it, in order."""
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=str(folder), fix="name a folder of playbooks")
    found = sorted(
        path for path in folder.rglob("*.y*ml") if path.suffix in (".yaml", ".yml") and path.name != FILE
    )
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in found}


def text(folder: Path) -> str:
    """Return what the lock of a folder says."""
    lines = [
        "# Made by: apr-qa lock-playbooks. A run of a playbook that differs from its hash says so.",
        "playbooks:",
    ]
    lines += [f"  {name}: {sha256}" for name, sha256 in hashes(folder).items()]
    return "\n".join(lines) + "\n"


def read(lock: Path) -> dict[str, str]:
    """Return path -> SHA-256 as a lock says; raises UsageError with the line that is no entry."""
    try:
        return _read(lock, lock.stat().st_mtime_ns)
    except OSError as error:
        raise UsageError(
            f"the lock cannot be read: {error.strerror}", where=str(lock), fix="apr-qa lock-playbooks"
        ) from None


@functools.lru_cache(maxsize=8)
def _read(lock: Path, changed: int) -> dict[str, str]:
    """Read a lock once for all playbooks of a run; ``changed`` tells one version of it from another."""
    try:
        lines = lock.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the lock cannot be read: {error}", where=str(lock), fix="apr-qa lock-playbooks"
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#") or line == "playbooks:":
            continue
        entry = _LINE.match(line)
        if entry is None or entry["name"] in found:
            raise UsageError(
                "this is no entry of a lock", where=f"{lock}:{number}", fix="apr-qa lock-playbooks"
            )
        found[entry["name"]] = entry["sha256"]
    return found


def differences(folder: Path, lock: Path) -> list[str]:
    """Return what is not as the lock says: changed, missing and unknown files."""
    locked, present = read(lock), hashes(folder)
    found = [
        f"{name}: changed since it was locked"
        for name in locked
        if present.get(name, locked[name]) != locked[name]
    ]
    found += [f"{name}: is locked, but is not there" for name in locked if name not in present]
    return found + [f"{name}: is not in the lock" for name in present if name not in locked]


def remark(playbook: Path, sha256: str) -> str:
    """Say what is wrong with a playbook that lies in a locked folder, or nothing."""
    for folder in playbook.resolve().parents:
        lock = folder / FILE
        if lock.is_file():
            name = playbook.resolve().relative_to(folder).as_posix()
            known = read(lock).get(name)
            if known is None:
                return f"{playbook} is not in {lock}"
            return "" if known == sha256 else f"{playbook} differs from its hash in {lock}"
    return ""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
