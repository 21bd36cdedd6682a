"""Hypothesis as a source of examples that are the same everywhere: its storage and its choices are ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from apr_qa import workspace

BACKEND = "apr_qa_seeded"


@contextmanager
def storage() -> Iterator[None]:
    """Let Hypothesis keep its tables in our cache folder instead of the user's working directory."""
    from hypothesis import configuration

    previous = getattr(configuration, "__hypothesis_home_directory", None)
    configuration.set_hypothesis_home_dir(workspace.root() / "hypothesis")
    try:
        yield
    finally:
        configuration.set_hypothesis_home_dir(previous)


def backend() -> str:
    """Register our source of choices with Hypothesis and return its name."""
    from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS

    AVAILABLE_PROVIDERS[BACKEND] = "apr_qa.seeded_choices.SeededChoices"
    return BACKEND
