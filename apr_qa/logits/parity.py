"""One artifact and the ground truth over one feed: everything is measured once, when it is first asked for.

What either of them predicts and what a healthy conversion costs are kept in the workspace, under the hash of the
content they were made from and the engine that ran it: the same bytes in the same engine say the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from apr_qa.backends import BACKENDS
from apr_qa.comparison.divergence import divergence
from apr_qa.comparison.divergence_budget import (
    budget,
    combined,
    greedy_facts,
    noise_budget,
    parity_facts,
    wider,
)
from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.inference import faults
from apr_qa.logits import inner, store, twins
from apr_qa.logits.feed import Feed, feed_of
from apr_qa.logits.readings import Probe, Readings, take
from apr_qa.logits.sides import ENGINES, Side, own_probe, reference_probe
from apr_qa.vocabulary import Target


class Parity:
    """The facts of ``artifact`` against ``truth``; ``running`` gives the artifact's engine, loaded once."""

    def __init__(self, truth: Side, artifact: Side, tokens: int, running: Callable[[], Probe]) -> None:
        self.truth = truth
        self.artifact = artifact
        self._tokens = tokens
        self._running = running

    # ---- the two sides

    @functools.cached_property
    def feed(self) -> Feed:
        return feed_of(self.truth.model, self._tokens)

    @functools.cached_property
    def reference(self) -> Readings:
        """What the ground truth predicts in float32, from the workspace if it is there."""
        name = store.name_of(self.truth.sha256, self.feed, ENGINES["safetensors"], "f32")
        with store.alone(name):
            found = store.stored(name)
            if found is None:
                found = self._run_truth()
                found.noted["name"] = name
                store.keep(name, found)
        return found

    def _run_truth(self) -> Readings:
        probe = reference_probe(self.truth)
        try:
            return take(probe, self.feed)
        except InferenceFailed as failure:
            raise Inapplicable(f"the ground truth cannot be run: {failure.what}") from failure
        finally:
            probe.close()

    @functools.cached_property
    def limits(self) -> dict[str, Any]:
        return twins.limits_for(self.truth, self.artifact, self.feed, self.reference)

    @functools.cached_property
    def taken(self) -> Readings:
        """What the artifact predicts, from the workspace if the same bytes were run there by the same engine."""
        limits, name = self.limits, self._own_name(self.artifact)
        found = store.stored(name)
        if found is None or found.continuations.tolist() != self.reference.continuations.tolist():
            found = take(self._running(), self.feed, self.reference.continuations)
        found.noted["limits"] = limits
        store.keep(name, found)
        return found

    def note(self, **known: Any) -> None:
        """Keep plain values beside what the artifact predicts."""
        self.taken.noted.update(known)
        store.keep(self._own_name(self.artifact), self.taken)

    def _own_name(self, side: Side) -> str:
        # What an engine predicts with a fault must never stand for what the file says.
        return store.name_of(side.sha256 + faults.name(), self.feed, side.engine, side.model.quantization)

    # ---- the facts

    @functools.cached_property
    def _measured(self) -> dict[str, Any]:
        return divergence(self.reference.text, self.taken.text, self.feed.positions, self.feed.following)

    def logits(self) -> dict[str, Any]:
        facts = parity_facts(self._measured, self.limits, ENGINES["safetensors"])
        return {**facts, "engine": self.artifact.engine}

    def greedy(self) -> dict[str, Any]:
        return _greedy(self.reference, self.taken, self.limits)

    def inner(self) -> dict[str, Any]:
        found = inner.distances(self.reference, self.taken)
        granted = {name: self.limits[name] for name in ("hidden", "attention")}
        tokens = len(self.feed.inner)
        return {**found, "tokens": tokens, "limits": granted, "engine": self.artifact.engine}

    def incremental(self) -> dict[str, Any]:
        measured = self.taken.noted["incremental"]
        return parity_facts(measured, self._own_noise(), self.artifact.engine)

    def _own_noise(self) -> dict[str, Any]:
        """Return how far two ways to compute the same weights may be apart: the noise of the engines, or what rounding
        to the type costs where the model amplifies it, since engines compute in half precision what is stored so."""
        kind = self.artifact.stored_type
        noise = noise_budget(kind)
        return wider(noise, self.limits) if kind in ("f16", "bf16") else noise

    def devices(self) -> dict[str, Any]:
        """Compare the artifact on the CPU with itself on the GPU, where there is one."""
        target = Target(
            model="",
            format=self.artifact.model.format,
            quantization="",
            backend="gpu",
            modality="run",
            engine=self.artifact.engine,
        )
        missing = BACKENDS.get(self.artifact.engine).unavailable(target)
        if missing:
            return {"missing": missing}
        probe = own_probe(self.artifact, "cuda")
        try:
            on_gpu = probe.logits([self.feed.text], self.feed.positions)
        finally:
            probe.close()
        measured = divergence(self.taken.text, on_gpu, self.feed.positions, self.feed.following)
        return parity_facts(measured, self._own_noise(), self.artifact.engine)

    def siblings(self) -> dict[str, Any]:
        """Compare two conversions of one model, as the comparisons with the ground truth left them."""
        one = store.stored(self._own_name(self.truth)) or self._run_sibling()
        other = store.stored(self._own_name(self.artifact))
        if other is None or other.continuations.tolist() != one.continuations.tolist():
            other = take(self._running(), self.feed, one.continuations)
        limits = combined(_known_limits(one, self.truth), _known_limits(other, self.artifact))
        measured = divergence(one.text, other.text, self.feed.positions, self.feed.following)
        facts = parity_facts(measured, limits, self.truth.engine)
        return {**facts, "greedy": _greedy(one, other, limits)}

    def _run_sibling(self) -> Readings:
        probe = own_probe(self.truth)
        try:
            return take(probe, self.feed)
        finally:
            probe.close()


def _greedy(reference: Readings, test: Readings, limits: dict[str, Any]) -> dict[str, Any]:
    """Compare first choices along the same continuation, which is what both would have said until they part."""
    return greedy_facts(reference.choices.tolist(), test.choices.tolist(), reference.leads.tolist(), limits)


def _known_limits(taken: Readings, side: Side) -> dict[str, Any]:
    limits: dict[str, Any] = taken.noted.get("limits") or budget(side.stored_type, None)
    return limits
