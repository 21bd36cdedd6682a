"""What an engine does when a resource is missing: refuse, and not answer from something it finds elsewhere."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from apr_qa import workspace
from apr_qa.backends import BACKENDS, Session
from apr_qa.errors import AprQaError, EngineMissing, Inapplicable
from apr_qa.vocabulary import Target

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "spiece.model", "vocab.txt")
TEXT = "Hello, world! 2 + 2 = 4"


def fallback(session: Session, target: Target, artifact: Path) -> dict[str, Any]:
    """Return what became of a copy without its tokenizer, or, for a single file, of the file by itself.

    The copy is made of hard links where the file system allows; the artifact is not touched.
    """
    wanted = session.tokenize(TEXT)
    root = workspace.root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="alone-", dir=root) as folder:
        if artifact.is_dir():
            path = Path(folder)
            for file in artifact.iterdir():
                if file.is_file() and file.name not in TOKENIZERS:
                    _copy(file, path / file.name)
            return {"removed": "tokenizer", "tokens": len(wanted), **_tokens(target, path, wanted)}
        path = Path(folder) / artifact.name
        _copy(artifact, path)
        return {"removed": "", "tokens": len(wanted), **_tokens(target, path, wanted)}


def _copy(source: Path, copy: Path) -> None:
    try:
        os.link(source.resolve(), copy)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, copy)


def _tokens(target: Target, path: Path, wanted: list[int]) -> dict[str, Any]:
    try:
        session = BACKENDS.get(target.engine).load(target, path)
    except (EngineMissing, Inapplicable):
        raise
    except AprQaError as refusal:
        return {"refused": True, "said": refusal.what[:200], "same": None}
    found = session.tokenize(TEXT)
    session.close()
    return {"refused": False, "said": "", "same": found == wanted}
