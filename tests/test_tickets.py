"""Findings become tickets by root cause; nothing is sent, and hostile text stays text."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from fixed_run import fixed_run
from hypothesis import given
from hypothesis import strategies as st

from apr_qa import tally
from apr_qa.cli import command_line
from apr_qa.errors import UsageError
from apr_qa.rendering.tickets import create_command, tickets
from apr_qa.reports import Run
from apr_qa.vocabulary import Claim, Evidence, Outcome, Response, Scenario, Severity, Target

COMMITTED = Path(__file__).parents[1] / "certifications" / "HuggingFaceTB--SmolLM2-135M-Instruct"


def entry(gate: str, outcome: Outcome, reason: str, **more: object) -> Evidence:
    target = Target(
        model="m",
        format=str(more.get("format", "gguf")),
        quantization="q8_0",
        backend="cpu",
        modality="run",
        engine="llama_cpp",
    )
    severity = Severity(str(more.get("severity", "P1")))
    claim = Claim(
        gate_id=gate,
        kind=str(more.get("kind", "generate")),
        prompt=str(more.get("prompt", "p")),
        severity=severity,
    )
    scenario = Scenario(target=target, claim=claim)
    facts = more.get("facts")
    return Evidence(
        id=scenario.id,
        gate_id=gate,
        severity=severity,
        scenario=scenario,
        outcome=outcome,
        reason=reason,
        response=Response(facts=facts) if isinstance(facts, dict) else None,
    )


def run_of(*entries: Evidence) -> Run:
    return msgspec.structs.replace(fixed_run(), evidence=entries)


def test_a_run_without_findings_has_no_ticket() -> None:
    assert tickets(run_of(entry("F-QUAL-001", Outcome.CORROBORATED, "fine"))) == []


def test_claims_that_failed_because_the_target_did_not_load_are_one_ticket_with_the_load() -> None:
    found = tickets(
        run_of(
            entry("G1-LOAD", Outcome.FALSIFIED, "missing tensor 7", kind="load", severity="P0"),
            entry("F-QUAL-001", Outcome.FALSIFIED, "the target did not load: missing tensor 8", prompt="a"),
            entry("F-QUAL-002", Outcome.FALSIFIED, "the target did not load: missing tensor 9", prompt="b"),
        )
    )
    assert [ticket.occurrences for ticket in found] == [3]
    assert found[0].severity == "P0"


def test_gates_that_judge_one_measurement_are_one_ticket() -> None:
    facts = {"worst": 3.0}
    found = tickets(
        run_of(
            entry("F-CONTRACT-I4-001", Outcome.FALSIFIED, "too far", kind="inspect", facts=facts),
            entry("F-LAYOUT-002", Outcome.FALSIFIED, "transposed", kind="inspect", facts=facts),
            entry("F-QUAL-001", Outcome.FALSIFIED, "5 is not 2 + 2"),
        )
    )
    assert sorted(len(ticket.gates) for ticket in found) == [1, 2]


def test_the_same_failure_of_many_prompts_is_one_ticket_whatever_the_numbers() -> None:
    wrong = [
        entry("F-QUAL-001", Outcome.FALSIFIED, f"{n} is not 2 + {n}", prompt=f"2 + {n}") for n in range(5)
    ]
    assert [ticket.occurrences for ticket in tickets(run_of(*wrong))] == [5]


def test_a_crash_and_a_failure_seen_nowhere_else_are_black_swans_and_a_common_failure_is_none() -> None:
    def p0(form: str, outcome: Outcome) -> Evidence:
        return entry("F-CONTRACT-I2-001", outcome, "names", format=form, severity="P0")

    crash = tickets(run_of(entry("F-QUAL-001", Outcome.CRASHED, "signal 11")))
    alone = tickets(run_of(p0("gguf", Outcome.FALSIFIED), p0("apr", Outcome.CORROBORATED)))
    common = tickets(run_of(p0("gguf", Outcome.FALSIFIED), p0("apr", Outcome.FALSIFIED)))
    assert [ticket.black_swan for ticket in (*crash, *alone, *common)] == [True, True, False, False]


@given(st.permutations(range(len(fixed_run().evidence))))
def test_tickets_do_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    evidence = fixed_run().evidence
    shuffled = msgspec.structs.replace(fixed_run(), evidence=tuple(evidence[i] for i in order))
    assert [t.fingerprint for t in tickets(shuffled)] == [t.fingerprint for t in tickets(fixed_run())]


def test_hostile_text_closes_no_fence_and_leaves_the_command_one_word_each() -> None:
    for ticket in tickets(fixed_run()):
        assert "\x1b" not in ticket.body and "\u202e" not in ticket.body
        assert "<script" not in "".join(
            line for line in ticket.body.splitlines() if not line.startswith("    ")
        )
        words = shlex.split(create_command(ticket, "me/mine", "body.md"))
        assert words[words.index("--title") + 1] == ticket.title
        assert "/" not in ticket.filename and ticket.filename.isascii()


def test_draft_writes_no_file_and_create_writes_one_a_ticket_and_sends_nothing(tmp_path: Path) -> None:
    runner = CliRunner()
    draft = runner.invoke(command_line, ["tickets", str(COMMITTED)])
    assert draft.exit_code == 0 and "apr-qa replay" in draft.output and "nothing was sent" in draft.output
    done = runner.invoke(
        command_line,
        ["tickets", str(COMMITTED), "--ticket-mode", "create", "--repo", "me/mine", "-o", str(tmp_path)],
    )
    commands = [line for line in done.output.splitlines() if line.startswith("gh issue create")]
    assert done.exit_code == 0 and len(commands) == len(list(tmp_path.glob("*.md"))) > 0


def test_a_ticket_without_a_repository_is_refused_and_rare_findings_can_be_left_out() -> None:
    refused = CliRunner().invoke(command_line, ["tickets", str(COMMITTED), "--ticket-mode", "create"])
    assert isinstance(refused.exception, UsageError)
    rare = CliRunner().invoke(command_line, ["tickets", str(COMMITTED), "--min-occurrences", "99", "--json"])
    assert rare.stdout.startswith("[]")


def test_exported_evidence_is_one_document_with_every_entry(tmp_path: Path) -> None:
    done = CliRunner().invoke(command_line, ["export-evidence", str(COMMITTED), "-o", str(tmp_path)])
    document = json.loads(Path(done.stdout.strip()).read_text())
    lines = (COMMITTED / "evidence.jsonl").read_text().splitlines()
    assert list(document) == ["apr_qa", "header", "certificate", "evidence"]
    assert {item["id"] for item in document["evidence"]} == {json.loads(line)["id"] for line in lines[1:]}


@pytest.mark.parametrize("quantization", ["q8_0", "q4_0"])
def test_diff_passes_a_healthy_conversion_and_names_what_another_file_changed(
    tiny_llama: Path, tmp_path: Path, quantization: str
) -> None:
    runner, made = CliRunner(), tmp_path / "made.gguf"
    assert (
        runner.invoke(
            command_line, ["convert", str(tiny_llama), str(made), "--quantization", quantization]
        ).exit_code
        == 0
    )
    same = runner.invoke(command_line, ["diff", str(tiny_llama), str(made)])
    assert same.exit_code == 0, same.output
    config = json.loads((tiny_llama / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_llama.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-2}))
    changed = runner.invoke(command_line, ["diff", str(tiny_llama), str(other)])
    assert changed.exit_code == 1 and "rms_norm_eps" in changed.output


def test_tickets_of_a_run_that_is_not_kept_whole_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [entry("F-QUAL-001", Outcome.FALSIFIED, f"{n} is not it", prompt=f"{n}") for n in range(300)]
    monkeypatch.setattr(tally, "WHOLE", 10)
    counted = tally.tallied(wrong)
    run = msgspec.structs.replace(fixed_run(), evidence=tuple(counted.entries()), counts=counted)
    found = tickets(run)
    assert [ticket.occurrences for ticket in found] == [100]
    assert "of 300 entries only the first" in found[0].body
    assert "only the first" not in tickets(run_of(*wrong[:5]))[0].body
