"""What the runner promises when children answer, die, hang or are interrupted. Real workers, real engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import children

from apr_qa import plan, runner
from apr_qa.vocabulary import (
    Artifact,
    Claim,
    Evidence,
    Judgement,
    Outcome,
    Response,
    Scenario,
    Severity,
    Target,
)

TARGET = Target(
    model="tiny", format="gguf", quantization="f32", backend="cpu", modality="run", engine="llama_cpp"
)


def claim(prompt: str, severity: Severity = Severity.P1) -> Claim:
    return Claim(
        gate_id="F-QUAL-004", kind="generate", prompt=prompt, max_tokens=4, severity=severity, basic=True
    )


def batch(path: Path, claims: Sequence[Claim]) -> plan.Batch:
    artifact = Artifact(format="gguf", path=str(path), quantization="f32")
    scenarios = [Scenario(target=TARGET, claim=c) for c in claims]
    return plan.inference_batches(artifact, scenarios, wave=0)[0]


def accept(_: Scenario, response: Response) -> tuple[Judgement, dict[str, Any]]:
    return Judgement(outcome=Outcome.CORROBORATED, reason="answered"), {}


def work(
    batches: Sequence[plan.Batch],
    policy: str = "collect_all",
    limits: runner.Limits | None = None,
    **rest: Any,
) -> list[Evidence]:
    entries: list[Evidence] = []
    line = runner.Line(policy, entries.append, **rest)
    runner.run(batches, line, accept, limits or runner.Limits(), jobs=2, threads=1)
    assert not children()
    return entries


def by_prompt(entries: Sequence[Evidence]) -> dict[str, Outcome]:
    return {entry.scenario.claim.prompt: entry.outcome for entry in entries if entry.scenario.claim.prompt}


def test_every_scenario_gets_evidence_with_generated_text_and_tokens(tiny_gguf: Path) -> None:
    entries = work([batch(tiny_gguf, [claim("one"), claim("two")])])
    assert len(entries) == 3
    for entry in entries:
        assert entry.outcome is Outcome.CORROBORATED and entry.response is not None
        if entry.scenario.claim.prompt:
            assert entry.response.token_ids is not None and entry.response.finish_reason in ("stop", "length")
            assert entry.response.vocab_size and entry.response.duration_s


def test_a_prompt_that_kills_the_worker_costs_only_itself(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APR_QA_FAULT", "crash:three")
    outcomes = by_prompt(
        work([batch(tiny_gguf, [claim(p) for p in ("one", "two", "three", "four", "five")])])
    )
    assert outcomes.pop("three") is Outcome.CRASHED
    assert set(outcomes.values()) == {Outcome.CORROBORATED} and len(outcomes) == 4


def test_a_prompt_that_hangs_costs_only_itself(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_FAULT", "hang:two")
    limits = runner.Limits(scenario_s=6.0)  # generous: a loaded machine must not make a healthy prompt late
    outcomes = by_prompt(work([batch(tiny_gguf, [claim(p) for p in ("one", "two", "three")])], limits=limits))
    assert outcomes.pop("two") is Outcome.TIMEOUT
    assert set(outcomes.values()) == {Outcome.CORROBORATED} and len(outcomes) == 2


def test_the_reason_of_a_crash_names_the_signal(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_FAULT", "crash:one")
    crashed = [e for e in work([batch(tiny_gguf, [claim("one")])]) if e.outcome is Outcome.CRASHED]
    assert len(crashed) == 1 and "SIGSEGV" in crashed[0].reason


def test_a_file_that_does_not_load_falsifies_the_load_claim_and_everything_that_needed_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    entries = work([batch(path, [claim("one"), claim("two")])])
    assert [entry.outcome for entry in entries] == [Outcome.FALSIFIED] * 3
    assert entries[0].scenario.claim.kind == "load"


def test_success_and_failure_are_filed_under_one_id_one_gate_and_one_model(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:4000])
    good, bad = (work([batch(one, [claim("one"), claim("two")])]) for one in (tiny_gguf, path))
    filed = [[(e.id, e.gate_id, e.severity, e.scenario.target.model) for e in run] for run in (good, bad)]
    assert filed[0] == filed[1]
    assert {e.outcome for e in good} == {Outcome.CORROBORATED} and {e.outcome for e in bad} == {
        Outcome.FALSIFIED
    }


@pytest.mark.parametrize(
    ("policy", "severity", "skipped"),
    [
        ("stop_on_p0", Severity.P0, 1),
        ("stop_on_p0", Severity.P1, 0),
        ("stop_on_first", Severity.P1, 1),
        ("collect_all", Severity.P0, 0),
    ],
)
def test_the_line_stops_exactly_when_the_policy_says_so(
    tiny_gguf: Path, policy: str, severity: Severity, skipped: int
) -> None:
    entries: list[Evidence] = []
    stops: list[Evidence] = []

    def refuse(scenario: Scenario, _: Response) -> tuple[Judgement, dict[str, Any]]:
        outcome = Outcome.FALSIFIED if scenario.claim.prompt == "bad" else Outcome.CORROBORATED
        return Judgement(outcome=outcome, reason="judged"), {}

    line = runner.Line(policy, entries.append, andon=stops.append)
    first = batch(tiny_gguf, [claim("bad", severity)])
    second = plan.Batch(
        target=TARGET,
        artifact=first.artifact,
        wave=1,
        scenarios=(Scenario(target=TARGET, claim=claim("later")),),
    )
    runner.run([first, second], line, refuse, runner.Limits(), jobs=1, threads=1)
    assert sum(entry.outcome is Outcome.SKIPPED for entry in entries) == skipped
    assert len(stops) == skipped and all(stop.scenario.claim.prompt == "bad" for stop in stops)


def test_a_crash_stops_the_line_under_the_default_policy(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APR_QA_FAULT", "crash:one")
    first, second = batch(tiny_gguf, [claim("one")]), batch(tiny_gguf, [claim("later")])
    later = plan.Batch(target=TARGET, artifact=first.artifact, wave=1, scenarios=second.scenarios[1:])
    outcomes = by_prompt(work([first, later], policy="stop_on_p0"))
    assert outcomes == {"one": Outcome.CRASHED, "later": Outcome.SKIPPED}


def test_an_inapplicable_batch_says_why_and_starts_nothing(tiny_gguf: Path) -> None:
    artifact = Artifact(format="gguf", path=str(tiny_gguf))
    scenarios = [Scenario(target=TARGET, claim=claim("one"))]
    entries = work(plan.inference_batches(artifact, scenarios, wave=0, inapplicable="no GPU"))
    assert {(entry.outcome, entry.reason) for entry in entries} == {(Outcome.INAPPLICABLE, "no GPU")}


def test_a_used_up_budget_skips_the_rest(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APR_QA_FAULT", "hang:one")
    entries = work([batch(tiny_gguf, [claim("one"), claim("two")])], budget_s=2.0)
    assert all(entry.outcome is Outcome.SKIPPED for entry in entries if entry.scenario.claim.prompt)
    assert "budget" in entries[-1].reason


def test_an_interrupt_records_nothing_more_and_leaves_no_process(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APR_QA_FAULT", "hang:two")
    entries: list[Evidence] = []
    line = runner.Line("collect_all", entries.append)

    def interrupt() -> None:
        time.sleep(1.5)
        line.interrupted = True

    threading.Thread(target=interrupt).start()
    runner.run(
        [batch(tiny_gguf, [claim("one"), claim("two")])], line, accept, runner.Limits(), jobs=1, threads=1
    )
    assert not children()
    assert Outcome.SKIPPED not in {entry.outcome for entry in entries}
    assert len(entries) < 3


def test_a_killed_parent_leaves_no_worker_behind(tiny_gguf: Path, tmp_path: Path) -> None:
    import os
    import signal
    import subprocess
    import sys

    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); import test_runner as t; from pathlib import Path;"
        "t.work([t.batch(Path(sys.argv[1]), [t.claim('one')])])"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tiny_gguf), str(Path(__file__).parent)],
        env={**os.environ, "APR_QA_FAULT": "hang:one"},
        start_new_session=True,
    )
    worker: set[int] = set()
    while not worker:
        time.sleep(0.1)
        worker = children(parent.pid)
    time.sleep(1.0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in worker if Path(f"/proc/{pid}").exists()]
