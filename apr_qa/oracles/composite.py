"""Composite: several oracles over one answer; the first that is falsified decides.

With ``mode: any`` one that holds is enough, and the answer is falsified where every member falsifies it.

Members are named by ``claim.expected`` (a list, or a mapping with ``oracles`` and the members' own
``expected``) or by the parameter ``oracles``. A member is a name or a mapping with ``oracle`` and, if wanted,
``optional``, ``expected`` and ``params``. Without a list they are garbage and the oracle that fits the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from apr_qa.errors import UsageError
from apr_qa.oracles import ORACLES
from apr_qa.oracles._wording import corroborated, falsified, inconclusive, silent
from apr_qa.vocabulary import Claim, Judgement, Outcome, Response

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_FITTING = ("arithmetic", "code_syntax")
_PROBE = Response(text="no")


class _Member(NamedTuple):
    """One oracle to consult; an optional one may be unable to judge."""

    name: str
    optional: bool
    expected: Any
    params: dict[str, Any]


class Composite:
    """Falsifies what any member falsifies; corroborates only what every required member corroborates."""

    name = "composite"

    def __init__(self) -> None:
        self.params: dict[str, Any] = {"oracles": [], "mode": "all"}

    def claims(self, params: dict[str, Any]) -> SearchStrategy[Claim]:
        """Return claims of the members, to be judged by all of them together."""
        from hypothesis import strategies as st

        names = [member.name for member in _listed(params.get("oracles"), None)] or [
            "arithmetic",
            "code_syntax",
        ]
        sources = [name for name in names if name != "garbage"] or names
        return st.one_of([ORACLES.get(name).claims({}) for name in sources]).map(
            lambda claim: msgspec.structs.replace(
                claim,
                gate_id="F-QUAL-COMPOSITE",
                oracle=self.name,
                expected={"oracles": ["garbage", claim.oracle], "expected": claim.expected},
                params=dict(params),
            )
        )

    def check(self, claim: Claim, response: Response, params: dict[str, Any]) -> Judgement:
        """Consult the members in order; raises UsageError for a name that is no oracle."""
        silence = silent(response)
        if silence:
            return silence
        enough = params.get("mode") == "any"
        held, doubts, refuted = [], [], []
        for member in _members(claim, params):
            asked = msgspec.structs.replace(claim, oracle=member.name, expected=member.expected)
            judgement = ORACLES.get(member.name).check(asked, response, member.params)
            said = f"{member.name}: {judgement.reason}"
            if judgement.outcome is Outcome.FALSIFIED:
                refuted.append(said)
                if not enough:
                    break
            elif judgement.outcome is Outcome.CORROBORATED:
                held.append(said)
                if enough:
                    return corroborated(said)
            elif not member.optional:
                doubts.append(said)
        if refuted and not (enough and doubts):
            return falsified("; ".join(refuted))
        if doubts:
            return inconclusive("; ".join(doubts))
        return corroborated("; ".join(held)) if held else inconclusive("no oracle could judge")


def _members(claim: Claim, params: dict[str, Any]) -> list[_Member]:
    """Return the members of the claim, of the parameters, or those that fit the question."""
    expected = claim.expected
    own = expected.get("expected") if isinstance(expected, Mapping) else None
    named = expected.get("oracles") if isinstance(expected, Mapping) else expected
    members = list(_listed(named, own)) or list(_listed(params.get("oracles"), own))
    return members or [_Member("garbage", False, None, {}), _Member(_fitting(claim), False, None, {})]


def _listed(raw: Any, expected: Any) -> Iterator[_Member]:
    """Iterate over the members that a list of names and mappings means."""
    for item in [raw] if isinstance(raw, str) else raw or ():
        entry: Mapping[str, Any] = item if isinstance(item, Mapping) else {"oracle": str(item)}
        name = str(entry.get("oracle", ""))
        if name == Composite.name:
            raise UsageError(
                "a composite oracle cannot be a member of itself", fix="list its members instead"
            )
        yield _Member(
            name,
            bool(entry.get("optional")),
            entry.get("expected", expected),
            dict(entry.get("params") or {}),
        )


def _fitting(claim: Claim) -> str:
    """Return the oracle that the question is made for: the first that would reject a bare "no"."""
    bare = msgspec.structs.replace(claim, expected=None)
    for name in _FITTING:
        if ORACLES.get(name).check(bare, _PROBE, {}).outcome is Outcome.FALSIFIED:
            return name
    return "response"


ORACLES.register("composite")(Composite())
