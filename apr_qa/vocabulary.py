"""The nouns: what is claimed, of what, what happened, and how much it weighs.

All records are frozen; a stage that knows more returns a new record. Enum values are the words
that appear in YAML, CSV and JSON.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Any

import msgspec

FORMATS = ("safetensors", "apr", "gguf")
DEVICES = ("cpu", "gpu")
MODALITIES = ("run", "chat", "serve")
FILE_MODALITIES = ("inspect", "compare", "convert")
"""Where a target that is a file and not a running model says what is done with it."""


class Outcome(enum.StrEnum):
    """What happened to one claim about one target."""

    CORROBORATED = "corroborated"
    FALSIFIED = "falsified"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    INCONCLUSIVE = "inconclusive"
    INAPPLICABLE = "inapplicable"
    SKIPPED = "skipped"

    @property
    def failed(self) -> bool:
        """True for the outcomes that speak against the artifact."""
        return self in (Outcome.FALSIFIED, Outcome.TIMEOUT, Outcome.CRASHED)

    @property
    def counted(self) -> bool:
        """True for the outcomes that enter the denominator of the rate."""
        return self not in (Outcome.INAPPLICABLE, Outcome.SKIPPED)


class Severity(enum.StrEnum):
    """P0 blocks shipping, P1 lowers the score, P2 is reported."""

    P0 = "P0"
    P1 = "P1"
    P2 = "P2"


class Tier(enum.StrEnum):
    """How much is spent on one verdict."""

    DIM_SMOKE = "dim-smoke"
    SMOKE = "smoke"
    MVP = "mvp"
    QUICK = "quick"
    CI = "ci"
    STANDARD = "standard"
    DEEP = "deep"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all records: frozen, keyword-only, defaults left out of the JSON."""


class Model(Record, frozen=True):
    """A model as the registry knows it; ``path`` is set when the user named a file or directory."""

    id: str
    family: str = ""
    parameters: str = ""
    revision: str = "main"
    path: str = ""

    @property
    def name(self) -> str:
        return self.id.rsplit("/", 1)[-1]

    @property
    def slug(self) -> str:
        """Folder name of the certification: ``org--model``."""
        return self.id.replace("/", "--")


class Artifact(Record, frozen=True):
    """One file or directory that claims to be the model.

    ``origin``: ``found`` (resolved from the model id), ``given`` (by the user) or ``derived`` (by us).
    ``path`` is local and never enters evidence.
    """

    format: str
    path: str
    quantization: str = ""
    origin: str = "found"
    sha256: str = ""
    source: str = ""
    """Where it was found or what it was derived from, in words for the reader of the evidence."""


class Target(Record, frozen=True, omit_defaults=False):
    """Exactly what must be loaded: the grouping key of the plan and the unit of isolation."""

    model: str
    format: str
    quantization: str
    backend: str
    """``cpu`` or ``gpu``."""
    modality: str
    """``run``, ``chat``, ``serve``; ``inspect``, ``compare`` and ``convert`` for claims about files."""
    engine: str
    """Registered name in ``backends/`` that loads it."""

    @property
    def cell(self) -> str:
        return f"{self.format}·{self.backend}·{self.modality}"


class Claim(Record, frozen=True):
    """A falsifiable statement that knows no target, so equal claims on two targets can be compared.

    ``kind`` says what the worker has to do: ``generate`` (raw completion of ``prompt``), ``chat``
    (``messages`` are the user turns, answered one after the other), ``http`` (a protocol check named
    in ``params['check']``), ``load``, ``inspect`` (facts of a file, ``params['check']``), ``convert``.
    """

    gate_id: str
    kind: str
    severity: Severity = Severity.P1
    prompt: str = ""
    messages: tuple[str, ...] = ()
    oracle: str = ""
    """Registered name in ``oracles/``; empty for claims judged from facts by their gate."""
    expected: Any = None
    """What the oracle needs beyond the prompt; JSON only."""
    max_tokens: int = 32
    temperature: float = 0.0
    seed: int = 0
    basic: bool = False
    """True for the basic prompts that gateway G2 asks for."""
    params: dict[str, Any] = {}

    @property
    def question(self) -> str:
        """The text that the oracle judges the answer against: the prompt or the last user turn."""
        return self.messages[-1] if self.messages else self.prompt


def digest(*parts: Any) -> str:
    """Sixteen hex digits of SHA-256 over the canonical JSON of ``parts``."""
    canonical = msgspec.json.encode(parts, order="deterministic")
    return hashlib.sha256(canonical).hexdigest()[:16]


class Scenario(Record, frozen=True):
    """A claim about a target, before it is tried."""

    target: Target
    claim: Claim

    @property
    def id(self) -> str:
        """The same on every machine and in every tier: a hash of target and claim."""
        return digest(self.target, self.claim)


class Response(Record, frozen=True, omit_defaults=False):
    """What came back: generated text only (no prompt, no banner), or the facts of a file.

    Timings are in seconds and measured; what was not measured is ``None``.
    """

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    """``stop`` (end-of-generation token or stop string) or ``length``."""
    prompt_tokens: int | None = None
    vocab_size: int | None = None
    duration_s: float | None = None
    time_to_first_token_s: float | None = None
    tokens_per_s: float | None = None
    """Generated tokens per second of this sequence's batch as a whole (batch throughput)."""
    turns: tuple[str, ...] = ()
    """Earlier assistant turns of a chat."""
    facts: dict[str, Any] = {}


class Judgement(Record, frozen=True):
    """An outcome and the reason for it, as an oracle or a gate gives it."""

    outcome: Outcome
    reason: str


class Evidence(Record, frozen=True, omit_defaults=False):
    """What happened to one scenario."""

    id: str
    gate_id: str
    severity: Severity
    scenario: Scenario
    outcome: Outcome
    reason: str
    response: Response | None = None
    metrics: dict[str, Any] = {}
    timestamp: str = ""


EARLIER = "earlier_rate"
"""Key of a header's environment: tier and share of claims that held in the run that was stored before."""


class EvidenceHeader(Record, frozen=True, omit_defaults=False):
    """First line of an evidence file: all that is needed to judge, verify and replay the rest."""

    apr_qa: str
    """Version of the tool."""
    model: Model
    tier: Tier
    playbook: str
    playbook_sha256: str
    artifacts: tuple[Artifact, ...]
    ground_truth: str
    """``safetensors``, or ``derived from gguf`` and the like."""
    cells: tuple[str, ...]
    """The planned cells, ``format·backend·modality``."""
    planned: int
    """Number of planned scenarios."""
    environment: dict[str, str] = {}
    started: str = ""


class GateVerdict(Record, frozen=True):
    """What all evidence together says about one gate."""

    gate_id: str
    severity: Severity
    outcome: Outcome | None
    """``None`` means unproven: nothing speaks for it."""
    reason: str
    evidence: tuple[str, ...] = ()
    """Ids of the entries that decided it, falsifying ones first."""
