"""Scenarios grouped into batches, one per thing that must be loaded, in waves.

A wave is a set of batches that need nothing from each other; an artifact that has to be derived is
derived in the wave before the one that loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from apr_qa.comparison.claims import file_claims
from apr_qa.crossing import Crossed, crossed
from apr_qa.inspecting.claims import CLOSE_LOOKS, OF_APR
from apr_qa.logits.claims import logit_claims
from apr_qa.trips.claims import trip_claims
from apr_qa.vocabulary import Artifact, Claim, Record, Scenario, Severity, Target, Tier

ENGINES = {"safetensors": "transformers_torch", "apr": "transformers_torch", "gguf": "llama_cpp"}
"""Format -> registered engine that runs it."""

HEADER_GATE = "G0-HEADER-001"

FILE_CLAIMS: tuple[tuple[str, str, Severity], ...] = (
    (HEADER_GATE, "header", Severity.P0),
    ("G0-INTEGRITY-CONFIG", "config", Severity.P0),
    ("G0-INTEGRITY-LAYERS", "layers", Severity.P0),
    ("G0-INTEGRITY-HIDDEN", "hidden", Severity.P0),
    ("G0-INTEGRITY-VOCAB", "vocab", Severity.P0),
    ("G0-TENSOR-001", "tensors", Severity.P0),
    ("G0-LAYOUT-001", "shapes", Severity.P0),
    ("G0-VALIDATE-001", "finite", Severity.P0),
    ("G0-VALIDATE-002", "zeros", Severity.P0),
    ("G0-TIED-HEAD-001", "tied_head", Severity.P0),
    ("G0-TOKENIZER-001", "tokenizer", Severity.P0),
    ("F-PROV-001", "provenance", Severity.P1),
    *CLOSE_LOOKS,
    ("G0-TENSOR-002", "layer_names", Severity.P0),
    ("G0-CONFIG-KEYS", "necessary_keys", Severity.P1),
    ("G0-LAYOUT-002", "projections", Severity.P0),
    ("G0-ROWS-001", "token_rows", Severity.P0),
    ("G0-ROWS-002", "template_tokens", Severity.P1),
    ("G0-VECTORS-001", "vectors", Severity.P1),
    ("F-SEC-PICKLE-001", "pickles", Severity.P0),
    ("F-SEC-PATH-001", "paths", Severity.P0),
    ("F-SEC-REMOTE-CODE-001", "remote_code", Severity.P1),
    ("F-SEC-INJECT-001", "special_words", Severity.P1),
    ("F-SEC-001", "names", Severity.P1),
    ("F-SEC-002", "texts", Severity.P2),
    ("F-SEC-003", "growth", Severity.P1),
    ("F-SEC-TEMPLATE-001", "surroundings", Severity.P0),
    ("F-VALID-COMPANION-001", "companions", Severity.P1),
    ("F-VALID-TYPE-001", "file_type", Severity.P1),
    ("F-VALID-POST-001", "finite", Severity.P0),
)
"""What is asked of every file: gate, check of the ``inspect`` backend, severity."""

PAIRED: Mapping[str, Callable[[Artifact, Artifact, Tier], tuple[Claim, ...]]] = {
    "comparison": file_claims,
    "trips": trip_claims,
    "logits": logit_claims,
}
"""Engine that looks at an artifact together with the ground truth -> what it is asked."""


class Batch(Record, frozen=True):
    """All scenarios that one loaded artifact answers."""

    target: Target
    """What is loaded; the scenarios' own targets differ from it in modality only."""
    artifact: Artifact
    scenarios: Sequence[Scenario]
    """All of them, or a product that makes each when it is asked for."""
    wave: int = 0
    inapplicable: str = ""
    """Why none of it can run on this machine."""
    source: Artifact | None = None
    """What a conversion starts from, or what ``artifact`` is compared with."""
    endpoint: str = ""
    """Base URL of a server that somebody else runs."""
    truth: Artifact | None = None
    """The ground truth, where properties of what is loaded are about both."""


