"""An artifact's predictions against the ground truth's: one session that answers every check with facts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from apr_qa.backends import Mute
from apr_qa.comparison.names import comparable, weights
from apr_qa.conversion.architectures import HEAD
from apr_qa.errors import Inapplicable, UsageError
from apr_qa.logits.every_id import Found, Sweep, agreement
from apr_qa.logits.feed import QUICK_TOKENS
from apr_qa.logits.parity import Parity
from apr_qa.logits.readings import Probe
from apr_qa.logits.sides import Side, own_probe, reference_probe, side_of
from apr_qa.vocabulary import Artifact

_SWEEP_S = 45.0
"""For all ids, unless the claim grants more."""
_OWN_SHARE, _ALL_SHARE = 0.6, 0.9
"""Of the time: when the artifact must be done, when the truth."""
_MISSING_ENGINE = "there is no WebAssembly engine to run it in"


class LogitParity(Mute):
    """Answers what is asked about the predictions of ``artifact`` in comparison with those of ``truth``."""

    def __init__(self, truth: Side, artifact: Side) -> None:
        self.truth = truth
        self.artifact = artifact
        self._probe: Probe | None = None
        self._load_s: float | None = None
        self._feeds: dict[int, Parity] = {}

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of one check; raises UsageError for a check that does not exist.

        ``params``: ``tokens`` (length of the text) and ``limit_s`` (seconds for every_id). What keeps the ground
        truth from being run is Inapplicable: no fault of the artifact.
        """
        parity = self._parity(int(params.get("tokens") or QUICK_TOKENS))
        checks: dict[str, Callable[[], dict[str, Any]]] = {
            "logits": parity.logits,
            "greedy": parity.greedy,
            "inner": parity.inner,
            "incremental": parity.incremental,
            "devices": parity.devices,
            "siblings": parity.siblings,
            "completes": self._completes,
            "loads": self._loads,
            "wasm": lambda: {"missing": _MISSING_ENGINE},
            "every_id": lambda: self._every_id(float(params.get("limit_s") or _SWEEP_S)),
        }
        if check not in checks:
            raise UsageError(
                f"no comparison of logits is called {check!r}", fix=f"one of {', '.join(checks)}"
            )
        return {"pair": f"{self.truth.letter}-{self.artifact.letter}", **checks[check]()}

    def close(self) -> None:
        if self._probe is not None:
            self._probe.close()

    def _parity(self, tokens: int) -> Parity:
        if tokens not in self._feeds:
            self._feeds[tokens] = Parity(self.truth, self.artifact, tokens, self._running)
        return self._feeds[tokens]

    def _running(self) -> Probe:
        if self._probe is None:
            begun = time.monotonic()
            self._probe = own_probe(self.artifact)
            self._load_s = round(time.monotonic() - begun, 3)
        return self._probe

    def _completes(self) -> dict[str, Any]:
        """Count tensors by canonical name; heads that are tied and rotary buffers may be stored or not."""
        unknown = comparable(self.artifact.model) or comparable(self.truth.model)
        if unknown:
            raise Inapplicable(f"no canonical tensor names are known for architecture {unknown!r}")
        wanted, found = weights(self.truth.model), weights(self.artifact.model)
        if HEAD not in wanted:
            found.pop(HEAD, None)
        return {"tensors": len(found), "source_tensors": len(wanted)}

    def _loads(self) -> dict[str, Any]:
        """Say how long loading took; what predicted before, from the same bytes, has loaded."""
        parity = self._parity(QUICK_TOKENS)
        known = parity.taken.noted.get("load_s")
        if known is None or self._load_s is not None:
            self._running()
            parity.note(load_s=self._load_s)
            known = self._load_s
        return {"load_s": known}

    def _every_id(self, limit_s: float) -> dict[str, Any]:
        begun = time.monotonic()
        size = max(
            (i.shape[0] for n, i in self.truth.model.tensors.items() if "embed_tokens" in n), default=0
        )
        sweep = Sweep(self._running(), size)
        passed = sweep.run(sweep.chunks, begun + _OWN_SHARE * limit_s)
        compared: dict[str, Any] = {"compared": 0, "apart": [], "apart_count": 0}
        if size and passed == size and not sweep.bad_count and not sweep.bad_columns:
            reference = self._swept_truth(size, begun + _ALL_SHARE * limit_s)
            compared = agreement(reference, sweep.kept) if reference else compared
        return {
            "vocabulary": size,
            "passed": passed,
            "bad_ids": sweep.bad_ids,
            "bad_count": sweep.bad_count,
            "bad_columns": sorted(sweep.bad_columns)[:20],
            **compared,
        }

    def _swept_truth(self, size: int, deadline: float) -> Found:
        """Return the truth's side as far as time allows, chunks spread over the vocabulary."""
        probe = reference_probe(self.truth)
        sweep = Sweep(probe, size)
        stride = max(1, len(sweep.chunks) // 16)
        sweep.run([chunk for begin in range(stride) for chunk in sweep.chunks[begin::stride]], deadline)
        probe.close()
        return sweep.kept


def compare_logits(truth: Artifact, artifact: Artifact) -> LogitParity:
    """Open both artifacts; raises MalformedFile or ModelUnavailable."""
    return LogitParity(side_of(truth), side_of(artifact))
