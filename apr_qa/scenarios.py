"""Scenarios: the claims of a playbook, drawn once for a model, times the targets that they are tried on.

Listed claims come first, then the basic ones, then what Hypothesis draws from the oracles. A smaller count is
always a prefix of a larger one, so tiers nest and histories line up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import msgspec

from apr_qa import workspace
from apr_qa.errors import PlaybookError
from apr_qa.oracles import ORACLES
from apr_qa.playbooks.fields import ScenarioBlock
from apr_qa.playbooks.model import Playbook
from apr_qa.vocabulary import Claim, Scenario, Target, Tier, digest

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

BACKEND = "apr_qa_seeded"


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
    settings = {block.type: block.config for block in playbook.oracles}
    shared = settings.get("garbage", {})  # garbage looks at every text, whatever else judges it

    def configured(claim: Claim) -> Claim:
        params = {**shared, **settings.get(claim.oracle, {}), **claim.params}
        return msgspec.structs.replace(claim, params=params)

    yield from (configured(_listed(block)) for block in playbook.scenarios)
    yield from (configured(_claim("garbage", prompt)) for prompt in playbook.test_matrix.prompts)
    yield from (configured(claim) for claim in basic_claims())
    names = list(settings) or list(GATE_OF)
    seed = playbook.test_matrix.seed
    yield from (
        configured(claim)
        for claim in _in_turn([_drawn(name, seed, settings.get(name, {})) for name in names])
    )


def _listed(block: ScenarioBlock) -> Claim:
    claim = _claim(
        block.oracle,
        block.messages or block.prompt,
        block.expected,
        basic=block.basic,
        params={"languages": [block.language]} if block.language else None,
    )
    return msgspec.structs.replace(claim, max_tokens=block.max_tokens, severity=block.severity)


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


def _drawn(oracle: str, seed: int, params: dict[str, Any]) -> Iterator[Claim]:
    """Iterate over different claims of one oracle; ends when draws bring nothing new."""
    member = ORACLES.get(oracle)
    strategy = member.claims({**member.params, **params})
    asked: set[str] = set()
    barren = 0
    for block in count():
        before = len(asked)
        for claim in _draw(strategy, int(digest(seed, oracle, block), 16)):
            question = _as_text(claim.prompt)
            if question not in asked:
                asked.add(question)
                gate = GATE_OF.get(oracle, GATE_OF["response"])
                yield msgspec.structs.replace(claim, gate_id=gate, oracle=oracle, prompt=question)
        barren = 0 if len(asked) > before else barren + 1
        if barren == BARREN_BLOCKS:
            return


def _as_text(prompt: str) -> str:
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
        backend=_backend(),
    )
    @hypothesis.given(strategy)
    def collect(claim: Claim) -> None:
        drawn.append(claim)

    with _hypothesis_storage():
        collect()
    return drawn[1:]


@contextmanager
def _hypothesis_storage() -> Iterator[None]:
    """Let Hypothesis keep its tables in our cache folder instead of the user's working directory."""
    from hypothesis import configuration

    previous = getattr(configuration, "__hypothesis_home_directory", None)
    configuration.set_hypothesis_home_dir(workspace.root() / "hypothesis")
    try:
        yield
    finally:
        configuration.set_hypothesis_home_dir(previous)


def _backend() -> str:
    """Register our source of choices with Hypothesis and return its name."""
    from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS

    AVAILABLE_PROVIDERS[BACKEND] = "apr_qa.seeded_choices.SeededChoices"
    return BACKEND
