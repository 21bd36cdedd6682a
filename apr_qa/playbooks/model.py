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
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from apr_qa.errors import UsageError
from apr_qa.playbooks import stated_tier
from apr_qa.playbooks.commands import Asked
from apr_qa.playbooks.conditions import Limits
from apr_qa.playbooks.derivation import Derivations
from apr_qa.playbooks.drawn_tests import PropertyTest
from apr_qa.playbooks.fields import (
    HF_PARITY,
    Block,
    GatesBlock,
    Listed,
    MatrixBlock,
    ModelBlock,
    Number,
    OracleBlock,
    VersionText,
)
from apr_qa.playbooks.machine import StateMachine
from apr_qa.playbooks.questions import MatrixRow, ScenarioBlock, VerificationTest
from apr_qa.playbooks.specification import (
    Acceptance,
    CommandTest,
    GarbageOracle,
    Reproduction,
    Skip,
    SpecBlock,
    SpecGate,
)
from apr_qa.playbooks.suites import (
    TOOLS,
    ContractTests,
    DifferentialTests,
    FalsificationGate,
    HfParity,
    KernelProfile,
    OllamaParity,
    ProfileCi,
    PropertyTests,
    TracePayload,
    VerificationGate,
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
    Annotated[PropertyTests, Tag("block")] | Annotated[Listed[PropertyTest], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "block"),
]


