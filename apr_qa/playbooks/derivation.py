"""What an artifact was derived from, and how; and criteria of acceptance, each about a derivation of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from apr_qa.derivation.claims import CRITERIA, MAKEABLE, PROMISES
from apr_qa.errors import UsageError
from apr_qa.playbooks.fields import Block, Listed, meant

EMBEDDED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What criteria are about where nobody names a model: it comes with the extra ``demo``."""

_TEXT, _TASK = ("text",), ("task", "limit", "strategy", "max_tokens", "completion")
_SCORED = (*_TEXT, *_TASK)
_LOG = ("log", "epochs")
_LORA = ("adapter", "initial_adapter", "base_sha256", "pristine", *_LOG)
RECIPE: Mapping[str, tuple[str, ...]] = {
    "merge": _SCORED,
    "slerp": _SCORED,
    "ties": (*_SCORED, "base", "density"),
    "prune": (*_TEXT, "sparsity", "scope"),
    "quantize": (*_TASK, "results"),
    "lora": _LORA,
    "qlora": (*_LORA, "lora_log"),
    "dpo": _LOG,
    "distill": _TEXT,
    "speculative": ("prompts", "tokens"),
    "compound": ("results", "least", "strategy"),
    "import": _TEXT,
    "training": _LOG,
    "data": ("documents", "benchmarks"),
    "sampling": ("prompts", "samples", "temperature", "tokens"),
    "reasoning": ("task", "limit", "max_tokens"),
    "external": ("tool", "report", "field", "least", "most", "true", "lacks"),
}
"""Kind -> what its recipe may say."""
_FILES = {"text", "task", "results", "base", "adapter", "initial_adapter", "pristine", "log", "lora_log"} | {
    "documents",
    "benchmarks",
    "report",
}
"""Fields of recipes that name files."""
_NUMBERS = {
    "limit",
    "max_tokens",
    "density",
    "sparsity",
    "epochs",
    "tokens",
    "samples",
    "temperature",
    "most",
}
_LISTS = {"benchmarks", "prompts", "results"}
INPUTS = (
    *("IMPORTED", "HF_REFERENCE", "TEXT", "HUMANEVAL", "MBPP", "TRAINING_DATA", "SFT_LOG", "QLORA_LOG"),
    *("LORA_LOG", "DPO_LOG", "WGPU_LOG", "STUDENT", "UNTRAINED", "SLERP", "SLERP_A", "SLERP_B", "TIES"),
    *("TIES_A", "TIES_B", "TIES_BASE", "PRUNED", "UNPRUNED", "INT4", "FP16", "TARGET", "DRAFT", "RESULTS"),
    *("INT4_RESULTS", "FP16_RESULTS", "APR_CHECK"),
    *(
        "QWEN_IMPORTED",
        "QWEN_REFERENCE",
        "QWEN_TEXT",
        "PV_COVERAGE",
        "PV_TESTS",
        "PMAT_COMPLY",
        "ALIMENTAR_QUALITY",
        "SCORED",
    ),
)
"""Variables that a playbook of criteria may use and that nobody has to give: what is not there is not measured."""
MEASURED_WITH = ("TEXT", "QWEN_TEXT", "HUMANEVAL", "MBPP")
"""Those that name what is measured with: given alone they do not speak against making what is measured."""
NOT_GIVEN: Mapping[str, str] = dict.fromkeys(INPUTS, "")


LISTED = "derivatives.json"
"""File of a folder of derivatives: variable -> path, from that folder."""


def brought(folder: str) -> dict[str, str]:
    """Return the variables that a folder of derivatives gives; raises UsageError for one that lists none."""
    file = Path(folder).expanduser() / LISTED
    fix = f'a file of the form {{"SLERP": "merged", "SLERP_A": "one"}}: {", ".join(INPUTS[:4])}, …'
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(file), fix=fix) from None
    except ValueError as error:
        raise UsageError(f"is no JSON: {error}", where=str(file), fix=fix) from None
    if not isinstance(listed, dict) or not listed:
        raise UsageError("lists no derivatives", where=str(file), fix=fix)
    for name, value in listed.items():
        if name not in (*INPUTS, "MODEL") or not isinstance(value, str) or not value:
            raise UsageError(
                f"{name}: {value!r} is no derivative{meant(name, INPUTS)}", where=str(file), fix=fix
            )
        if not (file.parent / value).exists():
            raise UsageError(f"{name}: {value} is not there", where=str(file))
    return {name: os.path.normpath(file.parent.absolute() / value) for name, value in listed.items()}


