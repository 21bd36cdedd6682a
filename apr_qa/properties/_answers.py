"""Answers of a loaded model, and when two of them may differ: at near ties of the next token.

Batches of another size are computed by other kernels, so the same weights give slightly other logits. How far apart
they may be is stated in standard deviations of the logits, because logits have no scale of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apr_qa.backends import Request
from apr_qa.errors import InferenceFailed
from apr_qa.properties import Finding, OutOfPromise, Subject
from apr_qa.properties._texts import prompts
from apr_qa.vocabulary import Response, Target

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

LOGIT_NOISE: Mapping[str, float] = {"f32": 1e-3, "f16": 0.03, "bf16": 0.6}
"""Largest difference of one logit between two ways to compute it, in standard deviations: four times and more what
SmolLM2-135M shows (F32 2e-5, F16 in llama.cpp 7e-3, bfloat16 in torch 0.14)."""

QUANTISED_NOISE = 0.9
"""The same where llama.cpp rounds activations too: 0.15 (Q4_0) to 0.23 (Q6_K) were seen."""

TIE_SHARE = 0.25
"""The largest of 49,000 differences is some four times that of a given pair of tokens."""


def noise(target: Target) -> float:
    """Return the allowed difference of a logit, in standard deviations of the logits."""
    allowed = LOGIT_NOISE.get(target.quantization.removesuffix(" (source)").lower(), QUANTISED_NOISE)
    return max(allowed, LOGIT_NOISE["bf16"]) if target.backend == "gpu" else allowed


def answers(subject: Subject, requests: Sequence[Request]) -> list[Response]:
    """Answer in one batch; raises OutOfPromise for prompts without tokens, InferenceFailed for refusals."""
    if not requests or not all(prompt_ids(subject, request.prompt) for request in requests):
        raise OutOfPromise
    found: list[Response] = subject.session.generate(list(requests))
    refused = [answer for answer in found if answer.finish_reason == "error"]
    if refused:
        raise InferenceFailed(str(refused[0].facts.get("error", "inference failed")))
    return found


def alone(subject: Subject, prompt: str, max_tokens: int, **wanted: Any) -> Response:
    """Answer one request by itself."""
    return answers(subject, [Request(prompt, max_tokens, **wanted)])[0]


def prompt_ids(subject: Subject, prompt: str) -> list[int]:
    """Return the ids of a raw prompt; servers do not tell them and give a stand-in."""
    if hasattr(subject.session, "endpoint"):
        return [0] if prompt else []
    return [int(token) for token in subject.session.tokenize(prompt)]


def disagreement(subject: Subject, prompt: str, observed: Response, expected: Response) -> Finding | None:
    """Compare two greedy answers to one prompt up to the first token that differs and is no near tie."""
    ours, theirs = list(expected.token_ids or ()), list(observed.token_ids or ())
    if ours == theirs:
        return None if observed.text == expected.text else told(observed, expected)
    shorter = min(len(ours), len(theirs))
    at = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    if _near_tie(subject, prompt_ids(subject, prompt) + ours[:at], ours[at:], theirs[at:]):
        return None
    return told(observed, expected)


def told(observed: Response, expected: Response) -> Finding:
    """Return both answers as a finding."""
    return Finding(*(_shown(answer) for answer in (observed, expected)))


def _shown(answer: Response) -> dict[str, Any]:
    ids = list(answer.token_ids) if answer.token_ids is not None else None
    return {"text": answer.text, "token_ids": ids, "finish_reason": answer.finish_reason}


def _near_tie(subject: Subject, before: list[int], ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Say whether the next token after ``before`` was chosen by a lead that noise can turn.

    Where one answer ends, its token is not known; then the lead over the second best counts.
    """
    row = subject.session.logits(before)[-1]
    ranked = sorted((float(row[token]) for token in {*ours[:1], *theirs[:1]}), reverse=True)
    if len(ranked) < 2:
        ranked = sorted((float(value) for value in row), reverse=True)[:2]
    return ranked[0] - ranked[1] <= TIE_SHARE * noise(subject.target) * float(row.std())


def cases(least: int = 1, most: int = 6, **more: SearchStrategy[Any]) -> SearchStrategy[dict[str, Any]]:
    """Return cases of a prompt and a number of new tokens, with what ``more`` adds."""
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"prompt": prompts(), "max_tokens": st.integers(least, most), **more})
