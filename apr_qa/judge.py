"""One response to one judgement: oracles judge text, gates judge facts; nothing else is looked at.

The same function judges while a run is going on and when stored evidence is verified.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from apr_qa.errors import EvidenceDamaged
from apr_qa.gates import GATES, summarise
from apr_qa.oracles import ORACLES
from apr_qa.tally import Tally, tallied
from apr_qa.vocabulary import Evidence, EvidenceHeader, GateVerdict, Judgement, Outcome, Response, Scenario

GATEWAYS = ("G0", "G1", "G2", "G3", "G4")


def judge(scenario: Scenario, response: Response) -> tuple[Judgement, dict[str, Any]]:
    """Return the judgement of ``response`` and what was noted on the way (``garbage``: why it is garbage)."""
    claim = scenario.claim
    if claim.kind not in ("generate", "chat"):
        check = GATES.get(claim.gate_id).check
        if check is None:
            return Judgement(outcome=Outcome.INCONCLUSIVE, reason="this gate judges no facts"), {}
        return check(response.facts), {}
    garbage = ORACLES.get("garbage").check(claim, response, dict(claim.params))
    metrics: dict[str, Any] = {}
    if (response.text or "").strip() and garbage.outcome is Outcome.FALSIFIED:
        metrics["garbage"] = garbage.reason
    if garbage.outcome is Outcome.FALSIFIED or claim.oracle in ("", "garbage"):
        return garbage, metrics
    return ORACLES.get(claim.oracle).check(claim, response, dict(claim.params)), metrics


def rejudge(entry: Evidence) -> Evidence:
    """Return the entry as it would be judged today; what has no response is not judged but recorded.

    Raises EvidenceDamaged where the stored facts are not those that the gate judges: another version of the
    program measured them, or somebody edited them.
    """
    if entry.response is None:
        return entry
    try:
        judgement, metrics = judge(entry.scenario, entry.response)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise EvidenceDamaged(
            f"entry {entry.id}: the facts of {entry.gate_id} cannot be judged: {error!r}",
            fix="verify it with the version of apr-qa that its header names, or certify anew",
        ) from error
    return msgspec.structs.replace(entry, outcome=judgement.outcome, reason=judgement.reason, metrics=metrics)


def verdicts(header: EvidenceHeader, evidence: Tally | Iterable[Evidence]) -> tuple[GateVerdict, ...]:
    """Return the verdicts of the five gateways, of gates that look across targets and found something to judge,
    and of every gate that the evidence mentions."""
    tally = tallied(evidence)
    gateways = []
    for name in GATEWAYS:
        verdict = GATES.get(name).verdict
        if verdict is not None:
            gateways.append(verdict(header, tally))
    across = [
        gate.verdict(header, tally)
        for name, gate in GATES.items()
        if gate.verdict is not None and name not in GATEWAYS
    ]
    judged = [verdict for verdict in across if verdict.outcome is not None]
    by_gate = tally.all.by(lambda entry: entry.gate_id)
    return (*gateways, *judged, *(summarise(GATES.get(name), by_gate[name]) for name in sorted(by_gate)))
