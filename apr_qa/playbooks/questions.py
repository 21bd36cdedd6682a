"""Questions of a playbook: its scenarios in every spelling, each with the cells that it is put to."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from apr_qa.playbooks import commands
from apr_qa.playbooks.fields import (
    Block,
    DeviceName,
    FormatName,
    Listed,
    ModalityName,
    Number,
    Several,
    Switch,
    Text,
    Whole,
    meant,
    registered_oracle,
)
from apr_qa.vocabulary import Severity

PROMPT_SETS = ("basic", "standard", "standard_bench")
"""Names for the questions that every run begins with, and those that the oracles make up."""


class ScenarioBlock(Block):
    """One claim of your own, or one command line of an executable specification."""

    name: str = Field(default="", max_length=128)
    prompt: str = ""
    """Text to continue (run) or the only user turn (chat)."""
    messages: Listed[Text] = ()
    """User turns of a conversation, answered one after the other; only chat and serve can try it."""
    oracle: str = "garbage"
    """Registered name of the judge."""
    expected: Any = None
    """What the oracle compares with; for a command, what has to happen."""
    language: str = ""
    """Programming language that the answer must be in (code_syntax)."""
    max_tokens: Whole = Field(default=32, ge=1, le=8192)
    basic: Switch = False
    """True for a prompt that any working model answers: gateway G2 asks for those."""
    severity: Severity = Field(default=Severity.P1, strict=False)
    formats: Several[FormatName] | None = None
    """Only in these formats. Default: in all of the playbook."""
    backends: Several[DeviceName] | None = None
    """Only on these devices."""
    modalities: Several[ModalityName] | None = None
    """Only in these modalities."""
    prompt_set: str = ""
    """A set of built-in questions instead of one of your own."""
    command: str = ""
    """``apr run MODEL 'prompt'`` or ``apr run FILE --dry-run``: read, never executed by a shell."""
    rationale: str = ""
    """For the reader."""
    timeout_ms: Whole | None = Field(default=None, ge=1, le=600_000)
    """Time limit of this command; the longest of all limits applies to all."""

    @field_validator("oracle", mode="after")
    @classmethod
    def _registered(cls, name: str) -> str:
        return registered_oracle(name)

    @field_validator("prompt_set", mode="after")
    @classmethod
    def _known(cls, name: str) -> str:
        if name and name not in PROMPT_SETS:
            said = f"no set of prompts is called {name!r}{meant(name, PROMPT_SETS)}"
            raise PydanticCustomError(
                "set", "{said}", {"said": f"{said}; there are {', '.join(PROMPT_SETS)}"}
            )
        return name

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        given = [bool(part) for part in (self.prompt, self.messages, self.prompt_set, self.command)]
        if sum(given) != 1:
            raise PydanticCustomError("question", "give either prompt or messages")
        if not self.name and not self.prompt_set:
            raise PydanticCustomError("missing_name", "needs a name", {"under": ("name",)})
        if self.command:
            Expectation.model_validate(self.expected or {})
            self.asked()
        return self

    def asked(self) -> list[commands.Asked]:
        """Return what the command line asks."""
        try:
            return commands.read(self.command)
        except commands.NotUnderstood as error:
            raise PydanticCustomError(
                "command", "is not understood: {said}", {"said": str(error), "under": ("command",)}
            ) from None

    @property
    def expectation(self) -> Expectation:
        return Expectation.model_validate(self.expected or {})

    @property
    def everywhere(self) -> bool:
        """Say whether it is a question of every cell."""
        narrowed = self.formats or self.backends or self.modalities
        return not (narrowed or self.command or self.prompt_set)


class Expectation(Block):
    """What has to happen when the command of a specification runs."""

    exit_code: Whole | None = None
    """0: it works. Anything else: it is refused in good order."""
    stderr_contains: str = ""
    """For the reader: a refusal is recognised by its kind, not by its wording."""
    stdout_contains: str = ""
    """What the answer must hold."""
    no_panic: Switch = True
    """For the reader, as the next three: a crash, an empty answer and garbage are always held against the model."""
    no_sigsegv: Switch = True
    stdout_not_empty: Switch = False
    garbage_check: Switch = False
    min_unique_chars: Whole | None = Field(default=None, ge=0)

    @property
    def refusal(self) -> bool:
        """Say whether a refusal is what is expected."""
        return bool(self.exit_code)


class MatrixRow(Block):
    """One question of one cell."""

    format: FormatName
    backend: DeviceName
    modality: ModalityName
    prompt: Text


class VerificationTest(Block):
    """A question with a text that the answer must hold, or a comparison of all formats."""

    name: Text
    type: Literal["", "inference", "differential"] = ""
    format: FormatName | None = None
    formats: Several[FormatName] | None = None
    prompt: Text
    expect: str = ""
    tolerance: Literal["semantic", "exact"] | Number = "semantic"
    """For the reader: the limits of a comparison follow from the storage types."""

    @field_validator("expect", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value
