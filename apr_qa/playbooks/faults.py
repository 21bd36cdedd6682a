"""What is wrong with the fields of a playbook, in words that name line, field and cure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from apr_qa.playbooks.fields import meant
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.yaml_text import Document, Location

_FORMS = {
    "name": "a name: letters, digits, '.', '_' and '-', at most 128",
    "version": "a version such as 1.0 or 1.0.0",
    "hf_repo": "the id of a model: org/name",
    "id": "the id of a model: org/name",
    "revision": "a branch, tag or commit",
}
"""Field -> what it holds, where a pattern says it."""


def faults_of(error: ValidationError, document: Document) -> Iterator[tuple[int, str]]:
    """Translate pydantic's errors into (line, text)."""
    for detail in error.errors(include_url=False):
        location = (*detail["loc"], *detail.get("ctx", {}).get("under", ()))
        known = _in_file(location, document)
        if detail["type"] == "missing":
            known = (*known, location[-1])
        field = ".".join(map(str, known))
        yield (
            document.line(location),
            f"{field}: {_said(detail, location)}" if field else _said(detail, location),
        )


def _in_file(location: Location, document: Document) -> Location:
    """Drop the parts that pydantic adds for the alternatives of a union."""
    known: Location = ()
    for part in location:
        if (*known, part) in document.lines:
            known = (*known, part)
    return known


def _said(detail: ErrorDetails, location: Location) -> str:
    """Say what is wrong in our words, with a suggestion where one is close."""
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return f"there is no such field{meant(str(location[-1]), _fields_at(location[:-1]))}"
    if kind == "missing":
        return "is needed"
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        return f"{_shown(value)} is not one of {', '.join(allowed)}{meant(str(value), allowed)}"
    if kind in ("list_type", "tuple_type"):
        return f"should be a list, not {_shown(value)}{_as_list(value)}"
    if kind in ("model_type", "dict_type"):
        switch = "; write {enabled: " + str(value).lower() + "}" if isinstance(value, bool) else ""
        return f"should be fields with values, not {_shown(value)}{switch}"
    if kind == "string_pattern_mismatch":
        form = _FORMS.get(str(location[-1]), f"what {detail['ctx']['pattern']} describes")
        return f"{_shown(value)} is not {form}"
    message = detail["msg"].removeprefix("Input ").replace("tuple", "list")
    about_value = kind.startswith(("string", "int", "float", "bool", "greater", "less"))
    return f"{message}, not {_shown(value)}" if about_value else message


def _as_list(value: Any) -> str:
    return f"; write [{value}]" if isinstance(value, str | int | float) and len(str(value)) <= 40 else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _fields_at(location: Location) -> list[str]:
    """Return the field names of the block at ``location``."""
    found: list[type[BaseModel]] = [Playbook]
    for part in location:
        inner = [
            _models_in(model.model_fields[part].annotation) for model in found if part in model.model_fields
        ]
        if inner:
            found = [model for models in inner for model in models]
    return [name for model in found for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
