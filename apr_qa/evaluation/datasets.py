"""Where rows come from: a file, the Hugging Face cache, or the hub."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apr_qa import hub, workspace
from apr_qa.containers.artifact_files import expanded
from apr_qa.errors import EngineMissing, ModelUnavailable, UsageError
from apr_qa.evaluation.problems import Problem, problems
from apr_qa.resolve import snapshot_of
from apr_qa.vocabulary import Record

HUB = {
    "humaneval": ("openai/openai_humaneval", "openai_humaneval/test-"),
    "mbpp": ("google-research-datasets/mbpp", "full/test-"),
}
"""Task -> repository and the beginning of its file there."""
MAX_BYTES = 1 << 30


class Dataset(Record, frozen=True):
    """Problems and the file that they were read from."""

    name: str
    sha256: str
    problems: tuple[Problem, ...]


def load(task: str, data: Path | None = None, limit: int = 0) -> Dataset:
    """Return the first ``limit`` problems (0: all) of a task, which is a name of `HUB` or a path.

    Raises UsageError for a file that holds none, ModelUnavailable, with every place looked at, where there is
    no file.
    """
    path = data or (Path(task) if task not in HUB else None)
    file = _file(expanded(path)) if path is not None else _found(task)
    rows = list(read_rows(file))
    found = problems(rows, file.name)
    return Dataset(
        name=task if task in HUB else file.name,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        problems=tuple(found[: limit or None]),
    )


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    raise UsageError(
        "there is no such file",
        where=str(path),
        fix=f"name a .jsonl, .jsonl.gz or .parquet file, or one of {', '.join(HUB)}",
    )


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a JSON Lines file, plain or gzipped, or of a parquet file."""
    if file.suffix == ".parquet":
        yield from _parquet_rows(file)
        return
    size = 0
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rb") as stream:
            for number, line in enumerate(stream, 1):
                size += len(line)
                if size > MAX_BYTES:
                    raise UsageError(f"is over {MAX_BYTES >> 30} GiB", where=str(file))
                if line.strip():
                    yield _row(line, f"{file}:{number}")
    except (gzip.BadGzipFile, EOFError) as error:
        raise UsageError(f"cannot be unpacked: {error}", where=str(file)) from None


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"no JSON: {error}", where=where, fix="one JSON object a line") from None
    if not isinstance(row, dict):
        raise UsageError("no JSON object", where=where, fix="one JSON object a line")
    return row


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise EngineMissing(
            "reading parquet needs pyarrow", where=str(file), fix="pip install pyarrow, or give a .jsonl file"
        ) from None
    yield from parquet.read_table(file).to_pylist()


def _found(task: str) -> Path:
    """Return the file of a known data set in the cache, in our downloads, or fresh from the hub."""
    repository, beginning = HUB[task]
    folder = f"datasets--{repository.replace('/', '--')}"
    places = [hub.cache_folder(), workspace.root() / "hub"]
    tried = []
    for place in places:
        snapshot = snapshot_of(place / folder, "main")[1]
        file = _chosen(snapshot, beginning) if snapshot else None
        if file is not None:
            return file
        tried.append(f"{place / folder} ({'no data file' if snapshot else 'not there'})")
    if hub.offline():
        problem = "HF_HUB_OFFLINE is set"
    else:
        snapshot, problem = _download(repository, f"{beginning}*", places[1])
        file = _chosen(snapshot, beginning) if snapshot else None
        if file is not None:
            return file
    tried.append(f"Hugging Face hub ({problem or 'no data file'})")
    raise ModelUnavailable(
        f"the data set {task} could not be found",
        where="; ".join(tried),
        fix=f"get it with `hf download --repo-type dataset {repository}`, or name a file with --data",
    )


def _chosen(snapshot: Path, beginning: str) -> Path | None:
    """Return the task's file of a snapshot; JSON Lines, which some mirrors hold, before parquet."""
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    lines = sorted(path for path in files if path.name.endswith((".jsonl", ".jsonl.gz")))
    tables = sorted(p for p in files if p.relative_to(snapshot).as_posix().startswith(beginning))
    return next(iter([*lines, *tables]), None)


def _download(repository: str, pattern: str, folder: Path) -> tuple[Path | None, str]:
    """Download one file into our own folder; return (snapshot, problem), one of them empty."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    transport: type[BaseException] = HfHubHTTPError.__bases__[
        0
    ]  # of whatever HTTP library this release is built on
    try:
        snapshot = snapshot_download(
            repository,
            repo_type="dataset",
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            cache_dir=folder,
            allow_patterns=[pattern, "*.jsonl"],
            etag_timeout=hub.PROBE_S,
        )
    except (transport, OSError, ValueError) as error:
        return None, (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return Path(snapshot), ""
