"""Why a conversion failed, as types: what is wrong is known where it is found, not read out of its wording."""

from __future__ import annotations

from apr_qa.errors import (
    AprQaError,
    EngineMissing,
    EnvironmentFault,
    Inapplicable,
    InferenceFailed,
    MalformedFile,
    ModelUnavailable,
    UnsupportedArchitecture,
    UsageError,
)


class TensorNamesWrong(MalformedFile):
    """The tensors are not those that the architecture has."""


class ConfigContradicted(MalformedFile):
    """The configuration holds impossible numbers, or others than the tensors show."""


class ValuesUnreadable(MalformedFile):
    """The stored values of a tensor cannot be turned into numbers."""


_CLASSES: tuple[tuple[type[AprQaError], str], ...] = (
    (TensorNamesWrong, "tensor_names"),
    (ConfigContradicted, "config"),
    (ValuesUnreadable, "values"),
    # With storage types chosen to hold every value, a writer that refuses one says something of the values.
    (UsageError, "values"),
    (ModelUnavailable, "missing"),
    (InferenceFailed, "inference"),
)
CLASSES = ("tensor_names", "values", "config", "missing", "inference", "unknown")
BEYOND_US = (Inapplicable, UnsupportedArchitecture, EngineMissing, EnvironmentFault)
"""What this machine or this converter cannot do; it says nothing about the artifact."""


def failure_class(error: AprQaError) -> str:
    """Return which of `CLASSES` an error belongs to; empty where the artifact is not at fault."""
    if isinstance(error, BEYOND_US):
        return ""
    return next((name for kind, name in _CLASSES if isinstance(error, kind)), "unknown")
