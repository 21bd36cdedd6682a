"""Every refusal of the program: what was wrong, where, how to fix it, and the exit code it ends with.

An error that reaches the command line prints these three things and nothing else; a traceback
is shown only for an exception that is not in this file, because that one is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_OK = 0
EXIT_FINDING = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_INFERENCE_FAILED = 8
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class AprQaError(Exception):
    """A refusal that a person can act on."""

    exit_code = EXIT_BUG

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.fix:
            parts.append(f"  fix: {self.fix}")
        return "\n".join(parts)


class UsageError(AprQaError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = EXIT_USAGE


class PlaybookError(AprQaError):
    """A playbook says something that cannot be honoured; carries every fault, not just the first."""

    exit_code = EXIT_USAGE

    def __init__(self, faults: Sequence[str], *, where: str = "", fix: str = "") -> None:
        super().__init__("\n".join(faults), where=where, fix=fix)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        text = "\n".join(self.faults)
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class UnsupportedArchitecture(AprQaError):
    """The built-in converter does not know how this architecture maps between formats."""

    exit_code = EXIT_USAGE


class ModelUnavailable(AprQaError):
    """No artifact of the model could be found; ``where`` lists every place that was looked at."""

    exit_code = EXIT_ENVIRONMENT


class EngineMissing(AprQaError):
    """An inference engine or optional package that the job needs is not installed."""

    exit_code = EXIT_ENVIRONMENT


class EvidenceDamaged(AprQaError):
    """A stored evidence file cannot be read as what it claims to be."""

    exit_code = EXIT_ENVIRONMENT


class EnvironmentFault(AprQaError):
    """The machine refused: disk full, directory not writable, another run holds the lock."""

    exit_code = EXIT_ENVIRONMENT


class MalformedFile(AprQaError):
    """A model file breaks the rules of its format.

    Raised by format readers, before anything is allocated in proportion to an unchecked number.
    In a run it becomes falsified evidence; on the command line it is a finding.
    """

    exit_code = EXIT_FINDING


class InferenceFailed(AprQaError):
    """An engine loaded the artifact but could not answer."""

    exit_code = EXIT_FINDING


class Inapplicable(AprQaError):
    """The target cannot run on this machine (no GPU, engine built without it); never a pass."""

    exit_code = EXIT_ENVIRONMENT
