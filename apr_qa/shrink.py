"""A stored failure, made smaller: the target is loaded again and the smallest case that still fails is looked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from apr_qa.deletion import Trials, shorter
from apr_qa.errors import UsageError
from apr_qa.vocabulary import Claim, Evidence, Outcome, Scenario

Ask = Callable[[Sequence[Scenario]], Sequence[Evidence]]
"""Tries scenarios on one target and returns an entry for each."""

ORACLES = ("arithmetic", "code_syntax", "garbage")
"""Oracles that judge the answer to any prompt: they work out themselves what is right."""


def prompts(stored: Evidence, ask: Ask, examples: int) -> Evidence:
    """Return the entry of the shortest prompt that fails as ``stored`` did, by leaving out words, then letters.

    Raises UsageError where a shorter prompt would be another question than the one that the expectation is about.
    """
    claim = stored.scenario.claim
    require_free(stored)
    best: list[Evidence] = []

    def fails(joiner: str, parts: Sequence[str]) -> bool:
        text = joiner.join(parts)
        if not text.strip():
            return False
        entry = ask([Scenario(target=stored.scenario.target, claim=asking(claim, text))])[0]
        if entry.outcome is stored.outcome:
            best[:] = [entry]
        return entry.outcome is stored.outcome

    trials = Trials(examples)
    words = claim.question.split(" ")
    if not fails(" ", words):
        return stored
    kept = shorter(words, lambda parts: fails(" ", parts), trials)
    shorter(list(" ".join(kept)), lambda parts: fails("", parts), trials)
    return best[0]


def asking(claim: Claim, text: str) -> Claim:
    """Return the claim with another question."""
    if claim.messages:
        return msgspec.structs.replace(claim, messages=(text,))
    return msgspec.structs.replace(claim, prompt=text)


def require_free(stored: Evidence) -> None:
    """Raise UsageError, with the reason, for an entry that nothing smaller can stand for."""
    claim = stored.scenario.claim
    reason = ""
    if not stored.outcome.failed:
        reason = f"it did not fail: {stored.outcome}"
    elif stored.outcome is not Outcome.FALSIFIED:
        reason = f"it ended as {stored.outcome}; a smaller prompt that does so is no smaller evidence"
    elif claim.kind not in ("generate", "chat"):
        reason = "it is about a file or a protocol, and has no prompt"
    elif len(claim.messages) > 1:
        reason = "it is a conversation, in which every turn depends on the one before"
    elif claim.expected is not None and claim.oracle != "code_syntax":
        reason = "what is expected was stated for this very prompt"
    elif (claim.oracle or "garbage") not in ORACLES:
        reason = f"the oracle {claim.oracle!r} cannot say what is right for another prompt"
    if reason:
        raise UsageError(f"{stored.id} cannot be shrunk: {reason}", fix="replay it instead")
