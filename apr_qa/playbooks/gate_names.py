"""Gates that a playbook names: which of ours answer them, and what they add to the run.

Naming a gate asks for it; it never excuses from another one. An id of another tool that asks what one of our
gates asks is answered by that gate.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from apr_qa.gates.replaced import REPLACED, replaced_by
from apr_qa.playbooks.fields import meant

ANSWERED_BY: Mapping[str, tuple[str, ...]] = {
    "G0-PULL-001": ("G0",),
    "G0-FORMAT-WORKSPACE-001": ("G0",),
    "G0-LAYOUT-CRITICAL": ("G0-LAYOUT-001",),
    "G1-MODEL-LOADS": ("G1",),
    "G1-LOAD": ("G1",),
    "G2-INFER": ("G2",),
    "G2-BASIC": ("G2",),
    "G2-BASIC-INFERENCE": ("G2",),
    "G3-STABLE": ("G3",),
    "G3-NO-CRASHES": ("G3",),
    "G4-VALID": ("G4",),
    "G4-OUTPUT-QUALITY": ("G4",),
    "F-A1-001": ("G2",),
    "F-A2-001": ("G2",),
    "F-A3-001": ("G2",),
    "F-A4-001": ("G2",),
    "F-A5-001": ("G2",),
    "F-A6-001": ("G2",),
    "F-CONTRACT-I1-001": ("F-HFP-001",),
    "F-CONV-001": ("F-CONV-G-A",),
    "F-CONV-002": ("F-CONV-A-G",),
    "F-CONV-003": ("F-CONV-G-S",),
    "F-CONV-004": ("F-CONV-S-G",),
    "F-CONV-005": ("F-CONV-A-S",),
    "F-CONV-006": ("F-CONV-S-A",),
    "F-CONV-RT-001": ("F-CONV-S-G", "F-CONV-S-A"),
    "F-CONV-RT-002": ("F-CONV-S-G", "F-CONV-S-A"),
    "F-CONV-RT-003": ("F-CONV-S-G", "F-CONV-S-A"),
    "F-CONV-RT-004": ("F-CONV-S-G", "F-CONV-S-A"),
    "F-CONV-RT-BYTE-001": ("F-CONTRACT-I4-001",),
    "F-CONV-IDEM-001": ("F-CONTRACT-I4-001",),
    "F-CONV-COM-001": ("F-CONTRACT-I4-001",),
    "F-CONV-TOK-001": ("F-CONTRACT-I5-001",),
    "F-CONV-SHAPE-001": ("F-ROSETTA-DIFF-002",),
    "F-CONV-EMBED-001": ("F-ROSETTA-STATS-002",),
    "F-CONV-SEMANTIC-001": ("F-ROSETTA-INF-001",),
    "F-CONV-WEIGHT-001": ("G0-VALIDATE-001",),
    "F-ROSETTA-FP-001": ("G0-VALIDATE-001",),
    "F-ROSETTA-FP-002": ("F-CONTRACT-I4-001",),
    "F-ROSETTA-FMT-002": ("G0-HEADER-001",),
    "F-ROSETTA-STATS-005": ("F-ROSETTA-STATS-001",),
    "F-ROSETTA-STATS-006": ("F-ROSETTA-STATS-001",),
    "F-COMP-001": ("G1", "F-CONTRACT-I4-001"),
    "F-COMP-002": ("F-PAR-002",),
    "F-COMP-003": ("F-PAR-001",),
    "F-HTTP-001": ("F-SERVE-001",),
    "F-VALIDATE-001": ("G0",),
    "F-INSPECT-001": ("G0-HEADER-001",),
    "F-INSPECT-002": ("G0-HEADER-001",),
    "F-INSPECT-003": ("G0-HEADER-001",),
    "F-INSPECT-META-001": ("G0-INTEGRITY-CONFIG",),
    "F-VALIDATE-002": ("G0-HEADER-001",),
    "F-RUN-004": ("F-PROFILE-CI-001",),
    "F-CPU-001": ("F-PROFILE-CI-001",),
    "F-RUN-005": ("F-STAB-001",),
    "F-CPU-002": ("F-STAB-001",),
    "F-GPU-002": ("F-PERF-003",),
    "F-PERF-042": ("F-PERF-003",),
    "F-SERVE-002": ("F-SERVE-001",),
    "F-SERVE-003": ("F-HTTP-002",),
    "F-SERVE-004": ("F-HTTP-010",),
    "F-SERVE-005": ("F-HTTP-004",),
    "F-HTTP-003": ("F-HTTP-010",),
    "PROV-002": ("F-PROV-001",),
    "PROV-003": ("F-PROV-001",),
    "PROV-004": ("PROV-001",),
    "I-1": ("F-CONTRACT-I1-001",),
    "I-2": ("F-CONTRACT-I2-001",),
    "I-3": ("F-CONTRACT-I3-001",),
    "I-4": ("F-CONTRACT-I4-001",),
    "I-5": ("F-CONTRACT-I5-001",),
    "F-CONTRACT-LOAD-001": ("G1-LOAD",),
}
"""Id of another tool -> gates here that answer the same question; used where the id itself is not registered."""

ADDED: Mapping[str, str] = {
    "F-PERF-001": "profile",
    "F-PERF-002": "profile",
    "F-PERF-003": "profile",
    "F-PERF-004": "profile",
    "F-PERF-005": "profile",
    "F-STAB-001": "seeded_sampling",
    "F-STAB-002": "memory",
    "F-STAB-003": "batch",
    "F-EDGE-001": "edge",
    "F-EDGE-002": "context_overflow",
    "F-EDGE-003": "odd_prompts",
    "F-EDGE-004": "max_tokens",
    "F-REGR-001": "baseline",
    "F-REGR-002": "baseline",
    "F-STATE-FALLBACK-001": "fallback",
    "F-LOAD-REFUSAL-001": "refusal",
    "F-LOAD-REFUSAL-002": "refusal",
    "F-LOAD-REFUSAL-003": "refusal",
}
"""Id -> the suite, the measurement or the property that naming it adds to the run."""
MEASURED = frozenset({"memory", "batch", "edge", "baseline", "profile", "fallback", "refusal"})
"""Values of ``ADDED`` that are no properties."""


_GATEWAY = re.compile(r"(G[0-4])(?:-[A-Z]+)+")
"""A gateway with words behind it, as people write them: ``G1-LOADS``."""


@functools.cache
def registered() -> frozenset[str]:
    """Return the ids of all gates of this program."""
    from apr_qa.gates import GATES

    return frozenset(GATES.names())


def answers(gate_id: str) -> tuple[str, ...]:
    """Return the gates here that answer ``gate_id``; empty if nothing does.

    >>> answers("F-CONV-001"), answers("F-NO-SUCH-001")
    (('F-CONV-G-A',), ())
    """
    if gate_id in ADDED or gate_id in registered():
        return (gate_id,)
    gateway = _GATEWAY.fullmatch(gate_id)
    return ANSWERED_BY.get(gate_id) or replaced_by(gate_id) or ((gateway[1],) if gateway else ())


def _known(gate_id: str) -> str:
    if answers(gate_id):
        return gate_id
    if gate_id in REPLACED:
        said = f"{gate_id} asks nothing of a model: {REPLACED[gate_id].why}; remove the line"
    else:
        family = gate_id.rpartition("-")[0]
        known = sorted({*registered(), *ANSWERED_BY, *ADDED})
        near = [name for name in known if name.rpartition("-")[0] == family] or known
        said = f"no gate is called {gate_id!r}{meant(gate_id, near)}; apr-qa gates lists them"
    raise PydanticCustomError("gate", "{said}", {"said": said})


GateId = Annotated[str, AfterValidator(_known)]
"""The id of a gate of this program, or one that a gate of this program answers."""
