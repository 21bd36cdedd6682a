"""Limits that a child process sets on itself before it touches a file that nobody vouches for.

What counts is private memory that can be written to (``RLIMIT_DATA``): heap, anonymous maps and the stacks of
threads. A read-only map of weights costs nothing, and neither does address space that is only reserved, which
torch, llama.cpp and CUDA do by the gigabyte; a limit on address space would have to be far too wide to protect.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from apr_qa.errors import UsageError

LIMIT_VARIABLE = "APR_QA_MEMORY_LIMIT"
"""Bytes that one child may allocate, with an optional suffix K, M, G or T; ``none`` lifts the limit."""
MACHINE_SHARE = 0.8
"""What a child that runs a model may take of the memory of this machine."""
READING_BYTES = 3 * 2**30
"""What reading a small file may take: engines that are imported for its tokenizer need a quarter of it."""
READING_FACTOR = 12
"""Bytes allowed for each byte of a file that is only read: a 4-bit weight takes 8 as float32, and copies."""
EXCEEDED = "memory limit exceeded"

_SUFFIXES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_OOM_COUNTS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
_SIGNS = (
    "MemoryError",
    "std::bad_alloc",
    "memory allocation of",
    "can't allocate memory",
    "Cannot allocate memory",
    "failed to allocate",
    "unable to allocate",
    "out of memory",
    "Memory allocation still failed",
    "mem_buffer != NULL",
    "failed to map segment from shared object",
)
"""How Python, C++, Rust, torch, the C library and ggml say that they got no memory."""


def machine_memory() -> int:
    """Return the bytes of memory that this machine, or the container around this process, has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(_CGROUP.read_text()))
    except (OSError, ValueError):  # no such file, or the word "max"
        return total


def free_memory() -> int:
    """Return the bytes that processes of this machine or container may take without others losing theirs."""
    free = [machine_memory()]
    found = re.search(rb"^MemAvailable:\s+(\d+) kB", _bytes(Path("/proc/meminfo")), re.MULTILINE)
    if found:
        free.append(int(found[1]) << 10)
    used = _bytes(_CGROUP.with_name("memory.current")).strip()
    limit = _bytes(_CGROUP).strip()
    if used.isdigit() and limit.isdigit():
        cached = re.search(rb"^inactive_file (\d+)", _bytes(_CGROUP.with_name("memory.stat")), re.MULTILINE)
        free.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return min(free)


def oom_kills() -> int:
    """Return how often the kernel has killed a process of this machine or container for lack of memory."""
    counts = (re.search(rb"^oom_kill (\d+)", _bytes(path), re.MULTILINE) for path in _OOM_COUNTS)
    return sum(int(count[1]) for count in counts if count)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def stated_limit() -> int | None:
    """Return what the environment asks for in bytes, 0 for no limit, None if it says nothing."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return None
    if text.lower() in ("none", "0"):
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text[:40]!r} is no amount of memory", where=LIMIT_VARIABLE, fix="say for example 8G, or none"
        )
    return int(float(match[1]) * _SUFFIXES[match[2].lower()])


def reading_limit(files: Sequence[str]) -> int:
    """Return the bytes that a child may allocate which reads, compares or converts ``files`` without an engine."""
    stated = stated_limit()
    if stated is not None:
        return stated
    size = sum(file_bytes(Path(file)) for file in files if file)
    return min(int(MACHINE_SHARE * machine_memory()), READING_BYTES + READING_FACTOR * size)


def running_limit(*, gpu: bool) -> int:
    """Return the bytes that a child may allocate which runs a model; none by default on a GPU.

    CUDA counts page-locked buffers and its own heaps, of a size that no file tells, as private memory.
    """
    stated = stated_limit()
    if stated is not None:
        return stated
    return 0 if gpu else int(MACHINE_SHARE * machine_memory())


def confine(memory_bytes: int) -> None:
    """Allow this process no core file, and at most ``memory_bytes`` of private memory (0: any amount).

    Raises MemoryError if it has more already: it could go on with what it has freed, as if there were no limit.
    """
    try:
        import resource
    except ImportError:  # a system without resource limits
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        held = re.search(rb"^VmData:\s+(\d+) kB", _bytes(Path("/proc/self/status")), re.MULTILINE)
        if held and int(held[1]) << 10 > limit:
            raise MemoryError


def give_back() -> None:
    """Return to the system what this process has freed; glibc keeps blocks of up to 32 MiB, most weights of a model."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def exceeded() -> str:
    """Say that the limit of this process was hit, and how to move it."""
    try:
        import resource
    except ImportError:
        return EXCEEDED
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        return EXCEEDED
    return f"{EXCEEDED} ({soft >> 20} MiB; {LIMIT_VARIABLE} moves it)"


def died_of_memory(last_words: str) -> bool:
    """Say whether what a dead child wrote last tells that it got no memory."""
    return any(sign in last_words for sign in _SIGNS)


def file_bytes(path: Path) -> int:
    """Return the bytes of a file, or of the files directly in a folder."""
    try:
        if path.is_dir():
            return sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file())
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
