"""Child processes: each in a process group of its own, none of which survives the parent.

Only this module starts processes, and `forked` those that others are forked from. A child gets a pipe as standard
input and ends when that pipe closes, so a killed parent leaves nothing behind; `Child.close` kills the whole group,
so neither does a killed child.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from apr_qa import confinement, forked
from apr_qa.errors import EnvironmentFault
from apr_qa.forked import Shared
from apr_qa.protocol import Message, read_message

STOP_GRACE_S = 10.0
_LATE = (subprocess.TimeoutExpired, TimeoutError)
STDERR_TAIL_BYTES = 4_000
SEARCHED_BYTES = 64_000
"""A native library reports on its way out what it was doing, after the line that says why."""


class Child:
    """A running child that speaks JSON lines on its standard output; ``read`` makes a message of a line.

    ``shared``: where it is forked instead of started, inside of `forked.sharing`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        read: Callable[[bytes], Any] = json.loads,
        shared: Shared | None = None,
    ) -> None:
        self._read_line = read
        self._oom_kills = confinement.oom_kills()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        try:
            self._process: Any = self._started(arguments, {**os.environ, **(environment or {})}, shared)
        except OSError as error:  # no more processes, descriptors or memory
            self._stderr.close()
            raise EnvironmentFault(
                f"a process cannot be started: {error.strerror}", fix="free what is short; then --resume"
            ) from error
        self._lines: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _started(self, arguments: Sequence[str], environment: dict[str, str], shared: Shared | None) -> Any:
        process = (
            forked.started(shared, arguments[2:], environment, self._stderr.fileno()) if shared else None
        )
        return process or subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
            env=environment,
        )

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        with contextlib.suppress(ValueError):  # the pipe is closed by `close` while a line is awaited
            for line in self._process.stdout:
                with contextlib.suppress(ValueError):  # something that is no message
                    self._lines.put(self._read_line(line))
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def send(self, message: bytes) -> None:
        """Write one line to the child; a child that is already dead is noticed by `receive`."""
        assert self._process.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(message + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout_s: float) -> Any:
        """Return the next message, or None when the child has ended; raises queue.Empty on time-out."""
        return self._lines.get(timeout=timeout_s)

    def alive(self) -> bool:
        return self._process.poll() is None

    def ends_within(self, seconds: float) -> bool:
        """Wait for the child to end, and say whether it did."""
        with contextlib.suppress(*_LATE):
            self._process.wait(timeout=seconds)
        return not self.alive()

    def was_killed(self) -> bool:
        """Say whether the child, which has ended, got a SIGKILL: from the kernel or from somebody else."""
        return bool(self._process.wait() == -signal.SIGKILL)

    def ran_out_of_memory(self) -> bool:
        """Say whether the kernel has killed anything for lack of memory since the child was started."""
        return confinement.oom_kills() > self._oom_kills

    def exit_description(self) -> str:
        """Say how the child ended: ``exit code 3`` or ``signal SIGSEGV``."""
        code = self._process.wait()
        if code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def stderr_tail(self, most_bytes: int = STDERR_TAIL_BYTES) -> str:
        """Return the last lines the child wrote to standard error."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - most_bytes))
        return self._stderr.read().decode("utf-8", errors="replace").strip()

    def terminate(self, grace_s: float = STOP_GRACE_S) -> dict[str, Any]:
        """Ask with SIGTERM, wait, and report: exit code (None if it had to be killed), seconds, orphans left."""
        started = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        exit_code: int | None = None
        with contextlib.suppress(*_LATE):
            exit_code = self._process.wait(timeout=grace_s)
        seconds = time.monotonic() - started
        orphans = _group_is_alive(self._process.pid) if exit_code is not None else False
        self.close()
        return {"exit_code": exit_code, "seconds": round(seconds, 3), "orphans": orphans}

    def close(self) -> None:
        """Kill the whole group, reap the child and release its pipes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


START_LIMIT_S = 60.0
ENDING_S = 1.0
"""From the end of what a process says to its own."""
STARTS = 3
"""Of a worker that somebody kills before it has said anything."""


def worker(environment: Mapping[str, str], imports: tuple[str, ...] | None = None) -> Child:
    """Start a worker that waits for its job on standard input; ``imports``: what it will need, if it may be forked.

    Raises EnvironmentFault if it does not say hello: no model was touched yet, so none is to blame.
    """
    confinement.stated_limit()  # nonsense in the environment is the user's to hear of, before any model is
    shared = None if imports is None else Shared("apr_qa.worker:live", imports)
    for _ in range(STARTS):
        child = Child(["-m", "apr_qa.worker"], environment, read_message, shared)
        try:
            greeting = child.receive(START_LIMIT_S)
        except queue.Empty:
            greeting = None
        if greeting is not None and greeting.event == "hello":
            return child
        how = child.exit_description() if (ended := child.ends_within(ENDING_S)) else "hanging"
        reason = with_last_words(f"a worker process could not start: {how}", child)
        killed = ended and child.was_killed() and not child.ran_out_of_memory()
        child.close()
        if not killed:
            break
    raise EnvironmentFault(reason, fix="apr-qa doctor says what is installed")


