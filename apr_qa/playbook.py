"""Playbooks: what is tried on a model, read from YAML with every field honoured or refused.

All faults of a file are reported at once, each with file, line and field.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from apr_qa import resources
from apr_qa.errors import PlaybookError, UsageError
from apr_qa.playbooks.commands import BUILT_IN
from apr_qa.playbooks.derivation import EMBEDDED_MODEL, NOT_GIVEN
from apr_qa.playbooks.faults import faults_of
from apr_qa.playbooks.fields import ANY_MODEL, HF_PARITY
from apr_qa.playbooks.model import Playbook
from apr_qa.playbooks.specification import Skip
from apr_qa.playbooks.yaml_text import parse
from apr_qa.vocabulary import Model, Tier

__all__ = ["SCHEMA_FILE", "Playbook", "for_model", "load", "load_all", "schema", "template"]

SCHEMA_FILE = "schemas/playbook.schema.json"

MODEL_WORDS = ("MODEL_ID", "HF_REPO", "MODEL")
"""Variables that name the model; from one of them the others follow."""
WEIGHTS = (".gguf", ".apr", ".safetensors")
"""Ends of the names of files; any other dot is part of a name."""
OPEN_TO_ANY_MODEL = ("spec", "verification_gates", "tests", "derivation")
"""Fields of files that are about every model."""


def load(path: Path, variables: Mapping[str, str] | None = None) -> Playbook:
    """Read one playbook; raises UsageError if there is no such file and PlaybookError with every fault."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the playbook cannot be read: {error.strerror}", where=str(path), fix="check the path"
        ) from None
    known = given(variables or {})
    document = parse(content, {**BUILT_IN, **NOT_GIVEN, **known})
    faults = list(document.faults)
    value = document.value
    if value is not None and not isinstance(value, dict):
        faults.append((1, "a playbook is a mapping of fields"))
    book = None
    if isinstance(value, dict):
        _completed(value, path, variables or {})
        try:
            book = Playbook.model_validate(value)
        except ValidationError as error:
            faults += faults_of(error, document)
    if faults or book is None:
        lines = [f"{path}:{line}: {text}" for line, text in sorted(dict.fromkeys(faults))]
        raise PlaybookError(lines, where=str(path), fix=f"the fields are described in {SCHEMA_FILE}")
    book = book.read_from(str(path), hashlib.sha256(content).hexdigest())
    return book.lightened(_skips_beside(path))


def load_all(paths: Sequence[Path], variables: Mapping[str, str] | None = None) -> list[Playbook]:
    """Read several playbooks; raises one PlaybookError with every fault of every file."""
    books: list[Playbook] = []
    faults: list[str] = []
    where = ""
    for path in paths:
        try:
            books.append(load(path, variables))
        except PlaybookError as refusal:
            faults += refusal.faults
            where = where or refusal.where
    if faults:
        raise PlaybookError(faults, where=where, fix=f"the fields are described in {SCHEMA_FILE}")
    return books


def given(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with every word for the model that follows from another one.

    >>> given({"MODEL_ID": "org/name"})["MODEL_NAME"]
    'name'
    """
    known = dict(variables)
    model = next((known[name] for name in MODEL_WORDS if name in known), "")
    if model:
        name = _name_of(model)
        defaults = {"MODEL_ID": name, "HF_REPO": name, "MODEL_NAME": name.rsplit("/", 1)[-1]}
        known = {**defaults, **known}
        for word in ("MODEL_ID", "HF_REPO"):
            known[word] = _name_of(known[word])
    return known


def _is_path(model: str) -> bool:
    return bool(model) and (model.startswith(("/", ".", "~")) or Path(model).expanduser().exists())


def _name_of(model: str) -> str:
    """Return what a model is called: its id, or the name of its folder or file, dots and all."""
    if not _is_path(model):
        return model
    path = Path(model).expanduser().absolute()
    name = path.stem if path.suffix in WEIGHTS else path.name
    name = path.parent.name if name == "model" else name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def _completed(value: dict[str, Any], path: Path, variables: Mapping[str, str]) -> None:
    """Put in what a file may leave out: its name, and the model where it is a specification or a ticket.

    A field that stands there without a value is left out.
    """
    for name in [name for name, content in value.items() if content is None]:
        del value[name]
    metadata = value.get("metadata")
    named = re.sub(r"(\.playbook)?\.ya?ml$", "", path.name)
    if isinstance(metadata, dict) and isinstance(metadata.get("name"), str):
        named = re.sub(r"[^A-Za-z0-9._-]+", "-", metadata["name"]).strip("-._") or named
    value.setdefault("name", named)
    model = next((variables[name] for name in MODEL_WORDS if name in variables), "")
    if "model" in value:
        block = value["model"]
        if (
            isinstance(block, dict)
            and _is_path(model)
            and _name_of(model) in (block.get("id"), block.get("hf_repo"))
        ):
            block.setdefault("local_path", model)
        return
    if model:
        value["model"] = {"id": _name_of(model), **({"local_path": model} if _is_path(model) else {})}
    elif isinstance(value.get("derivation"), list):
        value["model"] = {"id": EMBEDDED_MODEL}
    elif any(name in value for name in OPEN_TO_ANY_MODEL) or _compares_with_corpus(value):
        value["model"] = {"id": ANY_MODEL}
    if any(name in value for name in OPEN_TO_ANY_MODEL):
        value.setdefault("test_matrix", {"modalities": ["run"], "backends": ["cpu"]})


def _compares_with_corpus(value: Mapping[str, Any]) -> bool:
    oracles = value.get("oracles")
    return isinstance(oracles, list) and any(
        isinstance(one, dict) and one.get("type") == HF_PARITY for one in oracles
    )


def _skips_beside(path: Path) -> tuple[Skip, ...]:
    """Read ``<name>.skip.yaml`` beside the playbook; raises PlaybookError with every fault."""
    beside = path.with_name(re.sub(r"(\.playbook)?\.ya?ml$", "", path.name) + ".skip.yaml")
    if beside == path or not beside.is_file():
        return ()
    document = parse(beside.read_bytes(), {})
    faults = list(document.faults)
    listed = document.value.get("skips") if isinstance(document.value, dict) else document.value
    found: list[Skip] = []
    if not isinstance(listed, list):
        faults.append((1, "a list of format_or_backend, reason, tracking_issue"))
        listed = []
    for index, one in enumerate(listed):
        try:
            found.append(Skip.model_validate(one))
        except ValidationError as error:
            line = document.lines.get((index,), 1)
            faults += [(line, f"{'.'.join(map(str, e['loc']))}: {e['msg']}") for e in error.errors()]
    if faults:
        lines = [f"{beside}:{line}: {text}" for line, text in faults]
        raise PlaybookError(lines, where=str(beside), fix="correct the list of what is skipped")
    return tuple(found)


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
    from apr_qa.playbooks.described import Described

    generated = Playbook.model_json_schema(schema_generator=Described)
    # A file without a name is called after itself; one about every model leaves the model to the command line.
    generated["required"] = [name for name in generated["required"] if name not in ("name", "model")]
    generated["anyOf"] = [{"required": [name]} for name in ("model", "oracles", *OPEN_TO_ANY_MODEL)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **generated,
        "title": "apr-qa playbook",
    }
