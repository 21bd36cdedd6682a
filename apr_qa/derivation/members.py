"""Artifact and parents of a derivation: found by path or model id, opened, hashed, and loaded when they must speak."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apr_qa import plan, workspace
from apr_qa.backends import BACKENDS, Session
from apr_qa.comparison.session import open_model
from apr_qa.containers.artifact_files import expanded
from apr_qa.errors import ModelUnavailable
from apr_qa.formats import OpenModel
from apr_qa.resolve import resolve
from apr_qa.vocabulary import Artifact, Model, Target


class Unmeasured(Exception):
    """A measurement lacks something that the playbook names or ought to name; never the artifact's fault."""


class Member:
    """One model of a derivation."""

    def __init__(self, name: str, path: Path, model: OpenModel) -> None:
        self.name = name
        self.path = path
        self.model = model
        self.perplexities: dict[str, float] = {}
        """By text: several criteria measure the same model on the same text."""

    @functools.cached_property
    def sha256(self) -> str:
        return workspace.content_sha256(self.path)

    def described(self) -> dict[str, Any]:
        """Return name, format, storage type, hash and dimensions, for the evidence."""
        stated = self.model.config
        return {
            "architecture": self.model.architecture,
            **{name: stated.get(name) for name in ("hidden_size", "num_hidden_layers")},
            "name": Path(self.name).name,
            "format": self.model.format,
            "dtype": self.model.quantization,
            "sha256": self.sha256,
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[Session]:
        """Load it in the engine of its format, on the CPU."""
        target = Target(
            model=self.name,
            format=self.model.format,
            quantization=self.model.quantization,
            backend="cpu",
            modality="run",
            engine=plan.ENGINES[self.model.format],
        )
        session = BACKENDS.get(target.engine).load(target, self.path)
        try:
            yield session
        finally:
            session.close()


def own_member(artifact: Artifact) -> Member:
    """Open the artifact of the run; raises MalformedFile."""
    path = Path(artifact.path)
    return Member(artifact.format, path, open_model(path, artifact.format))


def find(text: str) -> Member:
    """Return the model that a playbook names by path or id; raises Unmeasured where it is not to be had."""
    path = expanded(Path(text))
    if path.exists():
        return Member(text, path, open_model(path))
    try:
        found = resolve(Model(id=text), {}, download=False)[0]
    except ModelUnavailable as error:
        raise Unmeasured(f"{text} cannot be found: {error.what}") from None
    path = Path(found.path)
    return Member(text, path, open_model(path, found.format))


def hashed(file: Path) -> dict[str, str]:
    """Return name and hash of a file that a measurement rests on, for the evidence."""
    return {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def file_of(text: Any, what: str) -> Path:
    """Return the file that a recipe names; raises Unmeasured for none."""
    if not isinstance(text, str) or not text:
        raise Unmeasured(f"the recipe names no {what}")
    path = expanded(Path(text))
    if not path.exists():
        raise Unmeasured(f"the {what} {text} is not there")
    return path
