"""Choices for Hypothesis that depend on the seed and on nothing else.

Its own provider mixes in constants that it reads from whatever modules of a project happen to be imported,
so the same seed gives other draws in another process. Imported only by Hypothesis, through its name.
"""

from __future__ import annotations

from typing import Any

from hypothesis.internal.conjecture.providers import HypothesisProvider


class SeededChoices(HypothesisProvider):
    """The default distribution without the constants."""

    def _maybe_draw_constant(self, *_: Any, **__: Any) -> None:
        return None
