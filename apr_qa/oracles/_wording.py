"""How the oracles speak: one reason a judgement, with at most 80 characters of the text, escaped."""

from __future__ import annotations

from apr_qa.vocabulary import Judgement, Outcome, Response

_QUOTED_CHARACTERS = 80


def silent(response: Response) -> Judgement | None:
    """Return the judgement over missing or blank text, or None if there is text."""
    return None if (response.text or "").strip() else falsified("no text was generated")


def corroborated(reason: str) -> Judgement:
    """Return the judgement that the text bears the claim out."""
    return Judgement(outcome=Outcome.CORROBORATED, reason=reason)


def falsified(reason: str) -> Judgement:
    """Return the judgement that the text contradicts the claim."""
    return Judgement(outcome=Outcome.FALSIFIED, reason=reason)


def inconclusive(reason: str) -> Judgement:
    """Return the judgement that the text cannot be judged, and why."""
    return Judgement(outcome=Outcome.INCONCLUSIVE, reason=reason)


def quote(text: str) -> str:
    """Return the beginning of a text, escaped and in quotation marks."""
    return repr(text if len(text) <= _QUOTED_CHARACTERS else text[: _QUOTED_CHARACTERS - 1] + "…")
