"""What can be measured of a loaded model: name of the check -> what makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apr_qa.backends import Session
from apr_qa.errors import UsageError
from apr_qa.vocabulary import Artifact, Scenario


def measured(session: Session, scenario: Scenario, artifact: Artifact) -> dict[str, Any]:
    """Return the facts that a claim of kind ``measure`` asks for; raises Inapplicable or InferenceFailed."""
    from apr_qa.evaluation import perplexity
    from apr_qa.measuring import (
        edges,
        fallback,
        golden,
        kernels,
        lifecycle,
        other_runtime,
        refusal,
        speed,
        stability,
    )

    params, target, path = scenario.claim.params, scenario.target, Path(artifact.path)
    checks: dict[str, Any] = {
        "profile": lambda: speed.profile(session, params),
        "speedup": lambda: speed.speedup(session, params, target, path),
        "lifecycle": lambda: lifecycle.walk(params, target, artifact),
        "memory": lambda: stability.memory(session, params),
        "batch": lambda: stability.at_once(session, params),
        "edge": lambda: edges.edge(session, params),
        "refusal": lambda: refusal.refusal(params, target, path),
        "other_runtime": lambda: other_runtime.compare(session, params, path),
        "perplexity": lambda: perplexity.measure(session, params),
        "kernels": lambda: kernels.kernels(params, path, target.format),
        "golden": lambda: golden.compare(session, params, artifact),
        "fallback": lambda: fallback.fallback(session, target, path),
    }
    name = str(params["check"])
    if name not in checks:
        raise UsageError(f"no measurement is called {name!r}", fix=f"one of {', '.join(checks)}")
    return dict(checks[name]())
