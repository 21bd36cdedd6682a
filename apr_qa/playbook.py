"""Playbooks: what is tried on a model, read from YAML with every field honoured or refused.

All faults of a file are reported at once, each with file, line and field.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from apr_qa import resources
from apr_qa.errors import PlaybookError, UsageError
from apr_qa.playbooks.faults import faults_of
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.yaml_text import parse
from apr_qa.vocabulary import Model, Tier

__all__ = ["SCHEMA_FILE", "Playbook", "for_model", "load", "schema", "template"]

SCHEMA_FILE = "schemas/playbook.schema.json"


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
            faults += faults_of(error, document)
    if faults or book is None:
        lines = [f"{path}:{line}: {text}" for line, text in sorted(dict.fromkeys(faults))]
        raise PlaybookError(lines, where=str(path), fix=f"the fields are described in {SCHEMA_FILE}")
    return book.read_from(str(path), hashlib.sha256(content).hexdigest())


def template(tier: Tier, model: Model) -> Playbook:
    """Return the template of a tier, filled in for one model."""
    return load(resources.find(f"playbooks/templates/{tier}.yaml"), {"MODEL_ID": model.id})


def for_model(model: Model, tier: Tier) -> Playbook:
    """Return ``playbooks/models/<org>--<name>.<tier>.yaml`` if it is there, else the template of the tier."""
    name = f"{model.slug}.{tier}.yaml"
    try:
        path = resources.find(f"playbooks/models/{name}")
    except UsageError:
        return template(tier, model)
    book = load(path, {"MODEL_ID": model.id})
    if (book.subject.id, book.tier or tier) != (model.id, tier):
        said = (
            f"is for {book.subject.id} and tier {book.tier}, but the file's name says {model.id} and {tier}"
        )
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
