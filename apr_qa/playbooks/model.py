"""The playbook itself: what is tried on one model, and when to stop.

Reading it from a file is the business of ``playbook``; the stages that follow need this only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from apr_qa.playbooks.fields import (
    Block,
    GatesBlock,
    Listed,
    MatrixBlock,
    ModelBlock,
    Number,
    OracleBlock,
    ScenarioBlock,
)
from apr_qa.playbooks.refused import (
    ContractTests,
    DifferentialTests,
    FalsificationGate,
    KernelProfile,
    OllamaParity,
    ProfileCi,
    PropertyTest,
    PropertyTests,
    StateMachine,
    TracePayload,
)
from apr_qa.vocabulary import FORMATS, Model, Tier

BUDGET_S = {
    Tier.DIM_SMOKE: 30.0,
    Tier.SMOKE: 120.0,
    Tier.MVP: 600.0,
    Tier.QUICK: 1800.0,
    Tier.CI: 1800.0,
    Tier.STANDARD: 7200.0,
    Tier.DEEP: 86_400.0,
}
"""Seconds that one verdict of a tier may take."""

DEFAULT_COUNT = 4

TierName = Annotated[
    Tier, Field(strict=False), BeforeValidator(lambda value: "deep" if value == "full" else value)
]
PropertyForms = Annotated[
    Annotated[PropertyTests, Tag("block")] | Annotated[list[PropertyTest], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "block"),
]


class Playbook(Block):
    """What is tried on one model, and when to stop."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the playbook. Default: the file's name."""
    version: str = Field(default="1.0", pattern=r"^\d+\.\d+(\.\d+)?$")
    """Version of the playbook."""
    description: str = Field(default="", max_length=500)
    tier: TierName | None = None
    """The tier whose pass rule applies; the command line may say another."""
    model: ModelBlock
    test_matrix: MatrixBlock = MatrixBlock()
    gates: GatesBlock = GatesBlock()
    oracles: Listed[OracleBlock] = ()
    """Judges whose claims fill up the scenarios. Default: all that can make up claims."""
    scenarios: Listed[ScenarioBlock] = ()
    """Claims of your own; they come first."""
    failure_policy: Literal["stop_on_first", "stop_on_p0", "collect_all", "fail_fast"] = "stop_on_p0"
    """When the line stops: at any failure (stop_on_first, fail_fast), at a P0 or a crash, or never."""
    budget_s: Number = Field(default=0.0, ge=0)
    """Seconds for the whole run; what is left then is skipped. 0: no limit. Default: that of the tier."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """For the reader: author, tags, …"""
    property_tests: PropertyForms | None = None
    falsification_gates: Listed[FalsificationGate] = ()
    state_machine: StateMachine | None = None
    differential_tests: DifferentialTests | None = None
    profile_ci: ProfileCi | None = None
    trace_payload: TracePayload | None = None
    contract_tests: ContractTests | None = None
    ollama_parity: OllamaParity | None = None
    kernel_profile: KernelProfile | None = None

    _sha256: str = PrivateAttr("")
    _source: str = PrivateAttr("")

    @model_validator(mode="before")
    @classmethod
    def _budget_of_tier(cls, fields: Any) -> Any:
        tier = {"full": "deep"}.get(str(fields.get("tier")), fields.get("tier"))
        if "budget_s" not in fields and tier in list(Tier):
            return {**fields, "budget_s": BUDGET_S[Tier(tier)]}
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        stated = (self.model.formats, self.test_matrix.formats)
        if all(stated) and set(stated[0] or ()) != set(stated[1] or ()):
            raise PydanticCustomError(
                "formats", "differs from model.formats", {"under": ("test_matrix", "formats")}
            )
        names = [scenario.name for scenario in self.scenarios]
        twice = [index for index, name in enumerate(names) if name in names[:index]]
        if twice:
            raise PydanticCustomError(
                "names", "another scenario has this name", {"under": ("scenarios", twice[0], "name")}
            )
        if self.scenario_count < self.listed:
            raise PydanticCustomError(
                "count",
                "{listed} scenarios are listed, so some would never be tried",
                {"listed": self.listed, "under": ("test_matrix", "scenario_count")},
            )
        return self

    def read_from(self, source: str, sha256: str) -> Self:
        """Return a copy that knows its file and the hash of the file's bytes."""
        known = self.model_copy()
        known._source, known._sha256 = source, sha256
        return known

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes of the file."""
        return self._sha256

    @property
    def source(self) -> str:
        """The file it was read from, for messages."""
        return self._source

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats to try, in the order of ``vocabulary.FORMATS``."""
        stated = self.model.formats or self.test_matrix.formats or FORMATS
        return tuple(name for name in FORMATS if name in stated)

    @property
    def quantizations(self) -> tuple[str, ...]:
        return tuple(self.model.quantizations)

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(self.test_matrix.backends)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.test_matrix.modalities)

    @property
    def timeout_s(self) -> float:
        """Seconds one scenario may take."""
        return self.test_matrix.timeout_ms / 1000

    @property
    def listed(self) -> int:
        """Number of scenarios that the file itself lists."""
        return len(self.scenarios) + len(self.test_matrix.prompts)

    @property
    def scenario_count(self) -> int:
        """Number of claims for each cell."""
        stated = self.test_matrix.scenario_count
        return stated if stated is not None else self.listed or DEFAULT_COUNT

    @property
    def subject(self) -> Model:
        """The model that the file names."""
        block = self.model
        return Model(
            id=block.id or block.hf_repo, family=block.family, revision=block.revision, path=block.local_path
        )

    @property
    def expected_dimensions(self) -> dict[str, int]:
        """The dimensions that the file states, by name without ``expected_``."""
        stated = {
            name: getattr(self.model, name)
            for name in ModelBlock.model_fields
            if name.startswith("expected_")
        }
        return {name.removeprefix("expected_"): value for name, value in stated.items() if value is not None}