def file_batch(model: str, artifact: Artifact, wave: int, expected: Mapping[str, int] | None = None) -> Batch:
    """Return the claims about the file itself, answered by the ``inspect`` backend.

    ``expected`` holds the dimensions that the playbook states.
    """
    target = Target(
        model=model,
        format=artifact.format,
        quantization=artifact.quantization,
        backend="cpu",
        modality="inspect",
        engine="inspect",
    )
    scenarios = tuple(
        Scenario(
            target=target,
            claim=Claim(gate_id=gate, kind="inspect", severity=severity, params={"check": check}),
        )
        for gate, check, severity in (*FILE_CLAIMS, *(OF_APR if artifact.format == "apr" else ()))
    )
    if expected:
        params = {"check": "expected", "dimensions": dict(expected)}
        stated = Claim(gate_id="G0-EXPECTED-001", kind="inspect", severity=Severity.P0, params=params)
        scenarios = (*scenarios, Scenario(target=target, claim=stated))
    return Batch(target=target, artifact=artifact, scenarios=scenarios, wave=wave)


def conversion_batch(model: str, source: Artifact, wanted: Artifact, wave: int) -> Batch:
    """Return the claim that ``wanted`` can be derived from ``source``; answering it makes the file."""
    target = Target(
        model=model,
        format=wanted.format,
        quantization=wanted.quantization,
        backend="cpu",
        modality="convert",
        engine="conversion",
    )
    claim = Claim(
        gate_id=f"G0-FORMAT-{wanted.format.upper()}-001",
        kind="convert",
        severity=Severity.P0,
        params={"check": "convert", "source_format": source.format},
    )
    scenario = Scenario(target=target, claim=claim)
    return Batch(target=target, artifact=wanted, scenarios=(scenario,), wave=wave, source=source)


def pair_batches(model: str, truth: Artifact, artifact: Artifact, wave: int, tier: Tier) -> list[Batch]:
    """Return the claims that ``artifact`` is what the ground truth is, one batch for each engine of `PAIRED`."""
    batches = (pair_batch(model, engine, truth, artifact, wave, tier) for engine in PAIRED)
    return [batch for batch in batches if batch is not None]


def pair_batch(
    model: str, engine: str, truth: Artifact, artifact: Artifact, wave: int, tier: Tier
) -> Batch | None:
    """Return what one engine of `PAIRED` is asked about ``artifact`` and ``truth``; None where it is nothing."""
    target = Target(
        model=model,
        format=artifact.format,
        quantization=artifact.quantization,
        backend="cpu",
        modality="compare",
        engine=engine,
    )
    scenarios = tuple(Scenario(target=target, claim=claim) for claim in PAIRED[engine](truth, artifact, tier))
    if not scenarios:
        return None
    return Batch(target=target, artifact=artifact, source=truth, scenarios=scenarios, wave=wave)


def load_claim(modality: str) -> Claim:
    """Return the claim that a target loads; a server that answers has loaded."""
    gate = "F-SERVE-001" if modality == "serve" else "G1-LOAD"
    return Claim(gate_id=gate, kind="load", severity=Severity.P0)


def inference_batches(
    artifact: Artifact,
    scenarios: Iterable[Scenario],
    *,
    wave: int,
    inapplicable: str = "",
    protocol: Sequence[Claim] = (),
) -> list[Batch]:
    """Group scenarios of one artifact and device: `run` and `chat` share a process, `serve` has its own.

    ``protocol`` is what a server is asked besides.
    """
    parts = crossed(scenarios).parts
    served = [part for part in parts if part[0].modality == "serve"]
    in_process = [part for part in parts if part[0].modality != "serve"]
    batches = []
    for members in (in_process, served):
        if members:
            target = members[0][0]
            besides = tuple(protocol) if target.modality == "serve" else ()
            asked = [(target, (load_claim(target.modality),)), *members, (target, besides)]
            batches.append(
                Batch(
                    target=target,
                    artifact=artifact,
                    scenarios=Crossed(asked),
                    wave=wave,
                    inapplicable=inapplicable,
                )
            )
    return batches


def endpoint_target(model: str) -> Target:
    """Return the target that a server of somebody else's is."""
    return Target(
        model=model,
        format="endpoint",
        quantization="",
        backend="remote",
        modality="serve",
        engine="openai_http",
    )


def endpoint_batch(model: str, url: str, claims: Iterable[Claim]) -> Batch:
    """Return the claims about a server that somebody else runs; nobody but its owner may stop it."""
    target = endpoint_target(model)
    asked = tuple(Scenario(target=target, claim=claim) for claim in claims)
    ready = Scenario(target=target, claim=load_claim("serve"))
    artifact = Artifact(format="endpoint", path=url, origin="remote")
    return Batch(target=target, artifact=artifact, scenarios=(ready, *asked), endpoint=url)


