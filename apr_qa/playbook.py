"""Playbooks: what is tried on a model, read from YAML with every field honoured or refused.

All faults of a file are reported at once, each with file, line and field.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from apr_qa import resources
from apr_qa.errors import PlaybookError, UsageError
from apr_qa.playbook_fields import (
    Block,
    GatesBlock,
    MatrixBlock,
    ModelBlock,
    Number,
    OracleBlock,
    ScenarioBlock,
    meant,
)
from apr_qa.playbook_refused import (
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
from apr_qa.playbook_yaml import Document, parse
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

SCHEMA_FILE = "schemas/playbook.schema.json"
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
    version: str = Field("1.0", pattern=r"^\d+\.\d+(\.\d+)?$")
    """Version of the playbook."""
    description: str = Field("", max_length=500)
    tier: TierName | None = None
    """The tier whose pass rule applies; the command line may say another."""
    model: ModelBlock
    test_matrix: MatrixBlock = MatrixBlock()
    gates: GatesBlock = GatesBlock()
    oracles: list[OracleBlock] = []
    """Judges whose claims fill up the scenarios. Default: all that can make up claims."""
    scenarios: list[ScenarioBlock] = []
    """Claims of your own; they come first."""
    failure_policy: Literal["stop_on_first", "stop_on_p0", "collect_all", "fail_fast"] = "stop_on_p0"
    """When the line stops: at any failure (stop_on_first, fail_fast), at a P0 or a crash, or never."""
    budget_s: Number = Field(0.0, ge=0)
    """Seconds for the whole run; what is left then is skipped. 0: no limit. Default: that of the tier."""
    metadata: dict[str, Any] = {}
    """For the reader: author, tags, …"""
    property_tests: PropertyForms | None = None
    falsification_gates: list[FalsificationGate] = []
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
        if "budget_s" not in fields and tier in set(Tier):
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
        stated = {name: getattr(self.model, name) for name in ModelBlock.model_fields if name.startswith("expected_")}
        return {name.removeprefix("expected_"): value for name, value in stated.items() if value is not None}


def load(path: Path, variables: Mapping[str, str] | None = None) -> Playbook:
    """Read one playbook; raises UsageError if there is no such file and PlaybookError with every fault."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the playbook cannot be read: {error.strerror}", where=str(path), fix="check the path"
        ) from None
    document = parse(content, variables or {})
    faults = list(document.faults)
    value = document.value
    if value is not None and not isinstance(value, dict):
        faults.append((1, "a playbook is a mapping of fields"))
    book = None
    if isinstance(value, dict):
        value.setdefault("name", re.sub(r"(\.playbook)?\.ya?ml$", "", path.name))
        try:
            book = Playbook.model_validate(value)
        except ValidationError as error:
            faults += _faults(error, document)
    if faults or book is None:
        lines = [f"{path}:{line}: {text}" for line, text in sorted(dict.fromkeys(faults))]
        raise PlaybookError(lines, where=str(path), fix=f"the fields are described in {SCHEMA_FILE}")
    book._sha256 = hashlib.sha256(content).hexdigest()
    book._source = str(path)
    return book


def template(tier: Tier, model: Model) -> Playbook:
    """Return the template of a tier, filled in for one model."""
    return load(resources.find(f"playbooks/templates/{tier}.yaml"), {"MODEL_ID": model.id})


def for_model(model: Model, tier: Tier) -> Playbook:
    """Return ``playbooks/models/<org>--<name>.<tier>.yaml`` if there is one, else the template of the tier."""
    name = f"{model.slug}.{tier}.yaml"
    try:
        path = resources.find(f"playbooks/models/{name}")
    except UsageError:
        return template(tier, model)
    book = load(path, {"MODEL_ID": model.id})
    if (book.subject.id, book.tier or tier) != (model.id, tier):
        said = f"is for {book.subject.id} and tier {book.tier}, but the file's name says {model.id} and {tier}"
        raise PlaybookError([f"{path}: {said}"], where=str(path), fix="rename the file or correct it")
    return book


def schema() -> dict[str, Any]:
    """Return the JSON Schema of playbook files."""
    generated = Playbook.model_json_schema()
    # A file without a name is called after itself.
    generated["required"] = [name for name in generated["required"] if name != "name"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **generated,
        "title": "apr-qa playbook",
    }


def _faults(error: ValidationError, document: Document) -> Iterator[tuple[int, str]]:
    """Translate pydantic's errors into (line, text)."""
    for detail in error.errors(include_url=False):
        location = (*detail["loc"], *detail.get("ctx", {}).get("under", ()))
        known = _in_file(location, document)
        if detail["type"] == "missing":
            known = (*known, location[-1])
        field = ".".join(map(str, known))
        yield document.line(location), f"{field}: {_said(detail, location)}" if field else _said(detail, location)


def _in_file(location: tuple[str | int, ...], document: Document) -> tuple[str | int, ...]:
    """Drop the parts that pydantic adds for the alternatives of a union."""
    known: tuple[str | int, ...] = ()
    for part in location:
        if (*known, part) in document.lines:
            known = (*known, part)
    return known


def _said(detail: ErrorDetails, location: tuple[str | int, ...]) -> str:
    """Say what is wrong in our words, with a suggestion where one is close."""
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return f"there is no such field{meant(str(location[-1]), _fields_at(location[:-1]))}"
    if kind == "missing":
        return "is needed"
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        return f"{value!r} is not one of {', '.join(allowed)}{meant(str(value), allowed)}"
    message = detail["msg"].removeprefix("Input ").replace("tuple", "list")
    shown = kind.startswith(("string", "int", "float", "bool", "greater", "less")) and kind != "string_too_long"
    return f"{message}, not {value!r}" if shown else message


def _fields_at(location: tuple[str | int, ...]) -> list[str]:
    """Return the field names of the block at ``location``."""
    found: list[type[BaseModel]] = [Playbook]
    for part in location:
        inner = [_models_in(model.model_fields[part].annotation) for model in found if part in model.model_fields]
        if inner:
            found = [model for models in inner for model in models]
    return [name for model in found for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
