"""Untrusted Python in processes that can harm nothing, judged by values that cross the boundary as data.

A fork server (`server`) forks three processes for a trial: a supervisor with the clock, the candidate with
the code under test, and the examiner with the test. The examiner never holds an object of the candidate: it
sends encoded arguments and gets encoded values back, rebuilt as exact builtin types, so whatever the
candidate does, it can only be wrong. The verdict travels on a pipe that the candidate does not have, and
the candidate is forked before its test is read, so there is nothing to find in its memory.

Modules here that run inside import the standard library and each other only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one program may use; each holds for the candidate and for the examiner."""

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_mb: int = 512
    """Address space."""
    disk_mb: int = 16
    """Size of one file, and of the scratch folder as a whole."""
    threads: int = 32


@dataclass(frozen=True)
class Trial:
    """A program and the test that it has to pass."""

    program: str
    test: str
    """Statements. A name that neither they nor ``helpers`` define is looked up in the program."""
    entry_point: str = ""
    """A name that is the program's, whatever else has it."""
    helpers: str = ""
    """Trusted definitions that the test may use, the data set's own."""


@dataclass(frozen=True)
class Verdict:
    """What became of one trial."""

    outcome: str
    """``passed``, ``failed``, ``timeout``, ``crashed`` (the candidate died) or ``invalid`` (the test is no test)."""
    reason: str = ""
    wall_s: float = 0.0

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"
