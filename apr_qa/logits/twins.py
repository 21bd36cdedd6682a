"""What a healthy conversion costs: the ground truth in the artifact's type, and the limits that follow.

Two twins are made. The *rounded* one is the ground truth with every tensor rounded there and back, run by the
reference engine: it shares neither container nor converter nor engine with a GGUF artifact, so a fault of these
cannot hide in the limits. The *converted* one is a file of our converter and llama.cpp's quantiser, run by
llama.cpp: it knows the noise of that engine and gives tighter limits, but it is trusted only while it is inside
the limits of the rounded one, and never where the artifact has the same bytes, for a file compared with itself
proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apr_qa import workspace
from apr_qa.comparison.divergence import divergence
from apr_qa.comparison.divergence_budget import budget, noise_budget, overruns
from apr_qa.comparison.healthy_rounding import holds, rounded
from apr_qa.containers.packed_weights import Unpacked
from apr_qa.conversion.convert import convert
from apr_qa.errors import AprQaError, InferenceFailed
from apr_qa.formats import FORMATS, OpenModel
from apr_qa.logits import inner, store
from apr_qa.logits.feed import Feed
from apr_qa.logits.llama_probe import LlamaProbe
from apr_qa.logits.readings import Probe, Readings, take
from apr_qa.logits.sides import Side
from apr_qa.logits.torch_probe import Recast, Rounding, TorchProbe
from apr_qa.vocabulary import digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def limits_for(truth: Side, artifact: Side, feed: Feed, reference: Readings) -> dict[str, Any]:
    """Return the limits for ``artifact``, with those of inner states and where all of it comes from.

    ``calibration`` is ``noise`` (a type that changes no value), ``rounded``, ``converted`` or ``published``.
    """
    kind = artifact.stored_type
    if kind == "f32":
        return {**noise_budget(kind), **inner.limits(kind, None), "calibration": "noise", "twin": {}}
    twin, why_not = _converted(truth, kind) if artifact.model.format == "gguf" else (None, "")
    types = {name: info.dtype for name, info in (twin or artifact.model).tensors.items()}
    compute = "f32" if artifact.model.format == "gguf" else artifact.model.quantization
    healthy = _rounded_divergence(truth, types, compute, feed, reference)
    own_engine = artifact.model.format != "gguf"
    limits = {
        **budget(kind, healthy, same_engine=own_engine),
        **inner.limits(kind, healthy),
        "calibration": "published" if healthy is None else "rounded",
        "twin": _numbers(healthy),
    }
    if twin is None:
        return {**limits, "converted": why_not} if why_not else limits
    sha256 = workspace.content_sha256(twin.path)
    if sha256 == artifact.sha256:
        return {**limits, "converted": "the artifact has the same bytes as the converted twin"}
    measured = _converted_divergence(Side(twin, sha256), feed, reference)
    if measured is None or overruns(measured, limits):
        return {**limits, "converted": "the converted twin is not healthy itself", "twin": _numbers(measured)}
    tighter = {**budget(kind, measured, same_engine=True), **inner.limits(kind, measured)}
    return {**tighter, "calibration": "converted", "twin": _numbers(measured)}


def _numbers(measured: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: measured[key] for key in ("kl_mean", "kl_p99", "kl_max", "top1")} if measured else {}


def _converted(truth: Side, kind: str) -> tuple[OpenModel | None, str]:
    """Return the truth converted to GGUF, made once, or why it cannot be converted."""
    path = workspace.derived_path(truth.sha256, "gguf", kind)
    try:
        with store.alone(digest("twin", str(path))):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                convert(truth.model, "gguf", path, quantization=kind, source_sha256=truth.sha256)
        return FORMATS.get("gguf").open(path), ""
    except AprQaError as refusal:
        return None, refusal.what


def _converted_divergence(twin: Side, feed: Feed, reference: Readings) -> dict[str, Any] | None:
    name = digest("converted", store.name_of(twin.sha256, feed, "llama_cpp", "stored"), _of(reference))
    known = store.remembered(name)
    if known is None:
        try:
            known = _measured(LlamaProbe(twin.model.path), feed, reference)
        except InferenceFailed:
            return None
        store.remember(name, known)
    return known


def _rounded_divergence(
    truth: Side, types: Mapping[str, str], compute: str, feed: Feed, reference: Readings
) -> dict[str, Any] | None:
    """Return what rounding alone costs; None where a type cannot be rounded to on this machine."""
    stored = store.name_of(truth.sha256, feed, "transformers_torch", compute)
    name = digest("rounded", stored, sorted(types.items()), _of(reference))
    known = store.remembered(name)
    if known is None:
        try:
            known = _measured(
                TorchProbe(Recast(truth.model, compute, _rounding(truth.model, types))), feed, reference
            )
        except InferenceFailed:
            return None
        store.remember(name, known)
    return known


def _rounding(truth: OpenModel, types: Mapping[str, str]) -> Rounding | None:
    """Return what storing the truth in ``types`` does to its values; None if that is nothing."""
    if not isinstance(truth, Unpacked) and all(
        holds(types.get(name, "f32"), info.dtype) for name, info in truth.tensors.items()
    ):
        return None

    def rounding(tensor: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found = rounded(values, types.get(tensor, "f32"))
        if found is None:
            raise InferenceFailed(f"{types[tensor]} cannot be rounded to here")
        return found

    return rounding


def _measured(probe: Probe, feed: Feed, reference: Readings) -> dict[str, Any]:
    try:
        taken = take(probe, feed, reference.continuations)
    finally:
        probe.close()
    found = divergence(reference.text, taken.text, feed.positions, feed.following)
    return found | inner.distances(reference, taken)


def _of(reference: Readings) -> str:
    return str(reference.noted.get("name", ""))