def cells(formats: Sequence[str], backends: Sequence[str], modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the planned cells, ``format·backend·modality``."""
    return tuple(f"{f}·{b}·{m}" for f in formats for b in backends for m in modalities)


class Stock(Record, frozen=True):
    """The artifacts of one model, brought or to be derived, and the wave in which each can be loaded."""

    artifacts: tuple[Artifact, ...]
    ready: dict[str, int]
    """Artifact key -> first wave that may load it."""
    conversions: tuple[Batch, ...]
    refusals: dict[str, str]
    """Format -> why it can be neither found nor derived."""
    ground_truth: str
    truth: Artifact | None
    """The ground truth as safetensors; None where it can be neither found nor derived."""

    def wave(self, artifact: Artifact) -> int:
        return self.ready[key(artifact)]

    def running_wave(self, artifact: Artifact) -> int:
        """Return the wave in which an artifact is run: what is derived waits until everything is, so that the
        longest batches of all formats share one wave and no core is idle."""
        return max(self.ready.values()) if artifact.origin == "derived" else self.wave(artifact)


def key(artifact: Artifact) -> str:
    """Return the name of an artifact within one run."""
    return f"{artifact.format} {artifact.quantization}"


def stock(
    model: str,
    found: Sequence[Artifact],
    wanted: Sequence[tuple[str, str]],
    derive: Callable[[Artifact, str, str], Artifact],
    obstacle: str,
) -> Stock:
    """Decide which artifacts to derive from which, the ground truth first.

    ``wanted`` lists (format, quantization); an empty quantization asks for whatever there is. ``derive`` names
    the artifact that a conversion would make, ``obstacle`` says why the converter cannot help (or is empty).
    """
    ready = {key(artifact): 1 for artifact in found}
    artifacts, conversions = list(found), []
    refusals: dict[str, str] = {}

    def make(source: Artifact, format_name: str, quantization: str) -> Artifact:
        made = derive(source, format_name, quantization)
        wave = ready[key(source)]
        conversions.append(conversion_batch(model, source, made, wave))
        artifacts.append(made)
        ready[key(made)] = wave + 1
        return made

    by_format = {artifact.format: artifact for artifact in reversed(found)}
    sources = [artifact for artifact in found if artifact.origin == "source"]
    by_format |= {artifact.format: artifact for artifact in sources if artifact.format == "safetensors"}
    truth = by_format.get("safetensors")
    described = "safetensors"
    if truth is None:
        origin = next(iter(sources), None) or by_format.get("gguf") or by_format["apr"]
        described = f"derived from {origin.format}"
        truth = origin if obstacle else make(origin, "safetensors", "")
    for format_name, quantization in wanted:
        have = [a for a in artifacts if a.format == format_name and a.origin != "source"]
        if have and (not quantization or any(a.quantization == quantization for a in have)):
            continue
        if obstacle:
            refusals[format_name] = obstacle
        else:
            make(truth, format_name, quantization)
    return Stock(
        artifacts=tuple(artifacts),
        ready=ready,
        conversions=tuple(conversions),
        refusals=refusals,
        ground_truth=described,
        truth=truth if truth.format == "safetensors" else None,
    )


HEADER_CHECKS = (
    "header",
    "config",
    "layers",
    "hidden",
    "vocab",
    "tensors",
    "shapes",
    "provenance",
    "expected",
)
"""Checks of a file that read no weight."""


def headers_only(batch: Batch) -> Batch:
    """Return a batch about a file without the claims that read weights."""
    kept = tuple(s for s in batch.scenarios if s.claim.params.get("check") in HEADER_CHECKS)
    return Batch(target=batch.target, artifact=batch.artifact, scenarios=kept, wave=batch.wave)


def kernel_batch(model: str, artifact: Artifact, folders: Sequence[str], proof: str = "") -> Batch:
    """Return the claims that allow to judge a model by its header: its kernel class is known and proven.

    ``proof``: the one model whose stored run counts.
    """
    target = Target(
        model=model,
        format=artifact.format,
        quantization=artifact.quantization,
        backend="cpu",
        modality="inspect",
        engine="inspect",
    )
    params: dict[str, str | list[str]] = {"check": "kernels", "model": model, "folders": list(folders)}
    params |= {"proof": proof} if proof else {}
    scenarios = tuple(
        Scenario(
            target=target, claim=Claim(gate_id=gate, kind="measure", severity=Severity.P0, params=params)
        )
        for gate in ("G0-KERNEL-CLASS", "G0-KERNEL-PROOF")
    )
    return Batch(target=target, artifact=artifact, scenarios=scenarios)