class Playbook(Block):
    """What is tried on one model, and when to stop."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the playbook. Default: the file's name."""
    version: VersionText = Field(default="1.0", pattern=r"^\d+(\.\d+){0,2}([-+][0-9A-Za-z.+-]+)?$")
    """Version of the playbook: 1, 1.0, 1.0.0 or 1.0.0-rc1."""
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
    """Properties that Hypothesis tries to break, or named tests that draw questions of their own."""
    falsification_gates: Listed[FalsificationGate] = ()
    """Gates by id; the numbers of their conditions are taken over."""
    state_machine: StateMachine | None = None
    differential_tests: DifferentialTests | None = None
    profile_ci: ProfileCi | None = None
    trace_payload: TracePayload | None = None
    contract_tests: ContractTests | None = None
    ollama_parity: OllamaParity | None = None
    hf_parity: HfParity | None = None
    kernel_profile: KernelProfile | None = None
    """For the reader: which operations the architecture exercises."""
    derivation: Derivations = ()
    """What the model was derived from and how, or a list of acceptance criteria, which replace all other claims."""
    kernel_proof_ref: str = ""
    """The model whose mvp run proves the kernel class (dim-smoke). Default: any of the class."""
    skips: Listed[Skip] = ()
    """Formats and devices left out on purpose; may stand in ``<name>.skip.yaml`` beside the playbook."""
    mvp_matrix: Listed[MatrixRow] = ()
    """One question for one cell."""
    verification_tests: Listed[VerificationTest] = ()
    verification_gates: Listed[VerificationGate] = ()
    tests: Listed[CommandTest] = ()
    """Hypotheses with the commands that would refute them."""
    acceptance: Acceptance = Acceptance()
    spec: SpecBlock | None = None
    gate: SpecGate | None = None
    garbage_oracle: GarbageOracle | None = None
    garbage_examples: Listed[str] = ()
    """Texts that the garbage oracle must reject; a disagreement is told."""
    valid_examples: Listed[str] = ()
    crash_patterns: dict[str, str] = Field(default_factory=dict)
    """For the reader: a crash is told by how the process ended."""
    reproduction: Annotated[Reproduction | None, WithJsonSchema({})] = None
    """How a fault was seen; a command line in it is asked."""
    expected: Any = None
    """For the reader, as the next two."""
    regression_tests: Any = None
    tools_required: Any = None

    _sha256: str = PrivateAttr("")
    _source: str = PrivateAttr("")

    @model_validator(mode="before")
    @classmethod
    def _budget_of_tier(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("tier") is None and (said := stated_tier.said(fields)):
            fields = {**fields, "tier": said}
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
        self._within_matrix()
        return self

    def _within_matrix(self) -> None:
        """Refuse a question of a cell that the playbook does not have."""
        cells = {"formats": self.formats, "backends": self.backends, "modalities": self.modalities}
        narrowed = [
            (("scenarios", i), {name: getattr(one, name) or () for name in cells})
            for i, one in enumerate(self.scenarios)
        ]
        narrowed += [
            (
                ("mvp_matrix", i),
                {"formats": (r.format,), "backends": (r.backend,), "modalities": (r.modality,)},
            )
            for i, r in enumerate(self.mvp_matrix)
        ]
        narrowed += [
            (("verification_tests", i), {"formats": (*((t.format,) if t.format else ()), *(t.formats or ()))})
            for i, t in enumerate(self.verification_tests)
        ]
        for under, wanted in narrowed:
            for name, values in wanted.items():
                outside = [value for value in values if value not in cells[name]]
                if outside:
                    said = f"{outside[0]} is not among the {name} of this playbook ({', '.join(cells[name])})"
                    raise PydanticCustomError("cell", "{said}", {"said": said, "under": under})

    def read_from(self, source: str, sha256: str) -> Self:
        """Return a copy that knows its file and the hash of the file's bytes."""
        known = self.model_copy()
        known._source, known._sha256 = source, sha256
        return known

    def lightened(self, skips: tuple[Skip, ...]) -> Self:
        """Return a copy that also skips what the file beside the playbook says."""
        known = self.model_copy(update={"skips": (*self.skips, *skips)})
        known._source, known._sha256 = self._source, self._sha256
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
        return sum(one.everywhere for one in self.scenarios) + len(self.test_matrix.questions)

    @property
    def scenario_count(self) -> int:
        """Number of claims for each cell."""
        stated = self.test_matrix.scenario_count
        return max(stated, self.listed) if stated is not None else self.listed or DEFAULT_COUNT

    @property
    def fitting_tier(self) -> Tier:
        """The tier that the file states; else deep for a whole matrix of a hundred claims, ci otherwise."""
        cells = len(self.formats) * len(self.backends) * len(self.modalities)
        return self.tier or (Tier.DEEP if cells >= 18 and self.scenario_count >= 100 else Tier.CI)

    @property
    def named(self) -> bool:
        """Say whether the file names a model."""
        return self.model.named

    @property
    def subject(self) -> Model:
        """The model that the file names; raises UsageError if it leaves that to the command line."""
        block = self.model
        if not self.named:
            raise UsageError(
                "the playbook names no model", where=self._source, fix="say it: --var MODEL_ID=org/name"
            )
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

    def skipped(self, format_name: str, device: str) -> str:
        """Say why a format or device is left out, or nothing."""
        return next((one.said for one in self.skips if one.format_or_backend in (format_name, device)), "")

    @property
    def parity(self) -> HfParity | None:
        """The comparison with a stored corpus, from its block or from the oracle of that name."""
        if self.hf_parity is not None:
            return self.hf_parity if self.hf_parity.enabled else None
        config = next((one.config for one in self.oracles if one.type == HF_PARITY), None)
        return HfParity.model_validate(config) if config is not None else None

    @property
    def limits(self) -> Limits:
        """The numbers of all conditions."""
        found = Limits()
        for gate in self.falsification_gates:
            if gate.enabled:
                found.read(gate.id, gate.condition)
        for one in self.verification_gates:
            found.read(one.id, one.condition)
        return found

    @property
    def commanded(self) -> tuple[Asked, ...]:
        """What the command lines of the file ask: those of its scenarios, tests and reproduction."""
        lines: list[ScenarioBlock | CommandTest] = [*self.scenarios, *self.tests]
        found = [asked for one in lines if one.command for asked in one.asked()]
        return (*found, *(self.reproduction.asked() if self.reproduction else ()))

    @property
    def asked_gates(self) -> tuple[str, ...]:
        """Every gate that the playbook names, each once."""
        differential = self.differential_tests
        compared = [getattr(differential, name) for name in DifferentialTests.model_fields if differential]
        blocks = [*compared, self.contract_tests, self.profile_ci, self.trace_payload, self.ollama_parity]
        blocks += [self.hf_parity, self.state_machine]
        named: list[str] = []
        for block in blocks:
            if block is not None and block.enabled:
                named += getattr(block, "asked", block.gates)
        named += [gate.id for gate in self.falsification_gates if gate.enabled]
        named += [name for one in self.verification_gates for name in one.asked]
        named += [block.id for block in (self.spec, self.gate) if block is not None]
        named += [gate for asked in self.commanded for gate in TOOLS.get(asked.tool, ())]
        return tuple(dict.fromkeys(named))