def blame_machine(message: Message) -> None:
    """Raise EnvironmentFault if a worker says that this machine kept it from working."""
    if message.event == "broken":
        raise EnvironmentFault(
            message.reason, fix="make room or put it right; then run again with --resume, nothing is lost"
        )


def server(
    arguments: Sequence[str], environment: Mapping[str, str], imports: tuple[str, ...] | None = None
) -> Child:
    """Start ``python -m MODULE ARG…`` as a guarded server process; ``imports`` as for a worker."""
    shared = None if imports is None else Shared("apr_qa.guard:main", imports)
    return Child(["-m", "apr_qa.guard", *arguments], environment, shared=shared)


def isolated(
    program: str, configuration: str, control: socket.socket, wrapper: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start an interpreter with nothing of ours in it: no environment, no installed packages, no open files.

    ``program`` is run with ``configuration`` as its argument; ``control`` becomes descriptor 3. ``wrapper`` is a
    command that starts it, in which links to the interpreter may lead nowhere.
    """
    descriptor = control.fileno()
    interpreter = os.path.realpath(sys.executable) if wrapper else sys.executable
    entry = f"import os; os.dup2({descriptor}, 3); os.closerange(4, 1024); {program}"
    return subprocess.Popen(
        [*wrapper, interpreter, "-s", "-S", "-P", "-B", "-c", entry, configuration],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=[descriptor],
        # Equal hashes make what a program does with sets repeatable; UTF-8 does not depend on a locale.
        env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PATH": os.defpath},
        cwd="/",
    )


MOST_OUTPUT_BYTES = 64 << 20
"""A foreign program that writes more is ended: nothing that it could say is that long."""


class Finished(NamedTuple):
    """How a foreign program ended."""

    code: int | None
    """None if it had to be killed: it took too long, or wrote without end."""
    out: str
    err: str
    seconds: float


def foreign(
    arguments: Sequence[str],
    *,
    limit_s: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run somebody else's program to its end; raises EnvironmentFault if it cannot be started.

    It stays in the process group of its caller, so that whatever kills a worker takes it along.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        try:
            process = subprocess.Popen(
                list(arguments),
                stdin=given,
                stdout=out,
                stderr=err,
                env={**os.environ, **(environment or {})},
            )
        except (OSError, ValueError) as fault:  # not executable, no such interpreter, NUL in an argument
            raise EnvironmentFault(f"{arguments[0]} cannot be run: {fault}") from None
        try:
            code = _awaited(process, started + limit_s, (out, err))
        finally:
            process.kill()
            process.wait()
        said = [_beginning(stream) for stream in (out, err)]
    return Finished(code, said[0], said[1], round(time.monotonic() - started, 4))


def _beginning(stream: Any) -> str:
    stream.seek(0)
    return str(stream.read(MOST_OUTPUT_BYTES).decode("utf-8", errors="replace"))


def _awaited(process: subprocess.Popen[bytes], deadline: float, outputs: Sequence[Any]) -> int | None:
    """Return the exit code, or None when it is late or has written too much."""
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=min(0.05, max(0.001, deadline - time.monotonic())))
        if any(os.fstat(stream.fileno()).st_size > MOST_OUTPUT_BYTES for stream in outputs):
            return None
    return None


def relayed(arguments: Sequence[str]) -> int:
    """Run a foreign program until it ends, passing SIGTERM and SIGINT on to it; return its exit code.

    A death by a signal is 128 and its number, as shells have it.
    """
    process = subprocess.Popen(list(arguments), stdin=subprocess.DEVNULL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: process.send_signal(received))
    code = process.wait()
    return code if code >= 0 else 128 - code


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def engine_environment(threads: int) -> dict[str, str]:
    """Return the variables that keep engines offline, quiet and within ``threads`` cores."""
    count = str(max(1, threads))
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # ggml would start a debugger on itself before it aborts, whose report drowns the reason.
        "GGML_NO_BACKTRACE": "1",
        "OMP_NUM_THREADS": count,
        # Spinning waits bring two processes on the same cores to a crawl.
        "OMP_WAIT_POLICY": "passive",
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        # The same bits from run to run; on AMD, few rows are multiplied faster too (SmolLM2 in float32: a fifth less).
        "MKL_CBWR": os.environ.get("MKL_CBWR", "AUTO,STRICT"),
    }


def with_last_words(reason: str, child: Child) -> str:
    """Add the last line that says something; the whole tail would drown the reason.

    A child that died because it got no memory is said to have: native libraries end with a mere signal.
    """
    tail = child.stderr_tail()
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    if confinement.died_of_memory(child.stderr_tail(SEARCHED_BYTES)):
        reason = f"{confinement.EXCEEDED}: {reason}"
    return f"{reason}; last words: {lines[-1][:300]}" if lines else reason
