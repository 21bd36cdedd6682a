"""Scenarios: the claims of a playbook, drawn once for a model, times the targets that they are tried on.

Listed claims come first, then the basic ones, then what Hypothesis draws from the oracles. A smaller count is
always a prefix of a larger one, so tiers nest and histories line up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import msgspec

from apr_qa import drawing
from apr_qa.errors import PlaybookError
from apr_qa.oracles import ORACLES
from apr_qa.playbooks.drawn_tests import PropertyTest
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.questions import ScenarioBlock
from apr_qa.vocabulary import Claim, Outcome, Response, Scenario, Target, Tier, digest

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

GATE_OF = {
    "arithmetic": "F-QUAL-001",
    "code_syntax": "F-QUAL-002",
    "response": "F-QUAL-003",
    "garbage": "F-QUAL-004",
}
"""Oracle -> gate under which its verdicts are filed; others are about the response."""

BLOCK = 100
"""Claims drawn at a time: few draws of a seed are no prefix of many, so every block has a seed of its own."""
BARREN_BLOCKS = 3
"""Blocks without anything new after which an oracle has no more to ask."""


def basic_claims() -> tuple[Claim, ...]:
    """Return the fixed claims that every tier begins with.

    Any working model of some 100 million parameters continues these texts correctly, and answers them
    through its chat template too: each one can be read as a text that goes on and as a request. A bare
    question cannot: a model may rightly end the text after its question mark.
    """
    return (
        _claim("arithmetic", "What is 2 + 2? The answer is", basic=True),
        _claim(
            "response", "What is the capital of France? The answer is", {"contains": ["Paris"]}, basic=True
        ),
        _claim("code_syntax", "def add(a, b):\n    return", basic=True, params={"languages": ["python"]}),
        _claim("response", "The opposite of hot is", {"contains": ["cold"]}, basic=True),
        _claim(
            "response", ("The secret word is banana.", "What is the secret word?"), {"contains": ["banana"]}
        ),
    )


def claims(playbook: Playbook, tier: Tier) -> tuple[Claim, ...]:
    """Return the claims that every cell of a model shares; none for ``dim-smoke``, which infers nothing.

    The same playbook gives the same claims on every machine with the same releases of Python and Hypothesis.
    Raises PlaybookError if the oracles cannot make up as many different claims as the playbook asks for.
    """
    wanted = 0 if tier is Tier.DIM_SMOKE else playbook.scenario_count
    found = list(islice(_distinct(_all(playbook)), wanted))
    if len(found) < wanted:
        said = f"test_matrix.scenario_count: only {len(found)} different claims can be made"
        raise PlaybookError(
            [f"{playbook.source}: {said}"],
            where=playbook.source,
            fix="lower scenario_count or name more oracles",
        )
    if found and not any(claim.basic for claim in found):
        # Gateway G2 asks for a basic prompt; of the listed claims the first has to do.
        found[0] = msgspec.structs.replace(found[0], basic=True)
    return tuple(found)


def for_modality(claim: Claim, modality: str) -> tuple[Claim, ...]:
    """Return what a claim becomes in one modality; none where it cannot be put.

    run: a raw completion. chat: the same question as a user turn. serve: both, over HTTP. A conversation of
    several turns has no raw form.
    """
    completion = (msgspec.structs.replace(claim, kind="generate"),) if claim.prompt else ()
    turns = claim.messages or (claim.prompt,)
    chat = (msgspec.structs.replace(claim, kind="chat", prompt="", messages=turns),)
    return {"run": completion, "chat": chat, "serve": completion + chat}[modality]


def scenarios(drawn: Sequence[Claim], targets: Iterable[Target]) -> Iterator[Scenario]:
    """Iterate over every claim on every target, in the form that the target's modality asks for."""
    for target in targets:
        for claim in drawn:
            for fitted in for_modality(claim, target.modality):
                yield Scenario(target=target, claim=fitted)


def _claim(
    oracle: str,
    question: str | tuple[str, ...],
    expected: Any = None,
    *,
    basic: bool = False,
    params: dict[str, Any] | None = None,
) -> Claim:
    turns = () if isinstance(question, str) else question
    return Claim(
        gate_id=GATE_OF.get(oracle, GATE_OF["response"]),
        kind="chat" if turns else "generate",
        prompt="" if turns else str(question),
        messages=turns,
        oracle=oracle,
        expected=expected,
        basic=basic,
        params=params or {},
    )


def _all(playbook: Playbook) -> Iterator[Claim]:
    """Iterate over the claims without end, as far as the oracles have new ones."""
    settings = oracle_settings(playbook)
    shared = settings.get("garbage", {})  # garbage looks at every text, whatever else judges it

    def configured(claim: Claim) -> Claim:
        params = {**shared, **settings.get(claim.oracle, {}), **claim.params}
        return msgspec.structs.replace(claim, params=params)

    yield from (configured(listed(block)) for block in playbook.scenarios if block.everywhere)
    yield from (configured(prompted(prompt, settings)) for prompt in playbook.test_matrix.questions)
    yield from (configured(claim) for claim in basic_claims())
    names = list(settings) or list(GATE_OF)
    seed, languages = playbook.test_matrix.seed, languages_of(playbook)
    yield from (
        configured(claim)
        for claim in _in_turn([_drawn(name, seed, settings.get(name, {}), languages) for name in names])
    )


