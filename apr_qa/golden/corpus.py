"""A corpus on disk: ``FOLDER/HASH.safetensors`` with the logits, ``HASH.json`` beside it, and ``manifest.json``.

HASH is the first sixteen hex digits of the SHA-256 of the prompt in UTF-8; ``logits`` is float32 of shape
[tokens, vocabulary].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa.errors import EnvironmentFault, UsageError
from apr_qa.vocabulary import Record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MANIFEST = "manifest.json"
TENSOR = "logits"
MAX_MANIFEST_BYTES = 16 << 20

PROMPTS = ("def fibonacci(n):", "2 + 2 =", "The capital of France is", "x", "Once upon a time")


class Golden(Record, frozen=True):
    """One prompt of a corpus and what the ground truth answered."""

    prompt: str
    token_ids: tuple[int, ...]
    sha256: str
    """Of the file that holds the logits."""

    @property
    def name(self) -> str:
        return name_of(self.prompt)


class Corpus(Record, frozen=True):
    """What a corpus says about itself."""

    folder: str
    model: str
    model_sha256: str
    engine: str
    prompts: tuple[Golden, ...]


def name_of(prompt: str) -> str:
    """Return the name under which the logits of a prompt are kept.

    >>> name_of("2 + 2 ="), name_of("x")
    ('154e0c9c61763891', '2d711642b726b044')
    """
    return hashlib.sha256(prompt.encode("utf-8")).hexdigest()[:16]


def read(folder: Path) -> Corpus:
    """Read the manifest of a corpus; raises UsageError naming what is wrong and where."""
    path = folder / MANIFEST
    fix = "make one: apr-qa parity generate MODEL --corpus FOLDER"
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise UsageError("the manifest is too large to be one", where=str(path), fix=fix)
        content = json.loads(path.read_text(encoding="utf-8"))
        prompts = tuple(
            Golden(
                prompt=str(e["prompt"]), token_ids=tuple(map(int, e["token_ids"])), sha256=str(e["sha256"])
            )
            for e in content["prompts"]
        )
        known = {name: str(content[name]) for name in ("model", "model_sha256", "engine")}
    except OSError as error:
        raise UsageError(f"there is no corpus: {error.strerror}", where=str(path), fix=fix) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"this is no manifest of a corpus: {error}", where=str(path), fix=fix) from error
    if not prompts:
        raise UsageError(
            "the corpus has no prompt: comparing with it would prove nothing", where=str(path), fix=fix
        )
    return Corpus(folder=str(folder), prompts=prompts, **known)


def corpora(root: Path) -> list[Path]:
    """Return the folders of all corpora under ``root``."""
    return sorted(path.parent for path in root.rglob(MANIFEST)) if root.is_dir() else []


def logits_at(path: Path) -> npt.NDArray[np.float32]:
    """Read the logits that a file holds, [tokens, vocabulary]; raises UsageError for anything else."""
    import numpy as np

    from apr_qa.errors import MalformedFile
    from apr_qa.formats import FORMATS

    if not path.is_file():
        raise UsageError("there is no such file of logits", where=str(path), fix="check the path")
    try:
        model = FORMATS.get("safetensors").open(path)
        values = np.asarray(model.read(TENSOR), dtype=np.float32)
    except (MalformedFile, KeyError) as error:
        what = error.what if isinstance(error, MalformedFile) else f"no tensor is called {TENSOR!r}"
        raise UsageError(
            f"no logits: {what}", where=str(path), fix="a safetensors file with one tensor, logits"
        ) from error
    if values.ndim != 2 or not values.size:
        raise UsageError(f"logits of shape {list(values.shape)}, not [tokens, vocabulary]", where=str(path))
    return values


def golden_logits(corpus: Corpus, golden: Golden) -> npt.NDArray[np.float32]:
    """Return the kept logits of a prompt; a file that changed since is refused."""
    path = Path(corpus.folder) / f"{golden.name}.safetensors"
    if path.is_file() and file_sha256(path) != golden.sha256:
        raise EnvironmentFault(
            "the golden logits changed since they were made", where=str(path), fix="generate the corpus again"
        )
    return logits_at(path)


def write(folder: Path, about: Mapping[str, Any], found: Mapping[str, tuple[list[int], Any]]) -> Corpus:
    """Write a corpus: ``found`` maps prompt to token ids and logits. The manifest comes last."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for prompt, (token_ids, logits) in found.items():
        path = folder / f"{name_of(prompt)}.safetensors"
        _replace(path, save({TENSOR: logits}, metadata={"prompt": prompt}))
        entry = {"prompt": prompt, "token_ids": token_ids, "sha256": file_sha256(path)}
        _replace(path.with_suffix(".json"), _json({**about, **entry, "logits_shape": list(logits.shape)}))
        entries.append(entry)
    _replace(folder / MANIFEST, _json({**about, "prompts": entries}))
    return read(folder)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
