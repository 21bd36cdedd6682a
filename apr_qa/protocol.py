"""What is said between the parent and a worker: one JSON line each way at a time.

The parent sends a `Job`, then, if it said that there is more, lists of further scenarios, the last one empty.
The worker says ``hello``; ``refused`` or ``ready``; ``started`` before each group and ``answers`` after it;
``done`` at the end, or when it wants to be replaced by a fresh process. Scenarios are named by the order in
which they were sent, so that neither side has to look for ids.
"""

from __future__ import annotations

from typing import Any

import msgspec

from apr_qa.vocabulary import Artifact, Record, Response, Scenario, Target

GROUP_SIZE = 96
"""Claims that are asked in one call; a step reads all weights once, however many sequences it decodes."""
MOST_CLAIMS = 50_000
"""Claims after which a worker asks to be replaced, so that what a native library forgets to free does not add up."""
GROWTH_BYTES = 2 << 30
"""By how much a worker may have grown since its first group before it asks to be replaced."""


class Job(Record, frozen=True):
    """What one worker has to do."""

    target: Target
    artifact: Artifact
    scenarios: tuple[Scenario, ...]
    threads: int = 0
    group_size: int = GROUP_SIZE
    endpoint: str = ""
    source: Artifact | None = None
    """What a conversion starts from, or what ``artifact`` is compared with."""
    truth: Artifact | None = None
    """The ground truth, where properties of what is loaded are about both."""
    most_claims: int = MOST_CLAIMS
    growth_bytes: int = GROWTH_BYTES
    more: bool = False
    """Whether further scenarios follow, a list a line, until an empty list."""


class Answer(Record, frozen=True):
    """What came of one scenario: a response, or an outcome that is known without judging."""

    number: int
    """Place of the scenario in the order in which they were sent."""
    response: Response | None = None
    outcome: str = ""
    reason: str = ""


class Message(Record, frozen=True):
    """One line of a worker."""

    event: str
    numbers: tuple[int, ...] = ()
    """``started``: the scenarios of the group."""
    answers: tuple[Answer, ...] = ()
    outcome: str = ""
    """``refused``: the outcome of what cannot be loaded; empty where the machine is to blame."""
    reason: str = ""
    facts: dict[str, Any] = msgspec.field(default_factory=dict)
    """``ready``: what loading took."""
    peak_memory_mb: float = 0.0


LATE = Message(event="late")
"""What is heard of a worker that says nothing for too long."""

read_message = msgspec.json.Decoder(Message).decode
read_job = msgspec.json.Decoder(Job).decode
read_scenarios = msgspec.json.Decoder(tuple[Scenario, ...]).decode
written = msgspec.json.Encoder().encode