def oracle_settings(playbook: Playbook) -> dict[str, dict[str, Any]]:
    """Return oracle -> parameters, with the limits that conditions and specifications state."""
    settings = {block.type: block.settings for block in playbook.oracles if block.type in ORACLES.names()}
    if playbook.garbage_oracle is not None:
        settings["garbage"] = {**settings.get("garbage", {}), **playbook.garbage_oracle.config}
    relevance = playbook.limits.min_relevance
    if relevance is not None:
        settings["response"] = {"min_relevance": relevance, **settings.get("response", {})}
    if settings:
        # Naming a gate asks for it: the oracle behind it must have questions to put.
        for name in playbook.asked_gates:
            for oracle in (oracle for oracle, gate in GATE_OF.items() if gate == name):
                settings.setdefault(oracle, {})
    return settings


def languages_of(playbook: Playbook) -> tuple[str, ...]:
    """Return the programming languages that questions of code are limited to; empty: all."""
    named = [
        str(name)
        for block in playbook.oracles
        if block.type == "code_syntax"
        for name in [*block.config.get("languages", [])]
    ]
    return tuple(named)


def prompted(prompt: str, settings: Mapping[str, Any], max_tokens: int = 32) -> Claim:
    """Return a claim about a bare prompt, judged by the oracle of the playbook that it is a question for."""
    fitting = (name for name in ("arithmetic", "code_syntax") if name in settings and _asks(name, prompt))
    return msgspec.structs.replace(_claim(next(fitting, "garbage"), prompt), max_tokens=max_tokens)


def _asks(oracle: str, prompt: str) -> bool:
    """Say whether a prompt is a question for an oracle: one that would reject a bare "no"."""
    no = Response(text="no", finish_reason="stop")
    return ORACLES.get(oracle).check(_claim(oracle, prompt), no, {}).outcome is Outcome.FALSIFIED


def listed(block: ScenarioBlock) -> Claim:
    """Return the claim that a scenario of the playbook states."""
    claim = _claim(
        block.oracle,
        block.messages or block.prompt,
        block.expected,
        basic=block.basic,
        params={"language": block.language} if block.language else None,
    )
    return msgspec.structs.replace(claim, max_tokens=block.max_tokens, severity=block.severity)


def tested(test: PropertyTest, seed: int) -> tuple[Claim, ...]:
    """Return the claims that a named test of the playbook draws."""
    if test.sum is not None:
        questions = islice(dict.fromkeys(islice(test.sum.questions(seed), 50 * test.count)), test.count)
        return tuple(_claim("arithmetic", question) for question in questions)
    if test.texts:
        settings: dict[str, Any] = {name: {} for name in GATE_OF}
        return tuple(prompted(text, settings) for text in test.texts[: test.count])
    drawn = _drawn(test.judge, seed, {}, test.languages)
    return tuple(islice(drawn, test.count))


def _distinct(found: Iterable[Claim]) -> Iterator[Claim]:
    """Leave out every claim whose question was asked before."""
    asked = set()
    for claim in found:
        question = (claim.prompt, claim.messages)
        if question not in asked:
            asked.add(question)
            yield claim


def _in_turn(sources: list[Iterator[Claim]]) -> Iterator[Claim]:
    """Take one claim of each source in turn, until all are empty."""
    while sources:
        for source in list(sources):
            claim = next(source, None)
            if claim is None:
                sources.remove(source)
            else:
                yield claim


def _drawn(oracle: str, seed: int, params: dict[str, Any], languages: Sequence[str] = ()) -> Iterator[Claim]:
    """Iterate over different claims of one oracle; ends when draws bring nothing new."""
    configured = msgspec.json.encode(params, order="deterministic")
    asked: set[str] = set()
    barren = 0
    for block in count():
        before = len(asked)
        for claim in _block(oracle, configured, int(digest(seed, oracle, block), 16)):
            question = as_text(claim.prompt)
            foreign = oracle == "code_syntax" and languages and claim.expected not in languages
            if question not in asked and not foreign:
                asked.add(question)
                gate = GATE_OF.get(oracle, GATE_OF["response"])
                yield msgspec.structs.replace(claim, gate_id=gate, oracle=oracle, prompt=question)
        barren = 0 if len(asked) > before else barren + 1
        if barren == BARREN_BLOCKS:
            return


@lru_cache(maxsize=1024)
def _block(oracle: str, params: bytes, seed: int) -> tuple[Claim, ...]:
    """Return one block of draws, made once for all models that are asked by the same rules."""
    member = ORACLES.get(oracle)
    return tuple(_draw(member.claims({**member.params, **msgspec.json.decode(params)}), seed))


def as_text(prompt: str) -> str:
    """Turn a bare question into a text that goes on; see ``basic_claims``."""
    return f"{prompt} The answer is" if prompt.endswith("?") else prompt


def _draw(strategy: SearchStrategy[Claim], seed: int) -> list[Claim]:
    """Return ``BLOCK - 1`` draws; the first draw of Hypothesis is always the minimal one and is dropped."""
    import hypothesis

    drawn: list[Claim] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=BLOCK,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        backend=drawing.backend(),
    )
    @hypothesis.given(strategy)
    def collect(claim: Claim) -> None:
        drawn.append(claim)

    with drawing.storage():
        collect()
    return drawn[1:]
