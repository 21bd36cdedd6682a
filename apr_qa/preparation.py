"""A model and a playbook to a run that is decided but not begun: what is there, and what will be tried."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import (
    __version__,
    asking,
    baseline,
    chosen_engine,
    clock,
    evidence,
    isolation,
    packing,
    plan,
    property_plan,
    regressions,
    workspace,
)
from apr_qa.backends import BACKENDS
from apr_qa.crossing import Crossed
from apr_qa.derivation.batches import derivation_batches
from apr_qa.devices import describe_environment
from apr_qa.errors import EngineMissing, ModelUnavailable
from apr_qa.playbook import Playbook
from apr_qa.playbooks.derivation import is_acceptance, stated_derivations
from apr_qa.resolve import resolve
from apr_qa.scenarios import claims
from apr_qa.serving import commands
from apr_qa.serving.claims import server_claims
from apr_qa.settings import Settings as Settings
from apr_qa.settings import Watcher as Watcher
from apr_qa.suite_claims import Questions
from apr_qa.vocabulary import (
    Artifact,
    Claim,
    EvidenceHeader,
    Model,
    Record,
    Target,
    Tier,
)

_SOURCE_MARK = " (source)"
"""Behind the type of what the ground truth is or is made from, where the user brings a file of the same format."""


class Prepared(Record, frozen=True):
    """A run that is decided but not begun."""

    header: EvidenceHeader
    batches: tuple[plan.Batch, ...]


def prepare(model: Model, tier: Tier, book: Playbook, settings: Settings, watcher: Watcher) -> Prepared:
    """Resolve the model, look at what was found, and decide everything that will be tried."""
    found = _artifacts(model, settings)
    probes = [_probed(artifact) for artifact in found]
    for artifact, _ in probes:
        watcher.say(f"{artifact.format} {artifact.quantization or '?'}: {artifact.source}")
    facts = next((f for _, f in probes if f.get("architecture")), {})
    headers = tier is Tier.DIM_SMOKE or is_acceptance(book.derivation)
    stock = plan.stock(
        model.id,
        [artifact for artifact, _ in probes],
        [] if headers else _wanted(book, {one.format for one in found if one.origin != "source"}),
        functools.partial(_derived, converter=settings.converter),
        "only headers are read" if headers else "" if settings.converter else _obstacle(facts),
    )
    stock = chosen_engine.made_by(stock, settings.converter)
    batches = _batches(model, book, tier, stock, settings, has_template=bool(facts.get("chat_template")))
    header = EvidenceHeader(
        apr_qa=__version__,
        model=msgspec.structs.replace(model, path=""),
        tier=tier,
        playbook=book.name,
        playbook_sha256=book.sha256,
        artifacts=tuple(msgspec.structs.replace(a, path="") for a in stock.artifacts),
        ground_truth=stock.ground_truth,
        # dim-smoke and criteria fill no cell, whatever modalities the playbook lists.
        cells=plan.cells(book.formats, book.backends, () if headers else book.modalities),
        planned=sum(len(batch.scenarios) for batch in batches),
        environment=describe_environment() | baseline.earlier(Path(settings.output) / model.slug, tier),
        started=clock.now(),
    )
    return Prepared(header=header, batches=tuple(batches))


def prepare_endpoint(model: Model, tier: Tier, book: Playbook, settings: Settings) -> Prepared:
    """Decide what will be asked of a running server; there is no file to inspect."""
    asked = list(_questions(model, book, tier, settings).of(plan.endpoint_target(model.id)))
    asked += server_claims(tier, ours=False)
    batch = plan.endpoint_batch(model.id, settings.endpoint, asked)
    header = EvidenceHeader(
        apr_qa=__version__,
        model=msgspec.structs.replace(model, path=""),
        tier=tier,
        playbook=book.name,
        playbook_sha256=book.sha256,
        artifacts=(),
        ground_truth="none: a remote endpoint",
        cells=(batch.target.cell,),
        planned=len(batch.scenarios),
        environment=describe_environment(),
        started=clock.now(),
    )
    return Prepared(header=header, batches=(batch,))


def _artifacts(model: Model, settings: Settings) -> list[Artifact]:
    """Return what is there: what the user brings instead of what is found, and what the truth is made from.

    Where the model itself is found as SafeTensors, that is the ground truth, whatever the user brings: a file
    cannot be compared with itself. Where the user brings the only format that the model was found in, what was
    found is still the source that the ground truth is derived from. Such files have the origin ``source``: they
    are inspected but not run.
    """
    given = {name: Path(path) for name, path in settings.given.items()}
    artifacts = resolve(model, given, download=settings.download)
    if not given or (any(a.format == "safetensors" for a in artifacts) and "safetensors" not in given):
        return artifacts
    try:
        found = resolve(model, {}, download=False)
    except ModelUnavailable:
        return artifacts
    displaced = [one for one in found if one.format in given and not _same_place(one, given[one.format])]
    displaced.sort(key=lambda one: one.format != "safetensors")
    return artifacts + [msgspec.structs.replace(artifact, origin="source") for artifact in displaced[:1]]


def _same_place(found: Artifact, given: Path) -> bool:
    """Say whether the user brings the very file or folder that the model resolves to."""
    one, other = Path(found.path).resolve(), given.expanduser().resolve()
    return one == other or one in other.parents or other in one.parents


def _probed(artifact: Artifact) -> tuple[Artifact, Mapping[str, Any]]:
    """Hash an artifact and let a worker read its header; a header that is refused leaves facts empty."""
    facts = asking.ask(artifact, "header")
    quantization = str(facts.get("quantization", ""))
    if artifact.origin == "source":
        quantization += _SOURCE_MARK  # keeps its claims apart from those about what the user brings
    sha256 = workspace.content_sha256(Path(artifact.path))
    return msgspec.structs.replace(artifact, sha256=sha256, quantization=quantization), facts


def _wanted(book: Playbook, found: set[str]) -> list[tuple[str, str]]:
    """Return (format, quantization): what was found stands for the first GGUF type of the playbook."""
    wanted = [(name, "") for name in book.formats if name != "gguf"]
    if "gguf" in book.formats:
        first, *others = book.quantizations or ["f16"]
        wanted.append(("gguf", "" if "gguf" in found else first))
        wanted += [("gguf", quantization) for quantization in others]
    return wanted


def _derived(source: Artifact, format_name: str, quantization: str, *, converter: str = "") -> Artifact:
    """Name the artifact that converting ``source`` makes; float types are kept, quantised ones widened."""
    stored = source.quantization.removesuffix(_SOURCE_MARK)
    kept = quantization or (stored if stored in ("f32", "f16", "bf16") else "f32")
    by = f" by {converter}" if converter and format_name != "safetensors" else ""
    return Artifact(
        format=format_name,
        path=str(workspace.derived_path(source.sha256 or source.path, format_name, f"{kept}{by}")),
        quantization=kept,
        origin="derived",
        source=f"converted from {source.format} {stored}".strip() + by,
    )


def _obstacle(facts: Mapping[str, Any]) -> str:
    """Say why the built-in converter cannot help with this architecture, or nothing."""
    obstacle = str(facts.get("obstacle") or "")
    return (
        f"it cannot be converted: {obstacle}; bring the file with --artifact FORMAT=PATH" if obstacle else ""
    )


def _batches(
    model: Model, book: Playbook, tier: Tier, stock: plan.Stock, settings: Settings, *, has_template: bool
) -> list[plan.Batch]:
    stated = book.expected_dimensions
    batches = [
        plan.file_batch(model.id, a, stock.wave(a) if a.origin == "derived" else 0, stated)
        for a in stock.artifacts
    ]
    if tier is Tier.DIM_SMOKE:
        kernels = [
            plan.kernel_batch(model.id, one, [settings.output], book.kernel_proof_ref)
            for one in stock.artifacts[:1]
        ]
        return [plan.headers_only(batch) for batch in batches] + kernels
    stated_derivation = stated_derivations(book.derivation, book.source)
    derived = derivation_batches(model.id, stock.artifacts, stated_derivation)
    if is_acceptance(book.derivation):
        return [plan.headers_only(batch) for batch in batches] + derived
    batches += [*derived, *stock.conversions]
    batches += _comparisons(model, stock, tier)
    asked = _questions(model, book, tier, settings)
    for artifact in stock.artifacts:
        if artifact.format not in book.formats or artifact.origin == "source":
            continue
        for device in book.backends:
            batches += _cell_batches(model, book, stock, artifact, device, asked, settings, has_template)
    for format_name, reason in stock.refusals.items():
        missing = Artifact(format=format_name, path="", origin="absent")
        for device in book.backends:
            scenarios = _scenarios(model, missing, device, asked, settings)
            batches += plan.inference_batches(missing, scenarios, wave=0, inapplicable=reason)
    cases = regressions.stored(Path(settings.output) / model.slug)
    ready = packing.longest_first(property_plan.beside_truth(batches, stock, cases))
    compared = ready if settings.compare else chosen_engine.without_comparisons(ready)
    return isolation.with_last_looks(compared, stock, model.id, tier)


def _comparisons(model: Model, stock: plan.Stock, tier: Tier) -> list[plan.Batch]:
    """Compare every artifact but the sources with the ground truth, as soon as both are there."""
    truth = stock.truth
    if truth is None:
        return []
    compared = [one for one in stock.artifacts if one is not truth and one.origin != "source"]
    batches = [
        batch
        for artifact in compared
        for batch in plan.pair_batches(
            model.id, truth, artifact, max(stock.wave(truth), stock.wave(artifact)), tier
        )
    ]
    last = max((batch.wave for batch in batches), default=0)
    return batches + _sibling_batches(model, compared, last, tier)


def _sibling_batches(model: Model, compared: Sequence[Artifact], wave: int, tier: Tier) -> list[plan.Batch]:
    """Compare the predictions of an APR with those of every GGUF.

    They come last in their wave: what was predicted for the ground truth is there by then, or is made again.
    """
    pairs = [
        (one, other)
        for one in compared
        for other in compared
        if (one.format, other.format) == ("apr", "gguf")
    ]
    batches = (plan.pair_batch(model.id, "logits", one, other, wave, tier) for one, other in pairs)
    return [batch for batch in batches if batch is not None]


def _cell_batches(
    model: Model,
    book: Playbook,
    stock: plan.Stock,
    artifact: Artifact,
    device: str,
    asked: Questions,
    settings: Settings,
    has_template: bool,
) -> list[plan.Batch]:
    scenarios = _scenarios(model, artifact, device, asked, settings)
    reason = book.skipped(artifact.format, device)
    if not reason and device == "gpu" and not settings.gpu:
        reason = "--no-gpu was given"
    if not reason and scenarios:
        reason = _unavailable({target for target, _ in scenarios.parts})
    wave = stock.running_wave(artifact)
    protocol = server_claims(asked.tier, has_template=has_template)
    if reason or has_template:
        return plan.inference_batches(artifact, scenarios, wave=wave, inapplicable=reason, protocol=protocol)
    chat = scenarios.where(lambda claim: claim.kind == "chat")
    rest = scenarios.where(lambda claim: claim.kind != "chat")
    batches = plan.inference_batches(artifact, rest, wave=wave, protocol=protocol)
    if chat:
        without = "the model has no chat template"
        target = chat[0].target
        batches.append(
            plan.Batch(target=target, artifact=artifact, scenarios=chat, wave=wave, inapplicable=without)
        )
    return batches


def _unavailable(targets: set[Target]) -> str:
    """Say why targets of one artifact and device cannot run here; raises EngineMissing for what can be installed."""
    some = next(iter(targets))
    reason = BACKENDS.get(some.engine).unavailable(some) or ""
    if some.backend != "cpu" or not chosen_engine.is_usual(some.engine):
        return reason
    # On a CPU everything can run once it is installed: a missing package is a fault of the machine.
    reason = reason or next((commands.missing(t) for t in targets if t.modality == "serve"), "")
    if reason:
        raise EngineMissing(reason, fix="pip install 'apr-qa[demo]', or see apr-qa doctor")
    return ""


def _questions(model: Model, book: Playbook, tier: Tier, settings: Settings) -> Questions:
    stored = evidence.stored(Path(settings.output) / model.slug)
    earlier = baseline.speeds(stored) if "min_kept" in book.limits.assertions else {}
    return Questions(book, tier, claims(book, tier), earlier)


def _scenarios(
    model: Model, artifact: Artifact, device: str, asked: Questions, settings: Settings
) -> Crossed:
    wanted = asked.book.modalities
    parts: list[tuple[Target, Sequence[Claim]]] = []
    for modality in dict.fromkeys((*wanted, "run")):
        target = Target(
            model=model.id,
            format=artifact.format,
            quantization=artifact.quantization,
            backend=device,
            modality=modality,
            engine=chosen_engine.engine_of(settings.engine, artifact.format),
        )
        found = asked.parts(target) if modality in wanted else (asked.besides(target),)
        parts += [(target, claims) for claims in found]
    return Crossed(parts)
