"""Gates: rules with an id, a severity and a hypothesis, each a pure function of evidence.

Three kinds of gate share one record. A *facts* gate judges what a worker measured (``check``). A *text*
gate leaves the judging to the oracle that its claims name. A *gateway* (``verdict``) looks at all evidence of
a run, counted in groups of alike entries (`apr_qa.tally`). Every gate carries one example that corroborates it and
one that falsifies it, and the tests run both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apr_qa.groups import Selection
from apr_qa.plugins import Registry
from apr_qa.tally import Tally, tallied
from apr_qa.vocabulary import (
    Claim,
    Evidence,
    EvidenceHeader,
    GateVerdict,
    Judgement,
    Outcome,
    Response,
    Severity,
)

GATES: Registry[Gate] = Registry("gates")

Facts = Mapping[str, Any]
Check = Callable[[Facts], Judgement]
Run = Tally | Iterable[Evidence]
"""All evidence of a run, counted or not yet."""
Verdict = Callable[[EvidenceHeader, Run], GateVerdict]


@dataclass(frozen=True)
class Gate:
    """One rule."""

    id: str
    category: str
    severity: Severity
    hypothesis: str
    measure: str
    threshold: str
    source: str = ""
    """Where the rule or its threshold comes from."""
    check: Check | None = None
    verdict: Verdict | None = None
    corroborates: Any = field(default=None, repr=False)
    """Facts, a (claim, response) pair, or a sequence of evidence, as the kind of gate asks for."""
    falsifies: Any = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        if self.verdict is not None:
            return "gateway"
        return "facts" if self.check is not None else "text"


def enter(gate: Gate) -> Gate:
    """Register a gate under its id."""
    return GATES.register(gate.id)(gate)


def corroborated(reason: str) -> Judgement:
    return Judgement(outcome=Outcome.CORROBORATED, reason=reason)


def falsified(reason: str) -> Judgement:
    return Judgement(outcome=Outcome.FALSIFIED, reason=reason)


def inconclusive(reason: str) -> Judgement:
    return Judgement(outcome=Outcome.INCONCLUSIVE, reason=reason)


def inapplicable(reason: str) -> Judgement:
    return Judgement(outcome=Outcome.INAPPLICABLE, reason=reason)


def text_example(
    gate_id: str, oracle: str, prompt: str, text: str, expected: Any = None
) -> tuple[Claim, Response]:
    """Return an example for a text gate: a claim and the answer that was given to it."""
    claim = Claim(gate_id=gate_id, kind="generate", prompt=prompt, oracle=oracle, expected=expected)
    return claim, Response(text=text, finish_reason="stop")


def over_all(judge: Callable[[EvidenceHeader, Tally], GateVerdict]) -> Verdict:
    """Let a judge of counted evidence be given any: what is not counted yet is counted first."""

    @functools.wraps(judge)
    def judged(header: EvidenceHeader, evidence: Run) -> GateVerdict:
        return judge(header, tallied(evidence))

    return judged


def summarise(gate: Gate, evidence: Selection | Iterable[Evidence]) -> GateVerdict:
    """Return what all entries of one gate say: one failure falsifies, nothing at all leaves it unproven."""
    entries = evidence if isinstance(evidence, Selection) else tallied(evidence).all
    failed = entries.where(lambda entry: entry.outcome.failed)
    unjudged = entries.where(lambda entry: entry.outcome is Outcome.INCONCLUSIVE)
    passed = entries.where(lambda entry: entry.outcome is Outcome.CORROBORATED)
    if failed:
        outcome: Outcome | None = failed.first.outcome
        counted = len(failed) + len(unjudged) + len(passed)
        reason = f"{len(failed)} of {counted} failed: {failed.first.reason}"
    elif unjudged:
        outcome, reason = Outcome.INCONCLUSIVE, unjudged.first.reason
    elif passed:
        outcome, reason = Outcome.CORROBORATED, f"{len(passed)} of {len(passed)} hold"
    elif entries and all(group.first.outcome is Outcome.INAPPLICABLE for group in entries.groups):
        outcome, reason = Outcome.INAPPLICABLE, entries.first.reason
    else:
        outcome, reason = None, "nothing speaks for it"
    ids = (failed or unjudged or passed).ids()
    return GateVerdict(gate_id=gate.id, severity=gate.severity, outcome=outcome, reason=reason, evidence=ids)
