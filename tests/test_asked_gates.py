"""Every gate is asked by something: the deep tier asks all that apply to a model, and the others say what they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr_qa import playbook
from apr_qa.derivation.claims import PROMISES
from apr_qa.gates import GATES
from apr_qa.playbooks.model import Playbook
from apr_qa.preparation import Settings, prepare
from apr_qa.vocabulary import Model, Tier

ROOT = Path(__file__).parent.parent
FIXTURE = ROOT / "tests" / "fixtures" / "models" / "llama-untied-gqa8x2"
MODEL = Model(id="fixture", path=str(FIXTURE))

NEEDED = {
    "AC-": "a list of criteria",
    "F-DERIV-": "a derivation that is stated",
    "F-HF-PARITY-": "a stored corpus",
    "F-PARITY-TOKENS-": "a stored corpus",
    "F-OLLAMA-": "another runtime",
    "G0-EXPECTED-": "dimensions that are stated",
    "G0-KERNEL-": "a model that is judged by its header alone",
    "G0-FORMAT-SAFETENSORS-": "a model of which there is only a GGUF file",
}
"""Begin of the id -> what has to be there besides a model, so that the template of a tier can ask."""


class Silent:
    """Somebody who watches and says nothing."""

    def say(self, line: str) -> None: ...


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def planned(book: Playbook, tier: Tier, model: Model, tmp_path: Path) -> set[str]:
    """Return the gates that a run would get evidence for."""
    settings = Settings(output=str(tmp_path / "out"), download=False)
    found = prepare(model, tier, book, settings, Silent())
    return {scenario.claim.gate_id for batch in found.batches for scenario in batch.scenarios}


def written(tmp_path: Path, text: str) -> Playbook:
    path = tmp_path / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return playbook.load(path)


def lacking(gate_id: str) -> str:
    return next((what for begin, what in NEEDED.items() if gate_id.startswith(begin)), "")


def test_the_deep_tier_asks_every_gate_that_a_model_alone_can_answer(tmp_path: Path) -> None:
    asked = planned(playbook.template(Tier.DEEP, MODEL), Tier.DEEP, MODEL, tmp_path)
    across = {name for name, gate in GATES.items() if gate.verdict is not None}
    left = set(GATES.names()) - asked - across
    assert {gate for gate in left if not lacking(gate)} == set()
    assert {begin for begin in NEEDED if not any(gate.startswith(begin) for gate in left)} == set()


@pytest.mark.parametrize("tier", [tier for tier in Tier if tier is not Tier.DEEP])
def test_a_smaller_tier_asks_nothing_that_the_deep_one_does_not(tier: Tier, tmp_path: Path) -> None:
    deep = planned(playbook.template(Tier.DEEP, MODEL), Tier.DEEP, MODEL, tmp_path)
    more = planned(playbook.template(tier, MODEL), tier, MODEL, tmp_path) - deep
    assert {gate for gate in more if not gate.startswith("G0-KERNEL-")} == set()
    assert bool(more) is (tier is Tier.DIM_SMOKE)


def test_what_a_gate_needs_can_be_given(tmp_path: Path, tiny_gguf: Path) -> None:
    given = written(
        tmp_path,
        """
model: {id: fixture, formats: [safetensors, gguf], expected_num_layers: 12}
test_matrix: {modalities: [run], backends: [cpu], scenario_count: 1}
hf_parity:
  corpus_path: corpus
  gates: [F-HF-PARITY-002, F-HF-PARITY-003, F-HF-PARITY-004, F-PARITY-TOKENS-001]
ollama_parity: {gates: [F-OLLAMA-005]}
""",
    )
    asked = planned(given, Tier.MVP, MODEL, tmp_path)
    asked |= planned(playbook.template(Tier.DIM_SMOKE, MODEL), Tier.DIM_SMOKE, MODEL, tmp_path)
    only = Model(id="only", path=str(tiny_gguf))
    asked |= planned(playbook.template(Tier.MVP, only), Tier.MVP, only, tmp_path)
    asked |= planned(playbook.load(ROOT / "playbooks/spec/acceptance.yaml"), Tier.MVP, MODEL, tmp_path)
    for kind in PROMISES:
        book = written(
            tmp_path, f"model: {{id: fixture}}\nderivation: {{kind: {kind}, parents: [{FIXTURE}]}}\n"
        )
        asked |= planned(book, Tier.MVP, MODEL, tmp_path)
    assert {gate for gate in GATES.names() if lacking(gate)} - asked == set()
