"""Oracles: pure judges of generated text.

An oracle that cannot judge says ``inconclusive``; silence is falsified by every one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from apr_qa.plugins import Registry
from apr_qa.vocabulary import Claim, Judgement, Response

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

ORACLES: Registry[Oracle] = Registry("oracles")


class Oracle(Protocol):
    """One judge."""

    name: str
    params: dict[str, Any]
    """Parameters a playbook may set, with their defaults; any other is a playbook error."""

    def claims(self, params: dict[str, Any]) -> SearchStrategy[Claim]:
        """Return a strategy of claims that this oracle can judge."""
        ...

    def check(self, claim: Claim, response: Response, params: dict[str, Any]) -> Judgement:
        """Judge ``response.text`` as an answer to ``claim.question``."""
        ...
