"""The registry: the models of ``certifications/models.csv``, what is known of them, and what they may be called."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import resources
from apr_qa.containers.artifact_files import expanded
from apr_qa.errors import UsageError
from apr_qa.ledger_row import size_category
from apr_qa.vocabulary import Model, Record

TABLE = "certifications/models.csv"
COLUMNS = ("model_id", "family", "parameters")

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_ID = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_CACHED = re.compile(r"models--(?P<org>.+?)--(?P<name>.+)")
_SUFFIX = re.compile(r"\.(?:gguf|apr|safetensors)$", re.IGNORECASE)


def models() -> list[Model]:
    """Return every row of the table in its order; raises UsageError with file and line for a bad one."""
    path = resources.find(TABLE)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(path)) from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if absent:
        raise UsageError(
            f"the table has no column {', '.join(absent)}",
            where=f"{path}:1",
            fix=f"the first line names at least {', '.join(COLUMNS)}",
        )
    found: dict[str, Model] = {}
    for row in reader:
        model = _model(row, f"{path}:{reader.line_num}")
        if model.id in found:
            raise UsageError(f"{model.id} is listed twice", where=f"{path}:{reader.line_num}")
        found[model.id] = model
    return list(found.values())


def family(name: str) -> list[Model]:
    """Return the models of one family; raises UsageError with a suggestion and the list of families."""
    known = models()
    members = [model for model in known if model.family == name]
    if members:
        return members
    families = sorted({model.family for model in known})
    raise UsageError(
        f"no family is called {name!r}", fix=f"{_meant(name, families)}families: {', '.join(families)}"
    )


class Entry(Record, frozen=True, omit_defaults=False):
    """A model with what the family contracts know of it; empty where none does."""

    id: str
    org: str
    family: str
    parameters: str
    """With its unit, 135M or 0.5B."""
    size_category: str
    contract: str = ""
    """Name of the family contract."""
    size_variant: str = ""
    architecture: str = ""
    kernel_class: str = ""
    capabilities: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return dict(msgspec.to_builtins(self))


def entry(model: Model) -> Entry:
    """Return what is known of a model."""
    from apr_qa.families import contract, kernels

    found = contract.member(model.id)
    known: dict[str, Any] = {}
    if found is not None:
        family_, member = found
        class_ = kernels.class_of(model.id)
        known = {
            "contract": family_.family,
            "size_variant": member.size,
            "architecture": family_.architectures[0],
            "kernel_class": class_.name if class_ else "",
            "capabilities": tuple(member.capabilities),
        }
    return Entry(
        id=model.id,
        org=model.id.partition("/")[0] if "/" in model.id else "",
        family=model.family,
        parameters=model.parameters,
        size_category=size_category(model.parameters),
        **known,
    )


def of_kernel_class(name: str) -> list[Model]:
    """Return the models of one kernel class in the order of the table; raises UsageError."""
    from apr_qa.families import kernels

    wanted = set(kernels.members_of(kernels.kernel_class(name)))
    return [model for model in models() if model.id in wanted]


def select(ids: Sequence[str], family_name: str | None = None, all_: bool = False) -> list[Model]:
    """Return the models that a command line asks for, each once: all, one family, or those named.

    An id is ``org/name`` (in the table or not), ``org/name@revision``, or the path of a file or folder. A
    path counts as one if it exists or starts with ``/``, ``.`` or ``~``. Raises UsageError.
    """
    if all_:
        return models()
    if family_name:
        return family(family_name)
    if not ids:
        raise UsageError("no model was named", fix="name one (org/name or a path), or use --family or --all")
    known = {model.id.lower(): model for model in models()}
    chosen = [_local(text) if _is_path(text) else _named(text, known) for text in ids]
    return list(dict.fromkeys(chosen))


def _model(row: dict[str, str], where: str) -> Model:
    values = [(row.get(name) or "").strip() for name in COLUMNS]
    if not _ID.fullmatch(values[0]):
        raise UsageError(f"{values[0]!r} is no model id", where=where, fix="write org/name")
    return Model(id=values[0], family=values[1], parameters=values[2])


def _is_path(text: str) -> bool:
    if text.startswith(("/", ".", "~")):
        return True
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return False


def _local(text: str) -> Model:
    path = expanded(Path(text))
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise UsageError("no such file or folder", where=text, fix="check the path")
    return Model(id=_name_of(path.resolve()), path=text)


def _name_of(path: Path) -> str:
    """Return what to call a model that is known by its path only.

    A snapshot of the hub cache is called by its repository, ``model.safetensors`` and the like by their
    folder. Only the suffix of a weight file is cut off: other dots belong to the name.
    """
    named, suffixed = path, _SUFFIX.sub("", path.name)
    if path.is_file() and suffixed.lower() in ("model", "ggml-model"):
        named, suffixed = path.parent, path.parent.name
    cached = _CACHED.fullmatch(named.parent.parent.name) if named.parent.name == "snapshots" else None
    if cached:
        return f"{cached['org']}/{cached['name']}"
    name = suffixed if named.is_file() else named.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"


def _named(text: str, known: dict[str, Model]) -> Model:
    name, at, revision = text.partition("@")
    model = known.get(name.lower())
    if model is None:
        if not _ID.fullmatch(name) or "--" in name or ".." in name:
            raise UsageError(
                f"{name!r} is neither a model id nor a path",
                fix=_meant(name, [m.id for m in known.values()])
                + "write org/name, or the path of a file or folder",
            )
        model = Model(id=name)
    if not at:
        return model
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(
            f"{revision!r} is no revision", where=text, fix="write org/name@branch, @tag or @commit"
        )
    return msgspec.structs.replace(model, revision=revision)


def _meant(text: str, candidates: Sequence[str]) -> str:
    """Return "did you mean …? " for the closest candidate, whole or by its last part, or nothing."""
    spellings = {spelling.lower(): one for one in candidates for spelling in (one.rsplit("/", 1)[-1], one)}
    close = difflib.get_close_matches(text.lower(), spellings, n=1)
    return f"did you mean {spellings[close[0]]!r}? " if close else ""
