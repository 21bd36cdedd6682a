"""What a loaded session answers to a group of claims: texts in one call, everything else one at a time."""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Sequence

import msgspec

from apr_qa.backends import Request, Session
from apr_qa.serving.endpoint import at_once
from apr_qa.vocabulary import Artifact, Response, Scenario

TEXT_KINDS = ("generate", "chat")


def responses(
    session: Session, group: Sequence[Scenario], artifact: Artifact, truth: Artifact | None
) -> list[Response]:
    """Return a response for each claim of a group; raises what the session refuses with."""
    kind = group[0].claim.kind
    if kind in TEXT_KINDS:
        return _converse(session, group)
    claim = group[0].claim
    started = time.perf_counter()
    if kind == "property":
        facts = pkgutil.resolve_name("apr_qa.property_search:answered")(session, group[0], artifact, truth)
        return [Response(facts=facts, duration_s=round(time.perf_counter() - started, 4))]
    if kind == "measure":
        facts = pkgutil.resolve_name("apr_qa.measuring.checks:measured")(session, group[0], artifact)
        return [Response(facts=facts, duration_s=round(time.perf_counter() - started, 4))]
    facts = session.facts(str(claim.params["check"]), {**claim.params, "origin": artifact.origin})
    return [Response(facts=facts, duration_s=round(time.perf_counter() - started, 4))]


def _request(scenario: Scenario, prompt: str, *, templated: bool = False) -> Request:
    claim = scenario.claim
    return Request(
        prompt=prompt,
        max_tokens=claim.max_tokens,
        temperature=claim.temperature,
        seed=claim.seed,
        templated=templated,
        stop=tuple(claim.params.get("stop", ())),
        top_p=float(claim.params.get("top_p", 1.0)),
        top_k=int(claim.params.get("top_k", 0)),
    )


def _converse(session: Session, group: Sequence[Scenario]) -> list[Response]:
    """Answer prompts and the user turns of conversations round by round; the last answer is the response.

    A prompt is a conversation of one round. What is asked in one round is asked together: the steps of a decode
    cost nearly the same for one sequence as for many.
    """
    messages: list[list[dict[str, str]]] = [[] for _ in group]
    answers: list[list[Response]] = [[] for _ in group]
    for turn in range(max(1, *(len(scenario.claim.messages) for scenario in group))):
        active = [i for i, s in enumerate(group) if turn < max(1, len(s.claim.messages))]
        for i in active:
            if group[i].claim.kind == "chat":
                messages[i].append({"role": "user", "content": group[i].claim.messages[turn]})
        replies = _reply(session, [(group[i], messages[i]) for i in active])
        for i, reply in zip(active, replies, strict=True):
            answers[i].append(reply)
            messages[i].append({"role": "assistant", "content": reply.text or ""})
    return [
        msgspec.structs.replace(given[-1], turns=tuple(reply.text or "" for reply in given[:-1]))
        for given in answers
    ]


def _reply(
    session: Session, conversations: Sequence[tuple[Scenario, list[dict[str, str]]]]
) -> list[Response]:
    """Return the answers of one round; a claim that is no chat has no messages and asks its prompt."""
    if hasattr(session, "endpoint"):  # a server renders the template itself

        def ask(conversation: tuple[Scenario, list[dict[str, str]]]) -> Response:
            scenario, messages = conversation
            claim = scenario.claim
            if claim.kind == "chat":
                return session.chat(messages, claim.max_tokens, claim.temperature, claim.seed)
            return session.generate([_request(scenario, claim.prompt)])[0]

        return at_once(ask, conversations)
    return session.generate(
        [
            _request(scenario, session.render_chat(messages), templated=True)
            if scenario.claim.kind == "chat"
            else _request(scenario, scenario.claim.prompt)
            for scenario, messages in conversations
        ]
    )