class DerivationBlock(Block):
    """One derivation. Paths are taken from the working directory or from beside the playbook."""

    kind: Literal[tuple(PROMISES)]  # type: ignore[valid-type]
    """How it was derived: slerp, ties, merge, prune, quantize, lora, qlora, dpo, distill, speculative (the artifact
    drafts for its parent), import; or what is asked besides: training, data, compound, sampling, reasoning,
    external (the report of another tool)."""
    parents: Listed[str] = ()
    """Files, folders or model ids that it was derived from; for lora the base comes first."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """What was done, and with which texts, tasks and logs it is measured; the fields depend on the kind."""
    criterion: str = ""
    """The criterion of acceptance, AC-001…AC-029, that this answers."""
    statement: str = ""
    """For the reader: the criterion in words."""
    artifact: str = ""
    """What was derived. Default: the model of the playbook."""
    asks: dict[str, str] = Field(default_factory=dict)
    """Variables that the measurement needs, with their values: one that is empty was not given."""
    makes: Literal[("", *MAKEABLE)] = ""  # type: ignore[valid-type]
    """What is made on the spot, of the model of the run, where none of the models and files that it asks for is
    given: import, lora, slerp, ties, prune, quantize, distill, speculative, dpo or data. The reason says so."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.criterion and self.criterion not in CRITERIA:
            said = f"there is no criterion {self.criterion!r}{meant(self.criterion, CRITERIA)}"
            raise PydanticCustomError("criterion", "{said}", {"said": said, "under": ("criterion",)})
        checks = {check for _, check, _ in PROMISES[self.kind]}
        if self.criterion and CRITERIA[self.criterion] not in checks:
            said = f"{self.criterion} is measured as {CRITERIA[self.criterion]}, which {self.kind} has not"
            raise PydanticCustomError("criterion", "{said}", {"said": said, "under": ("kind",)})
        known = RECIPE[self.kind]
        for name in self.recipe:
            if name not in known:
                said = f"a recipe of kind {self.kind} has no {name!r}{meant(name, known)}; it has {', '.join(known)}"
                raise PydanticCustomError("recipe", "{said}", {"said": said, "under": ("recipe", name)})
            if not _fits(self.kind, name, self.recipe[name]):
                said = f"{self.recipe[name]!r} is not what {name} can be"
                raise PydanticCustomError("recipe", "{said}", {"said": said, "under": ("recipe", name)})
        return self

    def stated(self, source: str) -> dict[str, Any]:
        """Return it as plain values, paths that lie beside the playbook ``source`` written so that they are found."""
        folder = Path(source).parent
        recipe = {
            name: _placed_all(value, folder) if name in _FILES else value
            for name, value in self.recipe.items()
        }
        said: dict[str, Any] = {"kind": self.kind, "parents": _placed_all(list(self.parents), folder)}
        said |= {"recipe": recipe, "asks": [name for name, value in self.asks.items() if not value]}
        if self.makes and not any(value for name, value in self.asks.items() if name not in MEASURED_WITH):
            said["makes"] = self.makes
        named = {"criterion": self.criterion, "artifact": _placed(self.artifact, folder)}
        return said | {name: value for name, value in named.items() if value}


def _fits(kind: str, name: str, value: Any) -> bool:
    """Say whether a value has the type of its field; null stands for a field that is left out."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (name == "completion" and isinstance(value, bool)):
        return True
    if name == "least" and kind == "compound":
        return isinstance(value, dict) and all(isinstance(one, int | float) for one in value.values())
    if name in _NUMBERS or name == "least":
        return number and value >= 0
    if name in _LISTS:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, str)


def _placed_all(value: Any, folder: Path) -> Any:
    if isinstance(value, list | tuple):
        return [_placed_all(one, folder) for one in value]
    return _placed(value, folder) if isinstance(value, str) else value


def _placed(text: str, folder: Path) -> str:
    beside = folder / text
    return os.fspath(beside) if text and not Path(text).exists() and beside.exists() else text


def _criteria(blocks: tuple[DerivationBlock, ...]) -> tuple[DerivationBlock, ...]:
    named = [block.criterion for block in blocks]
    for index, name in enumerate(named):
        if not name or name in named[:index]:
            said = f"{name} is there twice" if name else "each of a list names its criterion"
            raise PydanticCustomError("criterion", "{said}", {"said": said, "under": (index,)})
    return blocks


Derivations = Annotated[
    Annotated[DerivationBlock, Tag("block")]
    | Annotated[Listed[DerivationBlock], AfterValidator(_criteria), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "block"),
]
"""One derivation of the model, or a list of criteria."""


def is_acceptance(
    derivation: DerivationBlock | tuple[DerivationBlock, ...],
) -> TypeGuard[tuple[DerivationBlock, ...]]:
    """Say whether a playbook is a list of criteria."""
    return isinstance(derivation, tuple) and bool(derivation)


def stated_derivations(
    derivation: DerivationBlock | tuple[DerivationBlock, ...], source: str
) -> list[dict[str, Any]]:
    """Return what a playbook states, as plain values."""
    blocks = derivation if isinstance(derivation, tuple) else (derivation,)
    return [block.stated(source) for block in blocks]
