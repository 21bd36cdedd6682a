"""Ids of the catalogue that this program's predecessor used and that have no gate here: what answers instead, and why.

An id has no gate of its own where another gate asks the same, where its limit says more about a machine than
about an artifact, or where it is about a tool and not about a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Replaced(NamedTuple):
    """What stands for an id."""

    by: tuple[str, ...]
    """Gates that answer what the id asks; empty where nothing about an artifact is asked."""
    why: str


_SAME = "it asks the same"
_RATE = "it was a key of exported summaries; the gateway's verdict is what is exported"
_COMMAND = "it looked at an exit code; here the answer itself is judged"
_REPEAT = "equal answers to equal requests are searched for by a property, on every device and format"
_OUT_OF_SCOPE = (
    "it is about training, and a finished artifact shows nothing of it; derivations state promises"
)
_BUNDLE = "it is about the diagnostic bundle that fail_fast writes, a matter of this program's own tests"
_DRIFT = "it is about an algorithm that watches a stream of requests; one run of one artifact has none"
_QA = "the run itself is the matrix that the id asks for"
_HEADER = "X-Trace-Level is a header of one server; levels are asked of the loaded model"

REPLACED: Mapping[str, Replaced] = {
    # gateways
    "G0-PULL-001": Replaced(
        ("PROV-007",),
        "a model that cannot be had leaves no evidence to judge: certify names every place that it searched, "
        "ends with 3 and writes an error into the JUnit report; what was found has to be readable",
    ),
    "G0-FORMAT-WORKSPACE-001": Replaced(
        ("G0-FORMAT-APR-001", "G0-FORMAT-GGUF-001", "ISO-OUT-001"),
        "there is no folder of links to build: files are read where they are, and derived ones lie in a cache",
    ),
    "G0-LAYOUT-CRITICAL": Replaced(
        ("G0-LAYOUT-001",), "every wrong shape is critical here, the head's included"
    ),
    "G1-MODEL-LOADS": Replaced(("G1",), _RATE),
    "G2-BASIC": Replaced(("G2",), _COMMAND),
    "G2-BASIC-INFERENCE": Replaced(("G2",), _RATE),
    "G2-INFER": Replaced(("G2",), _SAME),
    "G3-NO-CRASHES": Replaced(("G3",), _RATE),
    "G3-STABLE": Replaced(("G3",), _SAME),
    "G4-GARBAGE-NNN": Replaced(
        ("G4",), "ids with a running number are no gates; the share of garbage is G4's"
    ),
    "G4-OUTPUT-QUALITY": Replaced(("G4",), _RATE),
    "G4-VALID": Replaced(("G4",), _SAME),
    # run, chat, serve, devices
    "F-RUN-004": Replaced(
        ("F-PERF-001", "F-PROFILE-CI-001"),
        "ten tokens a second say more about machine and size than about an artifact: there is a floor for what "
        "is hopeless, and a playbook states its own",
    ),
    "F-RUN-005": Replaced(("F-STAB-001", "F-PROP-GREEDY-001"), _REPEAT),
    "F-CHAT-003": Replaced(
        ("F-HTTP-012", "G0-TEMPLATE-ROLES"),
        "whether a system prompt reaches the model can be told; "
        "whether a small model obeys it cannot be held against the artifact",
    ),
    "F-SERVE-002": Replaced(
        ("F-SERVE-001", "F-HTTP-007"), "two lists gave it two meanings; each has its own gate"
    ),
    "F-SERVE-003": Replaced(
        ("F-HTTP-007", "F-HTTP-010"), "two lists gave it two meanings; each has its own gate"
    ),
    "F-SERVE-004": Replaced(
        ("F-HTTP-010", "F-HTTP-004"), "two lists gave it two meanings; each has its own gate"
    ),
    "F-SERVE-005": Replaced(("F-HTTP-004",), _SAME),
    "F-HTTP-001": Replaced(("F-SERVE-001",), _SAME),
    "F-HTTP-003": Replaced(
        ("F-GPU-002",),
        "what a server says about its device proves nothing; what the device makes of the speed does",
    ),
    "F-CPU-001": Replaced(
        ("F-PERF-001", "F-PROFILE-CI-001"), "as F-RUN-004: a fixed speed is a property of the machine"
    ),
    "F-CPU-002": Replaced(("F-STAB-001", "F-PROP-GREEDY-001"), _REPEAT),
    "F-GPU-001": Replaced(
        ("F-GPU-002", "F-PAR-001"),
        "the load of a device that others use too proves nothing; an artifact that decodes at twice the speed of "
        "the CPU and predicts the same is on it",
    ),
    "F-GPU-004": Replaced(("F-CHECK-007", "F-STAB-002"), "cache and memory are asked about on every device"),
    # tools
    "F-INSPECT-001": Replaced(
        ("G0-HEADER-001",), "whatever is found out travels and is stored as strict JSON"
    ),
    "F-INSPECT-003": Replaced(("G0-HEADER-001",), "at least one tensor is part of it"),
    "F-VALIDATE-001": Replaced(("G0",), "there is one scale, and no score for a part of a qualification"),
    "F-VALIDATE-002": Replaced(
        ("F-VALID-TYPE-001",), "the format is found by content and compared with the name"
    ),
    "F-BENCH-002": Replaced(("F-PERF-003", "F-GPU-002"), _SAME),
    "F-PROFILE-005": Replaced(
        ("F-PROFILE-001",), "profiles are stored as strict JSON; what is in them is judged"
    ),
    "F-PROFILE-006": Replaced(("F-PERF-001",), "one token a second is its floor"),
    "F-TRACE-004a": Replaced(("F-HTTP-007",), _HEADER),
    "F-TRACE-004b": Replaced(("F-HTTP-006",), _HEADER),
    "F-TRACE-004c": Replaced(("F-HTTP-008",), _HEADER),
    "F-TRACELEVEL-001": Replaced(("F-TRACE-001",), "the level is that of the engine, whatever the modality"),
    "F-TRACELEVEL-002": Replaced(("F-TRACE-001",), "the level is that of the engine, whatever the modality"),
    "F-TRACELEVEL-003": Replaced(("F-TRACE-001", "F-TRACE-002"), _HEADER),
    "F-TRACELEVEL-004": Replaced(("F-TRACE-005",), "it is about a second spelling of an option"),
    "F-TRACE-DIFF-001": Replaced(
        ("F-HFP-004",),
        "hidden states behind every layer are compared with the ground truth's, by relative error",
    ),
    "F-STAGE-*": Replaced(
        ("F-CONTRACT-I5-001", "F-HFP-005", "F-HFP-003", "F-HFP-004", "F-HFP-001", "F-HFP-002"),
        "tokenizer, embedding, attention, layers, logits and tokens are compared with the ground truth each",
    ),
    "F-OLLAMA-PULL-001": Replaced(("F-OLLAMA-004",), "a model that was not pulled is not served"),
    "F-PROFILE-DIFF-001": Replaced(("F-REGR-002",), "speed against the stored run is one gate"),
    "F-PROFILE-DIFF-002": Replaced(
        ("F-REGR-002", "F-PROFILE-CI-003"), "the median latency is the reciprocal of the speed"
    ),
    # performance and verification
    "F-PERF-004": Replaced(("F-GPU-002",), "as F-GPU-001: the load of a device depends on who else uses it"),
    "F-PERF-005": Replaced(("F-PROFILE-CI-005",), "memory is measured with every profile"),
    "F-PERF-042": Replaced(("F-GPU-002",), _SAME),
    "F-INT-003": Replaced(("G0-VALIDATE-001",), _SAME),
    "F-INT-004": Replaced(
        ("F-CONV-RT-BYTE-001", "F-CONV-RT-001"), "byte by byte where a format can be, else by value"
    ),
    "F-INT-005": Replaced(("F-STAB-001", "F-PROP-GREEDY-001"), _REPEAT),
    "F-API-001": Replaced(("F-HTTP-007",), _SAME),
    "F-NUM-002": Replaced(
        ("F-CHECK-005",), "norms of language models keep no mean: it is the size that is unit"
    ),
    "F-NUM-003": Replaced(("F-CHECK-003", "F-CHECK-008"), "attention and output have a gate each"),
    "F-NUM-004": Replaced(("F-CHECK-008",), _SAME),
    "F-COMP-002": Replaced(
        ("F-CONV-INF-001", "F-CONTRACT-I1-001"),
        "both are compared with the ground truth, and with each other",
    ),
    "F-COMP-003": Replaced(("F-PAR-001",), _SAME),
    "F-CONV-INF-004": Replaced(("F-PAR-001",), "what two devices predict is compared as distributions"),
    # provenance, isolation, processes
    "PROV-002": Replaced(("F-PROV-001",), "any converter may be used, as long as the file names it"),
    "PROV-003": Replaced(
        ("PROV-001",), "derived files name the very ground truth of the run, not just its format"
    ),
    "PROV-005": Replaced(
        ("F-CONTRACT-I1-001",),
        "a quantised file is compared with the ground truth within a budget for its own type, so that types that "
        "differ are the point and no mistake",
    ),
    "F-PROV-003": Replaced(("PROV-008",), _SAME),
    "F-PROV-004": Replaced(("PROV-009",), _SAME),
    "ISO-OUT-003": Replaced(
        ("ISO-OUT-001",),
        "derived files are kept as a cache on purpose; a draft never gets the name of a result",
    ),
    "ISO-OUT-004": Replaced(
        ("ISO-OUT-001", "PROV-001"), "the name of a derived file is a hash of all that it depends on"
    ),
    "HF-CACHE-001": Replaced(
        ("PROV-004", "PROV-006"), "where each artifact was found is part of what is recorded"
    ),
    "HF-CACHE-002": Replaced(
        ("PROV-004",), "as HF-CACHE-001; the variables are a matter of this program's own tests"
    ),
    "F-PROC-001": Replaced(
        ("F-HTTP-004", "G3"), "servers are watched as they stop; the rest is this program's own tests"
    ),
    "F-PROC-002": Replaced(
        ("F-HTTP-004",), "as F-PROC-001: every child is in a group that is killed as a whole"
    ),
    "F-PROC-003": Replaced(("F-HTTP-004",), "as F-PROC-001: one module starts all processes"),
    "F-PROC-004": Replaced((), "it is about a message on the terminal"),
    # words for the same thing
    "I-1": Replaced(("F-CONTRACT-I1-001",), _SAME),
    "I-2": Replaced(("F-CONTRACT-I2-001",), _SAME),
    "I-3": Replaced(("F-CONTRACT-I3-001",), _SAME),
    "I-4": Replaced(("F-CONTRACT-I4-001",), _SAME),
    "I-5": Replaced(("F-CONTRACT-I5-001",), _SAME),
    "MR-RT": Replaced(("F-CONV-RT-001",), "it is a label"),
    "MR-CARD": Replaced(("F-CONV-CARD-001",), "it is a label"),
    "MR-IDEM": Replaced(("F-CONV-IDEM-001",), "it is a label"),
    "MR-COM": Replaced(("F-CONV-COM-001",), "it is a label"),
    # what is no claim about an artifact
    **{f"F-QA-{number:03}": Replaced(("G0", "G2"), _QA) for number in (1, 2)},
    "F-QA-003": Replaced(("F-PROFILE-CI-001",), _QA),
    "F-QA-004": Replaced(("F-GPU-002",), _QA),
    "F-QA-005": Replaced(("F-CONTRACT-I1-001",), _QA),
    **{f"F-TUNE-{number:03}": Replaced((), _OUT_OF_SCOPE) for number in range(1, 6)},
    **{f"F-DRIFT-{number:03}": Replaced((), _DRIFT) for number in range(1, 5)},
    **{f"FF-REPORT-{number:03}": Replaced((), _BUNDLE) for number in range(1, 8)},
}


def replaced_by(gate_id: str) -> tuple[str, ...]:
    """Return the gates that answer an id without a gate; empty if there are none."""
    found = REPLACED.get(gate_id)
    return found.by if found is not None else ()
