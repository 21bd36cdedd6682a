"""What a certificate says about one evidence file, and that it says it the same way every time."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from apr_qa.certificate import MAX_FINDINGS, Certificate, from_json, issue, to_json
from apr_qa.errors import EvidenceDamaged
from apr_qa.mqs import GATEWAYS, score
from apr_qa.vocabulary import (
    Artifact,
    Claim,
    Evidence,
    EvidenceHeader,
    GateVerdict,
    Model,
    Outcome,
    Response,
    Scenario,
    Severity,
    Target,
    Tier,
)

SHA = "ab" * 32
HEADER = EvidenceHeader(
    apr_qa="0.1.0",
    model=Model(id="org/name", family="tiny", revision="main", path="/home/somebody/model"),
    tier=Tier.MVP,
    playbook="tiny-mvp",
    playbook_sha256="cd" * 32,
    artifacts=(
        Artifact(
            format="gguf", path="/home/somebody/model.gguf", quantization="q8_0", sha256=SHA, source="derived"
        ),
    ),
    ground_truth="safetensors",
    cells=("gguf·cpu·run", "safetensors·cpu·run"),
    planned=4,
    started="2025-01-01T00:00:00Z",
)
GATEWAY_VERDICTS = [
    GateVerdict(gate_id=name, severity=Severity.P0, outcome=Outcome.CORROBORATED, reason="held")
    for name in GATEWAYS
]


def entry(
    n: int,
    outcome: Outcome = Outcome.CORROBORATED,
    *,
    severity: Severity = Severity.P1,
    speed: float | None = None,
    modality: str = "run",
    form: str = "gguf",
    text: str | None = "4",
) -> Evidence:
    target = Target(
        model="org/name",
        format=form,
        quantization="q8_0",
        backend="cpu",
        modality=modality,
        engine="llama_cpp",
    )
    return Evidence(
        id=f"{n:016x}",
        gate_id="F-QUAL-001",
        severity=severity,
        scenario=Scenario(target=target, claim=Claim(gate_id="F-QUAL-001", kind="generate", prompt=f"q {n}")),
        outcome=outcome,
        reason=f"reason {n}",
        response=Response(text=text, tokens_per_s=speed),
        timestamp=f"2025-01-01T00:{n // 60:02}:{n % 60:02}Z",
    )


def issued(evidence: list[Evidence], verdicts: list[GateVerdict] | None = None) -> Certificate:
    result = score(HEADER.tier, GATEWAY_VERDICTS if verdicts is None else verdicts, evidence, HEADER.cells, 1)
    return issue(HEADER, evidence, result, SHA)


def test_a_certificate_names_what_was_examined_and_what_it_does_not_prove() -> None:
    certificate = issued([entry(n) for n in range(1, 11)])
    assert (certificate.model_id, certificate.family, certificate.revision) == ("org/name", "tiny", "main")
    assert (certificate.status, certificate.score, certificate.grade) == ("PROVISIONAL", 800, "B")
    assert certificate.coverage.text == "1/2 cells"
    assert certificate.failure_rate_upper_95 == pytest.approx(0.2589, abs=1e-4)
    assert certificate.playbook.name == "tiny-mvp" and certificate.evidence_sha256 == SHA
    assert [gateway.id for gateway in certificate.gateways] == list(GATEWAYS)
    assert (certificate.started, certificate.finished) == ("2025-01-01T00:00:00Z", "2025-01-01T00:00:10Z")
    assert certificate.artifacts[0].sha256 == SHA


def test_a_certificate_reveals_no_local_path() -> None:
    assert "somebody" not in to_json(issued([entry(1)]))


def test_an_unproven_gateway_has_no_outcome() -> None:
    certificate = issued(
        [entry(1)], [GateVerdict(gate_id="G0", severity=Severity.P0, outcome=None, reason="no evidence")]
    )
    assert certificate.gateways[0].outcome is None
    assert (certificate.status, certificate.score) == ("PENDING", None)


def test_a_speed_is_the_median_of_the_run_modality_and_null_where_nothing_was_measured() -> None:
    evidence = [
        entry(1, speed=10.0),
        entry(2, speed=90.0),
        entry(3, speed=20.0),
        entry(4, speed=999.0, modality="chat"),
        entry(5, speed=999.0, text=""),
        entry(6, speed=None),
        entry(7, speed=5.0, form="apr"),
    ]
    speeds = issued(evidence).speeds
    assert speeds == {
        "safetensors_cpu": None,
        "safetensors_gpu": None,
        "apr_cpu": 5.0,
        "apr_gpu": None,
        "gguf_cpu": 20.0,
        "gguf_gpu": None,
    }


def test_findings_come_worst_first_and_are_counted_when_they_are_too_many() -> None:
    evidence = [
        entry(1),
        entry(2, Outcome.INCONCLUSIVE),
        entry(3, Outcome.FALSIFIED),
        entry(4, Outcome.CRASHED, severity=Severity.P0),
        entry(5, Outcome.INAPPLICABLE),
        entry(6, Outcome.SKIPPED),
        entry(7, Outcome.TIMEOUT, severity=Severity.P2),
    ]
    certificate = issued(evidence)
    assert [int(finding.evidence, 16) for finding in certificate.findings] == [4, 3, 2, 7]
    assert certificate.findings[0].target == "gguf·cpu·run q8_0"
    assert certificate.findings_total == 4
    many = issued([entry(n, Outcome.FALSIFIED) for n in range(MAX_FINDINGS + 7)])
    assert (len(many.findings), many.findings_total) == (MAX_FINDINGS, MAX_FINDINGS + 7)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(Outcome)), st.floats(0.1, 1e6)), max_size=20))
def test_a_certificate_survives_its_own_json_and_the_order_of_evidence(
    drawn: list[tuple[Outcome, float]],
) -> None:
    evidence = [entry(n, outcome, speed=speed) for n, (outcome, speed) in enumerate(drawn)]
    certificate = issued(evidence)
    document = to_json(certificate)
    assert from_json(document) == certificate
    assert to_json(from_json(document)) == document
    assert to_json(issued(list(reversed(evidence)))) == document


def test_a_certificate_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        issued([entry(1)]).score = 1000


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: "",
        lambda document: "[]",
        lambda document: document[:-40],
        lambda document: json.dumps({**json.loads(document), "extra": 1}),
        lambda document: json.dumps({**json.loads(document), "score": "high"}),
        lambda document: json.dumps(
            {key: value for key, value in json.loads(document).items() if key != "grade"}
        ),
    ],
)
def test_a_damaged_certificate_is_refused_with_its_place(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(EvidenceDamaged) as refusal:
        from_json(damage(to_json(issued([entry(1)]))), where="certificate.json")
    assert refusal.value.where == "certificate.json" and refusal.value.fix
