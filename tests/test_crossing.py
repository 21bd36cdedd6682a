"""Scenarios as a product: what a list of them would be, without being one."""

from __future__ import annotations

import msgspec
import pytest

from apr_qa import plan, property_plan
from apr_qa.crossing import Crossed, crossed
from apr_qa.playbook import for_model
from apr_qa.scenarios import claims
from apr_qa.suite_claims import Questions
from apr_qa.vocabulary import Artifact, Claim, Model, Scenario, Target, Tier

CLAIMS = tuple(Claim(gate_id="F-QUAL-001", kind="generate", prompt=f"{n}") for n in range(5))
CHATS = tuple(msgspec.structs.replace(claim, kind="chat") for claim in CLAIMS[:2])
RUN = Target(model="m", format="gguf", quantization="", backend="cpu", modality="run", engine="llama_cpp")
CHAT = msgspec.structs.replace(RUN, modality="chat")
PRODUCT = Crossed([(RUN, CLAIMS), (CHAT, CHATS), (CHAT, ())])
LISTED = [Scenario(target=RUN, claim=one) for one in CLAIMS] + [
    Scenario(target=CHAT, claim=one) for one in CHATS
]


def test_a_product_is_the_list_that_it_stands_for() -> None:
    assert list(PRODUCT) == LISTED and len(PRODUCT) == 7
    assert [PRODUCT[n] for n in range(-7, 7)] == [LISTED[n] for n in range(-7, 7)]
    for place in (slice(None), slice(3, 6), slice(-2, None), slice(None, None, 2)):
        assert list(PRODUCT[place]) == LISTED[place]
    assert tuple(LISTED) == PRODUCT and crossed(LISTED) == PRODUCT and LISTED[1:] != PRODUCT
    assert not Crossed([])


@pytest.mark.parametrize("place", [7, -8, 100])
def test_a_place_beyond_the_end_is_refused(place: int) -> None:
    with pytest.raises(IndexError):
        PRODUCT[place]


def test_parts_that_lose_nothing_stay_shared() -> None:
    other = msgspec.structs.replace(RUN, format="apr")
    both = Crossed([(RUN, CLAIMS), (other, CLAIMS), (CHAT, CHATS)])
    kept = both.where(lambda claim: claim.kind == "generate")
    assert [claims for _, claims in kept.parts] == [CLAIMS, CLAIMS]
    assert kept.parts[0][1] is CLAIMS
    fewer = both.where(lambda claim: claim.prompt != "0")
    assert fewer.parts[0][1] is fewer.parts[1][1] and len(fewer) == 9


def test_cells_share_the_claims_that_they_have_in_common() -> None:
    book = for_model(Model(id="org/name"), Tier.MVP)
    asked = Questions(book, Tier.MVP, claims(book, Tier.MVP))
    targets = [msgspec.structs.replace(RUN, format=name, modality="chat") for name in ("gguf", "apr")]
    first, second = (asked.parts(target) for target in targets)
    assert first[0] is second[0] and first[0]
    for target in targets:
        found = list(asked.of(target))
        assert len({Scenario(target=target, claim=one).id for one in found}) == len(found)


def test_a_batch_of_cells_begins_with_the_load_and_is_grouped_by_process() -> None:
    served = msgspec.structs.replace(RUN, modality="serve")
    given = Crossed([(served, CLAIMS), (RUN, CLAIMS), (CHAT, CHATS)])
    artifact = Artifact(format="gguf", path="x")
    lazy = plan.inference_batches(artifact, given, wave=1, protocol=CHATS)
    assert [batch.target.modality for batch in lazy] == ["run", "serve"]
    assert [len(batch.scenarios) for batch in lazy] == [8, 8]
    assert all(batch.scenarios[0].claim.kind == "load" for batch in lazy)
    assert lazy == plan.inference_batches(artifact, list(given), wave=1, protocol=CHATS)
    assert property_plan.beside_truth(lazy, None, {}) == lazy
