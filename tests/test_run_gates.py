"""Gates over a whole run: what is not known is not held against anybody, and one bad case is enough."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from apr_qa.gates import GATES
from apr_qa.gates._across import example, example_run
from apr_qa.vocabulary import EARLIER, Evidence, EvidenceHeader, GateVerdict, Outcome, Response

OK, NO = Outcome.CORROBORATED, Outcome.FALSIFIED
ST, GG = "safetensors·cpu·inspect", "gguf·cpu·inspect"


def verdict(gate: str, run: tuple[EvidenceHeader, tuple[Evidence, ...]]) -> GateVerdict:
    judge = GATES.get(gate).verdict
    assert judge is not None
    return judge(*run)


def put(kind: str, tokens: int | None, modality: str = "run") -> Evidence:
    entry = example("F-QUAL-001", f"gguf·cpu·{modality}", kind, OK, " 4")
    return msgspec.structs.replace(entry, response=Response(text=" 4", prompt_tokens=tokens))


def talk(format_name: str, outcome: Outcome) -> Evidence:
    entry = example("F-QUAL-003", f"{format_name}·cpu·chat", "chat", outcome, "banana")
    claim = msgspec.structs.replace(entry.scenario.claim, messages=("It is banana.", "What is it?"))
    scenario = msgspec.structs.replace(entry.scenario, claim=claim)
    return msgspec.structs.replace(entry, id=scenario.id, scenario=scenario)


@pytest.mark.parametrize("left", [Outcome.SKIPPED, Outcome.INAPPLICABLE])
@pytest.mark.parametrize(("gate", "asked"), [("PROV-004", "F-PROV-001"), ("PROV-007", "G0-HEADER-001")])
def test_an_artifact_that_was_not_tried_is_not_held_against_the_run(
    gate: str, asked: str, left: Outcome
) -> None:
    facts: Any = {"sha256": "ab", "tensors": 2}
    run = example_run(example(asked, ST, "inspect", OK, facts=facts), example(asked, GG, "inspect", left))
    assert verdict(gate, run).outcome is OK


def test_a_run_that_looked_at_no_file_proves_nothing_about_files() -> None:
    run = example_run(example("F-QUAL-001", "gguf·cpu·run", "generate", OK, " 4"))
    for gate in ("PROV-004", "PROV-006", "PROV-007", "PROV-009"):
        assert verdict(gate, run).outcome is None


def test_a_prompt_of_unknown_length_says_nothing_about_the_template() -> None:
    assert verdict("F-CHAT-001", example_run(put("generate", 8), put("chat", None, "chat"))).outcome is None
    assert verdict("F-CHAT-001", example_run(put("generate", 8), put("chat", 9, "chat"))).outcome is OK


def test_what_the_ground_truth_forgets_may_be_forgotten() -> None:
    run = example_run(talk("safetensors", NO), talk("gguf", NO))
    assert verdict("F-CHAT-002", run).outcome is Outcome.INCONCLUSIVE
    assert verdict("F-CHAT-002", example_run(talk("gguf", NO))).outcome is None


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [("mvp 1.0", NO), ("mvp 0.5", OK), ("mvp 0.505", OK), ("deep 1.0", None), ("", None)],
)
def test_a_run_is_compared_with_one_of_its_tier(stored: str, wanted: Outcome | None) -> None:
    header, entries = example_run(
        example("F-QUAL-001", "gguf·cpu·run", "generate", OK, " 4"),
        example("F-QUAL-001", "safetensors·cpu·run", "generate", NO, " 5"),
    )
    header = msgspec.structs.replace(header, environment={EARLIER: stored} if stored else {})
    assert verdict("F-REGR-001", (header, entries)).outcome is wanted


def test_a_crash_of_another_kind_is_no_unknown_instruction() -> None:
    died = example("F-QUAL-001", "gguf·cpu·run", "generate", Outcome.CRASHED, reason="signal SIGSEGV")
    lived = example("F-QUAL-001", "gguf·cpu·chat", "chat", OK, "4")
    assert verdict("F-CPU-003", example_run(died, lived)).outcome is OK


def test_the_slowest_artifact_decides_whether_the_gpu_is_worth_it() -> None:
    def timed(place: str, speed: float) -> Evidence:
        return example("F-BENCH-001", place, "inspect", OK, facts={"tokens_per_s_mean": speed})

    good = (timed("gguf·cpu·run", 10.0), timed("gguf·gpu·run", 90.0))
    bad = (timed("safetensors·cpu·run", 10.0), timed("safetensors·gpu·run", 11.0))
    assert verdict("F-GPU-002", example_run(*good)).outcome is OK
    assert verdict("F-GPU-002", example_run(*good, *bad)).outcome is NO
    assert verdict("F-GPU-002", example_run(good[0], bad[1])).outcome is None
