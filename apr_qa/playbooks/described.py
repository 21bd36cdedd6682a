"""JSON Schemas that describe every field with the string below it in the source.

Read when a schema is written, not when a model is defined: reading the source of every class took a fifth of the
start of each command that reads a playbook.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue


class Described(GenerateJsonSchema):
    """A generator for ``model_json_schema(schema_generator=…)``."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """Return the schema of one class, its fields described."""
        generated = super().model_schema(schema)
        fields = generated.get("properties", {})
        for name, text in descriptions(schema["cls"]).items():
            if name in fields:
                fields[name].setdefault("description", text)
        return generated


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the strings that follow the fields of a class, those of its parents included."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            found |= _own(owner)
    return found


def _own(model: type[BaseModel]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    lines = definition.body if isinstance(definition, ast.ClassDef) else []
    found = {}
    for field, below in itertools.pairwise(lines):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = inspect.cleandoc(below.value.value)
    return found
